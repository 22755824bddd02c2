//! The masquerade mark beside others who mark and translate: real sockets in real namespaces, through the agent as a user
//! runs it. Needs root.
//!
//! | needs | otherwise |
//! |---|---|
//! | `iptables-nft` or `iptables-legacy`, and the kernel's side of it | the tests with these rules are listed as ignored |
//! | VXLAN devices, bridges, nftables for devices | the tests with them are listed as ignored |

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
mod devices;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
mod neighbour;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
mod rules;
#[path = "../root_traffic/server.rs"]
mod server;
mod services;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
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
    let trials = neighbour::trials().into_iter().chain(devices::trials()).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
