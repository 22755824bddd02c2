//! Finding addresses and ports in a packet.
//!
//! Owns the knowledge of header layouts; never writes. Sizes come from `network-types` where that
//! crate has them.

use network_types::{icmp::Icmpv4Hdr, ip::IpProto, tcp::TcpHdr, udp::UdpHdr};
use proxy_common::{Family, Port, Protocol, TcpState, V4, V6};

use crate::{
    bytes::{take, take_words},
    packet::{Packet, Truncated},
};

/// Offset of the checksum in a TCP header (RFC 9293 §3.1).
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an SCTP header (RFC 9260 §3.1).
pub const SCTP_CHECKSUM: usize = 8;
/// Offset of the checksum in an ICMP or `ICMPv6` header (RFC 792, RFC 4443 §2.1).
pub const ICMP_CHECKSUM: usize = 2;
/// Length of an ICMP error's own header; the quoted packet follows (RFC 792, RFC 4443 §3).
pub const ICMP_HEADER: usize = Icmpv4Hdr::LEN;
const _: () = assert!(ICMP_HEADER == 8);
/// Offset of the source port in TCP, UDP and SCTP headers.
pub const SOURCE_PORT: usize = 0;
/// Offset of the destination port in TCP, UDP and SCTP headers.
pub const DESTINATION_PORT: usize = 2;

/// Extension headers that are followed before an IPv6 packet is given up as nobody's.
const MAX_EXTENSION_HEADERS: usize = 6;

/// Length of IPv6's fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER: usize = 8;

/// Offset of IPv4's time to live, which protocol, header checksum and addresses follow (RFC 791 §3.1).
pub(crate) const V4_REST: usize = 8;

/// Offset of TCP's sequence number (RFC 9293 §3.1).
const TCP_SEQUENCE: usize = 4;

/// TCP header bytes up to and including the flags.
const TCP_FLAGS_END: usize = 14;

/// Length of SCTP's common header (RFC 9260 §3.1), and of the header of the chunk behind it (§3.2).
pub(crate) const SCTP_HEADER: usize = 12;
pub(crate) const SCTP_CHUNK_HEADER: usize = 4;

/// Addresses, ports and positions of a packet that could be a Service's.
///
/// Addresses come first and aligned, so that they are copied by words: BPF has no loads and stores that are not aligned, and
/// the compiler would copy an address of unknown alignment byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Headers<F: Family> {
    source: F::Address,
    destination: F::Address,
    source_port: Port,
    destination_port: Port,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// TCP and SCTP: what this segment or packet is. Empty for UDP.
    pub tcp: TcpState,
    /// TCP: whether ACK is set. SCTP: whether it is an INIT ACK.
    pub acknowledges: bool,
    /// IPv4: time to live, protocol and header checksum, as they are in the packet. IPv6: zeros.
    pub(crate) rest: [u8; 4],
    /// Which part of its datagram the packet is: all of it, or the first fragment.
    pub part: Part,
}

/// An IP version whose header this module can read.
pub trait ParseFamily: Family {
    /// Number of the family's ICMP in the IP header.
    const ICMP_PROTOCOL: u8;
    /// Whether ICMP's checksum covers a pseudo header (RFC 4443 §2.3) or not (RFC 792).
    const ICMP_HAS_PSEUDO_HEADER: bool;

    /// Addresses, transport protocol and position of the transport header; `None` if the packet cannot be followed to a
    /// transport header.
    ///
    /// # Errors
    /// [`Truncated`] if the packet ends within a header.
    fn locate<P: Packet>(packet: &P, l3: usize) -> Result<Option<Located<Self::Address>>, Truncated>;

    /// Reads an address.
    ///
    /// # Errors
    /// [`Truncated`] if the packet ends before.
    fn load_address<P: Packet>(packet: &P, offset: usize) -> Result<Self::Address, Truncated>;

