//! What several packets after each other lead to.

use std::net::SocketAddr;

use proxy_common::{AffinityEntry, Counter, DropReason, NodeAddress, Protocol, TcpState};
use proxy_ebpf::{
    Verdict,
    fixtures::{
        Frontend, UDP_TIMEOUT, World,
        frames::{self, Chunk, Segment},
    },
    host::{self, Hook, HostPacket},
    policy::List,
};

const ETHERNET: usize = 14;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a well-formed address")
}

/// The frame after the IPv4 program, which must pass it.
#[track_caller]
fn pass(world: &mut World, hook: Hook, frame: Vec<u8>) -> Vec<u8> {
    let mut packet = HostPacket::new(frame);
    assert_eq!(host::run(&mut packet, &mut world.v4, hook, ETHERNET), Verdict::Pass);
    packet.bytes().to_vec()
}

struct Stage {
    node_port: SocketAddr,
    client: SocketAddr,
    backend: SocketAddr,
}

/// A UDP nodePort with one backend.
fn stage() -> (Stage, World) {
    let [node_port, client, backend] = ["172.16.0.1:30080", "192.0.2.7:5000", "10.1.1.9:8080"].map(address);
    let world = World::default()
        .node_address(node_port.ip(), NodeAddress::NODE_PORTS)
        .serve(Frontend::node_port(node_port, Protocol::Udp).cluster(&[backend]));
    (Stage { node_port, client, backend }, world)
}

#[test]
fn a_datagram_of_the_nodes_own_does_not_end_a_clients_flow() {
    let (Stage { node_port, client, backend }, mut world) = stage();
    let request = || frames::udp(client, node_port, b"request");
    let served = frames::udp(client, backend, b"request");
    assert_eq!(pass(&mut world, Hook::Ingress, request()), served);
    pass(&mut world, Hook::Egress, frames::udp(node_port, client, b"from a process of the node"));
    assert_eq!(pass(&mut world, Hook::Ingress, request()), served);
}

#[test]
fn a_clients_flow_that_has_ended_does_not_take_the_answers_to_the_node() {
    let (Stage { node_port, client, backend }, world) = stage();
    let mut world = world.connection(client, node_port, Protocol::Udp, backend, TcpState::NONE).later(UDP_TIMEOUT);
    pass(&mut world, Hook::Egress, frames::udp(node_port, client, b"question"));
    let answer = frames::udp(client, node_port, b"answer");
    assert_eq!(pass(&mut world, Hook::Ingress, answer.clone()), answer);
}

/// What the node sends from an address without nodePorts, or from another port, leaves no trace.
#[test]
fn only_what_could_be_mistaken_is_noted() {
    let (Stage { node_port, client, .. }, mut world) = stage();
    let elsewhere = address("10.0.0.1:30080");
    for from in [elsewhere, SocketAddr::new(node_port.ip(), 30081)] {
        pass(&mut world, Hook::Egress, frames::udp(from, client, b"x"));
    }
    pass(&mut world, Hook::Egress, frames::tcp(node_port, client, Segment::Syn, b""));
    assert!(world.v4.flows.is_empty() && world.v4.young_flows.is_empty());
}

/// A client stays with its backend though it reaches it from the same port through another Service.
#[test]
fn a_clash_does_not_change_the_affinity() {
    let [pod, frontend, other] = ["10.1.0.5:4000", "10.96.0.10:80", "10.96.0.11:80"].map(address);
    let [remembered, free] = ["10.1.1.9:8080", "10.1.1.8:8080"].map(address);
    let tcp = Protocol::Tcp;
    let mut world = World::default()
        .serve(Frontend::cluster_ip(frontend, tcp).cluster(&[free]).affinity(100))
        .remembered(pod.ip(), remembered, Some(List::Cluster))
        .connection(pod, other, tcp, remembered, TcpState::DATA);
    let before: Vec<_> = world.v4.affinity.values().map(AffinityEntry::backend).collect();
    let syn = pass(&mut world, Hook::Ingress, frames::tcp(pod, frontend, Segment::Syn, b""));
    let port = u16::from_be_bytes([syn[ETHERNET + 20], syn[ETHERNET + 21]]);
    assert_ne!(port, pod.port());
    assert_eq!(syn, frames::tcp(SocketAddr::new(pod.ip(), port), remembered, Segment::Syn, b""));
    let after: Vec<_> = world.v4.affinity.values().map(AffinityEntry::backend).collect();
    assert_eq!(before, after);
}

/// One right checksum in 2^32 is zero. It is no sign that the device is to complete it.
#[test]
fn an_sctp_checksum_of_zero_is_a_checksum() {
    let [pod, frontend, backend] = ["10.1.0.5:4000", "10.96.0.10:80", "10.1.1.9:8080"].map(address);
    let mut world = World::default().cluster_ip(frontend, Protocol::Sctp, &[backend]);
    let [before, expected] = [frontend, backend].map(|to| frames::sctp(pod, to, Chunk::Init, b""));
    let mut zeroed = before.clone();
    let crc = ETHERNET + 20 + 8..ETHERNET + 20 + 12;
    zeroed[crc.clone()].fill(0);
    // What was wrong by the former checksum is wrong by as much afterwards.
    let mut translated = pass(&mut world, Hook::Ingress, zeroed);
    translated[crc.clone()].iter_mut().zip(&before[crc]).for_each(|(byte, error)| *byte ^= error);
    assert_eq!(translated, expected);
}

