//! What the owner of a Service should know, and who tells it on.
//!
//! Whoever notices something logs it too; a notice is for those who do not read a node's log.

use crate::model::ObjectName;

/// Something about a Service that a person has to do something about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The Service.
    pub service: ObjectName,
    /// What it is about.
    pub reason: Reason,
    /// What happened, in a line.
    pub text: String,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The Service's `healthCheckNodePort` cannot be opened.
    HealthCheckPort,
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
