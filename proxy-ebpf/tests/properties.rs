//! What holds for every packet, not only for those that somebody thought of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use proxy_common::{NodeAddress, Protocol, TcpState, V4, V6};
use proxy_ebpf::{
    Packet, Verdict,
    fixtures::{
        ESTABLISHED_TIMEOUT, Frontend, UDP_TIMEOUT, World,
        frames::{self, Chunk, Problem, Segment},
    },
    host::{self, ChecksumState, Hook, HostPacket, HostTables},
    tc::TcFamily,
};

const ETHERNET: usize = 14;
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Runs the program for the frame's family and returns the verdict and the packet after it.
fn run(world: &mut World, hook: Hook, frame: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut packet = HostPacket::new(frame);
    let verdict = run_packet(world, hook, &mut packet);
    (verdict, packet.bytes().to_vec())
}

fn run_packet(world: &mut World, hook: Hook, packet: &mut HostPacket) -> Verdict {
    if packet.bytes().get(12..14) == Some(&IPV6[..]) {
        host::run(packet, &mut world.v6, hook, ETHERNET)
    } else {
        host::run(packet, &mut world.v4, hook, ETHERNET)
    }
}

fn address_v4() -> impl Strategy<Value = IpAddr> {
    any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into())
}

fn address_v6() -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into())
}

/// Four different addresses of one family: client, frontend and two backends, with ports.
fn addresses() -> impl Strategy<Value = [SocketAddr; 4]> {
    let ports = any::<[u16; 4]>().prop_map(|ports| ports.map(|port| port.max(1)));
    let ips = prop_oneof![
        [address_v4(), address_v4(), address_v4(), address_v4()],
        [address_v6(), address_v6(), address_v6(), address_v6()],
    ];
    (ips, ports)
        .prop_map(|(ips, ports)| {
            let mut ports = ports.into_iter();
            ips.map(|ip| SocketAddr::new(ip, ports.next().expect("as many ports as addresses")))
        })
        .prop_filter("addresses are somebody's, and differ", |all| {
            all.iter().enumerate().all(|(index, one)| {
                !one.ip().is_unspecified() && all[..index].iter().all(|other| other.ip() != one.ip())
            })
        })
}

/// Whether a packet from the address may be answered.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && (1..224).contains(&address.octets()[0]),
        IpAddr::V6(address) => !(address.is_loopback() || address.is_unspecified() || address.is_multicast()),
    }
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

/// What an SCTP packet is that does the same as a TCP segment.
fn chunk(segment: Segment) -> Chunk {
    match segment {
        Segment::Syn => Chunk::Init,
        Segment::SynAck => Chunk::InitAck,
        Segment::Ack => Chunk::Data,
        Segment::FinAck => Chunk::Shutdown,
        Segment::Rst => Chunk::Abort,
    }
}

/// The source port of a packet without options.
fn source_port(frame: &[u8]) -> u16 {
    let offset = ETHERNET + if frame[12..14] == IPV6 { 40 } else { 20 };
    u16::from_be_bytes([frame[offset], frame[offset + 1]])
}

