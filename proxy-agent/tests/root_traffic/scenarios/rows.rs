//! Who may reach what, and as whom: nothing changes while these run.

use std::net::{IpAddr, SocketAddr};

use proxy_agent::dataplane::features::Feature;
use serde_json::json;

use super::{
    super::{
        client::Place,
        peer::{Sight, Task},
        stage::{Family, Stage},
        support::{Netns, features},
    },
    assert_answers, assert_dropped, cluster_ip, servers, write_service,
};

/// Enough that one of three backends is seldom missed.
const MANY: u32 = 12;

fn tasks(to: SocketAddr, count: u32) -> [Task; 4] {
    [
        Task::Tcp { to, count },
        Task::UdpConnected { to, count },
        Task::UdpSockets { to, count },
        Task::UdpUnconnected { to, count: 5 },
    ]
}

fn names(stage: &Stage) -> std::collections::BTreeSet<String> {
    stage.backends.iter().map(super::super::stage::Pod::name).collect()
}

/// DESIGN: host processes and ordinary pods at their sockets, sandboxed pods and outside clients in TC. All of them reach
/// all backends, are told the Service's address, and are seen with their own.
pub fn every_client(stage: &Stage) {
    for family in Family::ALL {
        let to = cluster_ip(family, 10);
        let outside: IpAddr = match family {
            Family::V4 => [192, 0, 2, 2].into(),
            Family::V6 => "2001:db8::2".parse().expect("a well-formed address"),
        };
        let clients: [(&str, Place<'_>, IpAddr); 3] = [
            ("an ordinary pod", stage.ordinary_pod(), stage.ordinary.ip(family)),
            ("a sandboxed pod", stage.sandboxed_pod(), stage.sandboxed.ip(family)),
            ("a client outside", stage.outside_client(), outside),
        ];
        for (who, place, source) in clients {
            for task in tasks(to, MANY) {
                let expected = match task {
                    Task::UdpUnconnected { .. } => 1,
                    _ => names(stage).len(),
                };
                let sights = place.run_until(expected, &task);
                assert_answers(&sights, to, source, &format!("{who}, {task:?}"));
                assert_eq!(
                    servers(&sights).len(),
                    expected,
                    "{who}, {task:?}: one socket, one backend; or all of them"
                );
                assert!(servers(&sights).is_subset(&names(stage)), "{who}, {task:?}");
            }
        }
        // The node has an address on each pod's link and uses that one.
        for task in tasks(to, MANY) {
            let sights = stage.host().run(&task);
            for sight in &sights {
                let Sight::Answer { server, seen, from, .. } = sight else { panic!("the node, {task:?}: {sight:?}") };
                let backend = stage.backends.iter().find(|pod| pod.name() == *server).expect("a known server");
                assert_eq!((*from, seen.ip()), (to, backend.gateway(family)), "the node, {task:?}");
            }
        }
    }
    mapped(stage);
    served_where_expected(stage);
}

/// An IPv6 socket that speaks to an IPv4 Service (as Java's do) is served like an IPv4 socket.
fn mapped(stage: &Stage) {
    let IpAddr::V4(ip) = cluster_ip(Family::V4, 10).ip() else { unreachable!("an IPv4 address") };
    let to: SocketAddr = (ip.to_ipv6_mapped(), cluster_ip(Family::V4, 10).port()).into();
    for (place, pod) in stage.pods() {
        for task in tasks(to, MANY) {
            let sights = place.run(&task);
            assert_answers(&sights, to, pod.ip(Family::V4), &format!("{}, mapped, {task:?}", pod.name()));
        }
    }
}

/// What sockets serve must not have cost a packet in TC, and the other way round.
fn served_where_expected(stage: &Stage) {
    let flows = stage.ask("flows").to_string();
    for served_by_tc in ["192.0.2.2", "2001:db8::2", "10.1.2.2", "fd01:2::2"] {
        assert!(flows.contains(served_by_tc), "{served_by_tc} is in the flow table: {flows}");
    }
    for served_at_socket in ["10.1.1.2", "fd01:1::2"] {
        assert!(!flows.contains(served_at_socket), "{served_at_socket} is not in the flow table: {flows}");
    }
    assert!(!stage.log().contains("ERROR"), "{}", stage.log());
}

/// `masqueradeAll`: what TC translates is hidden behind the node; at the socket nothing is.
pub fn masquerade_all(stage: &Stage) {
    let backend = &stage.backends[0];
    for family in Family::ALL {
        let to = cluster_ip(family, 10);
        for task in tasks(to, 3) {
            for (who, place) in
                [("a sandboxed pod", stage.sandboxed_pod()), ("a client outside", stage.outside_client())]
            {
                assert_answers(&place.run(&task), to, backend.gateway(family), &format!("{who}, {task:?}"));
            }
            assert_answers(&stage.ordinary_pod().run(&task), to, stage.ordinary.ip(family), "an ordinary pod");
        }
    }
}

/// With a detector, sources that are no pod's are masqueraded, and pods are not: by the cluster's prefixes.
pub fn cluster_cidr(stage: &Stage) {
    detects(stage);
}

/// The same by the prefixes that the Node was given.
pub fn node_cidr() {
    let mut stage = Stage::new(&["--detect-local-mode", "NodeCIDR"]);
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": super::NODE },
        "spec": { "podCIDR": "10.1.0.0/16", "podCIDRs": ["10.1.0.0/16", "fd01::/16"] },
    });
    stage.write("node", &[node]);
    write_service(&stage, "web", 10, &[&stage.backends[0]]);
    stage.start();
    detects(&stage);
}

