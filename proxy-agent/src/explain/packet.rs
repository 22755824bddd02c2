//! The first packet of a connection, and what its headers say afterwards.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TcpHeader,
};
use proxy_common::Protocol;
use proxy_ebpf::host::HostPacket;

/// As many hops as most systems give a packet.
const HOPS: u8 = 64;
/// An SCTP common header and INIT chunk (RFC 9260 §3.3.2): ports, tag 0, checksum; type 1, length 20, tag, window, streams.
const INIT_LEN: usize = 32;

/// The packet from `source` to `destination`, without a link header, on the device with this index.
pub(super) fn first(source: SocketAddr, destination: SocketAddr, protocol: Protocol, device: u32) -> HostPacket {
    let builder = PacketBuilder::ip(ip(source.ip(), destination.ip()));
    let mut bytes = Vec::new();
    // A vector has room for a packet this short, so none of these fails.
    let written = match protocol {
        Protocol::Tcp => {
            let mut header = TcpHeader::new(source.port(), destination.port(), 1, u16::MAX);
            header.syn = true;
            builder.tcp_header(header).write(&mut bytes, &[])
        }
        Protocol::Udp => builder.udp(source.port(), destination.port()).write(&mut bytes, &[]),
        Protocol::Sctp => builder.write(&mut bytes, IpNumber::SCTP, &init(source.port(), destination.port())),
    };
    debug_assert!(written.is_ok(), "{written:?}");
    HostPacket::new(bytes).on_device(device)
}

/// Source and destination of a packet without a link header; `None` if it is no whole packet.
pub(super) fn ends(packet: &HostPacket) -> Option<(SocketAddr, SocketAddr)> {
    let sliced = SlicedPacket::from_ip(packet.bytes()).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(v4) => (v4.header().source_addr().into(), v4.header().destination_addr().into()),
        NetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let message = sliced.net.as_ref().and_then(NetSlice::ip_payload_ref)?.payload;
    let port = |offset: usize| message.get(offset..)?.first_chunk().copied().map(u16::from_be_bytes);
    Some((SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?)))
}

fn ip(source: IpAddr, destination: IpAddr) -> IpHeaders {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => IpHeaders::Ipv4(
            Ipv4Header {
                source: source.octets(),
                destination: destination.octets(),
                time_to_live: HOPS,
                dont_fragment: true,
                fragment_offset: IpFragOffset::ZERO,
                ..Ipv4Header::default()
            },
            etherparse::Ipv4Extensions::default(),
        ),
        (source, destination) => IpHeaders::Ipv6(
            Ipv6Header {
                flow_label: Ipv6FlowLabel::ZERO,
                hop_limit: HOPS,
                source: v6(source),
                destination: v6(destination),
                ..Ipv6Header::default()
            },
            etherparse::Ipv6Extensions::default(),
        ),
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn init(source: u16, destination: u16) -> [u8; INIT_LEN] {
    let mut packet = [0; INIT_LEN];
    packet[0..2].copy_from_slice(&source.to_be_bytes());
    packet[2..4].copy_from_slice(&destination.to_be_bytes());
    packet[12] = 1;
    packet[15] = 20;
    // A tag other than 0, a window, and a stream each way.
    (packet[19], packet[22], packet[25], packet[27]) = (1, 1, 1, 1);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_has_the_ends_that_it_was_made_for() {
        for (source, destination) in [("192.0.2.9:40000", "10.96.0.1:80"), ("[2001:db8::9]:1", "[fd00::1]:65535")] {
            let ends_of = |text: &str| text.parse::<SocketAddr>().expect("an address");
            let (source, destination) = (ends_of(source), ends_of(destination));
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let packet = first(source, destination, protocol, 7);
                assert_eq!(ends(&packet), Some((source, destination)), "{protocol}");
            }
        }
    }
}
