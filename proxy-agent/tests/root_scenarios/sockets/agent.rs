//! The agent as a process, and its folder of manifests.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::stage::Stage;
use crate::{
    scenario_table::cast::NODE,
    support::{Pins, eventually, patience, run},
};

/// A running agent.
pub struct Agent {
    child: Child,
    arguments: &'static [&'static str],
}

/// What an agent finds at its start.
pub struct Home {
    folder: tempfile::TempDir,
    pub pins: Pins,
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), pins: Pins::new() }
    }

    /// Writes a manifest, replacing the one of that name at once.
    pub fn write<'a>(&self, name: &str, objects: impl Iterator<Item = &'a Value>) {
        let documents: Vec<String> = objects.map(Value::to_string).collect();
        let fresh = self.folder.path().join(format!(".{name}.new"));
        fs::write(&fresh, documents.join("\n---\n")).expect("the folder is ours");
        fs::rename(fresh, self.folder.path().join(format!("{name}.yaml"))).expect("the folder is ours");
    }

    /// Removes a manifest, if it is there.
    pub fn remove(&self, name: &str) {
        drop(fs::remove_file(self.folder.path().join(format!("{name}.yaml"))));
    }

    /// What the agent logged since its start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(".log")).unwrap_or_default()
    }

    /// Starts an agent, and waits until its programs are attached.
    pub fn start(&self, stage: &Stage, arguments: &'static [&'static str]) -> Agent {
        let log = fs::File::create(self.folder.path().join(".log")).expect("the folder is ours");
        let mut command = stage.node.command(env!("CARGO_BIN_EXE_proxy-agent"));
        command.arg("run").arg("--manifests").arg(self.folder.path());
        command.arg("--bpffs-root").arg(self.pins.path()).arg("--cgroup-root").arg(stage.cgroup.path());
        command.args(["--hostname-override", NODE, "--healthz-bind-address", "127.0.0.1:10256"]).args(arguments);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the agent starts");
        let mut agent = Agent { child, arguments };
        eventually("the programs are attached", || {
            let ended = agent.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "the agent ended: {ended:?}\n{}", self.log());
            self.log().contains("programs attached").then_some(())
        });
        agent
    }
}

impl Agent {
    pub fn arguments(&self) -> &'static [&'static str] {
        self.arguments
    }
}

impl Drop for Agent {
    /// Stops it as the kubelet would; one that does not stop is killed.
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        run(Command::new("kill").args(["-TERM", &id]));
        let start = std::time::Instant::now();
        while start.elapsed() < patience() {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
