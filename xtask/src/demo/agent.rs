//! The demo's agent, its tables and its log.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use proxy_common::{Counter, maps};
use serde_json::Value;

use super::{
    lab::{Lab, Sockets},
    network::{NODE, NODE_NAME, POD_PREFIXES},
    processes::Processes,
};
use crate::command;

/// Runs in the node's namespace, attached to the lab's cgroup, pinned to the lab's BPF file system.
pub(super) struct Agent<'a> {
    lab: &'a Lab,
    program: PathBuf,
}

/// What the datapath has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Connections that a socket hook translated.
    pub(super) at_sockets: u64,
    /// Flows that a TC program translated.
    pub(super) at_devices: u64,
}

impl<'a> Agent<'a> {
    /// Starts it.
    pub(super) fn start(lab: &'a Lab, program: &Path, processes: &mut Processes) -> anyhow::Result<Self> {
        let agent = Self { lab, program: program.to_owned() };
        let log = File::create(agent.log_file()).context("cannot make the agent's log")?;
        let mut command = agent.command("run")?;
        command.arg("--manifests").arg(lab.path("manifests")).args(["--hostname-override", NODE_NAME]);
        command.arg("--cgroup-root").arg(lab.cgroup(Sockets::Hooked)).args(["--cluster-cidr", POD_PREFIXES]);
        processes.start(command.stdout(log.try_clone()?).stderr(log))?;
        Ok(agent)
    }

    /// What it logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What one of its reading commands prints.
    pub(super) fn show(&self, subcommand: &str) -> anyhow::Result<String> {
        output(&mut self.command(subcommand)?)
    }

    /// A pinned table as bpftool shows it.
    pub(super) fn table(&self, name: &str) -> anyhow::Result<String> {
        output(&mut self.bpftool(&[], name)?)
    }

    /// Where its tables are pinned.
    pub(super) fn pins(&self) -> PathBuf {
        self.lab.path("bpf").join("proxy-agent")
    }

    /// How much it has served so far, by either kind of hook.
    pub(super) fn served(&self) -> anyhow::Result<Served> {
        let text = output(&mut self.bpftool(&["--json"], maps::COUNTERS)?)?;
        let table: Value = serde_json::from_str(&text).context("bpftool's output is not JSON")?;
        Ok(Served {
            at_sockets: counter(&table, Counter::SocketConnections)?,
            at_devices: counter(&table, Counter::Flows)?,
        })
    }

    fn command(&self, subcommand: &str) -> anyhow::Result<Command> {
        let mut command = self.lab.command(NODE, Sockets::Unhooked, &self.program)?;
        command.arg(subcommand).arg("--bpffs-root").arg(self.pins());
        Ok(command)
    }

    fn bpftool(&self, options: &[&str], name: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(command::find("bpftool").context("bpftool is missing")?);
        command.args(options).args(["map", "dump", "pinned"]).arg(self.pins().join(name));
        Ok(command)
    }

    fn log_file(&self) -> PathBuf {
        self.lab.path("agent.log")
    }
}

/// A per-CPU counter, summed over the CPUs.
fn counter(table: &Value, counter: Counter) -> anyhow::Result<u64> {
    let is_it = |entry: &&Value| entry["formatted"]["key"].as_u64() == Some(counter.index().into());
    let entry = table.as_array().and_then(|entries| entries.iter().find(is_it));
    let values = entry.and_then(|entry| entry["formatted"]["values"].as_array());
    let values = values.context("bpftool does not show the counters with their types")?;
    Ok(values.iter().filter_map(|cpu| cpu["value"].as_u64()).sum())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::piped()).output().context("cannot start a command")?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        bail!("`{}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_counter_is_the_sum_over_all_cpus() {
        let entry = |key: u32, a: u64, b: u64| json!({"key": ["0x00"], "formatted": {"key": key, "values": [{"cpu": 0, "value": a}, {"cpu": 1, "value": b}]}});
        let table = json!([entry(Counter::SocketConnections.index(), 3, 4), entry(Counter::Flows.index(), 10, 0)]);
        assert_eq!(counter(&table, Counter::SocketConnections).ok(), Some(7));
        assert_eq!(counter(&table, Counter::Flows).ok(), Some(10));
        assert!(counter(&json!([{"key": ["0x00"], "value": []}]), Counter::Flows).is_err());
    }
}
