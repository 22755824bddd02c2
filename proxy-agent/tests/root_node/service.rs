//! One Service with everybody who may use it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde_json::json;

use super::{
    client::Place,
    manifests,
    peer::{Sight, Task},
    stage::{Family, NODE, Stage},
};

/// Enough that one of three backends is seldom missed.
const MANY: u32 = 12;

fn cluster_ip(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => [10, 96, 0, 10].into(),
        Family::V6 => "fd96::10".parse().expect("an address"),
    };
    SocketAddr::new(ip, 80)
}

/// Writes a dual-stack Service with endpoints in both families, whatever the node has.
pub fn write(stage: &Stage) {
    let ips = Family::ALL.map(|family| cluster_ip(family).ip());
    let mut objects = vec![manifests::service("web", &ips, 80, &json!({}))];
    for family in Family::ALL {
        let endpoints: Vec<_> = stage.backends.iter().map(|pod| (pod.endpoint(family), NODE)).collect();
        objects.push(manifests::slice("web", &endpoints));
    }
    stage.write("web", &objects);
}

/// Sends TCP and UDP from everywhere: at the sockets of the node and of a pod, and through TC from a sandboxed pod and from
/// outside. All must reach all backends and be told the Service's address; who is served where is asserted by the
/// tables.
#[track_caller]
pub fn is_served(stage: &Stage, families: &[Family]) {
    at_sockets(stage, families);
    for &family in families {
        for (who, place) in [("a sandboxed pod", stage.sandboxed_pod()), ("a client outside", stage.outside_client())] {
            reaches_all(stage, family, who, &place);
        }
    }
    let flows = stage.ask("flows").to_string();
    assert!(flows.contains(&stage.sandboxed.ip(families[0]).to_string()), "TC served the sandboxed pod: {flows}");
    assert!(!flows.contains(&stage.ordinary.ip(families[0]).to_string()), "and not the ordinary one: {flows}");
}

/// The same for those who are served at their sockets.
#[track_caller]
pub fn at_sockets(stage: &Stage, families: &[Family]) {
    let before = stage.ask("status")["counters"]["socket_connections"].as_u64().expect("a count");
    for &family in families {
        for (who, place) in [("the node", stage.host()), ("an ordinary pod", stage.ordinary_pod())] {
            reaches_all(stage, family, who, &place);
        }
    }
    let after = stage.ask("status")["counters"]["socket_connections"].as_u64().expect("a count");
    assert!(after >= before + u64::from(MANY), "sockets were served: {before} before, {after} after");
}

#[track_caller]
fn reaches_all(stage: &Stage, family: Family, who: &str, place: &Place<'_>) {
    let to = cluster_ip(family);
    let all: BTreeSet<String> = stage.backends.iter().map(super::stage::Pod::name).collect();
    for task in
        [Task::Tcp { to, count: MANY }, Task::UdpConnected { to, count: MANY }, Task::UdpSockets { to, count: MANY }]
    {
        let sights = place.run_until(all.len(), &task);
        let servers: BTreeSet<String> = sights
            .iter()
            .map(|sight| match sight {
                Sight::Answer { server, from, .. } if *from == to => server.clone(),
                other => panic!("{who}, {task:?}: {other:?}"),
            })
            .collect();
        assert_eq!(servers, all, "{who}, {task:?}");
    }
}