fn packet(
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    segment: Segment,
    payload: &[u8],
) -> Vec<u8> {
    match protocol {
        Protocol::Tcp => frames::tcp(source, destination, segment, payload),
        Protocol::Udp => frames::udp(source, destination, payload),
        Protocol::Sctp => frames::sctp(source, destination, chunk(segment), payload),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))), ..ProptestConfig::default() })]

    /// Bytes that are no Service's packet come out as they went in, whatever they are.
    #[test]
    fn random_bytes_stay_as_they_are(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        v6 in any::<bool>(),
        egress in any::<bool>(),
    ) {
        if let Some(ethertype) = frame.get_mut(12..14) {
            ethertype.copy_from_slice(if v6 { &IPV6 } else { &[8, 0] });
        }
        let mut world = World::default().masquerade_all();
        let hook = if egress { Hook::Egress } else { Hook::Ingress };
        let (verdict, after) = run(&mut world, hook, frame.clone());
        prop_assert_eq!(verdict, Verdict::Pass);
        prop_assert_eq!(after, frame);
    }

    /// A Service's packet that is cut off anywhere, or has any byte changed, never makes the pipeline panic, and
    /// is not touched unless its headers are whole.
    #[test]
    fn mutilated_packets_are_survived(
        [client, frontend, backend, _] in addresses(),
        protocol in protocol(),
        cut in 0_usize..120,
        (position, value) in (14_usize..90, any::<u8>()),
        refuse in any::<bool>(),
    ) {
        let endpoints: &[SocketAddr] = if refuse { &[] } else { &[backend] };
        let mut world = World::default().cluster_ip(frontend, protocol, endpoints);
        let mut frame = packet(protocol, client, frontend, Segment::Syn, b"payload");
        frame.truncate(cut);
        if let Some(byte) = frame.get_mut(position) {
            *byte = value;
        }
        let (verdict, after) = run(&mut world, Hook::Ingress, frame.clone());
        let whole = if client.is_ipv4() { ETHERNET + 20 + 8 } else { ETHERNET + 40 + 8 };
        if cut < whole {
            prop_assert_eq!(verdict, Verdict::Pass);
            prop_assert_eq!(after, frame);
        }
    }

    /// DNAT changes the destination and nothing else; reverse NAT of the reply restores the frontend; every
    /// checksum is right in between.
    #[test]
    fn reverse_nat_undoes_dnat(
        [client, frontend, one, other] in addresses(),
        protocol in protocol(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        seed in 1_u32..,
    ) {
        let mut world = World::default().cluster_ip(frontend, protocol, &[one, other]);
        world.v4.seed = seed;
        world.v6.seed = seed;
        let (verdict, request) = run(&mut world, Hook::Ingress, packet(protocol, client, frontend, Segment::Syn, &payload));
        prop_assert_eq!(verdict, Verdict::Pass);
        let chosen: Vec<SocketAddr> = [one, other]
            .into_iter()
            .filter(|backend| request == packet(protocol, client, *backend, Segment::Syn, &payload))
            .collect();
        prop_assert_eq!(chosen.len(), 1, "exactly the packet to one of the backends");

        let (verdict, reply) = run(&mut world, Hook::Egress, packet(protocol, chosen[0], client, Segment::SynAck, &payload));
        prop_assert_eq!(verdict, Verdict::Pass);
        prop_assert_eq!(reply, packet(protocol, frontend, client, Segment::SynAck, &payload));
    }

    /// A packet whose checksum the device is to complete has the right one once it has.
    #[test]
    fn pending_checksums_come_out_right(
        [client, frontend, backend, _] in addresses(),
        protocol in protocol(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        refuse in any::<bool>(),
    ) {
        prop_assume!(!refuse || is_host(client.ip()));
        let endpoints: &[SocketAddr] = if refuse { &[] } else { &[backend] };
        let mut world = World::default().cluster_ip(frontend, protocol, endpoints);
        let mut frame = packet(protocol, client, frontend, Segment::Syn, &payload);
        let checksum = Offload::of(&frame);
        checksum.defer(&mut frame);
        let mut packet = HostPacket::new(frame).with_checksum(ChecksumState::Pending);
        let verdict = run_packet(&mut world, Hook::Ingress, &mut packet);
        prop_assert_eq!(verdict, if refuse { Verdict::Answer } else { Verdict::Pass });
        let mut sent = packet.bytes().to_vec();
        checksum.complete(&mut sent);
        prop_assert!(frames::checksums_are_right(&sent), "{:02x?}", sent);
    }

    /// ICMP errors about translated packets, however much they quote, and fragments of any size: their receiver learns of
    /// what it sent, and every checksum that was right is right.
    #[test]
    fn errors_and_fragments_are_translated(
        [client, frontend, backend, router] in addresses(),
        protocol in protocol(),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        // Not to the middle of a checksum, of which nothing can be said.
        quoted in (2_usize..30).prop_map(|words| words * 4),
        size in 5_usize..20,
    ) {
        let world = World::default()
            .cluster_ip(frontend, protocol, &[backend])
            .connection(client, frontend, protocol, backend, TcpState::DATA);
        let about = |from: SocketAddr, to: SocketAddr, frame: Vec<u8>| {
            frames::error(from.ip(), to.ip(), Problem::TooBig(1280), frames::quotation(&frame, quoted))
        };
        let between = |from, to| packet(protocol, from, to, Segment::Ack, &payload);
        for (hook, before, after) in [
            (Hook::Egress, about(router, client, between(client, backend)), about(frontend, client, between(client, frontend))),
            (Hook::Ingress, about(router, frontend, between(frontend, client)), about(router, backend, between(backend, client))),
        ] {
            let (verdict, translated) = run(&mut world.clone(), hook, before);
            prop_assert_eq!(verdict, Verdict::Pass);
            prop_assert!(frames::checksums_are_right(&translated));
            prop_assert_eq!(translated, after);
        }
        // The CRC of SCTP covers what is not in the first fragment.
        let target = if protocol == Protocol::Sctp { SocketAddr::new(backend.ip(), frontend.port()) } else { backend };
        let mut world = World::default().cluster_ip(frontend, protocol, &[target]);
        run(&mut world, Hook::Ingress, packet(protocol, client, frontend, Segment::Syn, b""));
        for (hook, before, after) in [
            (Hook::Ingress, between(client, frontend), between(client, target)),
            (Hook::Egress, between(target, client), between(frontend, client)),
        ] {
            let pieces = frames::fragments(&before, size * 8).into_iter().zip(frames::fragments(&after, size * 8));
            for (before, after) in pieces {
                prop_assert_eq!(run(&mut world, hook, before), (Verdict::Pass, after));
            }
        }
    }

    /// A packet that is damaged anywhere, of any kind, in either direction: nothing panics, nothing gets longer or shorter
    /// but for answers, and nothing behind the packet's end is touched.
    #[test]
    fn damage_is_survived(
        [client, frontend, backend, router] in addresses(),
        protocol in protocol(),
        kind in 0..3,
        egress in any::<bool>(),
        cut in 0_usize..200,
        damage in proptest::collection::vec((14_usize..150, any::<u8>()), 0..4),
    ) {
        let mut world = World::default()
            .cluster_ip(frontend, protocol, &[backend])
            .connection(client, frontend, protocol, backend, TcpState::DATA);
        let (hook, from, to) = if egress { (Hook::Egress, backend, client) } else { (Hook::Ingress, client, frontend) };
        let whole = packet(protocol, from, to, Segment::Ack, &[7; 60]);
        let mut frame = match kind {
            0 => whole,
            1 => frames::fragments(&whole, 40).swap_remove(0),
            _ => {
                let (near, far) = if egress { (client, backend) } else { (frontend, client) };
                let sent = packet(protocol, near, far, Segment::Ack, &[7; 60]);
                frames::error(router.ip(), near.ip(), Problem::TimeExceeded, frames::quotation(&sent, 60))
            }
        };
        frame.truncate(cut);
        for (position, value) in damage {
            if let Some(byte) = frame.get_mut(position) {
                *byte = value;
            }
        }
        let (verdict, after) = run(&mut world, hook, frame.clone());
        if verdict != Verdict::Answer {
            prop_assert_eq!(after.len(), frame.len());
            prop_assert_eq!(after.get(..14), frame.get(..14), "the link's header");
        }
    }

    /// A checksum that was wrong stays wrong: whoever receives the packet can tell.
    #[test]
    fn wrong_checksums_stay_wrong(
        [client, frontend, backend, router] in addresses(),
        protocol in protocol(),
        error in any::<bool>(),
        wrong in 1_u16..0xffff,
    ) {
        let mut world = World::default()
            .cluster_ip(frontend, protocol, &[backend])
            .connection(client, frontend, protocol, backend, TcpState::DATA);
        let (hook, mut frame, offset) = if error {
            let sent = packet(protocol, client, backend, Segment::Ack, b"x");
            let quoted = frames::quotation(&sent, 8);
            (Hook::Egress, frames::error(router.ip(), client.ip(), Problem::TimeExceeded, quoted), 2)
        } else {
            let offset = match protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
                Protocol::Sctp => 8,
            };
            (Hook::Ingress, packet(protocol, client, frontend, Segment::Ack, b"x"), offset)
        };
        let field = ETHERNET + if client.is_ipv4() { 20 } else { 40 } + offset;
        // The sum changes by less than a whole turn, so it is another one.
        let before = u16::from_be_bytes([frame[field], frame[field + 1]]);
        let changed = if u32::from(before) + u32::from(wrong) > 0xffff { before - (0xffff - wrong) } else { before + wrong };
        frame[field..field + 2].copy_from_slice(&changed.to_be_bytes());
        prop_assume!(protocol != Protocol::Udp || error || changed != 0);
        let (verdict, after) = run(&mut world, hook, frame.clone());
        prop_assert_eq!(verdict, Verdict::Pass);
        prop_assert_ne!(&after, &frame, "it is translated");
        prop_assert!(!frames::checksums_are_right(&after));
    }

    /// Two connections with the same client port to two frontends with one backend both work, and the backend can tell
    /// them apart.
    #[test]
    fn connections_are_never_mixed(
        [client, first, second, backend] in addresses(),
        protocol in protocol(),
        seed in 1_u32..,
    ) {
        let mut world = World::default().cluster_ip(first, protocol, &[backend]).cluster_ip(second, protocol, &[backend]);
        (world.v4.seed, world.v6.seed) = (seed, seed);
        let (_, one) = run(&mut world, Hook::Ingress, packet(protocol, client, first, Segment::Syn, b""));
        prop_assert_eq!(one, packet(protocol, client, backend, Segment::Syn, b""));
        let (verdict, two) = run(&mut world, Hook::Ingress, packet(protocol, client, second, Segment::Syn, b""));
        prop_assert_eq!(verdict, Verdict::Pass);
        let known = SocketAddr::new(client.ip(), source_port(&two));
        prop_assert_ne!(known, client);
        prop_assert_eq!(known.port() < 1024, client.port() < 1024, "of the same kind");
        prop_assert_eq!(two, packet(protocol, known, backend, Segment::Syn, b""));
        for segment in [Segment::SynAck, Segment::Ack] {
            for (asked, client_there) in [(first, client), (second, known)] {
                let (_, reply) = run(&mut world, Hook::Egress, packet(protocol, backend, client_there, segment, b"x"));
                prop_assert_eq!(reply, packet(protocol, asked, client, segment, b"x"));
                let (_, more) = run(&mut world, Hook::Ingress, packet(protocol, client, asked, Segment::Ack, b"y"));
                prop_assert_eq!(more, packet(protocol, client_there, backend, Segment::Ack, b"y"));
            }
        }
        // A retransmission is no third connection.
        let (_, again) = run(&mut world, Hook::Ingress, packet(protocol, client, second, Segment::Syn, b""));
        prop_assert_eq!(again, packet(protocol, known, backend, Segment::Syn, b""));
    }

    /// A client that has reached a backend through a frontend can reach it directly from the same port afterwards, and
    /// the answers come from the backend itself.
    #[test]
    fn a_direct_connection_is_not_taken_for_a_former_one(
        [client, frontend, backend, _] in addresses(),
        protocol in protocol(),
    ) {
        let mut world = World::default().cluster_ip(frontend, protocol, &[backend]);
        for (segment, answer) in [(Segment::Syn, Segment::SynAck), (Segment::FinAck, Segment::FinAck)] {
            run(&mut world, Hook::Ingress, packet(protocol, client, frontend, segment, b""));
            let (_, reply) = run(&mut world, Hook::Egress, packet(protocol, backend, client, answer, b""));
            prop_assert_eq!(reply, packet(protocol, frontend, client, answer, b""));
        }
        if protocol == Protocol::Udp {
            world = world.later(UDP_TIMEOUT + 1);
        }
        for (segment, answer) in [(Segment::Syn, Segment::SynAck), (Segment::Ack, Segment::Ack)] {
            let request = packet(protocol, client, backend, segment, b"");
            let (_, passed) = run(&mut world, Hook::Ingress, request.clone());
            prop_assert_eq!(passed, request);
            let answer = packet(protocol, backend, client, answer, b"");
            let (_, passed) = run(&mut world, Hook::Egress, answer.clone());
            prop_assert_eq!(passed, answer);
        }
    }

    /// A connection to a backend itself, from the port of a living connection to it through a frontend: both work.
    #[test]
    fn a_direct_connection_and_one_through_a_frontend_both_work(
        [client, frontend, backend, _] in addresses(),
        is_sctp in any::<bool>(),
        is_half_closed in any::<bool>(),
        has_just_begun in any::<bool>(),
    ) {
        let protocol = if is_sctp { Protocol::Sctp } else { Protocol::Tcp };
        let mut world = World::default().cluster_ip(frontend, protocol, &[backend]);
        if has_just_begun {
            run(&mut world, Hook::Ingress, packet(protocol, client, frontend, Segment::Syn, b""));
            run(&mut world, Hook::Egress, packet(protocol, backend, client, Segment::SynAck, b""));
        } else {
            world = world.connection(client, frontend, protocol, backend, TcpState::DATA);
        }
        if is_half_closed && !has_just_begun {
            world = world.half_closed(client, frontend, protocol);
        }
        run(&mut world, Hook::Ingress, packet(protocol, client, frontend, Segment::Ack, b""));
        let (_, syn) = run(&mut world, Hook::Ingress, frames::another_opening(client, backend, protocol));
        let known = SocketAddr::new(client.ip(), source_port(&syn));
        prop_assert_ne!(known, client);
        prop_assert_eq!(syn, frames::another_opening(known, backend, protocol));
        for (asked, client_there) in [(frontend, client), (backend, known)] {
            let (_, reply) = run(&mut world, Hook::Egress, packet(protocol, backend, client_there, Segment::Ack, b"x"));
            prop_assert_eq!(reply, packet(protocol, asked, client, Segment::Ack, b"x"));
            let (_, more) = run(&mut world, Hook::Ingress, packet(protocol, client, asked, Segment::Ack, b"y"));
            prop_assert_eq!(more, packet(protocol, client_there, backend, Segment::Ack, b"y"));
        }
    }

    /// What was translated at one device stays as it is at the next one, such as a VLAN on it.
    #[test]
    fn a_packet_is_translated_once(
        [client, frontend, backend, _] in addresses(),
        protocol in protocol(),
    ) {
        let mut world = World::default().cluster_ip(frontend, protocol, &[backend]);
        for segment in [Segment::Syn, Segment::Ack, Segment::FinAck] {
            let (_, once) = run(&mut world, Hook::Ingress, packet(protocol, client, frontend, segment, b"x"));
            let (_, twice) = run(&mut world, Hook::Ingress, once.clone());
            prop_assert_eq!(twice, once);
            let answer = if segment == Segment::Syn { Segment::SynAck } else { segment };
            let (_, once) = run(&mut world, Hook::Egress, packet(protocol, backend, client, answer, b"x"));
            let (_, twice) = run(&mut world, Hook::Egress, once.clone());
            prop_assert_eq!(twice, once);
        }
    }

    /// A SYN or INIT that is sent again after its answer, or by somebody else, begins nothing where it passes two devices: neither at
    /// the connection's own port nor at another one that it has got.
    #[test]
    fn what_is_sent_again_is_translated_once(
        [client, frontend, backend, other] in addresses(),
        is_sctp in any::<bool>(),
        is_evading in any::<bool>(),
        pauses in [0..ESTABLISHED_TIMEOUT, 0..ESTABLISHED_TIMEOUT],
    ) {
        let protocol = if is_sctp { Protocol::Sctp } else { Protocol::Tcp };
        let mut world = World::default().cluster_ip(frontend, protocol, &[backend]);
        if is_evading {
            world = world.connection(client, other, protocol, backend, TcpState::DATA);
        }
        let twice = |world: &mut World, hook, frame| {
            let (_, once) = run(world, hook, frame);
            assert_eq!(run(world, hook, once.clone()), (Verdict::Pass, once.clone()));
            once
        };
        let between = |from, to, segment| packet(protocol, from, to, segment, b"");
        let known = {
            let syn = twice(&mut world, Hook::Ingress, between(client, frontend, Segment::Syn));
            SocketAddr::new(client.ip(), source_port(&syn))
        };
        prop_assert_eq!(known != client, is_evading);
        for (answer, pause) in [Segment::SynAck, Segment::Ack, Segment::Ack].into_iter().zip([0].into_iter().chain(pauses)) {
            let answered = twice(&mut world, Hook::Egress, between(backend, known, answer));
            prop_assert_eq!(answered, between(frontend, client, answer));
            world = world.later(pause);
            for segment in [Segment::Syn, Segment::Ack] {
                let asked = twice(&mut world, Hook::Ingress, between(client, frontend, segment));
                prop_assert_eq!(asked, between(known, backend, segment));
            }
            let asked = twice(&mut world, Hook::Ingress, frames::another_opening(client, frontend, protocol));
            prop_assert_eq!(asked, frames::another_opening(known, backend, protocol));
        }
    }

    /// A packet of a flow costs at most three hash lookups, in each direction, also in the second in which the other
    /// direction's entry is refreshed, and also before the flow is confirmed. Established ones cost one in any other second.
    #[test]
    fn established_packets_cost_at_most_three_lookups(
        [client, frontend, backend, _] in addresses(),
        protocol in protocol(),
        pause in 0..UDP_TIMEOUT,
        young in any::<bool>(),
    ) {
        let mut world = World::default()
            .cluster_ip(frontend, protocol, &[backend])
            .connection(client, frontend, protocol, backend, if young { TcpState::SYN } else { TcpState::DATA });
        if young {
            world = world.unconfirmed();
        }
        world.v4.now += pause;
        world.v6.now += pause;
        for (hook, frame, expected) in [
            (
                Hook::Ingress,
                packet(protocol, client, frontend, Segment::Ack, b"x"),
                packet(protocol, client, backend, Segment::Ack, b"x"),
            ),
            (
                Hook::Egress,
                packet(protocol, backend, client, Segment::Ack, b"x"),
                packet(protocol, frontend, client, Segment::Ack, b"x"),
            ),
        ] {
            world.v4.hash_accesses.set(0);
            world.v6.hash_accesses.set(0);
            let again = frame.clone();
            let (_, after) = run(&mut world, hook, frame);
            prop_assert_eq!(after, expected);
            let cost = |world: &World| world.v4.hash_accesses.get() + world.v6.hash_accesses.get();
            prop_assert!(cost(&world) <= 3);
            if !young {
                let before = cost(&world);
                run(&mut world, hook, again);
                prop_assert_eq!(cost(&world) - before, 1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))), ..ProptestConfig::default() })]

    /// What the node sends from a port that is a nodePort is answered, whoever else uses the nodePort; and who was not
    /// asked is served.
    #[test]
    fn answers_to_the_nodes_own_datagrams_are_its_own(
        [peer, node_port, backend, client] in addresses(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        pauses in proptest::collection::vec(0..=UDP_TIMEOUT, 1..8),
    ) {
        let udp = Protocol::Udp;
        prop_assume!(!node_port.ip().is_loopback());
        let mut world = World::default()
            .node_address(node_port.ip(), NodeAddress::NODE_PORTS)
            .serve(Frontend::node_port(node_port, udp).cluster(&[backend]));
        let question = packet(udp, node_port, peer, Segment::Syn, &payload);
        let answer = packet(udp, peer, node_port, Segment::Syn, &payload);
        for pause in pauses {
            prop_assert_eq!(run(&mut world, Hook::Egress, question.clone()), (Verdict::Pass, question.clone()));
            world = world.later(pause);
            prop_assert_eq!(run(&mut world, Hook::Ingress, answer.clone()), (Verdict::Pass, answer.clone()));
            let (_, served) = run(&mut world, Hook::Ingress, packet(udp, client, node_port, Segment::Syn, &payload));
            prop_assert_eq!(served, packet(udp, client, backend, Segment::Syn, &payload));
        }
        world = world.later(UDP_TIMEOUT + 1);
        let (_, served) = run(&mut world, Hook::Ingress, answer);
        prop_assert_eq!(served, packet(udp, peer, backend, Segment::Syn, &payload));
    }

    /// The replies of a client who uses a nodePort are translated, also where a backend answers from the node's own
    /// address and from the nodePort itself.
    #[test]
    fn the_nodes_own_datagrams_do_not_take_a_clients_flow(
        [client, node_port, _, _] in addresses(),
        target in 1_u16..,
    ) {
        let udp = Protocol::Udp;
        prop_assume!(!node_port.ip().is_loopback());
        let backend = SocketAddr::new(node_port.ip(), target);
        let mut world = World::default()
            .node_address(node_port.ip(), NodeAddress::NODE_PORTS)
            .serve(Frontend::node_port(node_port, udp).cluster(&[backend]));
        for _ in 0..3 {
            let (_, request) = run(&mut world, Hook::Ingress, packet(udp, client, node_port, Segment::Syn, b"x"));
            prop_assert_eq!(request, packet(udp, client, backend, Segment::Syn, b"x"));
            let (_, reply) = run(&mut world, Hook::Egress, packet(udp, backend, client, Segment::Ack, b"y"));
            prop_assert_eq!(reply, packet(udp, node_port, client, Segment::Ack, b"y"));
        }
    }

    /// With session affinity all connections of a client go to one backend, to whichever frontend of the Service, as long
    /// as the pauses between them are no longer than the timeout.
    #[test]
    fn a_client_stays_with_its_backend(
        [client, frontend, external, backend] in addresses(),
        protocol in protocol(),
        seed in 1_u32..,
        pauses in proptest::collection::vec(0..=100_u32, 1..16),
    ) {
        prop_assume!(external.ip() != backend.ip());
        let endpoints: Vec<SocketAddr> = (1..=8).map(|port| SocketAddr::new(backend.ip(), port)).collect();
        let mut world = World::default()
            .serve(Frontend::cluster_ip(frontend, protocol).cluster(&endpoints).affinity(100))
            .also(&Frontend::external(external, protocol).affinity(100));
        (world.v4.seed, world.v6.seed) = (seed, seed);
        let mut chosen: std::collections::BTreeSet<SocketAddr> = std::collections::BTreeSet::new();
        for (number, pause) in (1..).zip(pauses) {
            let client = SocketAddr::new(client.ip(), number);
            let to = if number % 2 == 0 { frontend } else { external };
            let (verdict, request) = run(&mut world, Hook::Ingress, packet(protocol, client, to, Segment::Syn, b""));
            prop_assert_eq!(verdict, Verdict::Pass);
            let is_chosen = |backend: &&SocketAddr| request == packet(protocol, client, **backend, Segment::Syn, b"");
            chosen.extend(endpoints.iter().filter(is_chosen));
            prop_assert_eq!(chosen.len(), 1);
            world = world.later(pause);
        }
    }
}

