//! One test for each way, with strict reverse path filtering everywhere.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use libtest_mimic::Trial;

use super::{
    client::Place,
    peer::{Sight, Task},
    services::{HERE, SELF, WEB, outside_ip},
    stage::{Family, Setting, Stage, Wiring},
    support::{Netns, needing, needs, run},
};

pub fn trials() -> Vec<Trial> {
    let bridge_netfilter = |_: &Netns| Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    let made = |namespace: &Netns, link: &str| {
        let words = format!("-n {} link add {link}", namespace.name());
        Command::new("ip").args(words.split(' ')).output().is_ok_and(|output| output.status.success())
    };
    // Not every device can carry VLANs; the loopback device cannot.
    let vlan = move |namespace: &Netns| {
        made(namespace, "lower type veth peer name other") && made(namespace, "link lower name upper type vlan id 1")
    };
    let wireguard = move |namespace: &Netns| made(namespace, "wg0 type wireguard");
    vec![
        needs(&[], "pods_with_routes_of_their_own_are_served", || drop(everything(Wiring::Routed, |_| {}))),
        needs(&[], "pods_on_a_bridge_are_served", bridged_pods),
        needing(
            "br_netfilter",
            bridge_netfilter,
            "pods_on_a_bridge_are_served_where_netfilter_sees_bridged_packets",
            bridged_pods_and_netfilter,
        ),
        needs(&[], "pods_behind_vxlan_are_served", || drop(everything(Wiring::Overlay, |_| {}))),
        needs(&[], "answers_that_leave_by_another_device_are_translated", asymmetric_routes),
        needing("VLAN devices", vlan, "pods_and_clients_in_vlans_are_served", vlans),
        needing("WireGuard devices", wireguard, "pods_and_clients_behind_wireguard_are_served", tunnels),
    ]
}

/// Pods are on a bridge, and what is bridged passes netfilter by.
fn bridged_pods() {
    everything(Wiring::Bridged, |stage| bridge_netfilter(stage, "0"));
}

/// Pods are on a bridge, and netfilter sees what is bridged, as Kubernetes' documentation asks for. Like kube-proxy's
/// rules, these drop what connection tracking cannot make sense of.
fn bridged_pods_and_netfilter() {
    everything(Wiring::Bridged, |stage| {
        bridge_netfilter(stage, "1");
        let rules = "table inet watch { chain track { type filter hook forward priority 0; ct state invalid drop; }; }";
        run(stage.node.command("nft").arg(rules));
    });
}

/// Tags in and out: one, which the device below the VLAN's has taken out of the frame, or two, of which one is in it. No address is
/// on a device without tags.
fn vlans() {
    let stage = everything(Wiring::Vlans, |_| {});
    assert_served_at(&stage, &["eth0", "eth0-1", "eth0-link", "pod2", "pod2-link"]);
}

/// Packets without a link-layer header, in and out: the programs for such devices are loaded beside the others.
fn tunnels() {
    let stage = everything(Wiring::Tunnels, |_| {});
    assert_served_at(&stage, &["eth0", "pod2", "pod11"]);
}

/// Asserts that the agent chose these devices by itself.
fn assert_served_at(stage: &Stage, devices: &[&str]) {
    let status = stage.ask("status").to_string();
    for device in devices {
        assert!(status.contains(&format!("\"{device}\"")), "{device} has programs: {status}");
    }
}

/// Answers leave by another device than the one by which requests came.
fn asymmetric_routes() {
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
    WEB.write_for(&stage, &stage.backends[0]);
    HERE.write_for(&stage, &stage.backends[1]);
    SELF.write_for(&stage, &stage.sandboxed);
    stage.start();
    stage
}

fn everything(wiring: Wiring, prepared: impl Fn(&Stage)) -> Stage {
    let stage = prepare(wiring);
    prepared(&stage);
    from_outside(&stage);
    from_pods(&stage);
    stage
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

/// Asserts that everything is answered by `to`, and that the server sees the client as `source`.
#[track_caller]
fn assert_served(place: &Place<'_>, to: SocketAddr, source: IpAddr, what: &str) {
    let bulk = [Task::Bulk { to, bytes: 1 << 20 }];
    for task in tasks(to).iter().chain(&bulk) {
        for sight in place.run(task) {
            let Sight::Answer { seen, from, peer, .. } = sight else { panic!("{what}, {task:?}: {sight:?}") };
            assert_eq!((seen.ip(), from, peer.unwrap_or(to)), (source, to, to), "{what}, {task:?}");
        }
    }
}

fn from_outside(stage: &Stage) {
    for family in Family::ALL {
        let (client, outside) = (stage.outside_client(), outside_ip(family));
        assert_served(&client, WEB.cluster_ip(family), outside, "a clusterIP from outside");
        let masqueraded = stage.backends[0].gateway(family);
        assert_served(&client, WEB.node_port(family), masqueraded, "a nodePort from outside");
        assert_served(&client, HERE.node_port(family), outside, "policy Local from outside");
    }
}

fn from_pods(stage: &Stage) {
    for family in Family::ALL {
        let (sandboxed, to) = (&stage.sandboxed, WEB.cluster_ip(family));
        assert_served(&stage.sandboxed_pod(), to, sandboxed.ip(family), "a clusterIP from a pod, by TC");
        assert_served(&stage.ordinary_pod(), to, stage.ordinary.ip(family), "a clusterIP from a pod, at its socket");
        let gateway = stage.backends[0].gateway(family);
        assert_served(&stage.host(), to, gateway, "a clusterIP from the node");
        assert_served(&stage.sandboxed_pod(), WEB.node_port(family), gateway, "a nodePort from a pod, by TC");
        // Without a detector, pods count as outside.
        let to = HERE.node_port(family);
        assert_served(&stage.sandboxed_pod(), to, sandboxed.ip(family), "policy Local from a pod, by TC");
        let to = SELF.cluster_ip(family);
        assert_served(&stage.sandboxed_pod(), to, sandboxed.gateway(family), "hairpin, by TC");
    }
}
