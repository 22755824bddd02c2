//! Which way a client takes to the backend, and the ports that a masquerade chooses.

use std::net::IpAddr;

use super::{
    addresses::Addresses,
    packet::{ICMP, ICMP6, SYN, TCP, UDP, checksum_offset},
    script::{Side, What},
};

/// The way that the packets of a conversation take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// From outside to the clusterIP. Nothing is masqueraded.
    ClusterIp,
    /// From outside to a nodePort under policy `Cluster`: masqueraded.
    NodePort,
    /// From the backend itself to the clusterIP: masqueraded, in and out by one device.
    Hairpin,
}

/// The nodePort of a port of the Service.
pub const fn node_port(port: u16) -> u16 {
    30_000 + port % 1000
}

impl Scene {
    pub const ALL: [Self; 3] = [Self::ClusterIp, Self::NodePort, Self::Hairpin];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster_ip",
            Self::NodePort => "node_port",
            Self::Hairpin => "hairpin",
        }
    }

    pub fn is_masqueraded(self) -> bool {
        self != Self::ClusterIp
    }

    pub fn client(self, addresses: &Addresses) -> IpAddr {
        if self == Self::Hairpin { addresses.backend } else { addresses.client }
    }

    /// Where the client finds this port of the Service.
    pub fn frontend(self, addresses: &Addresses, port: u16) -> (IpAddr, u16) {
        match self {
            Self::NodePort => (addresses.outside, node_port(port)),
            Self::ClusterIp | Self::Hairpin => (addresses.cluster_ip, port),
        }
    }
}

/// What a node's masquerade has made of the client's port.
#[derive(Debug, Default)]
pub struct Masquerade {
    chosen: Option<u16>,
}

impl Masquerade {
    /// The port by which the backend knows the client; `None` while it has heard nothing of it.
    pub const fn chosen(&self) -> Option<u16> {
        self.chosen
    }

    /// What begins a connection gets a port of its own.
    pub fn begin(&mut self, side: Side, what: &What) {
        if side == Side::Client && matches!(what, What::Tcp { flags, .. } if flags & SYN != 0) {
            self.chosen = None;
        }
    }

    /// Puts the client's own port in the place of the one that was chosen at random, as if it had been that one.
    ///
    /// # Panics
    /// An unprivileged port has become a privileged one or the other way round, or one that the client had has changed in the
    /// middle of a connection.
    pub fn hide(&mut self, packet: &mut [u8], addresses: &Addresses, client: u16) {
        let Some(place) = place(packet, addresses) else { return };
        let word = |at: usize| packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let Some(port) = word(place.port) else { return };
        if place.error.is_none() {
            let chosen = *self.chosen.get_or_insert(port);
            assert_eq!(chosen, port, "a connection keeps the port that it was given");
            assert_eq!(chosen < 1024, client < 1024, "the port is of the same kind");
        }
        if self.chosen != Some(port) {
            return;
        }
        let before = place.sum.and_then(word);
        replace(packet, place.port, client, place.sum, place.is_udp);
        if let Some(at) = place.error {
            // The quoted port, and the quoted checksum if there is one.
            let after = |at: usize| packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            let mut changes = vec![(port, client)];
            changes.extend(before.zip(place.sum.and_then(after)));
            for (old, new) in changes {
                adjust(packet, at, old, new);
            }
        }
    }
}

/// Where the port is that was chosen, and what covers it.
struct Place {
    port: usize,
    /// The checksum of the port's own packet, where it is not cut off.
    sum: Option<usize>,
    is_udp: bool,
    /// The checksum of the ICMP error that quotes it.
    error: Option<usize>,
}

/// The port that the node chose for the client, if the packet has it: it comes from the node, or is an error about what
/// was sent to the node.
fn place(packet: &[u8], addresses: &Addresses) -> Option<Place> {
    let (protocol, upper, [source, _]) = upper(packet)?;
    let at = |protocol, upper: usize, port, error| Place {
        port,
        sum: checksum_offset(protocol).map(|offset| upper + offset).filter(|&sum| sum + 2 <= packet.len()),
        is_udp: protocol == UDP,
        error,
    };
    match protocol {
        TCP | UDP if source == addresses.inside => Some(at(protocol, upper, upper, None)),
        ICMP | ICMP6 => {
            let quote = upper + 8;
            let (protocol, inner, [source, destination]) = self::upper(packet.get(quote..)?)?;
            let inner = quote + inner;
            let is_errors =
                matches!(protocol, TCP | UDP) && (source, destination) == (addresses.backend, addresses.inside);
            is_errors.then(|| at(protocol, inner, inner + 2, Some(upper + 2)))
        }
        _ => None,
    }
}

/// Protocol and place of what the IP header, or a chain of those, is followed by, and the addresses; `None` in later fragments.
fn upper(packet: &[u8]) -> Option<(u8, usize, [IpAddr; 2])> {
    if packet.first()? >> 4 == 4 {
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let is_later = packet.get(6)? & 0x1f != 0 || *packet.get(7)? != 0;
        let addresses = [address(12)?, address(16)?];
        return (!is_later).then_some((*packet.get(9)?, usize::from(packet[0] & 15) * 4, addresses));
    }
    let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (mut protocol, mut at) = (*packet.get(6)?, 40);
    loop {
        match protocol {
            60 => (protocol, at) = (*packet.get(at)?, at + 8),
            44 if packet.get(at + 2..at + 4)? < &[0, 8][..] => (protocol, at) = (*packet.get(at)?, at + 8),
            44 => return None,
            _ => return Some((protocol, at, [address(8)?, address(24)?])),
        }
    }
}

fn replace(packet: &mut [u8], at: usize, new: u16, sum: Option<usize>, is_udp: bool) {
    let old = u16::from_be_bytes([packet[at], packet[at + 1]]);
    packet[at..at + 2].copy_from_slice(&new.to_be_bytes());
    if let Some(sum) = sum
        && !(is_udp && packet[sum..sum + 2] == [0, 0])
    {
        adjust(packet, sum, old, new);
    }
}

/// RFC 1624. Both zeros become the same one.
fn adjust(packet: &mut [u8], sum: usize, old: u16, new: u16) {
    let present = u16::from_be_bytes([packet[sum], packet[sum + 1]]);
    let mut value = u32::from(!present) + u32::from(!old) + u32::from(new);
    while value > 0xffff {
        value = (value & 0xffff) + (value >> 16);
    }
    let value = !u16::try_from(value).expect("it was folded");
    packet[sum..sum + 2].copy_from_slice(&if value == 0 { 0xffff } else { value }.to_be_bytes());
}