/// Each of ten backends gets its share of ten thousand connections: chi-squared with 9 degrees of freedom is
/// below 27.9 with probability 0.999 for a uniform choice. The seed is fixed, so the test is repeatable.
#[test]
fn the_choice_is_uniform() {
    fn connections<F: TcFamily>(
        tables: &mut HostTables<F>,
        frontend: SocketAddr,
        client: impl Fn(u16) -> SocketAddr,
    ) -> Vec<Vec<u8>> {
        (0..10_000)
            .map(|number| {
                let mut packet = HostPacket::new(frames::udp(client(number), frontend, b""));
                assert_eq!(host::run(&mut packet, tables, Hook::Ingress, ETHERNET), Verdict::Pass);
                let offset = ETHERNET + F::DESTINATION_OFFSET;
                packet.bytes()[offset..offset + F::ADDRESS_LEN].to_vec()
            })
            .collect()
    }
    fn assert_uniform(destinations: &[Vec<u8>]) {
        let mut counts = std::collections::BTreeMap::new();
        for destination in destinations {
            *counts.entry(destination).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 10, "every backend is chosen");
        let chi_squared: f64 = counts.values().map(|count| (f64::from(*count) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_squared < 27.9, "chi-squared {chi_squared}");
    }
    let address = |text: &str| text.parse::<SocketAddr>().expect("a well-formed address");

    let backends: Vec<SocketAddr> =
        (1..=10).map(|host| SocketAddr::new(Ipv4Addr::new(10, 1, 0, host).into(), 80)).collect();
    let frontend = address("10.96.0.1:80");
    let mut world = World::default().cluster_ip(frontend, Protocol::Udp, &backends);
    let client = |number| SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 1000 + number);
    assert_uniform(&connections::<V4>(&mut world.v4, frontend, client));

    let backends: Vec<SocketAddr> =
        (1..=10).map(|host| SocketAddr::new(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, host).into(), 80)).collect();
    let frontend = address("[fd96::1]:80");
    let mut world = World::default().cluster_ip(frontend, Protocol::Udp, &backends);
    let client = |number| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1000 + number);
    assert_uniform(&connections::<V6>(&mut world.v6, frontend, client));
}

