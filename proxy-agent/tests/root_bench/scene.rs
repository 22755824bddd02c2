//! A node with an agent, one Service whose endpoint is a pod of the node, and as many others as asked for.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{
    manifests, sized,
    stage::{Family, NODE, Stage},
    support::eventually,
    visitor::on_one_processor,
};

pub const CLUSTER_IP: ([u8; 4], u16) = ([10, 96, 0, 10], 80);
pub const NODE_PORT: ([u8; 4], u16) = ([192, 0, 2, 1], 32_700);
/// A nodePort whose only endpoint is an address that is nobody's.
pub const SILENT_NODE_PORT: ([u8; 4], u16) = ([192, 0, 2, 1], 32_701);
/// A nodePort with the policy `Local`.
pub const LOCAL_NODE_PORT: ([u8; 4], u16) = ([192, 0, 2, 1], 32_702);
/// Objects in one file.
const BATCH: u32 = 500;

/// The node; its agent runs.
pub fn start() -> Stage {
    let mut stage = lay(&[]);
    stage.start();
    stage
}

/// The node and its manifests; its agent, which will have these arguments, does not run.
pub fn lay(arguments: &[&str]) -> Stage {
    let stage = on_one_processor(|| Stage::new(&[&["--healthz-bind-address", ""], arguments].concat()));
    for (name, objects) in ["shop", "silent", "local"].iter().zip(services(&stage)) {
        stage.write(name, &objects);
    }
    stage
}

/// The three Services with a nodePort, and the endpoints of each.
pub fn services(stage: &Stage) -> [[Value; 2]; 3] {
    let endpoint = stage.backends[0].endpoint(Family::V4);
    let nobody = SocketAddr::from(([10, 1, 11, 200], 8080));
    let shapes = [
        ("shop", CLUSTER_IP.0, NODE_PORT.1, "Cluster", endpoint),
        ("silent", [10, 96, 0, 11], SILENT_NODE_PORT.1, "Cluster", nobody),
        ("local", [10, 96, 0, 12], LOCAL_NODE_PORT.1, "Local", endpoint),
    ];
    shapes.map(|(name, address, node_port, policy, endpoint)| {
        let port = |name, protocol| json!({ "name": name, "port": 80, "nodePort": node_port, "protocol": protocol });
        let ports = [port("main", "TCP"), port("main-udp", "UDP")];
        let spec = json!({ "type": "NodePort", "externalTrafficPolicy": policy, "ports": ports });
        let service = manifests::service(name, &[IpAddr::from(address)], CLUSTER_IP.1, &spec);
        [service, manifests::slice(name, &[(endpoint, NODE)])]
    })
}

/// Adds Services, and waits until they are served.
pub fn grow(stage: &Stage, services: u32) {
    for first in (0..services).step_by(BATCH as usize) {
        let objects = (first..services.min(first + BATCH)).flat_map(|number| {
            let typed = |object: Result<Value, serde_json::Error>, kind: &str, version: &str| {
                let mut object = object.expect("it is serializable");
                object["kind"] = kind.into();
                object["apiVersion"] = version.into();
                object
            };
            [
                typed(serde_json::to_value(sized::service(number)), "Service", "v1"),
                typed(serde_json::to_value(sized::slice(number, 0)), "EndpointSlice", "discovery.k8s.io/v1"),
            ]
        });
        stage.write(&format!("sized-{first}"), &objects.collect::<Vec<_>>());
    }
    let last = sized::service(services - 1).metadata.name.expect("it has a name");
    eventually("all Services are served", || {
        let listed = stage.ask("services").to_string();
        listed.contains(&format!("{last}\"")).then_some(())
    });
}
