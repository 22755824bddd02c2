//! Packets, byte by byte, so that anything can be wrong with them.

use std::net::IpAddr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// What is in the IP header beside addresses.
#[derive(Clone, Debug)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// IPv4: words of no-operation options. IPv6: a destination options header if there is one at all.
    pub options: u8,
}

/// Whether the checksum of the upper protocol is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Right,
    Wrong,
    /// Zero: none, which UDP over IPv4 allows.
    None,
}

/// A TCP segment with valid options: `options` words of no-operation.
pub fn tcp(ports: (u16, u16), flags: u8, sequence: (u32, u32), options: u8, payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.min(10);
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(sequence.0.to_be_bytes());
    segment.extend(sequence.1.to_be_bytes());
    segment.extend([words << 4, flags]);
    segment.extend(0xfff0_u16.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(if flags & URG == 0 { [0, 0] } else { [0, 1] });
    segment.resize(usize::from(words) * 4, 1);
    segment.extend(payload);
    segment
}

/// A UDP datagram.
pub fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("datagrams are short");
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An ICMP message about a packet.
pub fn icmp_error(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    message
}

/// The packet: IP header and upper protocol, whose checksum is filled in.
pub fn build(ip: &Ip, protocol: u8, mut upper: Vec<u8>, sum: Sum) -> Vec<u8> {
    if let Some(at) = checksum_offset(protocol)
        && sum != Sum::None
    {
        let right = upper_checksum(ip.source, ip.destination, protocol, &upper);
        let value = match (sum, right) {
            // RFC 768: zero means none.
            (Sum::Right, 0) if protocol == UDP => 0xffff,
            (Sum::Right, right) => right,
            // As wrong as any other, whichever ports and addresses are covered.
            (_, right) => plus(right, 0x5a5a),
        };
        upper[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    let mut packet = header(ip, protocol, upper.len(), 0, false);
    packet.extend(upper);
    packet
}

/// The sum in ones' complement.
fn plus(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u16::from(carry)
}

/// The packet cut into fragments whose payloads have this length, a multiple of 8, but for the last one.
pub fn fragments(ip: &Ip, packet: &[u8], protocol: u8, length: usize) -> Vec<Vec<u8>> {
    let upper = &packet[header(ip, protocol, 0, 0, false).len()..];
    let count = upper.chunks(length).count();
    let fragment = |(index, chunk): (usize, &[u8])| {
        let offset = u16::try_from(index * length / 8).expect("packets are short");
        let mut fragment = header(ip, protocol, chunk.len(), offset | 0x8000, index + 1 < count);
        fragment.extend(chunk);
        fragment
    };
    upper.chunks(length).enumerate().map(fragment).collect()
}

/// `fragment` is 0 for what is none, else the offset in units of eight bytes with the highest bit set.
fn header(ip: &Ip, protocol: u8, upper: usize, fragment: u16, more: bool) -> Vec<u8> {
    let offset = fragment & 0x1fff;
    match (ip.source, ip.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let words = 5 + ip.options.min(10);
            let length = u16::try_from(usize::from(words) * 4 + upper).expect("packets are short");
            let mut header = vec![0x40 | words, ip.class];
            header.extend(length.to_be_bytes());
            header.extend(ip.id.to_be_bytes());
            let dont = u16::from(ip.dont_fragment && fragment == 0) << 14;
            header.extend((dont | u16::from(more) << 13 | offset).to_be_bytes());
            header.extend([ip.ttl, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            // No-operation options are copied into fragments or not; nobody minds.
            header.resize(usize::from(words) * 4, 1);
            let sum = checksum(&header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut chain = Vec::new();
            let mut next = protocol;
            if ip.options > 0 {
                // Destination options: six bytes of padding.
                chain = vec![next, 0, 1, 4, 0, 0, 0, 0];
                next = 60;
            }
            if fragment != 0 {
                let mut head = vec![next, 0];
                head.extend((offset << 3 | u16::from(more)).to_be_bytes());
                head.extend(u32::from(ip.id).to_be_bytes());
                // What can be fragmented comes after the fragment header; options for the destination do.
                if offset == 0 {
                    head.extend(&chain);
                }
                chain = head;
                next = 44;
            }
            let length = u16::try_from(chain.len() + upper).expect("packets are short");
            let mut header = vec![0x60 | ip.class >> 4, ip.class << 4, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([next, ip.ttl]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend(chain);
            header
        }
        _ => panic!("one family for both"),
    }
}

pub const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMP6 => Some(2),
        _ => None,
    }
}

/// The checksum that belongs into the upper protocol's header, whatever is in its place.
pub fn upper_checksum(source: IpAddr, destination: IpAddr, protocol: u8, upper: &[u8]) -> u16 {
    let mut upper = upper.to_vec();
    if let Some(at) = checksum_offset(protocol)
        && let Some(field) = upper.get_mut(at..at + 2)
    {
        field.fill(0);
    }
    let pseudo = match (source, destination) {
        _ if protocol == ICMP => Vec::new(),
        (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
        _ => panic!("one family for both"),
    };
    let start = if pseudo.is_empty() { 0 } else { upper.len() + usize::from(protocol) };
    checksum(&[pseudo, upper].concat(), start)
}

/// RFC 1071.
pub fn checksum(bytes: &[u8], start: usize) -> u16 {
    let word = |pair: &[u8]| usize::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| usize::from(low));
    let mut sum = start + bytes.chunks(2).map(word).sum::<usize>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}
