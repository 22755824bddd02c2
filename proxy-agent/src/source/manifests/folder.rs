//! Looking into the folder, and noticing when it is time to look again.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind};

use super::catalog::Found;

/// Silence after which a change counts as finished.
const QUIET: Duration = Duration::from_millis(20);
/// Longest wait for that silence.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the folder is looked at without being told to: for changes behind symbolic links, on
/// network file systems, and for a folder that was replaced.
const TICK: Duration = Duration::from_secs(1);

/// A folder of manifests.
pub(super) struct Folder {
    path: PathBuf,
    /// Device and inode of the folder that is watched; `None` if it cannot be.
    watched: Option<(u64, u64)>,
    watcher: Option<RecommendedWatcher>,
    sender: SyncSender<()>,
    receiver: Receiver<()>,
    /// What the files looked like from outside at the last look.
    seen: Vec<Outside>,
}

#[derive(Debug, PartialEq, Eq)]
struct Outside {
    name: String,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Folder {
    /// The folder at `path`, watched if the system allows; otherwise it is looked at every second.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        // One waiting event stands for all.
        let (sender, receiver) = sync_channel(1);
        let mut folder = Self { path, watched: None, watcher: None, sender, receiver, seen: Vec::new() };
        fs::read_dir(&folder.path)?;
        folder.watch()?;
        Ok(folder)
    }

    /// All files that count, by name.
    pub(super) fn read(&mut self) -> io::Result<BTreeMap<String, Found>> {
        self.watch()?;
        self.seen = outside(&self.path)?;
        let mut files = BTreeMap::new();
        for Outside { name, .. } in &self.seen {
            let found = match fs::read(self.path.join(name)) {
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(format!("cannot be read: {error}")),
                Ok(bytes) => String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned()),
            };
            files.insert(name.clone(), found);
        }
        Ok(files)
    }

    /// Waits until something may have changed, or a tick is over. Returns whether to look again.
    pub(super) fn wait(&self) -> bool {
        match self.receiver.recv_timeout(TICK) {
            Ok(()) => {
                let begin = Instant::now();
                while begin.elapsed() < PATIENCE && self.receiver.recv_timeout(QUIET).is_ok() {}
                true
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.watched != identity(&self.path).ok() || outside(&self.path).ok().as_ref() != Some(&self.seen)
            }
        }
    }

    /// Watches the folder that is at the path now.
    fn watch(&mut self) -> io::Result<()> {
        let identity = identity(&self.path)?;
        if self.watched == Some(identity) {
            return Ok(());
        }
        self.watched = Some(identity);
        let sender = self.sender.clone();
        let on_event = move |event: notify::Result<notify::Event>| {
            let reading = |kind: &EventKind| matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(notify::event::AccessMode::Write)));
            if !event.is_ok_and(|event| reading(&event.kind)) {
                // A full channel has an event waiting already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        self.watcher = watcher
            .inspect_err(|error| tracing::warn!("{}: {error}; it is looked at every second", self.path.display()))
            .ok();
        Ok(())
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The files that count: `.yaml`, `.yml` and `.json`, not hidden; symbolic links to files too.
fn outside(path: &Path) -> io::Result<Vec<Outside>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let extension = Path::new(&name).extension().map(OsStr::to_ascii_lowercase);
        let counts = extension.is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if !counts || name.starts_with('.') {
            continue;
        }
        // Removed since, or a link that leads nowhere.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_file() {
            files.push(Outside {
                name,
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}
