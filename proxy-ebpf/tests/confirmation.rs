//! What makes a flow a confirmed one, and that nobody ever sees half of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use proxy_common::{Counter, DropReason, FamilyFlows, Flow, FlowKey, FlowTable, Protocol, V4};
use proxy_ebpf::{
    Verdict,
    fixtures::{
        World,
        frames::{self, Chunk, SEQUENCE, Segment},
    },
    host::{self, FlowChange, Hook, HostPacket},
    tc::{self, Stage, Work},
};

const ETHERNET: usize = 14;

struct Stage4 {
    client: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a well-formed address")
}

fn stage(protocol: Protocol) -> (Stage4, World) {
    let [client, frontend, backend] = ["192.0.2.7:5000", "10.96.0.10:80", "10.1.1.9:8080"].map(address);
    (Stage4 { client, frontend, backend }, World::default().cluster_ip(frontend, protocol, &[backend]))
}

/// The packet enters the node for the frontend and goes to the backend.
#[track_caller]
fn ask(world: &mut World, stage: &Stage4, packet: impl Fn(SocketAddr, SocketAddr) -> Vec<u8>) {
    let Stage4 { client, frontend, backend } = *stage;
    assert_eq!(pass(world, Hook::Ingress, packet(client, frontend)), packet(client, backend));
}

/// The packet comes from the backend and leaves as the frontend's.
#[track_caller]
fn answer(world: &mut World, stage: &Stage4, packet: impl Fn(SocketAddr, SocketAddr) -> Vec<u8>) {
    let Stage4 { client, frontend, backend } = *stage;
    assert_eq!(pass(world, Hook::Egress, packet(backend, client)), packet(frontend, client));
}

#[track_caller]
fn pass(world: &mut World, hook: Hook, frame: Vec<u8>) -> Vec<u8> {
    let mut packet = HostPacket::new(frame);
    assert_eq!(host::run(&mut packet, &mut world.v4, hook, ETHERNET), Verdict::Pass);
    packet.bytes().to_vec()
}

fn tcp(segment: Segment) -> impl Fn(SocketAddr, SocketAddr) -> Vec<u8> {
    move |from, to| frames::tcp(from, to, segment, b"")
}

fn ack(number: u32) -> impl Fn(SocketAddr, SocketAddr) -> Vec<u8> {
    move |from, to| frames::acknowledgment(from, to, number)
}

fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    frames::udp(from, to, b"x")
}

fn sctp(chunk: Chunk) -> impl Fn(SocketAddr, SocketAddr) -> Vec<u8> {
    move |from, to| frames::sctp(from, to, chunk, b"x")
}

fn is_confirmed(world: &World) -> bool {
    let confirmed = world.v4.flows.len();
    assert!(confirmed == 0 || confirmed == 2, "both entries or none");
    confirmed == 2
}

#[test]
fn a_tcp_connection_is_confirmed_by_the_acknowledgment_of_the_backends_syn() {
    let (stage, mut world) = stage(Protocol::Tcp);
    ask(&mut world, &stage, tcp(Segment::Syn));
    ask(&mut world, &stage, tcp(Segment::Syn));
    ask(&mut world, &stage, ack(SEQUENCE + 1));
    assert!(!is_confirmed(&world), "nobody has answered");
    answer(&mut world, &stage, tcp(Segment::SynAck));
    ask(&mut world, &stage, tcp(Segment::Syn));
    for guessed in [0, SEQUENCE, SEQUENCE + 2] {
        ask(&mut world, &stage, ack(guessed));
    }
    assert!(!is_confirmed(&world), "whoever does not see the answers has to guess");
    ask(&mut world, &stage, ack(SEQUENCE + 1));
    assert!(is_confirmed(&world));
}

#[test]
fn a_tcp_connection_is_confirmed_by_what_the_backend_says_after_its_syn() {
    let (stage, mut world) = stage(Protocol::Tcp);
    ask(&mut world, &stage, tcp(Segment::Syn));
    answer(&mut world, &stage, tcp(Segment::SynAck));
    ask(&mut world, &stage, tcp(Segment::Ack));
    answer(&mut world, &stage, tcp(Segment::Ack));
    assert!(!is_confirmed(&world), "the client may be gone");
    ask(&mut world, &stage, tcp(Segment::Ack));
    assert!(is_confirmed(&world));
}

