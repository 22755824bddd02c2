//! Host routing: which packets the program sends on by itself, and as which bytes.

use std::net::SocketAddr;

use proxy_common::{DEFAULT_MASQUERADE_MARK, DROP_MARK, FlowFlags, FlowTable, Port, Protocol, SettingsFlags, TcpState};
use proxy_ebpf::{
    Verdict,
    fixtures::{
        Frontend, World,
        frames::{self, Segment},
    },
    host::{self, Hook, HostPacket},
    packet::Journey,
};

const ETHERNET: usize = 14;

struct Stage {
    client: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
}

fn stage() -> Stage {
    let [client, frontend, backend] =
        ["192.0.2.7:5000", "203.0.113.5:80", "10.1.1.9:8080"].map(|text| text.parse().expect("a well-formed address"));
    Stage { client, frontend, backend }
}

impl Stage {
    /// An established connection to an external address under policy `Local`, and host routing.
    fn world(&self, protocol: Protocol) -> World {
        let mut world = World::default()
            .serve(Frontend::external(self.frontend, protocol).local_policy().local(&[self.backend]))
            .connection(self.client, self.frontend, protocol, self.backend, TcpState::DATA);
        world.v4.settings = world.v4.settings.with_flags(SettingsFlags::HOST_ROUTING);
        world
    }

    fn packet(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        match protocol {
            Protocol::Udp => frames::udp(from, to, b"data"),
            _ => frames::tcp(from, to, Segment::Ack, b"data"),
        }
    }
}

