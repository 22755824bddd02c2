//! The ways that packets take on nodes of one network plugin or another: real sockets in real namespaces, through the agent as a
//! user runs it. Needs root.
//!
//! | needs | otherwise |
//! |---|---|
//! | `br_netfilter` | the test with it is listed as ignored |
//! | VLAN devices, `WireGuard` devices | the tests with them are listed as ignored |

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
mod paths;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
#[path = "../root_traffic/server.rs"]
mod server;
#[path = "../root_mark/services.rs"]
#[allow(dead_code, reason = "shared with root_mark; each uses what it needs")]
mod services;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), paths::trials()).exit_code()
}
