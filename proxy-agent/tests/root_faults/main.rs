//! What a node goes through, under load: nothing that happens to the agent, to Services or to devices costs a connection
//! that has nothing to do with it. Needs root.
//!
//! A client outside (served by TC programs) and an ordinary pod (served at its sockets) hold TCP connections and talk on all of
//! them without end, open new ones, and send datagrams. Meanwhile one fault follows another, at random. At the end:
//!
//! - every connection that was held is still there, at the backend that it had;
//! - every new connection and every datagram was answered, by a backend that counted at the time;
//! - what others attached and wrote is as it was.
//!
//! The same load goes on while kube-proxy's rules go and come back (`migration.rs`).
//!
//! `cargo xtask faults` sets how long it goes on; the environment variables are in [`Orders::from_environment`].

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod api;
#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
#[path = "../fake_api/mod.rs"]
#[expect(dead_code, reason = "only a part of the server is needed here")]
mod fake_api;
mod fault;
mod flood;
mod kube_proxy;
mod load;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
mod migration;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
mod repair;
mod rolling;
mod runner;
#[path = "../root_traffic/server.rs"]
mod server;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::{env, process::ExitCode, str::FromStr};

use libtest_mimic::{Arguments, Trial};

use self::{fault::Fault, kube_proxy::Mode, support::Netns};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(load::COMMAND) => return load::main(&arguments[2..]),
        Some(peer::COMMAND) => return peer::main(&arguments[2..]),
        Some(_) | None => {}
    }
    let trial = Trial::test("no_fault_costs_a_connection", || {
        runner::run(&Orders::from_environment());
        Ok(())
    });
    let migrations = Mode::ALL.map(|mode| {
        let trial = Trial::test(format!("from_kube_proxy_and_back_by_{}", mode.name()), move || {
            migration::there_and_back(mode);
            Ok(())
        });
        // Who may not try cannot run the test either, but can list it.
        let is_missing = rustix::process::geteuid().is_root() && !mode.works_in(&Netns::new());
        trial.with_kind(format!("needs {}", mode.name())).with_ignored_flag(is_missing)
    });
    let sets = Trial::test("kube_proxys_sets_and_device_are_removed", || {
        migration::sets_and_device();
        Ok(())
    });
    let has_ipset = std::process::Command::new("ipset").arg("version").output().is_ok();
    let sets = sets.with_kind("needs ipset").with_ignored_flag(!has_ipset);
    let others: [(&str, fn()); 4] = [
        ("what_somebody_takes_away_is_put_back", repair::while_it_runs),
        ("an_unmounted_file_system_is_mounted_again", repair::unmounted),
        ("a_rolling_update_costs_no_connection", rolling::update),
        ("an_api_server_that_comes_and_goes_costs_no_connection", api::comes_and_goes),
    ];
    let others = others.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    let trials = [trial, sets].into_iter().chain(others).chain(migrations).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// What is run.
#[derive(Debug)]
pub struct Orders {
    /// How many faults.
    pub rounds: u32,
    /// Which faults follow from it.
    pub seed: u64,
    /// How many connections are held.
    pub connections: u32,
    /// The faults that there are.
    pub faults: Vec<Fault>,
}

impl Orders {
    /// From `PROXY_AGENT_FAULTS_ROUNDS`, `_SEED`, `_CONNECTIONS`, and `_ONLY` (names of faults, with commas).
    fn from_environment() -> Self {
        let only = env::var("PROXY_AGENT_FAULTS_ONLY").unwrap_or_default();
        let named: Vec<Fault> = only.split(',').filter(|name| !name.is_empty()).map(fault::by_name).collect();
        Self {
            rounds: number("ROUNDS").unwrap_or_else(usual_rounds),
            seed: number("SEED").unwrap_or(1),
            connections: number("CONNECTIONS").unwrap_or_else(|| runner::on_this_machine(100)),
            faults: if named.is_empty() { Fault::ALL.to_vec() } else { named },
        }
    }
}

/// Each fault twice on average; on an emulated machine, half of them.
fn usual_rounds() -> u32 {
    let all = u32::try_from(Fault::ALL.len()).expect("few faults");
    if support::slowness() == 1 { 2 * all } else { all.div_ceil(2) }
}

fn number<T: FromStr>(name: &str) -> Option<T> {
    let name = format!("PROXY_AGENT_FAULTS_{name}");
    let text = env::var(&name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