/// The journey of what [`Stage::packet`] makes.
fn road(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Journey {
    let wide = |address: SocketAddr| {
        let mut wide = [0; 16];
        match address.ip() {
            std::net::IpAddr::V4(address) => wide[..4].copy_from_slice(&address.octets()),
            std::net::IpAddr::V6(address) => wide = address.octets(),
        }
        wide
    };
    Journey {
        version: 4,
        protocol: protocol.number(),
        source_port: Port::new(from.port()),
        destination_port: Port::new(to.port()),
        length: u16::try_from(Stage::packet(protocol, from, to).len() - ETHERNET).expect("a short packet"),
        class: [Stage::packet(protocol, from, to)[ETHERNET + 1], 0, 0, 0],
        source: wide(from),
        destination: wide(to),
    }
}

/// The same frame after a router, built without the pipeline.
fn one_hop_later(mut frame: Vec<u8>) -> Vec<u8> {
    frame[ETHERNET + 8] -= 1;
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum: u32 =
        frame[ETHERNET..ETHERNET + 20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("it was folded");
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[track_caller]
fn run(world: &mut World, frame: Vec<u8>, road: Journey) -> (Verdict, Vec<u8>) {
    let mut packet = HostPacket::new(frame).with_road(road);
    let verdict = host::run(&mut packet, &mut world.v4, Hook::Ingress, ETHERNET);
    (verdict, packet.bytes().to_vec())
}

#[test]
fn requests_are_sent_on_after_an_answer_was() {
    let Stage { client, frontend, backend } = stage();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut world = stage().world(protocol);
        let there = road(protocol, client, backend);
        let back = road(protocol, frontend, client);
        let request = || Stage::packet(protocol, client, frontend);
        let translated = Stage::packet(protocol, client, backend);
        assert_eq!(run(&mut world, request(), there), (Verdict::Pass, translated.clone()), "no answer yet");

        let answer = Stage::packet(protocol, backend, client);
        let sent_back = one_hop_later(Stage::packet(protocol, frontend, client));
        assert_eq!(run(&mut world, answer, back), (Verdict::SendOn, sent_back));
        assert_eq!(run(&mut world, request(), there), (Verdict::SendOn, one_hop_later(translated)));
    }
}

#[test]
fn an_answer_that_leads_nowhere_takes_its_requests_back_to_the_ordinary_way() {
    let Stage { client, frontend, backend } = stage();
    let mut world = stage().world(Protocol::Tcp);
    let (there, back) = (road(Protocol::Tcp, client, backend), road(Protocol::Tcp, frontend, client));
    let answer = || Stage::packet(Protocol::Tcp, backend, client);
    let request = || Stage::packet(Protocol::Tcp, client, frontend);
    assert_eq!(run(&mut world, answer(), back).0, Verdict::SendOn);
    assert_eq!(run(&mut world, request(), there).0, Verdict::SendOn);
    assert_eq!(run(&mut world, answer(), there), (Verdict::Pass, answer()), "it is translated where it leaves");
    assert_eq!(run(&mut world, request(), there).0, Verdict::Pass);
}

/// A packet that does not get through as it is, which its sender is to be told; or whose header a router looks at.
#[test]
fn what_a_router_says_something_about_takes_the_ordinary_way() {
    let Stage { client, frontend, backend } = stage();
    let back = road(Protocol::Tcp, frontend, client);
    let answer = Stage::packet(Protocol::Tcp, backend, client);
    let mut dying = answer.clone();
    dying[ETHERNET + 8] = 1;
    let mut longer = back;
    longer.length += 1;
    for (frame, road) in [(dying, back), (answer, longer)] {
        let mut world = stage().world(Protocol::Tcp);
        assert_eq!(run(&mut world, frame.clone(), road), (Verdict::Pass, frame));
    }
}

/// Connection tracking, which sees the first packets only, hears of the end. What follows the end of an answer does, too.
#[test]
fn what_ends_a_connection_takes_the_ordinary_way() {
    let Stage { client, frontend, backend } = stage();
    let (there, back) = (road(Protocol::Tcp, client, backend), road(Protocol::Tcp, frontend, client));
    for end in [Segment::FinAck, Segment::Rst] {
        let packet = |segment, from, to| frames::tcp(from, to, segment, b"data");
        let mut world = stage().world(Protocol::Tcp);
        assert_eq!(run(&mut world, packet(Segment::Ack, backend, client), back).0, Verdict::SendOn);
        let request = packet(end, client, frontend);
        assert_eq!(run(&mut world, request, there), (Verdict::Pass, packet(end, client, backend)));
        assert_eq!(run(&mut world, packet(Segment::Ack, client, frontend), there).0, Verdict::SendOn);
        let answer = packet(end, backend, client);
        assert_eq!(run(&mut world, answer.clone(), back), (Verdict::Pass, answer), "translated where it leaves");
        assert_eq!(run(&mut world, packet(Segment::Ack, client, frontend), there).0, Verdict::Pass);
    }
}

/// Rules and routing read marks, and one asks for the packet to be dropped.
#[test]
fn what_carries_a_mark_takes_the_ordinary_way() {
    let Stage { client, frontend, backend } = stage();
    let (there, back) = (road(Protocol::Tcp, client, backend), road(Protocol::Tcp, frontend, client));
    let mut world = stage().world(Protocol::Tcp);
    let request = Stage::packet(Protocol::Tcp, client, frontend);
    let answer = Stage::packet(Protocol::Tcp, backend, client);
    for mark in [DROP_MARK, DEFAULT_MASQUERADE_MARK, 1] {
        for (frame, road) in [(&answer, back), (&request, there)] {
            let mut marked = HostPacket::new(frame.clone()).with_road(road).with_mark(mark);
            assert_eq!(host::run(&mut marked, &mut world.v4, Hook::Ingress, ETHERNET), Verdict::Pass, "{mark:#x}");
            assert_eq!(run(&mut world, frame.clone(), road).0, Verdict::SendOn);
        }
    }
}

#[test]
fn nothing_is_sent_on_that_somebody_on_the_ordinary_way_waits_for() {
    let Stage { client, frontend, backend } = stage();
    let back = road(Protocol::Tcp, frontend, client);
    let answer = || Stage::packet(Protocol::Tcp, backend, client);
    let is_sent_on = |change: &dyn Fn(&mut World)| {
        let mut world = stage().world(Protocol::Tcp);
        change(&mut world);
        run(&mut world, answer(), back).0 == Verdict::SendOn
    };
    assert!(is_sent_on(&|_| ()));
    let with = |world: &mut World, flag: FlowFlags| {
        for flow in world.v4.flow_table(FlowTable::Confirmed).values_mut() {
            flow.set_flags(flow.flags().with(flag));
        }
    };
    assert!(!is_sent_on(&|world| with(world, FlowFlags::MASQUERADE)));
    assert!(is_sent_on(&|world| with(world, FlowFlags::LOCAL_NODE_PORT)));
    assert!(!is_sent_on(&|world| {
        with(world, FlowFlags::LOCAL_NODE_PORT);
        world.v4.settings = world.v4.settings.with_local_node_port_mark(0x8_0000);
    }));
    assert!(!is_sent_on(&|world| *world = world.clone().unconfirmed()));
    assert!(!is_sent_on(&|world| world.v4.settings = World::default().v4.settings), "nobody asked for it");
}
