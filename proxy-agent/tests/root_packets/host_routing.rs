//! Host routing: established flows that keep their source pass by netfilter in both directions, which a counting rule shows.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use proxy_agent::dataplane::features::Feature;
use serde_json::Value;

use super::{
    stage::{Family, Network, Policy, Routers, Stage, udp},
    support::{eventually, features, patience, run},
};

/// Exchanges after the first ones, which take the ordinary way.
const EXCHANGES: u64 = 20;

#[test]
fn established_flows_pass_by_netfilter() {
    let mut network = Network::new(Routers::None, [(Family::V4, Policy::Local), (Family::V6, Policy::Local)]);
    count_forwarded(&network);
    for stage in network.stages() {
        let [tcp, udp] = [tcp_exchanges(&stage), udp_exchanges(&stage)];
        assert!(tcp >= 2 * EXCHANGES && udp == 2 * EXCHANGES, "the ordinary way: {tcp} and {udp} packets");
    }
    network.host_routing();
    for stage in network.stages() {
        let [tcp, udp] = [tcp_exchanges(&stage), udp_exchanges(&stage)];
        if features().has(Feature::HostRouting) {
            assert_eq!([tcp, udp], [0, 0]);
        } else {
            assert!(
                tcp >= 2 * EXCHANGES && udp == 2 * EXCHANGES,
                "without it, the ordinary way: {tcp} and {udp} packets"
            );
        }
    }
}

/// And by the node's own ends of the devices that they are sent on, if they are handed to the other ends.
#[test]
fn established_flows_pass_by_devices_to_their_peers() {
    let mut network = Network::new(Routers::None, [(Family::V4, Policy::Local), (Family::V6, Policy::Local)]);
    network.host_routing();
    count_forwarded(&network);
    for (is_handed, names) in [(false, "sent on"), (true, "handed to peers")] {
        if is_handed {
            network.hand_to_peers();
        }
        for stage in network.stages() {
            let sent = || ["left", "right"].map(|device| packets_sent(&stage, device));
            let before = sent();
            let forwarded = [udp_exchanges(&stage), tcp_exchanges(&stage)];
            let [answers, requests] = [0, 1].map(|device| sent()[device] - before[device]);
            // What begins and ends goes the ordinary way; and there are a few packets of the neighbours' own.
            let is_far_from_all = |packets: u64| packets < EXCHANGES;
            let has_host_routing = features().has(Feature::HostRouting);
            assert_eq!(forwarded == [0, 0], has_host_routing, "{names}: {forwarded:?}");
            for packets in [answers, requests] {
                assert_eq!(is_far_from_all(packets), is_handed && has_host_routing, "{names}: {packets}");
            }
        }
    }
}

/// Packets that the node has sent through the device.
fn packets_sent(stage: &Stage<'_>, device: &str) -> u64 {
    let text = stage.node().ip(&format!("-j -s link show dev {device}"));
    let json: Value = serde_json::from_str(&text).expect("ip speaks JSON");
    json[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

/// It sees how they begin and how they end, and nothing in between: without the end, each would take its room for as long as an idle one.
#[test]
fn connection_tracking_hears_of_the_end() {
    let mut network = Network::new(Routers::None, [(Family::V4, Policy::Local), (Family::V6, Policy::Local)]);
    network.host_routing();
    let [stage, _] = network.stages();
    // As `hostRouting` sets it.
    stage.node().sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
    count_forwarded(&stage);
    tcp_exchanges(&stage);
    let tracked = || {
        let table = stage.node().enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("readable"));
        table.lines().filter(|line| line.contains("tcp")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(tracked().len(), 1, "the beginning was seen");
    eventually("connection tracking hears of the end", || {
        tracked().iter().all(|line| !line.contains("ESTABLISHED")).then_some(())
    });
}

/// What is masqueraded needs netfilter.
#[test]
fn masqueraded_flows_do_not() {
    let mut network = Network::new(Routers::None, [(Family::V4, Policy::Cluster), (Family::V6, Policy::Cluster)]);
    network.host_routing();
    count_forwarded(&network);
    for stage in network.stages() {
        assert_eq!(udp_exchanges(&stage), 2 * EXCHANGES);
    }
}

fn count_forwarded(network: &Network) {
    let rules = "table inet watch { chain forwarded { type filter hook forward priority 0; counter; }; }";
    run(network.node().command("nft").arg(rules));
}

/// Packets that the chain `forward` has seen.
fn forwarded(network: &Network) -> u64 {
    let text = run(network.node().command("nft").args(["-j", "list", "chain", "inet", "watch", "forwarded"]));
    let json: Value = serde_json::from_str(&text).expect("nft speaks JSON");
    let entries = json["nftables"].as_array().expect("a list");
    let counter = entries.iter().find_map(|entry| entry.pointer("/rule/expr/0/counter/packets"));
    counter.and_then(Value::as_u64).expect("there is a counter")
}

/// How many packets of twenty round trips on an established connection the chain saw.
fn tcp_exchanges(stage: &Stage<'_>) -> u64 {
    let (target, node_port) = (stage.target(), stage.node_port());
    let server = stage.backend.enter(|| TcpListener::bind(target).expect("binds"));
    let echo = thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        stream.set_nodelay(true).expect("sets");
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).expect("the connection lives");
        }
    });
    let mut stream = stage.client.enter(|| TcpStream::connect_timeout(&node_port, patience())).expect("is served");
    stream.set_read_timeout(Some(patience())).expect("sets");
    stream.set_nodelay(true).expect("sets");
    let mut exchange = |byte: u8| {
        let mut answer = [0];
        stream.write_all(&[byte]).expect("the connection lives");
        stream.read_exact(&mut answer).expect("the answer arrives");
        assert_eq!(answer, [byte]);
    };
    exchange(0);
    exchange(1);
    let before = forwarded(stage);
    (0..EXCHANGES).for_each(|_| exchange(2));
    let seen = forwarded(stage) - before;
    drop(stream);
    echo.join().expect("the server lives");
    seen
}

/// The same with datagrams.
fn udp_exchanges(stage: &Stage<'_>) -> u64 {
    let server = udp(&stage.backend, stage.target().ip(), stage.target().port());
    let client = udp(&stage.client, stage.client_address, 0);
    let exchange = || {
        let mut buffer = [0; 16];
        client.send_to(b"request", stage.node_port()).expect("sends");
        let (len, from) = server.recv_from(&mut buffer).expect("the request arrives");
        server.send_to(&buffer[..len], from).expect("sends");
        let (_, from) = client.recv_from(&mut buffer).expect("the answer arrives");
        assert_eq!(from, stage.node_port());
    };
    (0..3).for_each(|_| exchange());
    let before = forwarded(stage);
    (0..EXCHANGES).for_each(|_| exchange());
    forwarded(stage) - before
}
