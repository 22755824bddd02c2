//! Attaching programs: links, and `BPF_PROG_ATTACH` for kernels without them.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

/// The kernel's name for a hook.
pub(crate) use aya_obj::generated::bpf_attach_type as Hook;
use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_ALLOW_MULTI, BPF_F_BEFORE, BPF_F_LINK, bpf_attach_type, bpf_cmd, bpf_link_info, bpf_link_type,
    bpf_prog_info,
};

use super::{call, new_descriptor, raw, zeroed};

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// A cgroup directory; beside whatever else is attached there.
    Cgroup(BorrowedFd<'a>),
    /// A device of the calling thread's network namespace, by index; before whatever else is attached.
    DeviceFirst(u32),
    /// The same, right after a link that is there.
    DeviceAfter(u32, BorrowedFd<'a>),
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// The link's number.
    pub(crate) id: u32,
    /// The program that the link runs.
    pub(crate) program: u32,
    /// Where it is attached.
    pub(crate) target: LinkTarget,
}

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// At a cgroup, by its id; 0 once the cgroup is gone.
    Cgroup(u64),
    /// At a device, by its index; 0 once the device is gone.
    Device(u32),
    /// Somewhere else.
    Other,
}

/// A program at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// The program's number.
    pub(crate) program: u32,
    /// The link that holds it, 0 if it is attached without one.
    pub(crate) link: u32,
}

/// Attaches a program by a new link.
///
/// # Errors
/// `EPERM` also if another program holds the cgroup exclusively; otherwise what the kernel says.
pub(crate) fn create_link(program: BorrowedFd<'_>, target: Target<'_>, hook: Hook) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.attach_type = hook as u32;
    match target {
        Target::Cgroup(cgroup) => attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup),
        Target::DeviceFirst(index) => {
            attr.link_create.__bindgen_anon_2.target_ifindex = index;
            attr.link_create.flags = BPF_F_BEFORE;
        }
        Target::DeviceAfter(index, link) => {
            attr.link_create.__bindgen_anon_2.target_ifindex = index;
            attr.link_create.flags = BPF_F_AFTER | BPF_F_LINK;
            attr.link_create.__bindgen_anon_3.tcx.__bindgen_anon_1.relative_fd = raw(link);
        }
    }
    // SAFETY: the command follows no pointer and returns a new descriptor.
    unsafe { new_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Replaces the program of a link in place; no packet or call sees neither.
///
/// # Errors
/// `ENOLINK` if what the link was attached to is gone; otherwise what the kernel says.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    // SAFETY: the command follows no pointer.
    unsafe { call(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link's program at once (`BPF_LINK_DETACH`, since 5.9). Removing the last pin of a link does
/// so too, but a little later.
///
/// # Errors
/// `EINVAL` on kernels without the command; otherwise what the kernel says.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = raw(link);
    // SAFETY: the command follows no pointer.
    unsafe { call(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Asks the kernel about a link.
///
/// # Errors
/// `EINVAL` if the descriptor is no link; otherwise what the kernel says.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: the structure consists of integers and unions of integers, for which zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(link);
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).map_err(io::Error::other)?;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: `info` is valid for writes of the length given and outlives the call.
    unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let target = if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: all members of the union are plain integers; the type says that this one is set.
        LinkTarget::Cgroup(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: as above.
        LinkTarget::Device(unsafe { info.__bindgen_anon_1.tcx.ifindex })
    } else {
        LinkTarget::Other
    };
    Ok(LinkInfo { id: info.id, program: info.prog_id, target })
}

/// The programs at a hook, in the order in which they run. Links are told since 6.6.
///
/// # Errors
/// `EINVAL` if the kernel does not know the hook; otherwise what the kernel says.
pub(crate) fn attached(target: Target<'_>, hook: bpf_attach_type) -> io::Result<Vec<Attached>> {
    const ROOM: usize = 64;
    let mut programs = [0_u32; ROOM];
    let mut links = [0_u32; ROOM];
    let mut attr = zeroed();
    attr.query.attach_type = hook as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = super::count(&programs);
    match target {
        Target::Cgroup(cgroup) => attr.query.__bindgen_anon_1.target_fd = raw(cgroup),
        Target::DeviceFirst(index) | Target::DeviceAfter(index, _) => {
            attr.query.__bindgen_anon_1.target_ifindex = index;
            attr.query.link_ids = links.as_mut_ptr() as u64;
        }
    }
    // SAFETY: both arrays have room for the number of elements given and outlive the call.
    unsafe { call(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: all members of the union are 32-bit integers.
    let found = unsafe { attr.query.__bindgen_anon_2.count };
    let found = usize::try_from(found).map_err(io::Error::other)?.min(ROOM);
    Ok(programs[..found].iter().zip(&links).map(|(&program, &link)| Attached { program, link }).collect())
}

/// Attaches a program to a cgroup beside others, without a link (before 5.7).
///
/// # Errors
/// As [`create_link`].
pub(crate) fn attach_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = raw(cgroup);
    attr.__bindgen_anon_5.attach_bpf_fd = raw(program);
    attr.__bindgen_anon_5.attach_type = hook as u32;
    attr.__bindgen_anon_5.attach_flags = BPF_F_ALLOW_MULTI;
    // SAFETY: the command follows no pointer.
    unsafe { call(bpf_cmd::BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// Detaches a program that [`attach_program`] attached.
///
/// # Errors
/// `ENOENT` if it is not attached there; otherwise what the kernel says.
pub(crate) fn detach_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = raw(cgroup);
    attr.__bindgen_anon_5.attach_bpf_fd = raw(program);
    attr.__bindgen_anon_5.attach_type = hook as u32;
    // SAFETY: the command follows no pointer.
    unsafe { call(bpf_cmd::BPF_PROG_DETACH, &mut attr) }.map(drop)
}

/// The number of a program.
///
/// # Errors
/// `EINVAL` if the descriptor is no program; otherwise what the kernel says.
pub(crate) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the structure consists of integers and arrays of integers, for which zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(program);
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).map_err(io::Error::other)?;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: `info` is valid for writes of the length given and outlives the call; its pointers are
    // null, so the kernel writes nothing else.
    unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.id)
}
