//! The table.

mod affinity;
mod changes;
mod cluster_ip;
mod endpoints;
mod external;
mod flows;
mod node_ports;
mod objects;
mod ranges;

use super::{cast::Client, row::Row};

/// All rows, by topic.
pub fn topics() -> Vec<(&'static str, Vec<Row>)> {
    let mut topics = vec![
        ("Objects", objects::rows()),
        ("Endpoints", endpoints::rows()),
        ("clusterIPs", cluster_ip::rows()),
        ("External addresses", external::rows()),
        ("nodePorts", node_ports::rows()),
        ("Source ranges", ranges::rows()),
        ("Session affinity", affinity::rows()),
        ("Changes", changes::rows()),
        ("Connections that are there", flows::rows()),
    ];
    for (number, row) in (0..).zip(topics.iter_mut().flat_map(|(_, rows)| rows)) {
        row.number = number;
    }
    topics
}

/// All rows.
pub fn all() -> Vec<Row> {
    topics().into_iter().flat_map(|(_, rows)| rows).collect()
}

/// Everybody who is served alike where there is no detector.
const EVERYONE: [Client; 5] = [Client::Outside, Client::OtherNode, Client::Node, Client::Pod, Client::Sandboxed];
/// One of each kind: packets from outside, and a socket of a pod.
const SOME: [Client; 2] = [Client::Outside, Client::Pod];

/// So many seconds on a real machine, and more on one that is slower by `PROXY_AGENT_TEST_SLOWNESS`: a quarter of that is enough for
/// what a row does in a few seconds, and is really waited for.
fn slow(seconds: u32) -> u32 {
    let slowness =
        std::env::var("PROXY_AGENT_TEST_SLOWNESS").map_or(1, |factor| factor.parse::<u32>().expect("a number"));
    seconds * slowness.div_ceil(4)
}