    /// Whether an ICMP message of this type is an error that quotes a packet, and concerns nobody but the quoted
    /// packet's sender. Redirects do not: they advise a neighbour.
    fn is_error(icmp_type: u8) -> bool;
}

/// What the IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<A> {
    /// Offset of the IP header.
    pub l3: usize,
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IANA number of the transport protocol.
    pub protocol: u8,
    /// Offset of the transport header.
    pub l4: usize,
    /// As [`Headers::rest`].
    pub(crate) rest: [u8; 4],
    /// Which part of its datagram the packet is.
    pub part: Part,
}

/// Which part of its datagram a packet is, and what the datagram's other parts are known by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The fragments' common number; meaningless in a whole packet.
    pub identification: u32,
    /// Number of the protocol, if the family's datagrams are told apart by that too; else 0.
    pub protocol: u8,
    /// How much of the datagram it is.
    pub piece: Piece,
}

/// How much of a datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Piece {
    /// All of it.
    #[default]
    Whole = 0,
    /// The fragment with the transport header.
    First = 1,
    /// A fragment without it.
    Later = 2,
}

/// What a packet is to the TC programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a transport protocol that Services can have.
    Transport(Protocol),
    /// An ICMP error.
    Error,
    /// A fragment without a transport header.
    LaterFragment,
    /// Nobody's.
    Other,
}

/// A packet as far as an ICMP error quotes it. At least its ports are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<F: Family> {
    /// Offset of its IP header.
    pub l3: usize,
    /// Offset of its transport header.
    pub l4: usize,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: (F::Address, Port),
    /// Destination address and port.
    pub destination: (F::Address, Port),
    /// Bytes that are quoted from the transport header on.
    pub len: usize,
    /// Whether it was all of its datagram, or the first fragment.
    pub piece: Piece,
}

/// Types of ICMP errors (RFC 792): destination unreachable, source quench, time exceeded, parameter problem.
const V4_ERRORS: [u8; 4] = [3, 4, 11, 12];
/// `ICMPv6` messages up to this type are errors (RFC 4443 §2.1).
const V6_LAST_ERROR: u8 = 127;

impl ParseFamily for V4 {
    const ICMP_PROTOCOL: u8 = IpProto::Icmp as u8;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;

    #[inline(always)]
    fn locate<P: Packet>(packet: &P, l3: usize) -> Result<Option<Located<[u8; 4]>>, Truncated> {
        const HEADER: usize = V4::HEADER_LEN;
        packet.read_header(l3, |header: &[u8; HEADER]| {
            let length = usize::from(header[0] & 0x0f) * 4;
            if header[0] >> 4 != V4::VERSION || length < HEADER {
                return None;
            }
            // RFC 791: bit 13 "more fragments", bits 12..0 offset.
            let fragment = u16::from_be_bytes([header[6], header[7]]);
            Some(Located {
                l3,
                source: take(header, V4::SOURCE_OFFSET),
                destination: take(header, V4::DESTINATION_OFFSET),
                protocol: header[9],
                l4: l3 + length,
                rest: take(header, V4_REST),
                part: Part {
                    identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
                    protocol: header[9],
                    piece: piece(fragment & 0x1fff != 0, fragment & 0x2000 != 0),
                },
            })
        })
    }

    #[inline(always)]
    fn load_address<P: Packet>(packet: &P, offset: usize) -> Result<[u8; 4], Truncated> {
        packet.load(offset)
    }

    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        V4_ERRORS.contains(&icmp_type)
    }
}

impl ParseFamily for V6 {
    const ICMP_PROTOCOL: u8 = IpProto::Ipv6Icmp as u8;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;

