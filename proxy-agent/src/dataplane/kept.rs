//! Programs that stay loaded, so that the next agent need not have them verified once more.
//!
//! Verifying is most of what a start costs. So programs are pinned, and an agent that would load just the same ones goes on with those: the
//! same object with the same constants and the very same tables. All that is in the name of their directory; others are never looked at,
//! and removed.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher as _},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::{
    bpf,
    pins::{Pins, unpin},
};

/// What makes a program what it is once it is loaded.
#[derive(Debug, Hash)]
pub(super) struct Identity<'a> {
    /// A hash of the object file.
    pub(super) object: &'a str,
    /// Whether it is used with the types of its functions.
    pub(super) is_typed: bool,
    /// What is in its constants.
    pub(super) constants: &'a [(&'static str, u8)],
    /// The kernel's numbers of the tables. A loaded program holds its tables, so as long as it is there nothing else gets their numbers.
    pub(super) tables: &'a [u32],
}

impl Identity<'_> {
    /// The name of the directory. Another version of the standard library may give another one; then everything is loaded anew.
    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// The programs of one identity that are pinned.
#[derive(Debug)]
pub(super) struct KeptPrograms {
    directory: PathBuf,
}

impl KeptPrograms {
    /// Those of this identity; the pins of all others are removed. What is attached stays attached.
    ///
    /// # Errors
    /// The BPF file system refuses.
    pub(super) fn of(pins: &Pins, identity: &Identity<'_>) -> io::Result<Self> {
        let name = identity.name();
        pins.remove_loaded_programs(|other| other != name)?;
        let directory = pins.loaded_programs().join(name);
        if directory.exists() {
            tracing::info!("going on with the programs of a former agent, which are the same");
        }
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// The program with this name, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<OwnedFd> {
        bpf::open_pinned(&self.directory.join(name)).ok()
    }

    /// Keeps a program that was loaded. Where that fails, the next agent loads its own.
    pub(super) fn keep(&self, name: &str, program: BorrowedFd<'_>) {
        let path = self.directory.join(name);
        if let Err(error) = unpin(&path).and_then(|()| bpf::pin(program.as_fd(), &path)) {
            tracing::debug!(program = name, %error, "cannot be pinned");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts() {
        let same = || Identity { object: "0123", is_typed: true, constants: &[("A", 1), ("B", 0)], tables: &[7, 8] };
        assert_eq!(same().name(), same().name());
        for other in [
            Identity { object: "0124", ..same() },
            Identity { is_typed: false, ..same() },
            Identity { constants: &[("A", 0), ("B", 1)], ..same() },
            Identity { constants: &[("A", 1), ("C", 0)], ..same() },
            Identity { tables: &[7, 9], ..same() },
            Identity { tables: &[7], ..same() },
        ] {
            assert_ne!(other.name(), same().name(), "{other:?}");
        }
    }
}
