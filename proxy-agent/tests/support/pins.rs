//! Directories for pinned objects.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Once,
};

use proxy_agent::dataplane::mounts;

use super::{is_left_behind, unique_name};

/// A directory on a BPF file system; removed with everything pinned in it when dropped.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
}

impl Pins {
    /// A new, empty directory.
    #[must_use]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        let parent = Path::new("/sys/fs/bpf");
        let path = parent.join(unique_name());
        mounts::bpffs_root(&path).expect("a bpf file system");
        SWEEP.call_once(|| sweep(parent));
        Self { path }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the pins of programs that the next agent would go on with: it loads its own, as after an upgrade.
    #[track_caller]
    pub fn forget_programs(&self) {
        match fs::remove_dir_all(self.path.join("kept")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.expect("pins can be removed"),
        }
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // A failure leaves the directory to the next run.
        drop(fs::remove_dir_all(&self.path));
    }
}

fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_left_behind) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
