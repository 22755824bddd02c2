//! The file systems that the dataplane needs: a cgroup v2 hierarchy and a BPF file system.
//!
//! Finds and checks them. Mounts a BPF file system at `/sys/fs/bpf` if nothing is mounted there, and
//! nothing else anywhere.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
};

/// Where a BPF file system is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// `CGROUP2_SUPER_MAGIC` and `BPF_FS_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// Why a file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup2 file system is mounted: mount one (mount -t cgroup2 none DIR), or name its directory with \
         --cgroup-root"
    )]
    NoCgroup2,
    /// The directory is not in a cgroup v2 hierarchy.
    #[error("--cgroup-root {path} is not a directory of a cgroup2 file system")]
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

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The directory of the file system that is mounted.
    root: PathBuf,
    at: PathBuf,
    file_system: String,
}

/// The cgroup whose processes are served: `wanted`, or the root of the cgroup v2 hierarchy.
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
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|error| io_error(path, error))?;
    cgroup2_mount(&text).ok_or(MountError::NoCgroup2)
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
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpffs", BPFFS, "bpf", flags, None)
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

/// The mount point of the cgroup v2 hierarchy: one that shows the hierarchy's root, if there is such.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<Mount> =
        mountinfo.lines().filter_map(parse_mount).filter(|mount| mount.file_system == "cgroup2").collect();
    let whole = mounts.iter().find(|mount| mount.root == Path::new("/"));
    whole.or(mounts.first()).map(|mount| mount.at.clone())
}

/// `31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755`: any number of optional
/// fields end with a dash.
fn parse_mount(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let root = unescape(fields.nth(3)?);
    let at = unescape(fields.next()?);
    let file_system = fields.skip_while(|&field| field != "-").nth(1)?.to_owned();
    Some(Mount { root, at, file_system })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = || std::str::from_utf8(tail.get(..3)?).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let (b'\\', Some(value)) = (byte, octal()) {
            bytes.push(value);
            rest = &tail[3..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_layout_has_cgroup2_below_the_first_version() {
        assert_eq!(cgroup2_mount(HYBRID), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn unified_layout_with_optional_fields() {
        let line = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(line), Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn a_mount_of_the_whole_hierarchy_is_preferred_to_a_part_of_it() {
        let text = "\
50 1 0:26 /kubepods/pod1 /part rw - cgroup2 cgroup2 rw
51 1 0:26 / /whole rw - cgroup2 cgroup2 rw
";
        assert_eq!(cgroup2_mount(text), Some("/whole".into()));
        assert_eq!(cgroup2_mount(&text[..text.find('\n').expect("two lines")]), Some("/part".into()));
    }

    #[test]
    fn without_cgroup2_there_is_none() {
        assert_eq!(cgroup2_mount("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
        assert_eq!(cgroup2_mount(""), None);
    }

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        let line = r"30 23 0:26 / /mnt/my\040cgroups\134x rw - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(line), Some(r"/mnt/my cgroups\x".into()));
    }

    #[test]
    fn a_bpffs_root_elsewhere_must_be_on_a_bpf_file_system() {
        let error = bpffs_root(Path::new("/proc/self/proxy-agent")).expect_err("proc is no bpf file system");
        assert!(error.to_string().starts_with("--bpffs-root /proc/self/proxy-agent is not on a bpf file system"));
    }

    #[test]
    fn a_cgroup_root_elsewhere_must_be_in_cgroup2() {
        let error = cgroup_root(Some(Path::new("/proc"))).expect_err("proc is no cgroup2");
        assert_eq!(error.to_string(), "--cgroup-root /proc is not a directory of a cgroup2 file system");
    }
}