/// A UDP flow that has ended is not revived by a datagram that was refused, though its endpoint is still in a slice.
#[test]
fn a_refused_datagram_revives_no_flow() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("a well-formed address");
    for (client, frontend, backend) in [
        (address("10.1.0.1:4000"), address("10.96.0.1:80"), address("10.1.0.2:80")),
        (address("[fd01::1]:4000"), address("[fd96::1]:80"), address("[fd01::2]:80")),
    ] {
        let mut world = World::default()
            .cluster_ip(frontend, Protocol::Udp, &[backend])
            .connection(client, frontend, Protocol::Udp, backend, TcpState::NONE)
            .without_endpoints()
            .later(UDP_TIMEOUT + 1);
        for _ in 0..3 {
            let (verdict, _) = run(&mut world, Hook::Ingress, frames::udp(client, frontend, b"x"));
            assert_eq!(verdict, Verdict::Answer);
        }
    }
}

/// A full flow table drops and counts new connections and leaves the packet's mark alone.
#[test]
fn a_full_flow_table_refuses_new_flows() {
    let frontend = "10.96.0.1:80".parse().expect("a well-formed address");
    let client = "10.1.0.1:4000".parse().expect("a well-formed address");
    let backend = "10.1.0.2:80".parse().expect("a well-formed address");
    let mut world = World::default().masquerade_all().cluster_ip(frontend, Protocol::Tcp, &[backend]);
    world.v4.flows_capacity = 1;
    let mut packet = HostPacket::new(frames::tcp(client, frontend, Segment::Syn, b"")).with_mark(5);
    let verdict = host::run(&mut packet, &mut world.v4, Hook::Ingress, ETHERNET);
    assert_eq!(verdict, Verdict::Drop(proxy_common::DropReason::FlowTableFull));
    assert_eq!(packet.mark(), 5);
}