#[test]
fn what_a_backend_refuses_is_never_confirmed() {
    let (stage, mut world) = stage(Protocol::Tcp);
    ask(&mut world, &stage, tcp(Segment::Syn));
    answer(&mut world, &stage, tcp(Segment::SynAck));
    ask(&mut world, &stage, ack(7));
    answer(&mut world, &stage, tcp(Segment::Rst));
    ask(&mut world, &stage, ack(SEQUENCE + 1));
    assert!(!is_confirmed(&world));
}

/// Nor does beginning anew make a number known that nobody was told.
#[test]
fn whoever_begins_anew_has_to_guess_again() {
    for end in [Segment::FinAck, Segment::Rst] {
        let (stage, mut world) = stage(Protocol::Tcp);
        ask(&mut world, &stage, tcp(Segment::Syn));
        answer(&mut world, &stage, tcp(Segment::SynAck));
        for _ in 0..2 {
            ask(&mut world, &stage, tcp(end));
            ask(&mut world, &stage, tcp(Segment::Syn));
            ask(&mut world, &stage, ack(0));
            assert!(!is_confirmed(&world), "{end:?}");
        }
        ask(&mut world, &stage, ack(SEQUENCE + 1));
        assert!(is_confirmed(&world), "{end:?}: it is the same connection's");
    }
}

#[test]
fn a_flow_of_datagrams_is_confirmed_by_the_first_after_an_answer() {
    let (stage, mut world) = stage(Protocol::Udp);
    ask(&mut world, &stage, udp);
    ask(&mut world, &stage, udp);
    assert!(!is_confirmed(&world));
    answer(&mut world, &stage, udp);
    assert!(!is_confirmed(&world), "the client may be invented");
    ask(&mut world, &stage, udp);
    assert!(is_confirmed(&world));
}

#[test]
fn an_association_is_confirmed_by_what_follows_its_four_way_handshake() {
    let (stage, mut world) = stage(Protocol::Sctp);
    ask(&mut world, &stage, sctp(Chunk::Init));
    ask(&mut world, &stage, sctp(Chunk::Data));
    assert!(!is_confirmed(&world), "nobody has answered");
    answer(&mut world, &stage, sctp(Chunk::InitAck));
    for chunk in [Chunk::CookieEcho, Chunk::Data, Chunk::Heartbeat] {
        ask(&mut world, &stage, sctp(chunk));
        assert!(!is_confirmed(&world), "whoever does not see the answers has no cookie");
    }
    answer(&mut world, &stage, sctp(Chunk::CookieAck));
    assert!(!is_confirmed(&world), "the client may be gone");
    ask(&mut world, &stage, sctp(Chunk::Data));
    assert!(is_confirmed(&world));
}

/// COOKIE ACK may be lost before it gets here.
#[test]
fn an_association_is_confirmed_by_what_follows_the_backends_data() {
    let (stage, mut world) = stage(Protocol::Sctp);
    ask(&mut world, &stage, sctp(Chunk::Init));
    answer(&mut world, &stage, sctp(Chunk::InitAck));
    answer(&mut world, &stage, sctp(Chunk::Data));
    ask(&mut world, &stage, sctp(Chunk::Data));
    assert!(is_confirmed(&world));
}

/// The same client port again, to another backend, after the end of a confirmed connection.
#[test]
fn a_new_connection_is_young_and_takes_the_place_of_a_confirmed_one() {
    for end in [Segment::FinAck, Segment::Rst] {
        let (stage, mut world) = stage(Protocol::Tcp);
        ask(&mut world, &stage, tcp(Segment::Syn));
        answer(&mut world, &stage, tcp(Segment::SynAck));
        ask(&mut world, &stage, ack(SEQUENCE + 1));
        assert!(is_confirmed(&world));
        ask(&mut world, &stage, tcp(end));
        let other = SocketAddr::new(address("10.1.1.8:0").ip(), 8080);
        let mut world = world.cluster_ip(stage.frontend, Protocol::Tcp, &[other]);
        let stage = Stage4 { backend: other, ..stage };
        for _ in 0..2 {
            ask(&mut world, &stage, tcp(Segment::Syn));
            answer(&mut world, &stage, tcp(Segment::SynAck));
        }
        ask(&mut world, &stage, ack(SEQUENCE + 1));
        ask(&mut world, &stage, tcp(Segment::Ack));
    }
}

