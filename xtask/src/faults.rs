//! `cargo xtask faults`: what a node goes through, under load, for as long as somebody wants to watch.
//!
//! The test program `root_faults` does it; this gives it its orders.

use clap::Args;

use crate::command;

#[derive(Args)]
pub(crate) struct Options {
    /// How many faults.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Which faults follow each other; the same seed gives the same order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many TCP connections are held meanwhile.
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    /// Only these faults, such as kill,upgrade; one that does not exist is answered with the list.
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<String>,
}

/// Prints what was held, sent and lost.
///
/// # Errors
/// Something was lost.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Options { rounds, seed, connections, only } = options;
    let mut cargo = command::cargo();
    cargo.args(["test", "--package", "proxy-agent", "--test", "root_faults", "--", "no_fault", "--nocapture"]);
    cargo.env("PROXY_AGENT_FAULTS_ROUNDS", rounds.to_string());
    cargo.env("PROXY_AGENT_FAULTS_SEED", seed.to_string());
    cargo.env("PROXY_AGENT_FAULTS_CONNECTIONS", connections.to_string());
    cargo.env("PROXY_AGENT_FAULTS_ONLY", only.join(","));
    command::run(&mut cargo)
}
