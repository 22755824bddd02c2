//! What settings do to a node: our own ones, and those of kube-proxy's that are about the agent itself. With real sockets in
//! real namespaces, through the agent as a user runs it. Needs root.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
mod kube_ovn;
mod life;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
#[path = "../root_traffic/server.rs"]
mod server;
#[path = "../root_mark/services.rs"]
#[allow(dead_code, reason = "shared with root_mark; each uses what it needs")]
mod services;
mod socket_lb;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use proxy_agent::dataplane::features::Feature;
use support::needs;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.get(1).is_some_and(|first| first == peer::COMMAND) {
        return peer::main(&arguments[2..]);
    }
    libtest_mimic::run(&Arguments::from_args(), trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    vec![
        needs(
            &[Feature::NetnsCookie],
            "host_namespace_only_leaves_pods_to_the_packets",
            socket_lb::host_namespace_only,
        ),
        needs(&[], "off_leaves_all_sockets_to_the_packets", socket_lb::off),
        needs(&[], "sockets_can_be_switched_off_and_on_without_breaking_connections", socket_lb::switched),
        needs(&[], "kube_ovn_finds_its_mark_on_what_keeps_its_source", kube_ovn::mark),
        needs(&[], "a_changed_file_ends_the_agent_and_a_wrong_one_does_not", life::changed_file),
        needs(&[], "cleanup_as_a_flag_leaves_nothing", life::cleanup),
        needs(&[], "conntrack_and_the_agents_score_are_set", life::kernel_settings),
    ]
}
