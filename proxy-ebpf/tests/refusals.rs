//! How much is answered of what has no endpoint.

use std::net::SocketAddr;

use proxy_common::{DropReason, Protocol, V4};
use proxy_ebpf::{
    Verdict,
    answer::ErrorRate,
    fixtures::{
        World,
        frames::{self, Segment},
    },
    host::HostPacket,
    tc::{self, Stage, Work},
};

const ETHERNET: usize = 14;

/// A first packet that one processor, which has `work`, finds no endpoint for.
fn refuse(world: &mut World, work: &mut Work<V4>, frame: &[u8]) -> (Verdict, bool) {
    let (mut packet, tables) = (HostPacket::new(frame.to_owned()), &mut world.v4);
    assert_eq!(tc::inspect(&packet, work, ETHERNET), Verdict::Continue(Stage::Match));
    assert_eq!(tc::ingress(&mut packet, tables, work), Verdict::Continue(Stage::Admit));
    assert_eq!(tc::admit(&packet, tables, work), Verdict::Continue(Stage::Refuse));
    let verdict = tc::refuse(&mut packet, tables, work);
    (verdict, packet.bytes() != frame)
}

/// Whoever sends datagrams from invented addresses does not make the node send as many errors to others.
#[test]
fn icmp_errors_are_limited_and_answers_of_tcp_are_not() {
    let [client, frontend]: [SocketAddr; 2] =
        ["192.0.2.7:5000", "10.96.0.10:80"].map(|text| text.parse().expect("a well-formed address"));
    let [mut udp, mut tcp] =
        [Protocol::Udp, Protocol::Tcp].map(|protocol| World::default().cluster_ip(frontend, protocol, &[]));
    let work = &mut Work::default();
    let datagram = || frames::udp(client, frontend, b"request");
    for _ in 0..ErrorRate::LIMIT {
        assert_eq!(refuse(&mut udp, work, &datagram()), (Verdict::Answer, true));
    }
    assert_eq!(refuse(&mut udp, work, &datagram()), (Verdict::Drop(DropReason::NoEndpoint), false));
    let syn = frames::tcp(client, frontend, Segment::Syn, b"");
    assert_eq!(refuse(&mut tcp, work, &syn), (Verdict::Answer, true));
    udp.v4.now += 1;
    assert_eq!(refuse(&mut udp, work, &datagram()), (Verdict::Answer, true), "another second");
}
