//! The packets of a conversation, as each side sends them.

use std::net::IpAddr;

use super::{
    addresses::{Addresses, Family, REFUSED, UNSERVED},
    packet::{self, ICMP, ICMP6, Ip, SYN, TCP, UDP},
    scene::Scene,
    script::{Complaint, Conversation, Move, Side, Stranger, Trouble, What},
};

/// What a side of a TCP connection says next.
#[derive(Clone, Copy)]
pub struct Sequences([u32; 2]);

impl Default for Sequences {
    fn default() -> Self {
        Self([1000, 2_000_000_000])
    }
}

/// What is known when a side sends.
#[derive(Clone, Copy)]
pub struct Speaker<'a> {
    pub family: Family,
    pub scene: Scene,
    /// The client's port.
    pub port: u16,
    /// The client as the backend knows it; `None` if it has not heard of it.
    pub seen: Option<(IpAddr, u16)>,
    /// The packet that the side got last.
    pub last: Option<&'a [u8]>,
}

impl Speaker<'_> {
    /// The packets of a move; none if there is nothing to complain about, or nobody to answer.
    pub fn render(&self, conversation: &Conversation, one: &Move, sequences: &mut Sequences) -> Option<Vec<Vec<u8>>> {
        let addresses = self.family.addresses();
        let client = (self.scene.client(addresses), self.port);
        let service = self.scene.frontend(addresses, conversation.port.0);
        let backend = (addresses.backend, conversation.port.1);
        let (from, to) = match one.side {
            Side::Client => (client, service),
            Side::Backend => (backend, self.seen?),
        };
        let (me, other) = match one.side {
            Side::Client => (0, 1),
            Side::Backend => (1, 0),
        };
        let icmp = if addresses.client.is_ipv4() { ICMP } else { ICMP6 };
        let ports = (from.1, to.1);
        let (source, destination, protocol, upper) = match &one.what {
            What::Tcp { flags, payload, options } => {
                let sequence = (sequences.0[me], sequences.0[other]);
                let length = u32::try_from(*payload).expect("segments are short");
                sequences.0[me] += length + u32::from(flags & (SYN | packet::FIN) != 0);
                (from.0, to.0, TCP, packet::tcp(ports, *flags, sequence, *options, &text(*payload)))
            }
            What::Udp { payload } => (from.0, to.0, UDP, packet::udp(ports, &text(*payload))),
            What::Error(complaint) => {
                // Whoever sent the packet hears of it.
                let (by, upper) = self.complain(one.side, complaint)?;
                (by, to.0, icmp, upper)
            }
            What::Stranger(stranger) => self.stranger(*stranger, conversation),
        };
        let fragments = one.shape.fragments.filter(|_| !one.shape.dont_fragment || upper.len() > 1400);
        let options = if fragments.is_some() || matches!(one.what, What::Error(_)) { 0 } else { one.shape.options };
        let ip = Ip {
            source,
            destination,
            ttl: one.shape.ttl,
            class: one.shape.class,
            id: one.shape.id,
            dont_fragment: one.shape.dont_fragment,
            options,
        };
        let sum = match one.shape.sum {
            packet::Sum::None if protocol != UDP || source.is_ipv6() => packet::Sum::Right,
            sum => sum,
        };
        let mut whole = packet::build(&ip, protocol, upper, sum);
        match fragments {
            Some(eights) if whole.len() > 60 => {
                // The first fragment has the whole header (RFC 1858, RFC 7112).
                let least = if protocol == TCP { 60_usize.next_multiple_of(8) } else { 8 };
                Some(packet::fragments(&ip, &whole, protocol, (usize::from(eights) * 8).max(least)))
            }
            _ => {
                whole.truncate(whole.len() - one.shape.cut.min(whole.len() - 1));
                Some(vec![whole])
            }
        }
    }

    /// Who complains, and how.
    fn complain(&self, side: Side, complaint: &Complaint) -> Option<(IpAddr, Vec<u8>)> {
        let addresses = self.family.addresses();
        let by = match (side, complaint.by_router) {
            (Side::Client, true) if self.scene != Scene::Hairpin => addresses.outer_router,
            (Side::Client, false) => self.scene.client(addresses),
            (_, true) => addresses.inner_router,
            (Side::Backend, false) => addresses.backend,
        };
        let got = self.last?;
        // RFC 792 asks for eight bytes; netfilter drops errors with less. It corrects TCP's checksum in quotes that have the
        // whole header, the programs wherever it is quoted.
        let (upper, protocol) = match (got[0] >> 4, got[6]) {
            (4, _) => (usize::from(got[0] & 15) * 4, got[9]),
            // Destination options.
            (_, 60) => (48, got[40]),
            (_, protocol) => (40, protocol),
        };
        let mut quote = &got[..complaint.quote.max(upper + 8).min(got.len()).min(1200)];
        if protocol == TCP && (upper + 16..upper + 20).contains(&quote.len()) {
            quote = &quote[..upper + 15];
        }
        let (kind, code, rest) = match (self.family, complaint.about) {
            (Family::V4, Trouble::Unreachable) => (3, complaint.code, 0),
            (Family::V4, Trouble::TooBig) => (3, 4, 1300),
            (Family::V4, Trouble::TimeExceeded) => (11, 0, 0),
            (Family::V4, Trouble::Parameter) => (12, 0, 8 << 24),
            (Family::V6, Trouble::Unreachable) => (1, complaint.code, 0),
            (Family::V6, Trouble::TooBig) => (2, 0, 1300),
            (Family::V6, Trouble::TimeExceeded) => (3, 0, 0),
            (Family::V6, Trouble::Parameter) => (4, 0, 8),
        };
        Some((by, packet::icmp_error(kind, code, rest, quote)))
    }

    fn stranger(&self, stranger: Stranger, conversation: &Conversation) -> (IpAddr, IpAddr, u8, Vec<u8>) {
        let Addresses { client, backend, cluster_ip, .. } = *self.family.addresses();
        let (icmp, echo) = if client.is_ipv4() { (ICMP, 8) } else { (ICMP6, 128) };
        let target = conversation.port.1;
        let syn = |ports| (TCP, packet::tcp(ports, SYN, (1, 0), 1, b""));
        let datagram = |ports| (UDP, packet::udp(ports, b"who"));
        let ping = (icmp, packet::icmp_error(echo, 0, u32::from(self.port) << 16 | 1, b"who"));
        let (source, destination, (protocol, upper)) = match stranger {
            Stranger::TcpToUnserved => (client, cluster_ip, syn((self.port, UNSERVED))),
            Stranger::UdpToUnserved => (client, cluster_ip, datagram((self.port, UNSERVED))),
            Stranger::TcpToRefused => (client, cluster_ip, syn((self.port, REFUSED))),
            Stranger::UdpToRefused => (client, cluster_ip, datagram((self.port, REFUSED))),
            Stranger::TcpToBackend => (client, backend, syn((self.port, target))),
            Stranger::UdpToBackend => (client, backend, datagram((self.port, target))),
            Stranger::TcpFromBackend => (backend, client, syn((target, self.port))),
            Stranger::UdpFromBackend => (backend, client, datagram((target, self.port))),
            Stranger::Ping => (client, cluster_ip, ping),
            Stranger::PingBackend => (client, backend, ping),
            Stranger::Gre => (client, cluster_ip, (47, vec![0, 0, 8, 0, 1, 2, 3, 4])),
            Stranger::Nothing => (client, cluster_ip, (59, Vec::new())),
        };
        (source, destination, protocol, upper)
    }
}

fn text(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}