    #[inline(always)]
    fn locate<P: Packet>(packet: &P, l3: usize) -> Result<Option<Located<[u8; 16]>>, Truncated> {
        const HEADER: usize = V6::HEADER_LEN;
        let (version, mut protocol, source, destination) = packet.read_header(l3, |header: &[u8; HEADER]| {
            (
                header[0] >> 4,
                header[6],
                take_words(header, V6::SOURCE_OFFSET),
                take_words(header, V6::DESTINATION_OFFSET),
            )
        })?;
        if version != V6::VERSION {
            return Ok(None);
        }
        let mut l4 = l3 + HEADER;
        let mut part = Part::default();
        if is_extension(protocol) {
            let mut left = MAX_EXTENSION_HEADERS;
            // Asked at the end whether it goes on: a loop that falls through to its beginning is refused by 5.10 (`check_cfg`).
            loop {
                // RFC 8200 §4: each is at least 8 bytes long, and states its length in units of 8, not counting the first.
                let extension: [u8; 8] = packet.load(l4)?;
                // A packet with segments left to visit is not at its destination, which the transport checksum is of (§8.1).
                if protocol == IpProto::Ipv6Route as u8 && extension[3] != 0 {
                    return Ok(None);
                }
                protocol = extension[0];
                l4 += (usize::from(extension[1]) + 1) * 8;
                if !is_extension(protocol) {
                    break;
                }
                left -= 1;
                if left == 0 {
                    return Ok(None);
                }
            }
        }
        if protocol == IpProto::Ipv6Frag as u8 {
            let fragment: [u8; FRAGMENT_HEADER] = packet.load(l4)?;
            // RFC 8200 §4.5: 13 bits of offset, 2 reserved, "more fragments".
            let offset = u16::from_be_bytes([fragment[2], fragment[3]]);
            part.piece = piece(offset & 0xfff8 != 0, offset & 1 != 0);
            part.identification = u32::from_be_bytes(take(&fragment, 4));
            protocol = fragment[0];
            l4 += FRAGMENT_HEADER;
            // The only extension header that may stand in what is fragmented (§4.1).
            if protocol == IpProto::Ipv6Opts as u8 && part.piece != Piece::Later {
                let [next, len]: [u8; 2] = packet.load(l4)?;
                protocol = next;
                l4 += (usize::from(len) + 1) * 8;
            }
        }
        Ok(Some(Located { l3, source, destination, protocol, l4, rest: [0; 4], part }))
    }

    #[inline(always)]
    fn load_address<P: Packet>(packet: &P, offset: usize) -> Result<[u8; 16], Truncated> {
        packet.load(offset)
    }

    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        icmp_type <= V6_LAST_ERROR
    }
}

#[inline(always)]
const fn piece(has_offset: bool, has_more: bool) -> Piece {
    match (has_offset, has_more) {
        (false, false) => Piece::Whole,
        (false, true) => Piece::First,
        (true, _) => Piece::Later,
    }
}

/// Hop-by-hop options, routing and destination options: the extension headers that may stand before a
/// fragment or transport header and have a length (RFC 8200 §4.1).
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    protocol == IpProto::HopOpt as u8 || protocol == IpProto::Ipv6Route as u8 || protocol == IpProto::Ipv6Opts as u8
}

/// What kind of packet it is.
///
/// # Errors
/// [`Truncated`] if the packet ends within a header.
#[inline(always)]
pub fn kind<F: ParseFamily, P: Packet>(packet: &P, located: &Located<F::Address>) -> Result<Kind, Truncated> {
    if located.part.piece == Piece::Later {
        return Ok(Kind::LaterFragment);
    }
    if let Some(protocol) = Protocol::from_number(located.protocol) {
        return Ok(Kind::Transport(protocol));
    }
    if located.protocol == F::ICMP_PROTOCOL && located.part.piece == Piece::Whole {
        let [icmp_type]: [u8; 1] = packet.load(located.l4)?;
        return Ok(if F::is_error(icmp_type) { Kind::Error } else { Kind::Other });
    }
    Ok(Kind::Other)
}

