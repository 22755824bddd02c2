//! `cargo xtask demo`: real connections through the real datapath, on a node, with clients and
//! backends made of namespaces.

mod agent;
pub(crate) mod enter;
mod lab;
mod manifests;
mod network;
pub(crate) mod peer;
mod processes;
pub(crate) mod report;
mod story;
mod traffic;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, ensure};
use nix::unistd::geteuid;
use signal_hook::{consts, flag};

use self::{
    agent::Agent,
    lab::Lab,
    network::{BACKENDS, OUTSIDE, POD, SANDBOX},
    processes::Processes,
};
use crate::{build, setup};

/// Stops the demo between two steps once the user has asked for it.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn new() -> anyhow::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
            flag::register(signal, Arc::clone(&asked)).context("cannot wait for signals")?;
        }
        Ok(Self(asked))
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted; everything is cleaned up");
        Ok(())
    }
}

pub(crate) fn run() -> anyhow::Result<()> {
    ensure!(
        geteuid().is_root(),
        "the demo makes namespaces and loads BPF programs, which needs root: sudo -E env \"PATH=$PATH\" cargo xtask demo"
    );
    setup::running()?;
    let program = build::agent()?;
    let interrupt = Interrupt::new()?;
    let started = Instant::now();
    // Dropped in the opposite order: processes first.
    let lab = Lab::new()?;
    let mut processes = Processes::default();
    show(&lab, &program, &mut processes, &interrupt)?;
    println!("\nDone in {:.1} s; everything is cleaned up.", started.elapsed().as_secs_f64());
    Ok(())
}

fn show(lab: &Lab, program: &Path, processes: &mut Processes, interrupt: &Interrupt) -> anyhow::Result<()> {
    report::heading("A node, a pod, a sandboxed pod, a client outside and three backends, each a network namespace");
    network::build(lab)?;
    let hosts = [&POD, &SANDBOX].into_iter().chain(&BACKENDS).chain([&OUTSIDE]);
    let rows: Vec<_> = hosts.map(|host| [host.name, host.v4, host.v6].map(str::to_owned).to_vec()).collect();
    print!("{}", report::table(&["namespace", "IPv4", "IPv6"], &rows));
    traffic::start_backends(lab, processes)?;
    manifests::copy(&lab.path("manifests"))?;
    interrupt.check()?;

    report::heading("The agent, on a copy of deploy/demo");
    let agent = Agent::start(lab, program, processes)?;
    let result = story::tell(lab, &agent, processes, interrupt);
    // Ctrl-C also ends what the demo waits for; that is not the reason to name.
    interrupt.check()?;
    if result.is_err() {
        eprintln!("\nThe agent's log:\n{}", report::excerpt(&agent.log(), 60));
    }
    result
}
