//! Long-running processes of the demo, ended when it ends.

use std::process::{Child, Command};

use anyhow::{Context, bail};

/// Ends what it started when it is dropped.
#[derive(Default)]
pub(super) struct Processes(Vec<Child>);

impl Processes {
    /// Starts a process.
    pub(super) fn start(&mut self, command: &mut Command) -> anyhow::Result<&mut Child> {
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        self.0.push(child);
        self.0.last_mut().context("the process is gone")
    }

    /// An error if one of them has ended.
    pub(super) fn all_run(&mut self) -> anyhow::Result<()> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("a process of the demo ended early ({status})");
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