/// Two CPUs can be at any points of their programs at a time, and they look into the confirmed table first. So after each
/// single change of a table there must be an entry for either direction.
#[test]
fn there_is_always_an_entry_for_either_direction() {
    let (stage, mut world) = stage(Protocol::Tcp);
    ask(&mut world, &stage, tcp(Segment::Syn));
    let keys: BTreeSet<FlowKey<[u8; 4]>> = world.v4.young_flows.keys().copied().collect();
    assert_eq!(keys.len(), 2);
    let mut tables: BTreeMap<FlowTable, BTreeSet<_>> =
        [(FlowTable::Young, keys.clone()), (FlowTable::Confirmed, BTreeSet::new())].into();
    world.v4.flow_changes.clear();
    answer(&mut world, &stage, tcp(Segment::SynAck));
    for round in 0..3 {
        ask(&mut world, &stage, ack(SEQUENCE + 1));
        ask(&mut world, &stage, tcp(Segment::FinAck));
        assert!(is_confirmed(&world), "{round}");
        ask(&mut world, &stage, tcp(Segment::Syn));
        assert!(!is_confirmed(&world), "{round}");
        answer(&mut world, &stage, tcp(Segment::SynAck));
    }
    assert!(world.v4.flow_changes.len() > 10, "confirmed and begun anew, again and again");
    for change in &world.v4.flow_changes {
        match *change {
            FlowChange::Added(table, key) => tables.get_mut(&table).expect("either").insert(key),
            FlowChange::Removed(table, key) => tables.get_mut(&table).expect("either").remove(&key),
        };
        assert!(keys.iter().all(|key| tables.values().any(|table| table.contains(key))), "{change:?}");
    }
}

/// Between the choice and the entry, another CPU does the same for another packet of the flow.
#[test]
fn two_first_packets_at_a_time_are_both_translated() {
    let (Stage4 { client, frontend, backend }, mut world) = stage(Protocol::Udp);
    let tables = &mut world.v4;
    let mut packet = HostPacket::new(udp(client, frontend));
    let mut work: Work<V4> = Work::default();
    assert_eq!(tc::inspect(&packet, &mut work, ETHERNET), Verdict::Continue(Stage::Match));
    assert_eq!(tc::ingress(&mut packet, tables, &mut work), Verdict::Continue(Stage::Admit));
    assert_eq!(tc::admit(&packet, tables, &mut work), Verdict::Continue(Stage::Choose));
    assert_eq!(tc::choose(tables, &mut work), Verdict::Continue(Stage::Remember));
    let mut other = HostPacket::new(udp(client, frontend));
    assert_eq!(host::run(&mut other, tables, Hook::Ingress, ETHERNET), Verdict::Pass);
    assert_eq!(tc::remember(tables, &mut work), Verdict::Continue(Stage::Follow));
    assert_eq!(tc::follow(&mut packet, tables, &mut work), Verdict::Pass);
    assert_eq!(packet.bytes(), udp(client, backend));
    assert_eq!(packet.bytes(), other.bytes());
    assert_eq!(tables.counter(Counter::Drop(DropReason::TupleClash)), 0);
}

/// What was counted as added and not as removed is what is there, so that what an LRU table gave up can be told.
#[test]
fn entries_are_counted_as_they_come_and_go() {
    let (stage, mut world) = stage(Protocol::Tcp);
    for _ in 0..3 {
        ask(&mut world, &stage, tcp(Segment::Syn));
        answer(&mut world, &stage, tcp(Segment::SynAck));
        ask(&mut world, &stage, ack(SEQUENCE + 1));
        ask(&mut world, &stage, tcp(Segment::FinAck));
    }
    ask(&mut world, &stage, tcp(Segment::Syn));
    for (table, present) in [(FlowTable::Confirmed, &world.v4.flows), (FlowTable::Young, &world.v4.young_flows)] {
        let flows = FamilyFlows::of::<V4>(table);
        let [added, removed] = [Counter::FlowsAdded(flows), Counter::FlowsRemoved(flows)].map(|c| world.v4.counter(c));
        let present: &BTreeMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>> = present;
        assert_eq!(added - removed, present.len() as u64, "{table:?}");
        assert!(added > 0, "{table:?}");
    }
}
