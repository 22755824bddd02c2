//! The commands of docs/bpftool.md, on a node with the Services that the page names. Needs root.
//!
//! | needs | otherwise |
//! |---|---|
//! | `bpftool`, and a kernel that shows names of fields | the test is listed as ignored |

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
mod page;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
#[path = "../root_traffic/server.rs"]
mod server;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::{env, net::SocketAddr, process::ExitCode};

use client::Place;
use libtest_mimic::{Arguments, Trial};
use page::{Page, Part};
use peer::{Sight, Talk, Task};
use proxy_agent::dataplane::features::Feature;
use serde_json::json;
use stage::{Family, NODE, OTHER_NODE, Stage};
use support::{needs, release};

const CLUSTER_IP: &str = "10.96.0.10:80";
const EMPTY: &str = "10.96.0.11:80";
const NODE_PORT: &str = "192.0.2.1:30080";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.get(1).is_some_and(|first| first == peer::COMMAND) {
        return peer::main(&arguments[2..]);
    }
    let features = [Feature::Btf, Feature::PeerNameHooks, Feature::NetnsCookie];
    let trial: Trial = needs(&features, "each_command_of_the_page_prints_what_the_page_says", commands);
    let at_cgroup = Trial::test("the_programs_at_the_cgroup_are_listed", || {
        at_cgroup();
        Ok(())
    });
    let at_cgroup = at_cgroup.with_kind("Linux 6.0").with_ignored_flag(release() < (6, 0));
    let trials = [trial, at_cgroup].into_iter().map(|trial| {
        if page::has_bpftool() { trial } else { trial.with_kind("needs bpftool").with_ignored_flag(true) }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a well-formed address")
}

/// The Services of the page's table.
fn write(stage: &Stage) {
    let endpoints =
        [(stage.backends[0].endpoint(Family::V4), NODE), (stage.backends[1].endpoint(Family::V4), OTHER_NODE)];
    let shop = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "ports": [{ "name": "web", "port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP" }],
    });
    let mut service = manifests::service("shop", &[address(CLUSTER_IP).ip()], 80, &shop);
    service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "198.51.100.7" }] } });
    let mut slice = manifests::slice("shop", &endpoints);
    slice["ports"] = json!([{ "name": "web", "port": 8080, "protocol": "TCP" }]);
    stage.write("shop", &[service, slice]);
    let ports = json!({ "ports": [{ "port": 80, "targetPort": 8080, "protocol": "TCP" }] });
    stage.write("empty", &[manifests::service("empty", &[address(EMPTY).ip()], 80, &ports)]);
}

/// Where the server sees the client of a connection that is held.
fn hold(place: &Place<'_>, to: &str) -> (client::Held, SocketAddr) {
    let mut held = place.hold(&Talk::Tcp { to: address(to) });
    match held.again() {
        Sight::Answer { seen, .. } => (held, seen),
        failed @ Sight::Failed(_) => panic!("{to}: {failed:?}"),
    }
}

fn commands() {
    let mut stage = Stage::new(&[]);
    write(&stage);
    stage.start();
    let (_outside, seen) = hold(&stage.outside_client(), NODE_PORT);
    let (_inside, _) = hold(&stage.host(), CLUSTER_IP);
    let refused = stage.host().run(&Task::Tcp { to: address(EMPTY), count: 1 });
    assert!(matches!(&refused[..], [Sight::Failed(_)]), "{refused:?}");

    let page = Page::read();
    assert_eq!(page.questions(), 10);
    page.check(Part::Others, &stage, seen.port());
}

fn at_cgroup() {
    let mut stage = Stage::new(&[]);
    stage.start();
    Page::read().check(Part::Cgroup, &stage, 0);
}
