//! Where objects come from: the Kubernetes API or a folder of manifests.
//!
//! Owns watching, recovering from errors, and decoding into the model's types as objects arrive, so
//! that no raw list is ever held. Never decides what an object means. Both sources send
//! [`model::Update`](crate::model::Update)s through one channel: first one `Reset` for each kind, once
//! its list is complete, then what changes.

pub mod api;
mod decode;
pub mod manifests;
mod report;

use tokio::sync::mpsc;

pub use self::decode::{Decoded, Flaw, Object, decode};
pub use self::report::Reports;
use crate::model::Update;

/// The sources' end of the channel to the run loop. It is bounded, so that a source waits while the
/// loop is busy.
pub type Updates = mpsc::Sender<Update>;

/// A channel from the sources to the run loop.
#[must_use]
pub fn channel() -> (Updates, mpsc::Receiver<Update>) {
    mpsc::channel(1024)
}
