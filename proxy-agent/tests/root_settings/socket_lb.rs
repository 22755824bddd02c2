//! `socketLB`: whose sockets are served, and what becomes of the others.

use std::fs;

use proxy_agent::dataplane::status;

use super::{
    client::Place,
    peer::{Sight, Talk, Task},
    services::{HERE, SELF, Service, WEB, assert_seen, outside_ip},
    stage::{Family, Stage},
    support::eventually,
};

const PODS: &str = "10.1.0.0/16,fd01::/16";

/// Every way to reach a Service over every kind of socket.
#[track_caller]
fn assert_served(place: &Place<'_>, service: Service, family: Family, source: std::net::IpAddr, what: &str) {
    let to = service.cluster_ip(family);
    assert_seen(place, to, source, what);
    for task in [Task::UdpConnected { to, count: 2 }, Task::UdpUnconnected { to, count: 2 }] {
        for sight in place.run(&task) {
            let Sight::Answer { seen, from, peer, .. } = sight else { panic!("{what}: {task:?}: {sight:?}") };
            assert_eq!((seen.ip(), from, peer.unwrap_or(to)), (source, to, to), "{what}: {task:?}");
        }
    }
}

fn sockets_served(stage: &Stage) -> u64 {
    stage.ask("status")["counters"]["socket_connections"].as_u64().expect("a count")
}

fn write_services(stage: &Stage) {
    for service in [WEB, HERE] {
        service.write_for(stage, &stage.backends[0]);
    }
    SELF.write_for(stage, &stage.sandboxed);
}

/// Pods are served by their packets, as sidecars that rewrite traffic in the pod need it; the node's own processes at their
/// sockets.
pub fn host_namespace_only() {
    let mut stage = Stage::new(&["--cluster-cidr", PODS]);
    let file = stage.manifests().join(".agent");
    let text = "apiVersion: proxy-agent/v1alpha1\nkind: AgentConfiguration\nsocketLB: hostNamespaceOnly\n";
    fs::write(&file, text).expect("the folder is ours");
    stage.set_arguments(&["--cluster-cidr", PODS, "--agent-config", file.to_str().expect("text")]);
    write_services(&stage);
    stage.start();
    for family in Family::ALL {
        let before = sockets_served(&stage);
        for (place, pod) in stage.pods() {
            assert_served(&place, WEB, family, pod.ip(family), "a pod");
            assert_seen(&place, HERE.node_port(family), pod.ip(family), "a pod and a nodePort under policy Local");
        }
        assert_seen(&stage.outside_client(), HERE.node_port(family), outside_ip(family), "a client outside");
        assert_eq!(sockets_served(&stage), before, "none of them at a socket");
        assert_served(&stage.host(), WEB, family, stage.backends[0].gateway(family), "the node");
        assert!(sockets_served(&stage) >= before + 5, "the node's sockets were served");
        // A pod that reaches itself is masqueraded, which only its packets can be.
        let pod = &stage.sandboxed;
        let itself = Place { namespace: &pod.namespace, cgroup: Some(&stage.cgroup) };
        assert_seen(&itself, SELF.cluster_ip(family), pod.gateway(family), "a pod to itself");
    }
    let flows = stage.ask("flows").to_string();
    for family in Family::ALL {
        assert!(flows.contains(&stage.ordinary.ip(family).to_string()), "the pod's packets were served: {flows}");
    }
    assert_eq!(stage.ask("status")["settings"]["host_namespace_only"], true);
}

/// Nothing is attached to the cgroup. Pods and clients outside are served all the same, the node's own processes are not.
pub fn off() {
    let mut stage = Stage::new(&["--cluster-cidr", PODS, "--socket-lb", "off"]);
    write_services(&stage);
    stage.start();
    assert_eq!(status::at_cgroup(stage.cgroup.path()).expect("readable"), [], "no program at the cgroup");
    for family in Family::ALL {
        for (place, pod) in stage.pods() {
            assert_served(&place, WEB, family, pod.ip(family), "a pod");
        }
        assert_seen(&stage.outside_client(), HERE.node_port(family), outside_ip(family), "a client outside");
        let sights = stage.host().run(&Task::Tcp { to: WEB.cluster_ip(family), count: 1 });
        assert!(matches!(&sights[..], [Sight::Failed(_)]), "the node's packets meet nobody: {sights:?}");
    }
    assert_eq!(sockets_served(&stage), 0);
}

/// Another agent with another setting takes over: what was connected goes on, and what is new follows the new setting.
pub fn switched() {
    let mut stage = Stage::new(&["--cluster-cidr", PODS]);
    write_services(&stage);
    stage.start();
    let clients =
        |stage: &Stage| Family::ALL.map(|family| stage.ordinary_pod().hold(&Talk::Tcp { to: WEB.cluster_ip(family) }));
    let mut held = clients(&stage);
    let first = held.each_mut().map(|held| held.next());
    assert!(sockets_served(&stage) >= 2);
    stage.stop();

    stage.set_arguments(&["--cluster-cidr", PODS, "--socket-lb=off"]);
    stage.start();
    let hooks = || status::at_cgroup(stage.cgroup.path()).expect("readable");
    eventually("the former programs are gone", || hooks().is_empty().then_some(()));
    assert_eq!(held.each_mut().map(|held| held.again()), first, "connections that sockets made go on");
    let before = sockets_served(&stage);
    let mut by_packets = clients(&stage);
    let second = by_packets.each_mut().map(|held| held.next());
    assert_eq!(sockets_served(&stage), before, "new ones are left to the packets");
    stage.stop();

    stage.set_arguments(&["--cluster-cidr", PODS]);
    stage.start();
    assert_eq!(held.each_mut().map(|held| held.again()), first, "those of sockets go on");
    assert_eq!(by_packets.each_mut().map(|held| held.again()), second, "those of packets go on");
    assert_served(&stage.ordinary_pod(), WEB, Family::V4, stage.ordinary.ip(Family::V4), "a pod");
    assert!(sockets_served(&stage) > before, "sockets are served again");
}