/// Reads the transport header.
///
/// # Errors
/// [`Truncated`] if the packet ends within it.
#[inline(always)]
pub fn transport<F: ParseFamily, P: Packet>(
    packet: &P,
    located: &Located<F::Address>,
    protocol: Protocol,
) -> Result<Headers<F>, Truncated> {
    let Located { l3, source, destination, l4, rest, part, .. } = *located;
    let (ports, tcp, acknowledges) = match protocol {
        Protocol::Tcp => {
            const _: () = assert!(TCP_FLAGS_END <= TcpHdr::LEN);
            packet.read_header(l4, |header: &[u8; TCP_FLAGS_END]| {
                let flags = header[TCP_FLAGS_END - 1];
                (take::<4>(header, 0), tcp_state(flags), flags & tcp_flag::ACK != 0)
            })?
        }
        Protocol::Udp => {
            packet.read_header(l4, |header: &[u8; UdpHdr::LEN]| (take::<4>(header, 0), TcpState::NONE, false))?
        }
        Protocol::Sctp => {
            let header: [u8; SCTP_HEADER + SCTP_CHUNK_HEADER] = packet.load(l4)?;
            let chunk = header[SCTP_HEADER];
            (take::<4>(&header, 0), sctp_state(chunk), chunk == sctp_chunk::INIT_ACK)
        }
    };
    Ok(Headers {
        source,
        destination,
        source_port: Port::from_wire(take(&ports, SOURCE_PORT)),
        destination_port: Port::from_wire(take(&ports, DESTINATION_PORT)),
        protocol,
        l3,
        l4,
        tcp,
        acknowledges,
        rest,
        part,
    })
}

/// The packet that an ICMP error quotes; `None` if its ports are not there, or it is no Service's.
///
/// # Errors
/// [`Truncated`] if the error ends within a header.
#[inline(always)]
pub fn quoted<F: ParseFamily, P: Packet>(
    packet: &P,
    error: &Located<F::Address>,
) -> Result<Option<Quoted<F>>, Truncated> {
    const PORTS: usize = 4;
    let l3 = error.l4 + ICMP_HEADER;
    let Some(Located { source, destination, protocol, l4, part, .. }) = F::locate(packet, l3)? else {
        return Ok(None);
    };
    let Some(protocol) = Protocol::from_number(protocol) else { return Ok(None) };
    // A short frame is padded; what is behind the message is no part of the quotation.
    let message = payload_len::<F, P>(packet, error.l3, error.l4)?;
    let len = message.checked_sub(l4 - error.l4).ok_or(Truncated)?;
    if part.piece == Piece::Later || len < PORTS {
        return Ok(None);
    }
    let ports: [u8; PORTS] = packet.load(l4)?;
    Ok(Some(Quoted {
        l3,
        l4,
        protocol,
        source: (source, Port::from_wire(take(&ports, SOURCE_PORT))),
        destination: (destination, Port::from_wire(take(&ports, DESTINATION_PORT))),
        len,
        piece: part.piece,
    }))
}

/// Bytes from `l4` to the end of the packet as the IP header at `l3` states it.
///
/// # Errors
/// [`Truncated`] if the packet cannot be read, or states no sensible length.
#[inline(always)]
pub fn payload_len<F: Family, P: Packet>(packet: &P, l3: usize, l4: usize) -> Result<usize, Truncated> {
    // IPv4: total length at 2; IPv6: payload length at 4 (RFC 791 §3.1, RFC 8200 §3).
    let (offset, uncounted) = if F::HEADER_CHECKSUM_OFFSET.is_some() { (2, 0) } else { (4, F::HEADER_LEN) };
    let len: [u8; 2] = packet.load(l3 + offset)?;
    (usize::from(u16::from_be_bytes(len)) + uncounted).checked_sub(l4 - l3).ok_or(Truncated)
}

