//! Attaches the socket programs to a cgroup, beside whatever others have attached there.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use super::{
    bpf::{self, LinkTarget, Target},
    features::{Feature, Features},
    loaded::Programs,
    pins::{Pins, SocketHook, remove_link, unpin},
    tc::Attachment,
};

/// Why a program cannot be attached to the cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The cgroup cannot be opened.
    #[error("cannot open the cgroup {path}: {error}")]
    Open {
        /// The cgroup's directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A program of somebody else does not admit others.
    #[error(
        "cannot attach {hook} to the cgroup {path}: a program that is attached there admits no others \
         (see bpftool cgroup show {path})"
    )]
    Exclusive {
        /// The hook.
        hook: SocketHook,
        /// The cgroup's directory.
        path: PathBuf,
    },
    /// A program of a former agent cannot be taken away.
    #[error("cannot detach the former programs from the cgroup {path}: {error}")]
    Detach {
        /// The cgroup's directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The kernel refuses to attach.
    #[error("cannot attach {hook} to the cgroup {path}: {error}")]
    Attach {
        /// The hook.
        hook: SocketHook,
        /// The cgroup's directory.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
}

/// Attaches the programs for these hooks, as far as the kernel has them, replacing in place those of a former agent, and returns the hooks at
/// which there was none.
///
/// # Errors
/// A program cannot be attached. Those before it are.
pub(super) fn attach(
    programs: &Programs,
    hooks: &[SocketHook],
    root: &Path,
    pins: &Pins,
    features: &Features,
) -> Result<Vec<SocketHook>, CgroupError> {
    let mut made = Vec::new();
    let cgroup = File::open(root).map_err(|error| CgroupError::Open { path: root.to_owned(), error })?;
    for (hook, program) in programs.sockets().filter(|(hook, _)| hooks.contains(hook)) {
        let result = if features.has(Feature::CgroupLink) {
            attach_link(program, &cgroup, hook, &pins.socket_link(hook))
        } else {
            attach_program(program, &cgroup, hook, pins)
        };
        let attachment = result.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => CgroupError::Exclusive { hook, path: root.to_owned() },
            _ => CgroupError::Attach { hook, path: root.to_owned(), error },
        })?;
        if attachment == Attachment::Made {
            made.push(hook);
        }
    }
    Ok(made)
}

/// Attaches the programs that give addresses back beside those of a former agent, whose place they shall take: what the one does not know,
/// the other does. Before 5.7 nothing is done.
///
/// # Errors
/// As [`attach`].
pub(super) fn attach_next(
    programs: &Programs,
    root: &Path,
    pins: &Pins,
    features: &Features,
) -> Result<(), CgroupError> {
    if !features.has(Feature::CgroupLink) {
        return Ok(());
    }
    let cgroup = File::open(root).map_err(|error| CgroupError::Open { path: root.to_owned(), error })?;
    for (hook, program) in programs.sockets().filter(|(hook, _)| SocketHook::GIVING_BACK.contains(hook)) {
        attach_link(program, &cgroup, hook, &pins.next_socket_link(hook)).map_err(|error| CgroupError::Attach {
            hook,
            path: root.to_owned(),
            error,
        })?;
    }
    Ok(())
}

/// Detaches the programs of a former agent, however it attached them.
///
/// # Errors
/// A link cannot be removed, or a program cannot be detached.
pub(super) fn detach(root: &Path, pins: &Pins) -> Result<(), CgroupError> {
    let links = SocketHook::ALL.into_iter().try_for_each(|hook| remove_link(&pins.socket_link(hook)));
    let result = links.and_then(|()| detach_programs(root, pins));
    result.map_err(|error| CgroupError::Detach { path: root.to_owned(), error })
}

/// Detaches the programs that were attached without links.
///
/// # Errors
/// A pinned program cannot be opened or detached.
pub(super) fn detach_programs(root: &Path, pins: &Pins) -> io::Result<()> {
    for hook in SocketHook::ALL {
        let path = pins.socket_program(hook);
        if path.exists() {
            let cgroup = File::open(root)?;
            detach_program(&path, &cgroup, hook)?;
            unpin(&path)?;
        }
    }
    Ok(())
}

fn attach_link(program: BorrowedFd<'_>, cgroup: &File, hook: SocketHook, path: &Path) -> io::Result<Attachment> {
    // The id of a cgroup is the number of its inode.
    let wanted = LinkTarget::Cgroup(cgroup.metadata()?.ino());
    match bpf::open_pinned(path) {
        Ok(link) if bpf::link_info(link.as_fd())?.target == wanted => {
            return bpf::update_link(link.as_fd(), program).map(|()| Attachment::Replaced);
        }
        // The link of a former agent is at another cgroup, or its cgroup is gone.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link = bpf::create_link(program, Target::Cgroup(cgroup.as_fd()), hook.kernel_name())?;
    pin_over(link.as_fd(), path).map(|()| Attachment::Made)
}

/// Before 5.7. For a moment both programs run; the second finds nothing left to translate.
fn attach_program(program: BorrowedFd<'_>, cgroup: &File, hook: SocketHook, pins: &Pins) -> io::Result<Attachment> {
    let path = pins.socket_program(hook);
    let present = bpf::attached(Target::Cgroup(cgroup.as_fd()), hook.kernel_name())?;
    let number = bpf::program_id(program)?;
    let former = match bpf::open_pinned(&path) {
        Ok(former) => Some(bpf::program_id(former.as_fd())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let is_present = |number| present.iter().any(|present| present.program == number);
    let is_there = is_present(number);
    if is_there && former == Some(number) {
        return Ok(Attachment::Replaced);
    }
    if !is_there {
        bpf::attach_program(program, cgroup.as_fd(), hook.kernel_name())?;
    }
    if former.is_some_and(|former| former != number) {
        detach_program(&path, cgroup, hook)?;
    }
    pin_over(program, &path)?;
    Ok(if former.is_some_and(is_present) { Attachment::Replaced } else { Attachment::Made })
}

fn detach_program(path: &Path, cgroup: &File, hook: SocketHook) -> io::Result<()> {
    let program = bpf::open_pinned(path)?;
    match bpf::detach_program(program.as_fd(), cgroup.as_fd(), hook.kernel_name()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Pins an object, replacing in one step what is pinned there.
fn pin_over(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("_new");
    let new = path.with_file_name(name);
    unpin(&new)?;
    bpf::pin(object, &new)?;
    fs::rename(&new, path)
}