/// The fragments of a datagram to a UDP frontend and of its answer, in order; then one whose second fragment is early.
#[test]
fn fragments_follow_the_first() {
    let [client, frontend, backend] = ["192.0.2.7:5000", "10.96.0.10:80", "10.1.1.9:8080"].map(address);
    let mut world = World::default().cluster_ip(frontend, Protocol::Udp, &[backend]);
    let pieces = |from, to| frames::fragments(&frames::udp(from, to, &[7; 100]), 40);
    let [asked, sent] = [frontend, backend].map(|to| pieces(client, to));
    let [replied, answered] = [backend, frontend].map(|from| pieces(from, client));
    for (before, after) in asked.iter().zip(&sent) {
        assert_eq!(&pass(&mut world, Hook::Ingress, before.clone()), after);
    }
    for (before, after) in replied.iter().zip(&answered) {
        assert_eq!(&pass(&mut world, Hook::Egress, before.clone()), after);
    }
    assert_eq!(world.v4.counter(Counter::Drop(DropReason::FragmentOutOfOrder)), 0);

    let mut world = World::default().cluster_ip(frontend, Protocol::Udp, &[backend]);
    assert_eq!(pass(&mut world, Hook::Ingress, asked[1].clone()), asked[1], "nobody knows whose it is");
    assert_eq!(pass(&mut world, Hook::Ingress, asked[0].clone()), sent[0]);
    assert_eq!(pass(&mut world, Hook::Ingress, asked[2].clone()), sent[2]);
    assert_eq!(world.v4.counter(Counter::Drop(DropReason::FragmentOutOfOrder)), 1);
    assert_eq!(world.v4.drops(world.newest(), DropReason::FragmentOutOfOrder), 1);
}

/// Datagrams that are no Service's may have the number that a Service's had before.
#[test]
fn a_number_that_is_used_again_is_another_datagrams() {
    let [client, frontend, backend] = ["192.0.2.7:5000", "10.96.0.10:80", "10.1.1.9:8080"].map(address);
    let mut world = World::default().cluster_ip(frontend, Protocol::Udp, &[backend]);
    for piece in frames::fragments(&frames::udp(client, frontend, &[7; 100]), 40) {
        pass(&mut world, Hook::Ingress, piece);
    }
    let other_port = SocketAddr::new(frontend.ip(), 81);
    for piece in frames::fragments(&frames::udp(client, other_port, &[7; 100]), 40) {
        assert_eq!(pass(&mut world, Hook::Ingress, piece.clone()), piece);
    }
}

/// A connection was served, its Service goes, and the same client begins one at the same place from the same port: it meets whoever
/// has the address now, also after its first packet.
#[test]
fn what_begins_where_a_frontend_was_meets_nothing_of_a_former_connection() {
    let v4 = ["192.0.2.7:5000", "10.96.0.10:80", "10.1.1.9:8080"].map(address);
    let v6 = ["[2001:db8::7]:5000", "[fd00:10:96::10]:80", "[fd00:10:1::9]:8080"].map(address);
    let tcp = [Segment::Syn, Segment::Ack].map(|segment| move |from, to| frames::tcp(from, to, segment, b""));
    let sctp = [Chunk::Init, Chunk::Data].map(|chunk| move |from, to| frames::sctp(from, to, chunk, b""));
    for ends in [v4, v6] {
        meets_nothing(Protocol::Tcp, ends, &tcp);
        meets_nothing(Protocol::Sctp, ends, &sctp);
    }
}

#[track_caller]
fn meets_nothing(
    protocol: Protocol,
    [client, frontend, backend]: [SocketAddr; 3],
    [first, next]: &[impl Fn(SocketAddr, SocketAddr) -> Vec<u8>; 2],
) {
    let mut world = World::default().connection(client, frontend, protocol, backend, TcpState::DATA);
    let mut enter = |frame: Vec<u8>| {
        let mut packet = HostPacket::new(frame);
        let verdict = if client.is_ipv4() {
            host::run(&mut packet, &mut world.v4, Hook::Ingress, ETHERNET)
        } else {
            host::run(&mut packet, &mut world.v6, Hook::Ingress, ETHERNET)
        };
        assert_eq!(verdict, Verdict::Pass);
        packet.bytes().to_vec()
    };
    assert_eq!(enter(next(client, frontend)), next(client, backend), "it still goes on");
    assert_eq!(enter(first(client, frontend)), first(client, frontend));
    assert_eq!(enter(next(client, frontend)), next(client, frontend));
}
