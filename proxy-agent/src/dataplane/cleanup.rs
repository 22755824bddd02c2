//! Takes everything of the agent's away, and nothing of anybody else's.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    cgroup, kept,
    lock::{Lock, LockError},
    mounts::{self, MountError},
    nft::{self, Presence},
    pins::{FormerMap, Pins, SocketHook, unpin},
    programs::map_names,
    tables::{FRESHNESS, PODS},
    tc::clsact,
};

/// What could not be removed; the rest was.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent is running.
    #[error("an agent is running with --bpffs-root {}: stop it first", path.display())]
    Running {
        /// The directory of its pins.
        path: PathBuf,
    },
    /// The directory of pins cannot be locked.
    #[error(transparent)]
    Lock(LockError),
    /// The file systems cannot be examined.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Something could not be removed.
    #[error("cannot remove {what}: {error}")]
    Remove {
        /// What.
        what: String,
        /// What the system says.
        error: io::Error,
    },
}

/// What was removed, a line for each sort of thing.
pub type Removed = Vec<String>;

/// Removes programs, links, tables and pins below `bpffs_root`, and the filters and the nftables table
/// of the calling process's network namespace. `cgroup_root` counts only on kernels before 5.7, where
/// programs have no links.
///
/// Connections that the TC programs translate are broken by it.
///
/// # Errors
/// An agent is running with the same root, or something could not be removed; everything else has
/// been removed nevertheless.
pub fn cleanup(bpffs_root: &Path, cgroup_root: Option<&Path>) -> Result<Removed, CleanupError> {
    let mut removed = Removed::new();
    let mut failure = None;
    let mut step = |what: String, result: io::Result<bool>| match result {
        Ok(true) => removed.push(what),
        Ok(false) => {}
        Err(error) => {
            failure.get_or_insert(CleanupError::Remove { what, error });
        }
    };

    // Nothing is pinned where there is no BPF file system.
    if mounts::is_bpffs(bpffs_root)? {
        let _lock = Lock::take(bpffs_root).map_err(|error| match error {
            LockError::Taken { path } => CleanupError::Running { path },
            LockError::Io { .. } => CleanupError::Lock(error),
        })?;
        let pins = Pins::new(bpffs_root);
        if SocketHook::ALL.iter().any(|hook| pins.socket_program(*hook).exists()) {
            let root = mounts::cgroup_root(cgroup_root)?;
            let result = cgroup::detach_programs(&root, &pins);
            step(format!("programs at cgroup {}", root.display()), result.map(|()| true));
        }
        step(format!("links pinned at {}", bpffs_root.display()), pins.remove_links().map(|()| true));
        step(format!("programs kept at {}", bpffs_root.display()), kept::remove(&pins).map(|()| true));
        let ours = |former: &FormerMap| map_names().any(|name| name == former.name);
        let pinned = map_names().chain([FRESHNESS, PODS]).map(|name| pins.map(name)).chain([pins.unmarked_filter()]);
        let tables = pins.former_maps().and_then(|former| {
            let former = former.into_iter().filter(ours).map(|former| former.path);
            pinned.chain(former).try_for_each(|path| unpin(&path))
        });
        step(format!("tables pinned at {}", bpffs_root.display()), tables.map(|()| true));
        pins.remove_directories();
    }
    step(format!("cgroup2 file system at {}", mounts::CGROUP2), mounts::unmount_cgroup2());
    for index in clsact::served().unwrap_or_default() {
        step(format!("filters of the device with index {index}"), clsact::detach(index).map(|()| true));
    }
    if matches!(nft::presence(), Ok(Presence::Installed)) {
        step(format!("nftables table inet {}", nft::TABLE), nft::remove().map(|()| true).map_err(io::Error::other));
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(removed),
    }
}
