//! Programs that stay loaded, so that the next agent need not have them verified once more.
//!
//! Verifying is most of what a start costs. So programs are pinned, and an agent that would load just the same ones goes on with those: the
//! same object, loaded in the same way with the same constants, for the very same tables. All that is in the name of their directory; the pins
//! of others are removed unopened, once they are not needed any more.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher as _},
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::ProgramInfo;

use super::{
    bpf,
    devices::LinkLayer,
    loaded::classifier_name,
    pins::{Direction, Pins, SocketHook, unpin},
};

/// What makes a program what it is once it is loaded.
#[derive(Debug, Hash)]
pub(super) struct Identity<'a> {
    /// A hash of the object file, and of what loads it.
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

/// Whether it may be the name of an identity's directory.
fn is_identity(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The programs of one identity that are pinned.
#[derive(Debug)]
pub(super) struct KeptPrograms {
    pins: Pins,
    /// None: nothing is kept, nor used again.
    directory: Option<PathBuf>,
}

impl KeptPrograms {
    /// Those of this identity.
    pub(super) fn of(pins: &Pins, identity: &Identity<'_>) -> Self {
        Self { pins: pins.clone(), directory: Some(pins.kept().join(identity.name())) }
    }

    /// None: neither those of a former agent for this one, nor this one's for the next.
    pub(super) fn none(pins: &Pins) -> Self {
        Self { pins: pins.clone(), directory: None }
    }

    /// The program with this name, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<OwnedFd> {
        let path = self.directory.as_ref()?.join(name);
        let info = ProgramInfo::from_pin(&path).ok()?;
        if info.name_as_str() != Some(name) {
            return None;
        }
        bpf::open_pinned(&path).ok()
    }

    /// Keeps a program that was loaded. Where that fails, the next agent loads its own.
    pub(super) fn keep(&self, name: &str, program: BorrowedFd<'_>) {
        let Some(directory) = &self.directory else { return };
        let path = directory.join(name);
        let pinned = fs::create_dir_all(directory).and_then(|()| unpin(&path)).and_then(|()| bpf::pin(program, &path));
        if let Err(error) = pinned {
            tracing::warn!(program = name, %error, "cannot be kept for the next agent in {}", directory.display());
        }
    }

    /// Removes the pins of all others. What is attached stays attached.
    ///
    /// # Errors
    /// As [`remove`].
    pub(super) fn remove_others(&self) -> io::Result<()> {
        remove_from(&self.pins, |directory| self.directory.as_deref() != Some(directory))
    }
}

/// Removes the pins of all programs that are kept, and nothing else that may be there.
///
/// # Errors
/// The BPF file system refuses; whatever else could be removed is.
pub(super) fn remove(pins: &Pins) -> io::Result<()> {
    remove_from(pins, |_| true)
}

fn remove_from(pins: &Pins, is_unwanted: impl Fn(&Path) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(pins.kept()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut result = Ok(());
    for entry in entries {
        let directory = entry?.path();
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if directory.is_dir() && is_identity(&name) && is_unwanted(&directory) {
            for program in names() {
                result = result.and(unpin(&directory.join(program)));
            }
            // Whatever is left there is somebody else's.
            drop(fs::remove_dir(&directory));
        }
    }
    drop(fs::remove_dir(pins.kept()));
    result
}

/// The names of all programs.
fn names() -> impl Iterator<Item = &'static str> {
    let classifiers = [LinkLayer::Ethernet, LinkLayer::Ip]
        .into_iter()
        .flat_map(|link_layer| Direction::ALL.map(|direction| classifier_name(direction, link_layer)));
    SocketHook::ALL.into_iter().map(SocketHook::name).chain(classifiers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts() {
        let same = || Identity { object: "0123", is_typed: true, constants: &[("A", 1), ("B", 0)], tables: &[7, 8] };
        assert_eq!(same().name(), same().name());
        assert!(is_identity(&same().name()));
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

    #[test]
    fn what_others_put_there_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = Pins::new(folder.path());
        let [ours, mixed, foreign] =
            ["0123456789abcdef", "1123456789abcdef", "foreign"].map(|name| pins.kept().join(name));
        for directory in [&ours, &mixed, &foreign] {
            fs::create_dir_all(directory).expect("makes");
            fs::write(directory.join("connect4"), "").expect("writes");
        }
        fs::write(mixed.join("else"), "").expect("writes");
        fs::write(pins.kept().join("connect4"), "").expect("writes");
        remove(&pins).expect("nothing fails");
        assert!(!ours.exists() && !mixed.join("connect4").exists());
        assert!(
            mixed.join("else").exists() && foreign.join("connect4").exists() && pins.kept().join("connect4").exists()
        );
    }
}
