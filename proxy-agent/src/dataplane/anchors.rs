//! Holds what is pinned, so that it outlives its pins while the agent runs, and pins it again where somebody took a pin away.
//!
//! A link without a pin and without a descriptor is gone, and its program with it. Descriptors close that gap: a pin that is
//! removed, or a BPF file system that is unmounted, costs nothing as long as the agent runs and puts the pins back.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::bpf;

/// Raises the limit of open files as far as the process may: each device takes two.
pub(super) fn make_room() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it stays, some links are not held.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

/// What is pinned, by path.
#[derive(Debug, Default)]
pub(super) struct Anchors(BTreeMap<PathBuf, OwnedFd>);

impl Anchors {
    /// Holds what is pinned at `path` now, instead of what was. That nothing is, or that there is no descriptor to be had, changes
    /// nothing.
    pub(super) fn hold(&mut self, path: PathBuf) {
        if let Ok(object) = bpf::open_pinned(&path) {
            self.0.insert(path, object);
        }
    }

    /// Lets go of what was pinned at `path`.
    pub(super) fn release(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// Pins again what is held and has no pin any more, and returns the paths.
    ///
    /// # Errors
    /// A pin cannot be made.
    pub(super) fn restore(&self) -> io::Result<Vec<&Path>> {
        let missing = self.0.iter().filter(|(path, _)| !path.exists());
        missing.map(|(path, object)| bpf::pin(object.as_fd(), path).map(|()| path.as_path())).collect()
    }
}
