//! Real sockets in real namespaces, through the agent as a user runs it. Needs root.
//!
//! The programs serve a socket by the cgroup of the thread that made it, so clients are threads of their own. Those that go on while
//! something changes are processes: this same program, called with `peer` as its first argument.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod client;
mod manifests;
mod peer;
mod scenarios;
mod server;
#[allow(dead_code, reason = "shared with other tests; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::{env, process::ExitCode};

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.get(1).is_some_and(|first| first == peer::COMMAND) {
        return peer::main(&arguments[2..]);
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), scenarios::all());
    scenarios::end();
    conclusion.exit_code()
}