/// TCP control bits (RFC 9293 §3.1).
pub(crate) mod tcp_flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// Types of SCTP chunks (RFC 9260 §3.2).
pub(crate) mod sctp_chunk {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const INIT_ACK: u8 = 2;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN: u8 = 7;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
    pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What the first chunk of an SCTP packet does, in the terms of TCP. INIT, INIT ACK and SHUTDOWN COMPLETE are always alone
/// (RFC 9260 §6.10).
#[inline(always)]
const fn sctp_state(chunk: u8) -> TcpState {
    match chunk {
        sctp_chunk::INIT | sctp_chunk::INIT_ACK => TcpState::SYN,
        sctp_chunk::ABORT | sctp_chunk::SHUTDOWN_COMPLETE => TcpState::RST,
        sctp_chunk::SHUTDOWN | sctp_chunk::SHUTDOWN_ACK => TcpState::FIN,
        _ => TcpState::DATA,
    }
}

#[inline(always)]
const fn tcp_state(flags: u8) -> TcpState {
    if flags & tcp_flag::RST != 0 {
        TcpState::RST
    } else if flags & tcp_flag::FIN != 0 {
        TcpState::FIN
    } else if flags & tcp_flag::SYN != 0 {
        TcpState::SYN
    } else {
        TcpState::DATA
    }
}

impl<F: Family> Headers<F> {
    /// Of no packet.
    pub(crate) const NONE: Self = Self {
        source: F::UNSPECIFIED,
        destination: F::UNSPECIFIED,
        source_port: Port::new(0),
        destination_port: Port::new(0),
        protocol: Protocol::Tcp,
        l3: 0,
        l4: 0,
        tcp: TcpState::NONE,
        acknowledges: false,
        rest: [0; 4],
        part: Part { identification: 0, protocol: 0, piece: Piece::Whole },
    };

    /// Source address and port.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> (F::Address, Port) {
        (self.source, self.source_port)
    }

    /// Destination address and port.
    #[inline(always)]
    #[must_use]
    pub const fn destination(&self) -> (F::Address, Port) {
        (self.destination, self.destination_port)
    }

    /// Whether this packet may begin a connection: any UDP datagram, a TCP SYN without ACK, and an SCTP INIT.
    #[inline(always)]
    #[must_use]
    pub fn may_begin_connection(&self) -> bool {
        match self.protocol {
            Protocol::Tcp | Protocol::Sctp => self.tcp.contains(TcpState::SYN) && !self.acknowledges,
            Protocol::Udp => true,
        }
    }

    /// The sequence number of a TCP segment (RFC 9293 §3.1).
    ///
    /// # Errors
    /// [`Truncated`] if the packet ends before it.
    #[inline(always)]
    pub fn sequence<P: Packet>(&self, packet: &P) -> Result<u32, Truncated> {
        packet.load(self.l4 + TCP_SEQUENCE).map(u32::from_be_bytes)
    }

    /// What tells this SYN or INIT from one of another connection between the same ends: the lower half of its sequence number, or of
    /// its Initiate Tag (RFC 9260 §3.3.2). One that is sent again has the same. Zero for UDP, and for an INIT that ends before it.
    #[inline(always)]
    pub fn opening<P: Packet>(&self, packet: &P) -> u16 {
        const LOWER_HALF: usize = 2;
        let number = match self.protocol {
            Protocol::Udp => return 0,
            Protocol::Tcp => TCP_SEQUENCE,
            Protocol::Sctp => SCTP_HEADER + SCTP_CHUNK_HEADER,
        };
        packet.load(self.l4 + number + LOWER_HALF).map_or(0, u16::from_be_bytes)
    }

    /// The acknowledgment number of a TCP segment, which means something if [`Self::acknowledges`].
    ///
    /// # Errors
    /// [`Truncated`] if the packet ends before it.
    #[inline(always)]
    pub fn acknowledgment<P: Packet>(&self, packet: &P) -> Result<u32, Truncated> {
        const OFFSET: usize = 8;
        packet.load(self.l4 + OFFSET).map(u32::from_be_bytes)
    }

    /// Bytes from the transport header to the end of the packet as the IP header states it: a short frame is padded.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be read, or states no sensible length.
    #[inline(always)]
    pub fn transport_len<P: Packet>(&self, packet: &P) -> Result<usize, Truncated> {
        payload_len::<F, P>(packet, self.l3, self.l4)
    }
}
