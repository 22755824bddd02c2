//! The file systems that the dataplane needs: a cgroup v2 hierarchy and a BPF file system.
//!
//! Finds and checks them. Where there is none, mounts a cgroup v2 hierarchy at [`CGROUP2`] and a BPF file system at
//! `/sys/fs/bpf`, and nothing else anywhere.

mod mountinfo;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use self::mountinfo::cgroup2_mount;

/// Where the agent mounts the cgroup v2 hierarchy if nobody else did.
pub const CGROUP2: &str = "/run/proxy-agent/cgroup2";

/// Where a BPF file system is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// `CGROUP2_SUPER_MAGIC` and `BPF_FS_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// Why a file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No cgroup v2 hierarchy is mounted, and none can be.
    #[error(
        "no cgroup2 file system is mounted, and it cannot be mounted at {CGROUP2}: {error}; mount it beforehand \
         (mount -t cgroup2 none DIR) and name its directory with --cgroup-root"
    )]
    NoCgroup2 {
        /// What the system says.
        error: io::Error,
    },
    /// The directory is not in a cgroup v2 hierarchy.
    #[error(
        "--cgroup-root {path} is not a directory of a cgroup2 file system: name another one, or none, so that the agent \
         finds or mounts it"
    )]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is not on a BPF file system.
    #[error(
        "--bpffs-root {path} is not on a bpf file system: mount one (mount -t bpf bpffs {BPFFS}) and name a directory \
         below it"
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A BPF file system cannot be mounted.
    #[error("cannot mount a bpf file system at {path}: {error}; mount it beforehand (mount -t bpf bpffs {path})")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A file cannot be read, or a directory cannot be made.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The cgroup whose processes are served: `wanted`, or the root of the cgroup v2 hierarchy, which is mounted if need
/// be, as on nodes that use the first version only.
///
/// # Errors
/// There is no cgroup v2 hierarchy, or `wanted` is no directory of one.
pub fn cgroup_root(wanted: Option<&Path>) -> Result<PathBuf, MountError> {
    if let Some(path) = wanted {
        let is_directory = fs::metadata(path).map_err(|error| io_error(path, error))?.is_dir();
        return if is_directory && has_magic(path, CGROUP2_MAGIC)? {
            Ok(path.to_owned())
        } else {
            Err(MountError::NotCgroup2 { path: path.to_owned() })
        };
    }
    let path = match mounted_cgroup2()? {
        Some(path) => path,
        None => mount_cgroup2().map_err(|error| MountError::NoCgroup2 { error })?,
    };
    if is_part(&path) {
        tracing::warn!(
            "{} shows a part of the cgroup2 hierarchy: only processes in that part are served at their sockets. In a \
             container, mount the node's hierarchy and name it with --cgroup-root",
            path.display()
        );
    }
    Ok(path)
}

/// Where the cgroup v2 hierarchy is mounted: its root, if that is to be seen, or else a part of it.
///
/// # Errors
/// The list of mounts cannot be read.
pub(super) fn mounted_cgroup2() -> Result<Option<PathBuf>, MountError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|error| io_error(path, error))?;
    Ok(cgroup2_mount(&text))
}

/// Whether a cgroup v2 hierarchy is mounted.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn has_cgroup2() -> Result<bool, MountError> {
    Ok(mounted_cgroup2()?.is_some())
}

/// Unmounts the cgroup v2 hierarchy that [`cgroup_root`] mounted, and says whether it had.
///
/// # Errors
/// What the system says.
pub(super) fn unmount_cgroup2() -> io::Result<bool> {
    match unmount(CGROUP2, UnmountFlags::empty()) {
        Ok(()) => {}
        // Nothing is mounted there, or there is no such directory.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // Somebody else may have something there.
    for directory in Path::new(CGROUP2).ancestors().take(2) {
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(true)
}

/// Makes the directory `root` on a BPF file system, mounting one at `/sys/fs/bpf` if `root` is below
/// it and none is there yet.
///
/// # Errors
/// `root` is not on a BPF file system, or the mount or directory cannot be made.
pub fn bpffs_root(root: &Path) -> Result<(), MountError> {
    let existing = nearest_existing(root);
    if !has_magic(existing, BPFFS_MAGIC)? {
        if !root.starts_with(BPFFS) {
            return Err(MountError::NotBpffs { path: root.to_owned() });
        }
        mount("bpffs", BPFFS, "bpf", FLAGS, None)
            .map_err(|error| MountError::Mount { path: BPFFS.into(), error: error.into() })?;
        tracing::info!(path = BPFFS, "mounted a bpf file system");
    }
    fs::create_dir_all(root).map_err(|error| io_error(root, error))
}

/// Whether `root` is there, and on a BPF file system.
///
/// # Errors
/// The file system cannot be asked.
pub fn is_bpffs(root: &Path) -> Result<bool, MountError> {
    if root.exists() { has_magic(root, BPFFS_MAGIC) } else { Ok(false) }
}

fn mount_cgroup2() -> io::Result<PathBuf> {
    fs::create_dir_all(CGROUP2)?;
    mount("none", CGROUP2, "cgroup2", FLAGS, None)?;
    tracing::info!("mounted a cgroup2 file system at {CGROUP2}, because none is mounted");
    Ok(CGROUP2.into())
}

/// Whether a directory of a cgroup v2 hierarchy is not its root: as a cgroup namespace shows it, or because only a part
/// is mounted. All cgroups but the root have this file (cgroup-v2.rst, "Core Interface Files").
fn is_part(path: &Path) -> bool {
    path.join("cgroup.events").exists()
}

fn io_error(path: &Path, error: io::Error) -> MountError {
    MountError::Io { path: path.to_owned(), error }
}

fn has_magic(path: &Path, magic: i64) -> Result<bool, MountError> {
    let info = statfs(path).map_err(|error| io_error(path, error.into()))?;
    Ok(info.f_type == magic)
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bpffs_root_elsewhere_must_be_on_a_bpf_file_system() {
        let error = bpffs_root(Path::new("/proc/self/proxy-agent")).expect_err("proc is no bpf file system");
        assert!(error.to_string().starts_with("--bpffs-root /proc/self/proxy-agent is not on a bpf file system"));
    }

    #[test]
    fn a_cgroup_root_elsewhere_must_be_in_cgroup2() {
        let error = cgroup_root(Some(Path::new("/proc"))).expect_err("proc is no cgroup2");
        let said = error.to_string();
        assert!(said.starts_with("--cgroup-root /proc is not a directory of a cgroup2 file system"), "{said}");
    }
}
