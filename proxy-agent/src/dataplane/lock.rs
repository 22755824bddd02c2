//! One agent for each directory of pins.

use std::{
    fs::File,
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
        error: std::io::Error,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Lock::take(directory.path()).expect("nobody has it");
        let error = Lock::take(directory.path()).expect_err("the first has it");
        assert!(error.to_string().contains("another agent is running"), "{error}");
        drop(first);
        Lock::take(directory.path()).expect("free again");
    }
}
