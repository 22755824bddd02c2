//! The ways that packets take on nodes of one network plugin or another, with strict reverse path filtering everywhere.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use serde_json::json;

use super::{
    super::{
        client::Place,
        peer::Task,
        stage::{Family, NODE, Pod, Setting, Stage, Wiring},
        support::run,
    },
    assert_answers, cluster_ip, servers, write_service_with,
};

const NODE_PORT: u16 = 30080;
/// Policy `Local`.
const LOCAL_NODE_PORT: u16 = 30081;

/// Whether this kernel can show bridged packets to netfilter.
pub fn has_bridge_netfilter() -> bool {
    Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}

/// Each pod has an address and a route to it, and no prefix.
pub fn routed_pods() {
    everything(Wiring::Routed, |_| {});
}

/// Pods are on a bridge, and what is bridged passes netfilter by.
pub fn bridged_pods() {
    everything(Wiring::Bridged, |stage| bridge_netfilter(stage, "0"));
}

/// Pods are on a bridge, and netfilter sees what is bridged, as Kubernetes' documentation asks for. Like kube-proxy's
/// rules, these drop what connection tracking cannot make sense of.
pub fn bridged_pods_and_netfilter() {
    everything(Wiring::Bridged, |stage| {
        bridge_netfilter(stage, "1");
        let rules = "table inet watch { chain track { type filter hook forward priority 0; ct state invalid drop; }; }";
        run(stage.node.command("nft").arg(rules));
    });
}

/// Backends are on another node behind VXLAN, which copies a packet's mark to its own packets.
pub fn pods_behind_vxlan() {
    everything(Wiring::Overlay, |_| {});
}

/// Answers leave by another device than the one by which requests came.
pub fn asymmetric_routes() {
    let stage = prepare(Wiring::Links);
    stage.outside.veth("eth1", &stage.node, "eth1");
    let (mut at_node, mut at_outside) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let (network, length, client) = match family {
            Family::V4 => ("198.51.100.", "24", "192.0.2.2/32"),
            Family::V6 => ("2001:db8:1::", "64 nodad", "2001:db8::2/128"),
        };
        at_node.push(format!("addr add {network}1/{length} dev eth1"));
        at_outside.push(format!("addr add {network}2/{length} dev eth1"));
        at_node.push(format!("route add {client} via {network}2 dev eth1"));
    }
    stage.node.ip_batch(&at_node);
    stage.outside.ip_batch(&at_outside);
    // The strict filter is what forbids this.
    for (namespace, device) in [(&stage.node, "eth0"), (&stage.outside, "eth1")] {
        namespace.sysctl("net/ipv4/conf/all/rp_filter", "0");
        namespace.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0");
    }
    let before = packets_sent(&stage, "eth1");
    from_outside(&stage);
    assert!(packets_sent(&stage, "eth1") > before + 100, "answers leave by the other device");
}

fn prepare(wiring: Wiring) -> Stage {
    let mut stage = Stage::with(Setting { wiring, ..Setting::default() }, &[]);
    strict(&stage);
    let backends: Vec<&Pod> = stage.backends.iter().collect();
    let ports = |port: u16| {
        json!([
            { "name": "main", "port": 80, "nodePort": port, "protocol": "TCP" },
            { "name": "main-udp", "port": 80, "nodePort": port, "protocol": "UDP" },
        ])
    };
    let cluster = json!({ "type": "NodePort", "ports": ports(NODE_PORT) });
    write_service_with(&stage, "web", 10, &backends[..1], NODE, &cluster);
    let local = json!({ "type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports(LOCAL_NODE_PORT) });
    write_service_with(&stage, "local", 11, &backends[1..2], NODE, &local);
    write_service_with(&stage, "self", 12, &[&stage.sandboxed], NODE, &json!({}));
    stage.start();
    stage
}

fn everything(wiring: Wiring, prepared: impl Fn(&Stage)) {
    let stage = prepare(wiring);
    prepared(&stage);
    from_outside(&stage);
    from_pods(&stage);
}

/// Packets whose source would be reached by another device are dropped.
fn strict(stage: &Stage) {
    // The stricter of this and a device's own setting counts.
    stage.node.sysctl("net/ipv4/conf/all/rp_filter", "1");
}

fn bridge_netfilter(stage: &Stage, value: &str) {
    for tables in ["iptables", "ip6tables"] {
        stage.node.sysctl(&format!("net/bridge/bridge-nf-call-{tables}"), value);
    }
}

fn packets_sent(stage: &Stage, device: &str) -> u64 {
    let text = stage.node.ip(&format!("-s -j link show dev {device}"));
    let shown: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
    shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or_else(|| panic!("no figure in {text}"))
}

fn tasks(to: SocketAddr) -> [Task; 4] {
    [
        Task::Tcp { to, count: 3 },
        Task::UdpConnected { to, count: 3 },
        Task::UdpSockets { to, count: 3 },
        Task::UdpUnconnected { to, count: 3 },
    ]
}

#[track_caller]
fn assert_served(place: &Place<'_>, to: SocketAddr, source: IpAddr, what: &str) {
    for task in tasks(to) {
        assert_answers(&place.run(&task), to, source, &format!("{what}, {task:?}"));
    }
    servers(&place.run(&Task::Bulk { to, bytes: 1 << 20 }));
}

fn from_outside(stage: &Stage) {
    for family in Family::ALL {
        let (node, outside): (IpAddr, IpAddr) = match family {
            Family::V4 => ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
            Family::V6 => (
                "2001:db8::1".parse().expect("a well-formed address"),
                "2001:db8::2".parse().expect("a well-formed address"),
            ),
        };
        let client = stage.outside_client();
        assert_served(&client, cluster_ip(family, 10), outside, "a clusterIP from outside");
        let masqueraded = stage.backends[0].gateway(family);
        assert_served(&client, SocketAddr::new(node, NODE_PORT), masqueraded, "a nodePort from outside");
        assert_served(&client, SocketAddr::new(node, LOCAL_NODE_PORT), outside, "policy Local from outside");
    }
}

fn from_pods(stage: &Stage) {
    for family in Family::ALL {
        let node: IpAddr = match family {
            Family::V4 => [192, 0, 2, 1].into(),
            Family::V6 => "2001:db8::1".parse().expect("a well-formed address"),
        };
        let (sandboxed, to) = (&stage.sandboxed, cluster_ip(family, 10));
        assert_served(&stage.sandboxed_pod(), to, sandboxed.ip(family), "a clusterIP from a pod, by TC");
        assert_served(&stage.ordinary_pod(), to, stage.ordinary.ip(family), "a clusterIP from a pod, at its socket");
        let gateway = stage.backends[0].gateway(family);
        assert_served(&stage.host(), to, gateway, "a clusterIP from the node");
        let to = SocketAddr::new(node, NODE_PORT);
        assert_served(&stage.sandboxed_pod(), to, gateway, "a nodePort from a pod, by TC");
        let to = SocketAddr::new(node, LOCAL_NODE_PORT);
        // Without a detector, pods count as outside.
        assert_served(&stage.sandboxed_pod(), to, sandboxed.ip(family), "policy Local from a pod, by TC");
        assert_served(&stage.sandboxed_pod(), cluster_ip(family, 12), sandboxed.gateway(family), "hairpin, by TC");
    }
}
