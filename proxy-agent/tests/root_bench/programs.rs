//! Run time of the TC programs, as the kernel counts it (`kernel.bpf_stats_enabled`, since 5.1).

use std::{fs, process::Command};

use proxy_agent::dataplane::{pins::Pins, status};
use serde_json::Value;

use super::{stage::Stage, support::run};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Whether bpftool is there to ask.
pub fn can_be_read() -> bool {
    Command::new("bpftool").arg("version").output().is_ok_and(|output| output.status.success())
}

/// The kernel counts as long as this lives.
pub struct Counting {
    before: String,
}

impl Counting {
    pub fn start() -> Self {
        let before = fs::read_to_string(SWITCH).expect("the kernel can count");
        fs::write(SWITCH, "1").expect("root may");
        Self { before }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Somebody else may count as well; then it was on before.
        let _ = fs::write(SWITCH, &self.before);
    }
}

/// Runs and nanoseconds of one program.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    runs: f64,
    nanoseconds: f64,
}

/// The program that is at all devices of the stage's node in this direction.
pub struct Program {
    id: u64,
}

impl Program {
    /// `direction`: `ingress` or `egress`.
    pub fn of(stage: &Stage, direction: &str) -> Self {
        let attached = stage.node.enter(|| status::devices(&Pins::new(stage.pins.path()))).expect("readable");
        let device =
            attached.iter().find(|device| device.direction.name() == direction).expect("a device has programs");
        Self { id: device.program.into() }
    }

    pub fn time(&self) -> Time {
        let program = ask(&["prog", "show", "id", &self.id.to_string()]);
        // What never ran has no figures.
        let number = |name: &str| program[name].as_f64().unwrap_or_default();
        Time { runs: number("run_cnt"), nanoseconds: number("run_time_ns") }
    }

    /// Nanoseconds of a run, on average, while `work` is done.
    pub fn average(&self, work: impl FnOnce()) -> f64 {
        let before = self.time();
        work();
        let after = self.time();
        (after.nanoseconds - before.nanoseconds) / (after.runs - before.runs)
    }
}

fn ask(words: &[&str]) -> Value {
    let answer = run(Command::new("bpftool").arg("--json").args(words));
    serde_json::from_str(&answer).expect("bpftool prints JSON")
}
