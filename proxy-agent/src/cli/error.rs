//! Why a command fails.

use std::io;

use super::select::UnknownService;
use crate::dataplane::{CleanupError, diagnosis::Diagnosis, trace::TraceError};

/// Why a command failed: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The tables cannot be used.
    #[error(transparent)]
    Tables(#[from] Diagnosis),
    /// Nobody has the name that was asked for.
    #[error(transparent)]
    Unknown(#[from] UnknownService),
    /// Nothing has the address, the namespace or the device that was asked for.
    #[error("{0}")]
    Nothing(String),
    /// What is attached cannot be read.
    #[error("cannot read what is attached: {0}")]
    Attached(io::Error),
    /// Something could not be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// Decisions cannot be followed.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}
