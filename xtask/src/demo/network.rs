//! The demo's network: a node that routes between pods, each on a veth of its own, and the outside.
//!
//! ```text
//!  pod ─────────┐                       the Service's addresses exist on no device;
//!  sandbox ─────┤                       everybody's route to them leads to the node
//!  backend-1 ───┼── node ──── outside
//!  backend-2 ───┤
//!  backend-3 ───┘
//! ```

use super::lab::Lab;

/// A namespace that is connected to the node.
pub(super) struct Host {
    /// Name of the namespace, and of the node's device that leads to it.
    pub(super) name: &'static str,
    /// IPv4 address.
    pub(super) v4: &'static str,
    /// IPv6 address.
    pub(super) v6: &'static str,
}

/// The namespace of the node.
pub(super) const NODE: &str = "node";
/// Its name in the manifests.
pub(super) const NODE_NAME: &str = "demo-node";
/// The prefixes of the pods.
pub(super) const POD_PREFIXES: &str = "10.244.0.0/16,fd00:10:244::/48";

/// A pod whose sockets the agent's hooks see.
pub(super) const POD: Host = Host { name: "pod", v4: "10.244.1.10", v6: "fd00:10:244:1::10" };
/// A pod whose sockets they do not see.
pub(super) const SANDBOX: Host = Host { name: "sandbox", v4: "10.244.1.11", v6: "fd00:10:244:1::11" };
/// A client outside the cluster.
pub(super) const OUTSIDE: Host = Host { name: "outside", v4: "192.0.2.10", v6: "2001:db8:2::10" };
/// The endpoints in `deploy/demo/endpoints.yaml`.
pub(super) const BACKENDS: [Host; 3] = [
    Host { name: "backend-1", v4: "10.244.1.21", v6: "fd00:10:244:1::21" },
    Host { name: "backend-2", v4: "10.244.1.22", v6: "fd00:10:244:1::22" },
    Host { name: "backend-3", v4: "10.244.1.23", v6: "fd00:10:244:1::23" },
];

/// The node's addresses towards pods and towards the outside.
struct Gateway {
    v4: &'static str,
    v6: &'static str,
}

const TO_PODS: Gateway = Gateway { v4: "10.244.1.1", v6: "fd00:10:244:1::1" };
const TO_OUTSIDE: Gateway = Gateway { v4: "192.0.2.1", v6: "2001:db8:2::1" };

/// Makes namespaces, devices, addresses and routes.
pub(super) fn build(lab: &Lab) -> anyhow::Result<()> {
    lab.add_namespace(NODE)?;
    lab.ip(NODE, "link set lo up\n")?;
    let pods = [&POD, &SANDBOX].into_iter().chain(&BACKENDS).map(|host| (host, TO_PODS));
    for (host, gateway) in pods.chain([(&OUTSIDE, TO_OUTSIDE)]) {
        connect(lab, host, &gateway)?;
    }
    Ok(())
}

fn connect(lab: &Lab, host: &Host, gateway: &Gateway) -> anyhow::Result<()> {
    let Host { name, v4, v6 } = host;
    let Gateway { v4: gateway_v4, v6: gateway_v6 } = gateway;
    lab.add_namespace(name)?;
    let namespace = lab.namespace(name);
    lab.ip(
        NODE,
        &format!(
            "link add {name} type veth peer name eth0 netns {namespace}
             link set {name} up
             address add {gateway_v4}/32 dev {name}
             address add {gateway_v6}/128 dev {name} nodad
             route add {v4} dev {name}
             route add {v6} dev {name}\n",
            namespace = namespace.display(),
        ),
    )?;
    lab.ip(
        name,
        &format!(
            "link set lo up
             link set eth0 up
             address add {v4}/32 dev eth0
             address add {v6}/128 dev eth0 nodad
             route add {gateway_v4} dev eth0
             route add {gateway_v6} dev eth0
             route add default via {gateway_v4} dev eth0
             route add ::/0 via {gateway_v6} dev eth0\n"
        ),
    )
}
