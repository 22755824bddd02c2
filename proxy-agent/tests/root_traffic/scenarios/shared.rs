//! Stages that several scenarios share, because nothing changes while they run: an emulated machine starts few agents in a minute.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use libtest_mimic::Trial;
use serde_json::json;

use super::{
    super::stage::{NODE, OTHER_NODE, Pod, Stage},
    backends,
    external::{HEALTH_CHECK_PORT, NODE_PORT, ports},
    write_service, write_service_with,
};

/// The stages that there are, by what their agents were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    Plain,
    MasqueradeAll,
    ClusterCidr,
    NodePortAddresses,
}

/// Those that no scenario uses at the moment.
static FREE: Mutex<BTreeMap<Shared, Stage>> = Mutex::new(BTreeMap::new());

impl Shared {
    /// A scenario on the stage. One that fails takes the stage with it.
    pub fn trial(self, name: &str, scenario: fn(&Stage)) -> Trial {
        Trial::test(name, move || {
            let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self);
            let stage = free.unwrap_or_else(|| self.start());
            scenario(&stage);
            FREE.lock().unwrap_or_else(PoisonError::into_inner).insert(self, stage);
            Ok(())
        })
    }

    fn start(self) -> Stage {
        let mut stage = Stage::new(match self {
            Self::Plain => &[],
            Self::MasqueradeAll => &["--masquerade-all"],
            Self::ClusterCidr => &["--cluster-cidr", "10.1.0.0/16,fd01::/16"],
            Self::NodePortAddresses => &["--nodeport-addresses", "192.0.2.0/24,2001:db8::/64"],
        });
        match self {
            Self::Plain => plain(&stage),
            Self::MasqueradeAll => write_service(&stage, "web", 10, &first(&stage)),
            Self::ClusterCidr => cluster_cidr(&stage),
            Self::NodePortAddresses => node_port_addresses(&stage),
        }
        stage.start();
        stage
    }
}

/// Takes down what is left. Nothing does that to what is static.
pub fn end() {
    FREE.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn first(stage: &Stage) -> [&Pod; 1] {
    [&stage.backends[0]]
}

fn plain(stage: &Stage) {
    let first = first(stage);
    write_service(stage, "web", 10, &backends(stage));
    write_service(stage, "empty", 20, &[]);
    let local = json!({ "internalTrafficPolicy": "Local" });
    write_service_with(stage, "here", 21, &first, NODE, &local);
    write_service_with(stage, "there", 22, &[&stage.backends[1]], OTHER_NODE, &local);
    let nodes = json!({ "type": "NodePort", "ports": ports(NODE_PORT) });
    write_service_with(stage, "nodes", 23, &first, NODE, &nodes);
    let guarded = json!({
        "type": "LoadBalancer",
        "ports": ports(NODE_PORT + 1),
        "loadBalancerSourceRanges": ["192.0.2.2/32", "2001:db8::2/128"],
        "externalIPs": ["203.0.113.1", "2001:db8:2::1"],
    });
    write_service_with(stage, "guarded", 24, &first, NODE, &guarded);
    let ingress = json!([{ "ip": "198.51.100.1" }, { "ip": "2001:db8:1::1" }]);
    stage.change("guarded", |service| service["status"] = json!({ "loadBalancer": { "ingress": ingress } }));
    let affine = json!({
        "type": "NodePort",
        "ports": ports(NODE_PORT + 2),
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 600 } },
    });
    write_service_with(stage, "affine", 25, &backends(stage), NODE, &affine);
}

fn cluster_cidr(stage: &Stage) {
    let first = first(stage);
    write_service(stage, "web", 10, &first);
    write_service(stage, "self", 12, &[&stage.sandboxed]);
    let local = |port| json!({ "type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports(port) });
    write_service_with(stage, "here", 21, &first, NODE, &local(NODE_PORT));
    write_service_with(stage, "there", 22, &[&stage.backends[1]], OTHER_NODE, &local(NODE_PORT + 1));
}

fn node_port_addresses(stage: &Stage) {
    let first = first(stage);
    write_service_with(stage, "web", 10, &first, NODE, &json!({ "type": "NodePort", "ports": ports(NODE_PORT) }));
    let policy = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": HEALTH_CHECK_PORT,
        "ports": ports(NODE_PORT + 1),
    });
    write_service_with(stage, "checked", 11, &first, NODE, &policy);
}