/// The same by the names of the pods' devices.
pub fn interface_name_prefix() {
    let mut stage = Stage::new(&["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "pod"]);
    write_service(&stage, "web", 10, &[&stage.backends[0]]);
    stage.start();
    detects(&stage);
}

fn detects(stage: &Stage) {
    let backend = &stage.backends[0];
    for family in Family::ALL {
        let to = cluster_ip(family, 10);
        for task in tasks(to, 3) {
            assert_answers(&stage.outside_client().run(&task), to, backend.gateway(family), "a client outside");
            let sandboxed = stage.sandboxed.ip(family);
            assert_answers(&stage.sandboxed_pod().run(&task), to, sandboxed, "a sandboxed pod");
        }
    }
}

/// The same by the pods' bridge: the bridge's ports carry the programs, and a pod behind one is no stranger.
pub fn bridge_interface() {
    let mut stage = Stage::new(&["--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "pods"]);
    write_service(&stage, "web", 10, &[&stage.backends[0]]);
    let bridged = Netns::new();
    stage.node.ip("link add pods type bridge");
    stage.node.veth("port", &bridged, "eth0");
    stage.node.ip("link set port master pods");
    stage.node.ip("link set pods up");
    for (namespace, device, last) in [(&stage.node, "pods", 1), (&bridged, "eth0", 2)] {
        namespace.ip(&format!("addr add 10.1.77.{last}/24 dev {device}"));
        namespace.ip(&format!("addr add fd01:77::{last}/64 dev {device} nodad"));
    }
    bridged.ip("route add default via 10.1.77.1");
    bridged.ip("route add default via fd01:77::1");
    stage.start();
    let backend = &stage.backends[0];
    let place = Place { namespace: &bridged, cgroup: None };
    for family in Family::ALL {
        let source = match family {
            Family::V4 => [10, 1, 77, 2].into(),
            Family::V6 => "fd01:77::2".parse().expect("a well-formed address"),
        };
        let to = cluster_ip(family, 10);
        for task in tasks(to, 3) {
            assert_answers(&place.run(&task), to, source, "a pod behind the bridge");
            assert_answers(&stage.outside_client().run(&task), to, backend.gateway(family), "a client outside");
        }
    }
}

/// The chosen backend is the client: masqueraded in TC, direct at the socket.
pub fn hairpin(stage: &Stage) {
    for family in Family::ALL {
        let to = cluster_ip(family, 12);
        for task in tasks(to, 3) {
            let pod = &stage.sandboxed;
            let at_socket = Place { namespace: &pod.namespace, cgroup: Some(&stage.cgroup) };
            assert_answers(&stage.sandboxed_pod().run(&task), to, pod.gateway(family), "the pod, by TC");
            assert_answers(&at_socket.run(&task), to, pod.ip(family), "the pod, at its socket");
        }
    }
}

/// A Service without endpoints refuses everybody at once. Socket hooks choose the error since Linux 5.18.
pub fn refusal(stage: &Stage) {
    let by_packet = Sight::Failed("ConnectionRefused".to_owned());
    let at_socket = if features().has(Feature::SetRetval) { "ConnectionRefused" } else { "PermissionDenied" };
    let at_socket = Sight::Failed(at_socket.to_owned());
    for family in Family::ALL {
        let to = cluster_ip(family, 20);
        for (who, place, refused) in [
            ("the node", stage.host(), &at_socket),
            ("an ordinary pod", stage.ordinary_pod(), &at_socket),
            ("a sandboxed pod", stage.sandboxed_pod(), &by_packet),
            ("a client outside", stage.outside_client(), &by_packet),
        ] {
            for task in [Task::Tcp { to, count: 2 }, Task::UdpConnected { to, count: 2 }] {
                assert_eq!(place.run(&task), [refused.clone(), refused.clone()], "{who}, {task:?}");
            }
        }
    }
}

/// `internalTrafficPolicy: Local` uses this node's endpoints; without one, packets vanish.
pub fn local_policy(stage: &Stage) {
    let mut silent = Vec::new();
    for family in Family::ALL {
        let (here, there) = (cluster_ip(family, 21), cluster_ip(family, 22));
        for (place, pod) in stage.pods() {
            assert_answers(&place.run(&Task::Tcp { to: here, count: 3 }), here, pod.ip(family), "a local endpoint");
            silent.push((place, there));
        }
    }
    assert_dropped(&silent, "no local endpoint");
    let status = stage.ask("status").to_string();
    assert!(status.contains("no_local_endpoint"), "the drops are counted: {status}");
}

/// Segmentation and checksum offload: four megabytes each way.
pub fn bulk(stage: &Stage) {
    for family in Family::ALL {
        let to = cluster_ip(family, 10);
        for place in [stage.sandboxed_pod(), stage.outside_client(), stage.ordinary_pod()] {
            let sights = place.run(&Task::Bulk { to, bytes: 4 << 20 });
            assert_eq!(servers(&sights).len(), 1);
        }
    }
}

/// Pods speak to pods, and ask for ports that are no Service's, as if the agent were not there.
pub fn bystanders(stage: &Stage) {
    for family in Family::ALL {
        let to = stage.backends[0].endpoint(family);
        for (place, pod) in stage.pods() {
            for task in tasks(to, 2) {
                assert_answers(&place.run(&task), to, pod.ip(family), "pod to pod");
            }
        }
        let closed = SocketAddr::new(stage.backends[0].ip(family), 1);
        let sights = stage.sandboxed_pod().run(&Task::Tcp { to: closed, count: 1 });
        assert_eq!(sights, [Sight::Failed("ConnectionRefused".to_owned())], "the pod itself refuses");
    }
}
