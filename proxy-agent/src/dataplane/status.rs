//! What is attached, read back from the kernel: the truth, whatever an agent meant to do.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::net::{
    AddressFamily, SocketType,
    netdevice::{index_to_name, name_to_index},
    socket,
};

use super::{
    bpf::{self, LinkTarget, Target},
    pins::{Direction, Pins, SocketHook},
    tc::{clsact, tcx},
};

/// A program at a hook of the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedSocketHook {
    /// The hook.
    pub hook: SocketHook,
    /// The program's number.
    pub program: u32,
    /// Id of the cgroup; `None` where programs have no links.
    pub cgroup: Option<u64>,
}

/// How a program is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceMechanism {
    /// By a TCX link.
    Tcx,
    /// By a filter on the clsact qdisc.
    Clsact,
}

impl DeviceMechanism {
    /// `tcx` or `clsact`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A program at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedDevice {
    /// The device's index.
    pub index: u32,
    /// The direction of the packets.
    pub direction: Direction,
    /// The program's number.
    pub program: u32,
    /// How it is attached.
    pub mechanism: DeviceMechanism,
}

/// The programs at the cgroup.
///
/// # Errors
/// A pin cannot be opened.
pub fn socket_hooks(pins: &Pins) -> io::Result<Vec<AttachedSocketHook>> {
    let mut found = Vec::new();
    for hook in SocketHook::ALL {
        if let Some(link) = open(&pins.socket_link(hook))? {
            let info = bpf::link_info(link.as_fd())?;
            match info.target {
                // The cgroup is gone, and the program with it.
                LinkTarget::Cgroup(0) | LinkTarget::Device(_) | LinkTarget::Other => {}
                LinkTarget::Cgroup(id) => {
                    found.push(AttachedSocketHook { hook, program: info.program, cgroup: Some(id) });
                }
            }
        } else if let Some(program) = open(&pins.socket_program(hook))? {
            let program = bpf::program_id(program.as_fd())?;
            found.push(AttachedSocketHook { hook, program, cgroup: None });
        }
    }
    Ok(found)
}

/// The programs at a cgroup's hooks, whoever attached them, by their numbers and in the order in which they run.
///
/// # Errors
/// `root` is no directory of a cgroup2 file system, or the kernel does not answer.
pub fn at_cgroup(root: &Path) -> io::Result<Vec<(SocketHook, u32)>> {
    let cgroup = File::open(root)?;
    let mut found = Vec::new();
    for hook in SocketHook::ALL {
        match bpf::attached(Target::Cgroup(cgroup.as_fd()), hook.kernel_name()) {
            Ok(attached) => found.extend(attached.iter().map(|attached| (hook, attached.program))),
            // The kernel does not have the hook.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The programs at the devices of the calling process's network namespace.
///
/// # Errors
/// A pin cannot be opened, or the kernel does not answer.
pub fn devices(pins: &Pins) -> io::Result<Vec<AttachedDevice>> {
    let mut found = Vec::new();
    for (index, direction) in pins.device_links()? {
        let Some(link) = open(&pins.device_link(index, direction))? else { continue };
        if tcx::is_at(link.as_fd(), index, direction).unwrap_or(false) {
            let program = bpf::link_info(link.as_fd())?.program;
            found.push(AttachedDevice { index, direction, program, mechanism: DeviceMechanism::Tcx });
        }
    }
    for index in clsact::devices()? {
        for direction in Direction::ALL {
            if let Some(program) = clsact::attached(index, direction)? {
                found.push(AttachedDevice { index, direction, program, mechanism: DeviceMechanism::Clsact });
            }
        }
    }
    Ok(found)
}

/// The index of a device of the calling process's network namespace.
#[must_use]
pub fn device_index(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(&socket, name).ok()
}

/// The name of a device of the calling process's network namespace.
#[must_use]
pub fn device_name(index: u32) -> Option<String> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    index_to_name(&socket, index).ok()
}

/// The names of the devices of the calling thread's network namespace; none if they cannot be read.
#[must_use]
pub fn device_names() -> Vec<String> {
    // Two lines of headings, then a line for each device: `NAME: COUNTERS`.
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    match bpf::open_pinned(path) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
