//! A folder of manifests as a source, instead of the Kubernetes API.
//!
//! Files ending in `.yaml`, `.yml` or `.json` count, not those in folders within, nor hidden ones.
//! Services (`v1`), `EndpointSlices` (`discovery.k8s.io/v1`) and Nodes (`v1`) are read, alone or in a
//! `List`; other kinds are ignored. Changes take effect at once.
//!
//! What cannot be used is told with file, line and document, and the rest is served. A document that
//! is no YAML leaves what the file defined before in force, as far as its other documents do not
//! define it; a file that cannot be read leaves everything it defined. An object with two definitions
//! has the first, by file name and then by place. If the folder disappears, everything stays.

mod catalog;
mod folder;
mod objects;
#[cfg(test)]
mod tests;

use std::{io, path::Path, thread};

use thiserror::Error;
use tracing::{info, warn};

use self::{
    catalog::{Catalog, News},
    folder::Folder,
};
use super::Updates;

/// The folder cannot be used.
#[derive(Debug, Error)]
#[error("--manifests {folder}: {error}")]
pub struct OpenError {
    folder: String,
    error: io::Error,
}

/// A folder of manifests that was found.
pub struct Manifests {
    name: String,
    folder: Folder,
    catalog: Catalog,
}

impl Manifests {
    /// Opens the folder.
    ///
    /// # Errors
    /// It is not there, or no folder, or not readable.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let folder = Folder::open(path.to_owned()).map_err(|error| OpenError { folder: name.clone(), error })?;
        Ok(Self { name, folder, catalog: Catalog::default() })
    }

    /// Sends what the files say, and then what changes, from a thread of its own until nobody listens
    /// any more.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(self, updates: Updates) -> io::Result<()> {
        thread::Builder::new().name("manifests".to_owned()).spawn(move || self.run(&updates)).map(|_| ())
    }

    fn run(mut self, updates: &Updates) {
        let mut lost = false;
        loop {
            let news = match self.folder.read() {
                Ok(files) => {
                    if std::mem::take(&mut lost) {
                        info!("{} is back", self.name);
                    }
                    self.catalog.look(files)
                }
                Err(error) => {
                    if !std::mem::replace(&mut lost, true) {
                        warn!("{}: {error}; what it said stays in force", self.name);
                    }
                    News::default()
                }
            };
            for warning in news.warnings {
                warn!("{}/{warning}", self.name);
            }
            for update in news.updates {
                if updates.blocking_send(update).is_err() {
                    return;
                }
            }
            while !self.folder.wait() {
                if updates.is_closed() {
                    return;
                }
            }
        }
    }
}
