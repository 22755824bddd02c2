//! Frontends for the outside: nodePorts, external addresses and load balancers.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
};

use serde_json::{Value, json};

use super::{
    super::{
        client::Place,
        peer::{Sight, Task},
        stage::{Family, NODE, OTHER_NODE, Stage},
        support::{eventually, patience},
    },
    PORT, assert_answers, backends, servers, write_service_with,
};

const NODE_PORT: u16 = 30080;

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

fn ports() -> Value {
    json!([
        { "name": "main", "port": PORT, "nodePort": NODE_PORT, "protocol": "TCP" },
        { "name": "main-udp", "port": PORT, "nodePort": NODE_PORT, "protocol": "UDP" },
    ])
}

fn tasks(to: SocketAddr) -> [Task; 3] {
    [Task::Tcp { to, count: 2 }, Task::UdpConnected { to, count: 2 }, Task::UdpSockets { to, count: 2 }]
}

/// Asserts that nothing comes back: neither an answer nor a refusal.
#[track_caller]
fn assert_dropped(place: &Place<'_>, to: SocketAddr, what: &str) {
    let sights = place.run(&Task::Tcp { to, count: 1 });
    assert_eq!(sights, [Sight::Failed("TimedOut".to_owned())], "{what}");
}

/// Policy Cluster: everybody reaches the nodePort on all of the node's addresses, also those that come later; what TC serves is
/// masqueraded.
pub fn node_ports() {
    let mut stage = Stage::new(&[]);
    let spec = json!({ "type": "NodePort", "ports": ports() });
    write_service_with(&stage, "web", 10, &[&stage.backends[0]], NODE, &spec);
    stage.start();
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
pub fn node_port_addresses() {
    let mut stage = Stage::new(&["--nodeport-addresses", "192.0.2.0/24,2001:db8::/64"]);
    let spec = json!({ "type": "NodePort", "ports": ports() });
    write_service_with(&stage, "web", 10, &[&stage.backends[0]], NODE, &spec);
    stage.start();
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
pub fn health_check_port() {
    const HEALTH_CHECK_PORT: u16 = 31_080;
    let mut stage = Stage::new(&["--nodeport-addresses", "192.0.2.0/24,2001:db8::/64"]);
    let policy = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": HEALTH_CHECK_PORT,
        "ports": ports(),
    });
    write_service_with(&stage, "web", 10, &[&stage.backends[0]], NODE, &policy);
    stage.start();
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
pub fn external_policy_local() {
    let mut stage = Stage::new(&["--cluster-cidr", "10.1.0.0/16,fd01::/16"]);
    let spec = json!({ "type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports() });
    write_service_with(&stage, "here", 10, &[&stage.backends[0]], NODE, &spec);
    let mut elsewhere = spec.clone();
    for port in elsewhere["ports"].as_array_mut().expect("a list") {
        port["nodePort"] = json!(NODE_PORT + 1);
    }
    write_service_with(&stage, "there", 11, &[&stage.backends[1]], OTHER_NODE, &elsewhere);
    stage.start();
    for family in Family::ALL {
        let here = SocketAddr::new(node_ip(family), NODE_PORT);
        for task in tasks(here) {
            let sights = stage.outside_client().run(&task);
            assert_answers(&sights, here, outside_ip(family), &format!("outside, {task:?}"));
        }
        let there = SocketAddr::new(node_ip(family), NODE_PORT + 1);
        assert_dropped(&stage.outside_client(), there, "outside, no local endpoint");
        for (place, pod) in stage.pods() {
            let sights = place.run(&Task::Tcp { to: there, count: 2 });
            assert_answers(&sights, there, pod.ip(family), "a pod of the cluster");
        }
        let sights = stage.host().run(&Task::Tcp { to: there, count: 2 });
        assert_answers(&sights, there, stage.backends[1].gateway(family), "the node");
    }
}

/// Load balancers' addresses are served to the sources in `loadBalancerSourceRanges`, external addresses to all.
pub fn source_ranges() {
    let mut stage = Stage::new(&[]);
    let ingress = json!([{ "ip": "198.51.100.1" }, { "ip": "2001:db8:1::1" }]);
    let spec = json!({
        "type": "LoadBalancer",
        "ports": ports(),
        "loadBalancerSourceRanges": ["192.0.2.2/32", "2001:db8::2/128"],
        "externalIPs": ["203.0.113.1", "2001:db8:2::1"],
    });
    let web = [&stage.backends[0]];
    write_service_with(&stage, "web", 10, &web, NODE, &spec);
    let file = stage.manifests().join("web.yaml");
    let text = std::fs::read_to_string(&file).expect("it was written");
    let mut documents: Vec<Value> =
        text.split("\n---\n").map(|document| serde_json::from_str(document).expect("JSON")).collect();
    documents[0]["status"] = json!({ "loadBalancer": { "ingress": ingress } });
    stage.write("web", &documents);
    stage.start();
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
        for (place, _) in stage.pods() {
            assert_dropped(&place, balancer, "a pod is not in the ranges");
        }
        assert_answers(&stage.sandboxed_pod().run(&Task::Tcp { to: external, count: 2 }), external, gateway, "any");
    }
}

/// A client keeps its backend, whichever frontend of the Service port it uses.
pub fn affinity() {
    let mut stage = Stage::new(&[]);
    let spec = json!({
        "type": "NodePort",
        "ports": ports(),
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 600 } },
    });
    write_service_with(&stage, "web", 10, &backends(&stage), NODE, &spec);
    stage.start();
    for family in Family::ALL {
        let frontends = [super::cluster_ip(family, 10), SocketAddr::new(node_ip(family), NODE_PORT)];
        for place in [stage.outside_client(), stage.sandboxed_pod(), stage.ordinary_pod(), stage.host()] {
            let sights: Vec<Sight> = frontends.iter().flat_map(|&to| place.run(&Task::Tcp { to, count: 12 })).collect();
            assert_eq!(servers(&sights).len(), 1, "{place:?}: {sights:?}");
        }
    }
}