/// What a device with checksum offload does, written without the pipeline's checksum code.
struct Offload {
    start: usize,
    field: usize,
    is_sctp: bool,
}

impl Offload {
    fn of(frame: &[u8]) -> Self {
        let (start, protocol) = if frame[12..14] == IPV6 {
            (ETHERNET + 40, frame[ETHERNET + 6])
        } else {
            (ETHERNET + 20, frame[ETHERNET + 9])
        };
        Self { start, field: start + if protocol == 6 { 16 } else { 6 }, is_sctp: protocol == 132 }
    }

    /// Puts the pseudo header's sum into the field, or zero for SCTP, as the stack does before it hands a packet to the
    /// device.
    fn defer(&self, frame: &mut [u8]) {
        if self.is_sctp {
            return frame[self.start + 8..self.start + 12].fill(0);
        }
        let addresses = if self.start == ETHERNET + 40 { ETHERNET + 8..self.start } else { ETHERNET + 12..self.start };
        let protocol = if self.start == ETHERNET + 40 { frame[ETHERNET + 6] } else { frame[ETHERNET + 9] };
        let len = u32::try_from(frame.len() - self.start).expect("a short frame");
        let sum = big_endian_sum(&frame[addresses]) + u32::from(protocol) + len;
        frame[self.field..self.field + 2].copy_from_slice(&folded(sum).to_be_bytes());
    }

    /// Sums everything from the transport header on and stores the complement, over whatever is in the field.
    fn complete(&self, frame: &mut [u8]) {
        if self.is_sctp {
            let crc = frames::crc32c(&frame[self.start..]);
            return frame[self.start + 8..self.start + 12].copy_from_slice(&crc.to_le_bytes());
        }
        let checksum = match !folded(big_endian_sum(&frame[self.start..])) {
            0 => 0xffff,
            checksum => checksum,
        };
        frame[self.field..self.field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn big_endian_sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
