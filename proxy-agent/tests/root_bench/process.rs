//! Memory and processor time of the agent as a process, with an API server.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Size,
    fake_api::{FakeApi, Resource},
    figure::Figure,
    sized,
    support::{Node, eventually},
};

/// Changes of slices in a second.
const RATE: u32 = 100;

fn object(object: Result<Value, serde_json::Error>) -> Value {
    object.expect("it is serializable")
}

/// An agent that is ended at the end.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    fn status(&self, field: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it lives");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("Linux says that");
        let kibibytes: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes / 1024.0
    }

    /// Seconds of a processor, in the kernel as well.
    fn processor_time(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it lives");
        let fields: Vec<&str> = text.rsplit_once(')').expect("the name is in brackets").1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number");
        #[expect(clippy::cast_precision_loss, reason = "it is 100")]
        let second = rustix::param::clock_ticks_per_second() as f64;
        ticks / second
    }
}

pub fn run(size: Size) -> Vec<Figure> {
    let node = Node::default();
    node.netns.ip("link set lo up");
    let api = node.netns.block_on(FakeApi::start);
    for number in 0..size.services {
        api.state().put(Resource::Services, object(serde_json::to_value(sized::service(number))));
        api.state().put(Resource::EndpointSlices, object(serde_json::to_value(sized::slice(number, 0))));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log");
    let mut command = node.netns.command(env!("CARGO_BIN_EXE_proxy-agent"));
    command.args(["run", "--master", &api.url(), "--hostname-override", sized::NODE, "--healthz-bind-address", ""]);
    command.arg("--bpffs-root").arg(node.pins.path()).arg("--cgroup-root").arg(node.cgroup.path());
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("the folder is ours"));
    let agent = Agent(command.spawn().expect("the agent starts"));
    let says = |what: &str| fs::read_to_string(&log).is_ok_and(|text| text.contains(what));
    eventually("programs are attached", || says("programs attached to").then_some(()));
    // What was needed for the start is given back.
    thread::sleep(Duration::from_secs(u64::from(size.seconds.min(3))));
    let idle = (agent.status("RssAnon"), agent.status("VmRSS"), agent.status("VmHWM"));

    let before = agent.processor_time();
    let start = Instant::now();
    for round in 0..RATE * size.seconds {
        let number = round * 7 % size.services;
        api.state().put(Resource::EndpointSlices, object(serde_json::to_value(sized::slice(number, round + 1))));
        let due = start + Duration::from_secs(1) / RATE * (round + 1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let share = (agent.processor_time() - before) / start.elapsed().as_secs_f64() * 100.0;
    vec![
        Figure::single("memory of its own, idle", "MiB", idle.0, Some(80.0)),
        Figure::single("resident, with the parts of tables that are mapped", "MiB", idle.1, None),
        Figure::single("resident at most since its start", "MiB", idle.2, None),
        Figure::single(
            "memory of its own, under 100 slice changes a second",
            "MiB",
            agent.status("RssAnon"),
            Some(80.0),
        ),
        Figure::single("of a processor, under 100 slice changes a second", "%", share, Some(5.0)),
    ]
}
