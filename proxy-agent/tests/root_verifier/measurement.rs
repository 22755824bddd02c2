//! What is measured of a program, as a line of text, and the budget.
//!
//! The one file that the measuring program and `cargo xtask verify` share, where its tests are: measured is on the machine whose
//! kernel is meant, which may be a virtual one without anything of this repository; read is what comes back, line by line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a line with a measurement begins with. All other lines are somebody else's.
const PREFIX: &str = "verifier: ";

/// How much of the verifier's own limit a program may use, in percent. What is left is for other kernels' verifiers, which
/// see equal states less often, and for other compilers.
pub(crate) const SHARE_OF_PROCESSED: u32 = 50;

/// What the frames of a chain of calls may take together, in bytes: `MAX_BPF_STACK` in the kernel.
pub(crate) const STACK_LIMIT: u32 = 512;

/// One program on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The kernel's release, as `uname -r` prints it.
    pub(crate) kernel: String,
    /// The program's name.
    pub(crate) program: String,
    /// How many instructions the verifier looked at, those that it met on several paths more than once.
    pub(crate) processed: u32,
    /// How many it looks at before it gives up.
    pub(crate) limit: u32,
    /// How many instructions the program has after the verifier has removed and replaced some, 8 bytes each.
    pub(crate) instructions: u32,
    /// The frame of each function in bytes: that of the program itself, then those of the functions that it calls.
    pub(crate) frames: Vec<u32>,
    /// What the deepest chain of calls takes in bytes, each frame rounded up to 32. `None` if the verifier has removed
    /// functions, so that it is not known whose frames these are.
    pub(crate) deepest_chain: Option<u32>,
}

impl Measurement {
    /// Reads a line; `None` if it is no measurement.
    ///
    /// # Errors
    /// The line begins like one, but is none.
    pub(crate) fn from_line(line: &str) -> Option<Result<Self, serde_json::Error>> {
        line.trim_end().strip_prefix(PREFIX).map(serde_json::from_str)
    }

    /// What the program may have processed at most.
    pub(crate) fn budget(&self) -> u32 {
        self.limit / 100 * SHARE_OF_PROCESSED
    }

    /// What is known of the stack: the deepest chain, or at least the largest frame.
    pub(crate) fn stack(&self) -> u32 {
        self.deepest_chain.unwrap_or_else(|| self.frames.iter().copied().max().unwrap_or_default())
    }

    /// What the program uses too much of, in a sentence for each.
    pub(crate) fn overruns(&self) -> Vec<String> {
        let Self { kernel, program, processed, limit, .. } = self;
        let mut overruns = Vec::new();
        if *processed > self.budget() {
            overruns.push(format!(
                "{program} on {kernel}: the verifier processed {processed} instructions, more than {SHARE_OF_PROCESSED} % of {limit}"
            ));
        }
        if self.stack() > STACK_LIMIT {
            overruns.push(format!(
                "{program} on {kernel}: the stack takes {} bytes, more than {STACK_LIMIT}, with frames of {:?}",
                self.stack(),
                self.frames
            ));
        }
        overruns
    }
}

/// The line of text that stands for the measurement, without its end.
impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(formatter, "{PREFIX}{text}")
    }
}
