//! The agent's table beside rules of others that translate at the same place, whichever comes first.

use std::net::SocketAddr;

use libtest_mimic::Trial;
use proxy_agent::dataplane::nft;

use super::{
    peer::{Sight, Talk},
    rules::{MARKED_PORT, Neighbour, Tool},
    server::Server,
    services::{HERE, SELF, WEB, assert_seen, node_ip, outside_ip},
    stage::{Family, Stage},
    support::{needing, run},
};

/// Port of a server outside to which nothing is marked.
const PLAIN_PORT: u16 = 7000;

pub fn trials() -> Vec<Trial> {
    let cases = [
        (Neighbour::Flannel, Tool::IptablesNft),
        (Neighbour::Flannel, Tool::IptablesLegacy),
        (Neighbour::Flannel, Tool::Nft),
        (Neighbour::Calico, Tool::IptablesNft),
        (Neighbour::Calico, Tool::IptablesLegacy),
        (Neighbour::Calico, Tool::Nft),
        (Neighbour::KubeOvn, Tool::IptablesNft),
        (Neighbour::KubeOvn, Tool::IptablesLegacy),
        (Neighbour::Kubelet, Tool::IptablesNft),
        (Neighbour::Kubelet, Tool::IptablesLegacy),
    ];
    let trial = |(neighbour, tool): (Neighbour, Tool)| {
        let name = format!("beside_{}_by_{}", neighbour.name(), tool.name());
        needing(tool.name(), |namespace| tool.works_in(namespace), &name, move || beside(neighbour, tool))
    };
    cases.map(trial).into()
}

/// Everybody is translated once, whoever's chain is asked first, and connections outlive the change.
fn beside(neighbour: Neighbour, tool: Tool) {
    let mut stage = Stage::new(&["--cluster-cidr", "10.1.0.0/16,fd01::/16"]);
    let _servers = [PLAIN_PORT, MARKED_PORT].map(|port| Server::new(&stage.outside, &Family::ALL, "outside", port));
    WEB.write_for(&stage, &stage.backends[0]);
    HERE.write_for(&stage, &stage.backends[0]);
    SELF.write_for(&stage, &stage.sandboxed);
    watch(&stage);
    stage.start();
    let mut held = Family::ALL.map(|family| stage.outside_client().hold(&Talk::Tcp { to: WEB.node_port(family) }));
    let first = held.each_mut().map(|held| held.next());

    // Of chains with the same priority the newest one is asked first.
    neighbour.install(tool, &stage.node);
    everybody_is_translated_once(&stage, neighbour, "their rules come first");
    assert_eq!(held.each_mut().map(|held| held.again()), first, "connections go on");
    stage.stop();
    stage.start();
    everybody_is_translated_once(&stage, neighbour, "the agent's rules come first");
    assert_eq!(held.each_mut().map(|held| held.again()), first, "connections go on");
    let masquerades = counted(&stage, nft::TABLE, "masquerade fully-random");
    assert!(masquerades > 0, "the agent's chain was asked first, at least once");
    for sight in first {
        assert!(matches!(sight, Sight::Answer { .. }), "{sight:?}");
    }
}

/// Counts what conntrack cannot make sense of, and what leaves with the mark.
fn watch(stage: &Stage) {
    run(stage.node.command("nft").arg(
        "add table inet test; \
         add chain inet test forward { type filter hook forward priority -300; }; \
         add rule inet test forward ct state invalid counter comment invalid; \
         add rule inet test forward counter comment seen; \
         add chain inet test last { type filter hook postrouting priority 500; }; \
         add rule inet test last meta mark & 0x4000 != 0 counter comment marked",
    ));
}

#[track_caller]
fn everybody_is_translated_once(stage: &Stage, neighbour: Neighbour, order: &str) {
    let backend = &stage.backends[0];
    let (outside, sandboxed) = (stage.outside_client(), stage.sandboxed_pod());
    for family in Family::ALL {
        let what = |who: &str| format!("{order}: {who}");
        let gateway = backend.gateway(family);
        assert_seen(&outside, WEB.node_port(family), gateway, &what("outside, policy Cluster"));
        assert_seen(&outside, HERE.node_port(family), outside_ip(family), &what("outside, policy Local"));
        assert_seen(&stage.host(), WEB.cluster_ip(family), gateway, &what("the node"));
        assert_seen(&sandboxed, SELF.cluster_ip(family), stage.sandboxed.gateway(family), &what("a pod to itself"));
        // Kube-OVN masquerades whatever pods send to pods through the node.
        let pod = stage.sandboxed.ip(family);
        let by_pod = if neighbour == Neighbour::KubeOvn { gateway } else { pod };
        assert_seen(&sandboxed, WEB.cluster_ip(family), by_pod, &what("a pod"));
        // What is no Service's. All but kubelet masquerade pods that speak to the outside, marked or not.
        let out = |port| SocketAddr::new(outside_ip(family), port);
        let masqueraded = node_ip(family);
        let plain = if neighbour == Neighbour::Kubelet { pod } else { masqueraded };
        assert_seen(&sandboxed, out(PLAIN_PORT), plain, &what("a pod to the outside"));
        assert_seen(&sandboxed, out(MARKED_PORT), masqueraded, &what("a pod, marked"));
    }
    assert!(counted(stage, "test", "comment \"seen\"") > 0, "{order}");
    assert_eq!(counted(stage, "test", "comment \"invalid\""), 0, "{order}: conntrack makes sense of everything");
    assert_eq!(counted(stage, "test", "comment \"marked\""), 0, "{order}: the mark ends at the node");
}

/// What the rule with this text counted.
pub fn counted(stage: &Stage, table: &str, text: &str) -> u64 {
    let listed = run(stage.node.command("nft").args(["list", "table", "inet", table]));
    let rule = listed.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}: {listed}"));
    let count = rule.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no counter: {rule}"))
}
