//! Marks on their way through devices: what others set stays, and the agent's own is not copied to what encapsulates.

use std::{net::SocketAddr, path::Path};

use libtest_mimic::Trial;
use proxy_agent::dataplane::nft;

use super::{
    neighbour::counted,
    peer::{Sight, Task},
    server::Server,
    services::{HERE, WEB, address, assert_seen},
    stage::{Family, OTHER_NODE, Stage, TARGET_PORT},
    support::{Netns, needing, run},
};

pub fn trials() -> Vec<Trial> {
    let succeeds = |namespace: &Netns, program: &str, arguments: &[&str]| {
        namespace.command(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let vxlan = move |namespace: &Netns| {
        let words = ["link", "add", "vx0", "type", "vxlan", "id", "7", "remote", "192.0.2.2", "dstport", "4789"];
        succeeds(namespace, "ip", &[&words[..], &["dev", "lo"]].concat())
    };
    let ingress = move |namespace: &Netns| {
        let rules =
            "add table netdev test; add chain netdev test in { type filter hook ingress device lo priority 0; }";
        succeeds(namespace, "ip", &["link", "add", "br0", "type", "bridge"]) && succeeds(namespace, "nft", &[rules])
    };
    vec![
        needing("VXLAN devices", vxlan, "what_encapsulates_a_masqueraded_packet_does_not_carry_the_mark", encapsulated),
        needing("bridges and nftables for devices", ingress, "bits_that_others_set_before_tc_stay", foreign_bits),
    ]
}

/// A pod speaks to a Service whose endpoint is on another node, behind VXLAN. The packet is masqueraded once, and the packet
/// around it, to which its mark is copied, is not.
fn encapsulated() {
    let mut stage = Stage::new(&["--masquerade-all"]);
    for (namespace, local, remote, last) in
        [(&stage.node, "192.0.2.1", "192.0.2.2", 1), (&stage.outside, "192.0.2.2", "192.0.2.1", 2)]
    {
        namespace.ip(&format!("link add vx0 type vxlan id 7 local {local} remote {remote} dstport 4789 dev eth0"));
        namespace.ip(&format!("addr add 10.1.50.{last}/24 dev vx0"));
        namespace.ip(&format!("addr add fd01:50::{last}/64 dev vx0 nodad"));
        namespace.ip("link set vx0 up");
    }
    let _server = Server::new(&stage.outside, &Family::ALL, "far", TARGET_PORT);
    let far = ["10.1.50.2", "fd01:50::2"].map(|ip| (SocketAddr::new(address(ip), TARGET_PORT), OTHER_NODE));
    WEB.write(&stage, &far);
    run(stage.node.command("nft").arg(
        "add table inet test; \
         add chain inet test forward { type filter hook forward priority 0; }; \
         add rule inet test forward oifname vx0 meta mark set meta mark | 0x10000; \
         add chain inet test last { type filter hook postrouting priority 500; }; \
         add rule inet test last udp dport 4789 meta mark & 0x10000 != 0 counter comment copied; \
         add rule inet test last meta mark & 0x4000 != 0 counter comment marked",
    ));
    stage.start();
    for (family, source) in [(Family::V4, "10.1.50.1"), (Family::V6, "fd01:50::1")] {
        assert_seen(&stage.sandboxed_pod(), WEB.cluster_ip(family), address(source), "a pod");
        let bulk = stage.sandboxed_pod().run(&Task::Bulk { to: WEB.cluster_ip(family), bytes: 1 << 20 });
        assert!(matches!(bulk[..], [Sight::Answer { .. }]), "{bulk:?}");
    }
    assert!(counted(&stage, "test", "comment \"copied\"") > 0, "a mark is copied to what encapsulates");
    assert_eq!(counted(&stage, "test", "comment \"marked\""), 0, "and this one is cleared before");
    let masquerades = counted(&stage, nft::TABLE, "masquerade fully-random");
    assert_eq!(masquerades, 6, "each connection once, and nothing of what encapsulates");
}

/// Bits that are set in front of the agent's program are there behind it, beside its own.
fn foreign_bits() {
    let mut stage = Stage::new(&["--devices", "br0,pod2,pod11"]);
    // What comes in at the port is marked there, and meets the agent's program at the bridge. With `br_netfilter`,
    // conntrack would have seen it by then; that is why programs are on ports unless somebody asks for something else.
    for name in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        if Path::new("/proc/sys").join(name).exists() {
            stage.node.sysctl(name, "0");
        }
    }
    stage.node.ip("link add br0 type bridge");
    stage.node.ip("link set eth0 master br0");
    stage.node.ip("link set br0 up");
    for (namespace, device, last) in [(&stage.node, "br0", 1), (&stage.outside, "eth0", 2)] {
        namespace.ip(&format!("addr add 203.0.113.{last}/24 dev {device}"));
        namespace.ip(&format!("addr add 2001:db8:5::{last}/64 dev {device} nodad"));
    }
    WEB.write_for(&stage, &stage.backends[0]);
    HERE.write_for(&stage, &stage.backends[0]);
    run(stage.node.command("nft").arg(
        "add table netdev test; \
         add chain netdev test in { type filter hook ingress device eth0 priority 0; }; \
         add rule netdev test in meta mark set 0xdead0000; \
         add table inet test; \
         add chain inet test forward { type filter hook forward priority 0; }; \
         add rule inet test forward iifname br0 meta mark 0xdead4000 counter comment both; \
         add rule inet test forward iifname br0 meta mark 0xdead0000 counter comment foreign; \
         add rule inet test forward iifname br0 counter comment every; \
         add chain inet test last { type filter hook postrouting priority 500; }; \
         add rule inet test last oifname pod11 meta mark 0xdead0000 counter comment end; \
         add rule inet test last oifname pod11 meta l4proto { tcp, udp } counter comment pod",
    ));
    stage.start();
    let counts = |texts: [&str; 3]| texts.map(|text| counted(&stage, "test", &format!("comment \"{text}\"")));
    for (family, node, client) in
        [(Family::V4, "203.0.113.1", "203.0.113.2"), (Family::V6, "2001:db8:5::1", "2001:db8:5::2")]
    {
        let to = |port: SocketAddr| SocketAddr::new(address(node), port.port());
        let gateway = stage.backends[0].gateway(family);
        assert_seen(&stage.outside_client(), to(WEB.node_port(family)), gateway, "policy Cluster");
        assert_seen(&stage.outside_client(), to(HERE.node_port(family)), address(client), "policy Local");
    }
    let [both, foreign, all] = counts(["both", "foreign", "every"]);
    assert!(both > 0 && foreign > 0, "with the agent's bit {both}, without {foreign}");
    assert_eq!(both + foreign, all, "no packet has other bits");
    let [end, pod, _] = counts(["end", "pod", "every"]);
    assert_eq!((end, pod), (all, all), "the agent's bit alone is gone at the end");
}
