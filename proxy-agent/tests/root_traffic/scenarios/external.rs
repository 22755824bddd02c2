//! Frontends for the outside: nodePorts, external addresses and load balancers.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
};

use serde_json::{Value, json};

use super::{
    super::{
        peer::{Sight, Task},
        stage::{Family, Stage},
        support::{eventually, patience},
    },
    PORT, assert_answers, assert_dropped, servers,
};

pub const NODE_PORT: u16 = 30080;
pub const HEALTH_CHECK_PORT: u16 = 31_080;

fn address(v4: &str, v6: &str, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    text.parse().expect("a well-formed address")
}

/// The node's address on the link to the client outside.
fn node_ip(family: Family) -> IpAddr {
    address("192.0.2.1", "2001:db8::1", family)
}

fn outside_ip(family: Family) -> IpAddr {
    address("192.0.2.2", "2001:db8::2", family)
}

pub fn ports(node_port: u16) -> Value {
    json!([
        { "name": "main", "port": PORT, "nodePort": node_port, "protocol": "TCP" },
        { "name": "main-udp", "port": PORT, "nodePort": node_port, "protocol": "UDP" },
    ])
}

fn tasks(to: SocketAddr) -> [Task; 3] {
    [Task::Tcp { to, count: 2 }, Task::UdpConnected { to, count: 2 }, Task::UdpSockets { to, count: 2 }]
}

/// Policy Cluster: everybody reaches the nodePort on all of the node's addresses, also those that come later; what TC serves is
/// masqueraded.
pub fn node_ports(stage: &Stage) {
    let backend = &stage.backends[0];
    for family in Family::ALL {
        let to = SocketAddr::new(node_ip(family), NODE_PORT);
        for task in tasks(to) {
            let outside = stage.outside_client().run(&task);
            assert_answers(&outside, to, backend.gateway(family), &format!("outside, {task:?}"));
            let sandboxed = stage.sandboxed_pod().run(&task);
            assert_answers(&sandboxed, to, backend.gateway(family), &format!("a sandboxed pod, {task:?}"));
            let ordinary = stage.ordinary_pod().run(&task);
            assert_answers(&ordinary, to, stage.ordinary.ip(family), &format!("an ordinary pod, {task:?}"));
            let host = stage.host().run(&task);
            assert_answers(&host, to, backend.gateway(family), &format!("the node, {task:?}"));
        }
        let loopback: IpAddr = match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let to = SocketAddr::new(loopback, NODE_PORT);
        for task in tasks(to) {
            let host = stage.host().run(&task);
            assert_answers(&host, to, backend.gateway(family), &format!("the node's loopback address, {task:?}"));
        }
        // A pod's own loopback address is not the node's.
        let sights = stage.ordinary_pod().run(&Task::Tcp { to, count: 1 });
        assert_eq!(sights, [Sight::Failed("ConnectionRefused".to_owned())], "a pod's loopback address");
    }
    stage.node.ip("addr add 192.0.2.77/24 dev eth0");
    let to = SocketAddr::new([192, 0, 2, 77].into(), NODE_PORT);
    eventually("an address that comes later serves nodePorts", || {
        let sights = stage.outside_client().run(&Task::Tcp { to, count: 1 });
        matches!(sights[..], [Sight::Answer { .. }]).then_some(())
    });
}

/// `nodePortAddresses`: no other address serves nodePorts.
pub fn node_port_addresses(stage: &Stage) {
    for family in Family::ALL {
        let served = SocketAddr::new(node_ip(family), NODE_PORT);
        servers(&stage.outside_client().run(&Task::Tcp { to: served, count: 1 }));
        let other = SocketAddr::new(stage.ordinary.gateway(family), NODE_PORT);
        for place in [stage.outside_client(), stage.ordinary_pod(), stage.host()] {
            let sights = place.run(&Task::Tcp { to: other, count: 1 });
            assert_eq!(sights, [Sight::Failed("ConnectionRefused".to_owned())], "{place:?}");
        }
    }
}

