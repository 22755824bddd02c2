//! Where objects come from: the Kubernetes API or a folder of manifests.
//!
//! Owns watching, recovering from errors, and decoding into the model's types as objects arrive, so
//! that no raw list is ever held. Never decides what an object means. Both sources send
//! [`model::Update`](crate::model::Update)s through one channel: first one `Reset` for each kind, once
//! its list is complete, then what changes.

pub mod api;
mod decode;
mod json;
pub mod manifests;
mod report;

use tokio::{sync::mpsc, time::Instant};

pub use self::decode::{Decoded, Flaw, Object, decode};
pub use self::report::Reports;
use crate::model::Update;

/// The sources' end of the channel to the run loop. It is bounded, so that a source waits while the
/// loop is busy.
#[derive(Clone, Debug)]
pub struct Updates(mpsc::Sender<Arrival>);

/// The run loop has ended, so nobody learns of an update any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run loop has ended")]
pub struct Ended;

/// An update on its way to the run loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// What the source tells.
    pub update: Update,
    /// When it learned of that.
    pub at: Instant,
}

/// A channel from the sources to the run loop.
#[must_use]
pub fn channel() -> (Updates, mpsc::Receiver<Arrival>) {
    let (sender, receiver) = mpsc::channel(1024);
    (Updates(sender), receiver)
}

impl Updates {
    /// Sends what a source has just learned, when there is room.
    ///
    /// # Errors
    /// The run loop has ended.
    pub async fn send(&self, update: Update) -> Result<(), Ended> {
        let at = Instant::now();
        self.0.send(Arrival { update, at }).await.map_err(|_| Ended)
    }

    /// The same for a thread that may wait.
    ///
    /// # Errors
    /// The run loop has ended.
    pub fn blocking_send(&self, update: Update) -> Result<(), Ended> {
        self.0.blocking_send(Arrival { update, at: Instant::now() }).map_err(|_| Ended)
    }

    /// Whether the run loop has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the run loop has ended.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}
