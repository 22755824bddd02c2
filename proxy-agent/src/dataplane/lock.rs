//! One agent for each directory of pins.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Why the directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent is running with --bpffs-root {path}: stop it, or give this one a root of its own")]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be opened or locked.
    #[error("cannot lock {path}: {error}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The exclusive right to the pins in a directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    directory: File,
}

impl Lock {
    /// Takes the lock of the directory `root`.
    ///
    /// # Errors
    /// Another process has it, or the directory cannot be opened.
    pub fn take(root: &Path) -> Result<Self, LockError> {
        let io = |error| LockError::Io { path: root.to_owned(), error };
        let directory = File::open(root).map_err(io)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { directory }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Taken { path: root.to_owned() }),
            Err(error) => Err(io(error.into())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while a process is being started that has a copy of it.
        flock(&self.directory, FlockOperation::Unlock).ok();
    }
}

/// The process that has the lock of the directory `root`, if there is one (and if it is visible from
/// the calling process's PID namespace).
///
/// # Errors
/// The directory or `/proc/locks` cannot be read.
pub fn holder(root: &Path) -> io::Result<Option<u32>> {
    let inode = fs::metadata(root)?.ino();
    Ok(parse_holder(&fs::read_to_string("/proc/locks")?, inode))
}

/// Finds `1: FLOCK  ADVISORY  WRITE 1234 00:2a:5678 0 EOF` by the number of the inode, 5678. Devices are
/// left out: the numbers of file systems without one are not the same everywhere.
fn parse_holder(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, _advisory, access) = (fields.next()?, fields.next()?, fields.next()?);
        let (process, file) = (fields.next()?, fields.next()?);
        let is_ours = (kind, access) == ("FLOCK", "WRITE") && file.rsplit(':').next()?.parse() == Ok(inode);
        if is_ours { process.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_all_locks() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 fd:00:42 0 EOF
2: FLOCK  ADVISORY  WRITE 12 fd:00:421 0 EOF
3: FLOCK  ADVISORY  WRITE 13 00:2a:42 0 EOF
3: -> FLOCK  ADVISORY  WRITE 14 00:2a:42 0 EOF
";
        assert_eq!(parse_holder(locks, 42), Some(13));
        assert_eq!(parse_holder(locks, 7), None);
    }

    #[test]
    fn the_second_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Lock::take(directory.path()).expect("nobody has it");
        let error = Lock::take(directory.path()).expect_err("the first has it");
        assert!(error.to_string().contains("another agent is running"), "{error}");
        assert_eq!(holder(directory.path()).expect("readable"), Some(std::process::id()));
        drop(first);
        assert_eq!(holder(directory.path()).expect("readable"), None);
        Lock::take(directory.path()).expect("free again");
    }
}
