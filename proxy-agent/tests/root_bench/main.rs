//! How fast it is: each row of docs/performance.md. Needs root.
//!
//! Without arguments this is a test: each benchmark runs at a small size and must come to figures, whatever they are. With
//! `--measure [NAME…]` they run at full size, and print a line of JSON for each figure; `cargo xtask bench` makes the page of that.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
#[path = "../fake_api/mod.rs"]
#[allow(dead_code, reason = "only a part of the server is needed here")]
mod fake_api;
mod figure;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
#[path = "../marks/mod.rs"]
mod marks;
mod netfilter;
mod packets;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
mod process;
mod programs;
mod runs;
mod scene;
#[path = "../root_traffic/server.rs"]
mod server;
#[path = "../sized/mod.rs"]
#[allow(dead_code, reason = "shared with scale; each uses what it needs")]
mod sized;
mod sockets;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod visitor;

use std::{env, process::ExitCode};

use figure::Figure;
use libtest_mimic::{Arguments, Trial};
use proxy_agent::dataplane::features::Feature;
use support::needs;

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Services, with ten endpoints each.
    pub services: u32,
    /// Round trips, connections, datagrams of each kind.
    pub requests: usize,
    /// Changes of slices.
    pub changes: u32,
    /// Seconds of changes at a steady rate.
    pub seconds: u32,
}

const FULL: Size = Size { services: sized::SERVICES, requests: 40_000, changes: 2_000, seconds: 20 };
const SMALL: Size = Size { services: 50, requests: 200, changes: 20, seconds: 1 };

type Benchmark = fn(Size) -> Vec<Figure>;

const BENCHMARKS: [(&str, Benchmark); 6] = [
    ("sockets", sockets::run),
    ("packets", packets::run),
    ("netfilter", netfilter::run),
    ("runs", runs::run),
    ("tables", tables::run),
    ("process", process::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(visitor::COMMAND) => visitor::main(&arguments[2..]),
        Some(peer::COMMAND) => peer::main(&arguments[2..]),
        Some("--measure") => measure(&arguments[2..]),
        _ => test(),
    }
}

fn measure(names: &[String]) -> ExitCode {
    for (name, benchmark) in BENCHMARKS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            for figure in benchmark(FULL) {
                println!("{}", figure.line(name));
            }
        }
    }
    ExitCode::SUCCESS
}

fn test() -> ExitCode {
    let trial = |(name, benchmark): (&str, Benchmark)| {
        let features: &[Feature] = if name == "packets" { &[Feature::Btf] } else { &[] };
        let trial: Trial = needs(features, &format!("{name}_can_be_measured"), move || {
            let figures = benchmark(SMALL);
            assert!(!figures.is_empty());
            for figure in figures {
                assert!(figure.is_sound(), "{figure:?}");
            }
        });
        let lacks_program = match name {
            "packets" => !programs::can_be_read(),
            "netfilter" => !netfilter::is_possible(),
            _ => false,
        };
        let is_ignored = trial.has_ignored_flag() || lacks_program;
        trial.with_ignored_flag(is_ignored)
    };
    libtest_mimic::run(&Arguments::from_args(), BENCHMARKS.map(trial).into()).exit_code()
}