/// Load balancers ask on the addresses that `nodePortAddresses` selects, also on those that come later, and on no others.
pub fn health_check_port(stage: &Stage) {
    let asks = |ip: IpAddr| {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, HEALTH_CHECK_PORT), patience())?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        stage.outside.enter(ask).map_err(|error| error.kind())
    };
    let is_answered = |ip| matches!(asks(ip), Ok(answer) if answer.contains("\"localEndpoints\":1")).then_some(());
    for family in Family::ALL {
        eventually("the selected address answers", || is_answered(node_ip(family)));
        let other = asks(stage.ordinary.gateway(family));
        assert_eq!(other, Err(std::io::ErrorKind::ConnectionRefused), "an address that is not selected");
    }
    for (late, length) in [("192.0.2.77", 24), ("2001:db8::77", 64)] {
        stage.node.ip(&format!("addr add {late}/{length} dev eth0"));
        eventually("an address that comes later answers", || is_answered(late.parse().expect("an address")));
    }
    eventually("those that were there go on", || is_answered(node_ip(Family::V4)));
}

/// Policy Local: clients outside reach endpoints of this node only and are seen with their own address; pods of the cluster and
/// the node itself reach all.
pub fn external_policy_local(stage: &Stage) {
    let silent = Family::ALL.map(|family| (stage.outside_client(), SocketAddr::new(node_ip(family), NODE_PORT + 1)));
    assert_dropped(&silent, "outside, no local endpoint");
    for family in Family::ALL {
        let here = SocketAddr::new(node_ip(family), NODE_PORT);
        for task in tasks(here) {
            let sights = stage.outside_client().run(&task);
            assert_answers(&sights, here, outside_ip(family), &format!("outside, {task:?}"));
        }
        let there = SocketAddr::new(node_ip(family), NODE_PORT + 1);
        for (place, pod) in stage.pods() {
            let sights = place.run(&Task::Tcp { to: there, count: 2 });
            assert_answers(&sights, there, pod.ip(family), "a pod of the cluster");
        }
        let sights = stage.host().run(&Task::Tcp { to: there, count: 2 });
        assert_answers(&sights, there, stage.backends[1].gateway(family), "the node");
    }
}

/// Load balancers' addresses are served to the sources in `loadBalancerSourceRanges`, external addresses to all.
pub fn source_ranges(stage: &Stage) {
    let mut silent = Vec::new();
    for family in Family::ALL {
        let balancer = SocketAddr::new(address("198.51.100.1", "2001:db8:1::1", family), PORT);
        let external = SocketAddr::new(address("203.0.113.1", "2001:db8:2::1", family), PORT);
        let gateway = stage.backends[0].gateway(family);
        assert_answers(
            &stage.outside_client().run(&Task::Tcp { to: balancer, count: 2 }),
            balancer,
            gateway,
            "allowed",
        );
        silent.extend(stage.pods().map(|(place, _)| (place, balancer)));
        assert_answers(&stage.sandboxed_pod().run(&Task::Tcp { to: external, count: 2 }), external, gateway, "any");
    }
    assert_dropped(&silent, "a pod is not in the ranges");
}

/// A client keeps its backend, whichever frontend of the Service port it uses.
pub fn affinity(stage: &Stage) {
    for family in Family::ALL {
        let frontends = [super::cluster_ip(family, 25), SocketAddr::new(node_ip(family), NODE_PORT + 2)];
        for place in [stage.outside_client(), stage.sandboxed_pod(), stage.ordinary_pod(), stage.host()] {
            let sights: Vec<Sight> = frontends.iter().flat_map(|&to| place.run(&Task::Tcp { to, count: 12 })).collect();
            assert_eq!(servers(&sights).len(), 1, "{place:?}: {sights:?}");
        }
    }
}
