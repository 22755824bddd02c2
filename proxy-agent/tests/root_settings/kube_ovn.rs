//! `kubeOvn`: nodePort traffic that keeps its source carries the mark by which Kube-OVN knows it.

use super::{
    services::{HERE, WEB, assert_seen, outside_ip},
    stage::{Family, Stage},
    support::run,
};

/// Kube-OVN masquerades what carries the mark and goes to a subnet with a centralized gateway; here that is all of it. Nothing
/// else carries the mark, and nothing carries it where Kube-OVN is not asked for.
pub fn mark() {
    let mut stage = Stage::new(&["--kube-ovn"]);
    for service in [WEB, HERE] {
        service.write_for(&stage, &stage.backends[0]);
    }
    run(stage.node.command("nft").arg(
        "add table inet test; \
         add chain inet test forward { type filter hook forward priority 0; }; \
         add rule inet test forward meta mark & 0x84000 == 0x80000 counter comment ovn; \
         add rule inet test forward meta mark & 0x84000 == 0x84000 counter comment both; \
         add chain inet test centralized { type nat hook postrouting priority 90; }; \
         add rule inet test centralized meta mark & 0x80000 != 0 masquerade",
    ));
    stage.start();
    let counted = |text: &str| {
        let listed = run(stage.node.command("nft").args(["list", "chain", "inet", "test", "forward"]));
        let rule = listed.lines().find(|line| line.contains(text)).expect("the rule is there");
        rule.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok())
    };
    let gateway = |family| stage.backends[0].gateway(family);
    for family in Family::ALL {
        assert_seen(&stage.outside_client(), WEB.node_port(family), gateway(family), "policy Cluster");
    }
    assert_eq!((counted("ovn"), counted("both")), (Some(0), Some(0)), "policy Cluster has the other mark alone");
    for family in Family::ALL {
        assert_seen(&stage.outside_client(), HERE.node_port(family), gateway(family), "policy Local, marked");
    }
    assert!(counted("ovn") > Some(0), "each packet of it is marked");
    assert_eq!(counted("both"), Some(0), "and not for the agent's own masquerading");
    assert_eq!(stage.ask("status")["settings"]["local_node_port_mark"], "0x80000");

    stage.stop();
    stage.set_arguments(&[]);
    stage.start();
    for family in Family::ALL {
        assert_seen(&stage.outside_client(), HERE.node_port(family), outside_ip(family), "policy Local, not marked");
    }
}
