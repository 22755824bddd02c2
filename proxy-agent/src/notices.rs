//! What people should know who do not read a node's log, and who tells it on.
//!
//! Whoever notices something logs it too.

use crate::model::ObjectName;

/// Something that happened, most often that a person has to do something about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose it is.
    pub subject: Subject,
    /// What it is about.
    pub reason: Reason,
    /// What happened, in a line.
    pub text: String,
}

/// Whose owner is to know of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A Service.
    Service(ObjectName),
    /// This node.
    Node,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The Service's `healthCheckNodePort` cannot be opened.
    HealthCheckPort,
    /// An older Service has an address and port that the Service asks for, too.
    FrontendTaken,
    /// A table of this node has no room for the Service.
    NoRoom,
    /// A field of the Service cannot be used; the rest is served.
    UnusableField,
    /// The agent begins to work on this node.
    Starting,
    /// The agent's health cannot be asked for, because its port cannot be opened.
    HealthServer,
}

/// Who tells notices on. Never waits.
pub trait Notices: Send + Sync + 'static {
    /// Tells a notice on, as far as that is possible; what gets lost is in the log.
    fn tell(&self, notice: Notice);
}

/// Nobody tells notices on: the log is all there is.
#[derive(Clone, Copy, Debug)]
pub struct LogOnly;

impl Notices for LogOnly {
    fn tell(&self, _: Notice) {}
}
