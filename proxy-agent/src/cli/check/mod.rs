//! `proxy-agent check`: whether this node is ready for the agent, and what stands in its way.

mod facts;
mod findings;

use std::io::Write;

use clap::Args;

use self::{facts::Facts, findings::Findings};
use super::{CommandError, Output};
use crate::config::RunFlags;

/// What would be run, and how to print.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The flags with which the agent is to run.
    #[command(flatten)]
    pub flags: RunFlags,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Whether the agent can run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// Something stands in its way.
    NotReady,
}

impl CheckArgs {
    /// Looks at the node and prints what was found. Changes nothing.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn run(&self, out: &mut impl Write) -> Result<Readiness, CommandError> {
        let findings = Findings::of(&Facts::gather(&self.flags));
        self.output.print(&findings, out)?;
        out.flush()?;
        Ok(findings.readiness())
    }
}
