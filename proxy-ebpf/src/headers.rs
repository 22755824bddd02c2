//! Finding addresses and ports in a packet.
//!
//! Owns the knowledge of header layouts; never writes. Sizes come from `network-types` where that
//! crate has them.

use network_types::{ip::IpProto, tcp::TcpHdr, udp::UdpHdr};
use proxy_common::{Family, Port, Protocol, TcpState, V4, V6};

use crate::{
    bytes::take,
    packet::{Packet, Truncated},
};

/// Offset of the checksum in a TCP header (RFC 9293 §3.1).
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an SCTP header (RFC 9260 §3.1).
pub const SCTP_CHECKSUM: usize = 8;
/// Offset of the source port in TCP, UDP and SCTP headers.
pub const SOURCE_PORT: usize = 0;
/// Offset of the destination port in TCP, UDP and SCTP headers.
pub const DESTINATION_PORT: usize = 2;

/// Extension headers that are followed before an IPv6 packet is given up as nobody's.
const MAX_EXTENSION_HEADERS: usize = 6;

/// TCP header bytes up to and including the flags.
const TCP_FLAGS_END: usize = 14;

/// Length of SCTP's common header (RFC 9260 §3.1), and of the header of the chunk behind it (§3.2).
pub(crate) const SCTP_HEADER: usize = 12;
pub(crate) const SCTP_CHUNK_HEADER: usize = 4;

/// Addresses, ports and positions of a packet that could be a Service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<F: Family> {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: (F::Address, Port),
    /// Destination address and port.
    pub destination: (F::Address, Port),
    /// TCP and SCTP: what this segment or packet is. Empty for UDP.
    pub tcp: TcpState,
    /// TCP: whether ACK is set.
    pub acknowledges: bool,
}

/// An IP version whose header this module can read.
pub trait ParseFamily: Family {
    /// Source and destination address, transport protocol number and offset of the transport header;
    /// `None` if the packet is a fragment or cannot be followed to a transport header.
    ///
    /// # Errors
    /// [`Truncated`] if the packet ends within a header.
    fn locate<P: Packet>(packet: &P, l3: usize) -> Result<Option<Located<Self::Address>>, Truncated>;
}

/// What the IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IANA number of the transport protocol.
    pub protocol: u8,
    /// Offset of the transport header.
    pub l4: usize,
}

impl ParseFamily for V4 {
    #[inline(always)]
    fn locate<P: Packet>(packet: &P, l3: usize) -> Result<Option<Located<[u8; 4]>>, Truncated> {
        const HEADER: usize = V4::HEADER_LEN;
        let header: [u8; HEADER] = packet.load(l3)?;
        let length = usize::from(header[0] & 0x0f) * 4;
        // RFC 791: bit 13 "more fragments", bits 12..0 offset. A fragment's ports are in the first one only.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        if header[0] >> 4 != V4::VERSION || length < HEADER || fragment != 0 {
            return Ok(None);
        }
        Ok(Some(Located {
            source: take(&header, V4::SOURCE_OFFSET),
            destination: take(&header, V4::DESTINATION_OFFSET),
            protocol: header[9],
            l4: l3 + length,
        }))
    }
}

impl ParseFamily for V6 {
    #[inline(always)]
    fn locate<P: Packet>(packet: &P, l3: usize) -> Result<Option<Located<[u8; 16]>>, Truncated> {
        const HEADER: usize = V6::HEADER_LEN;
        let header: [u8; HEADER] = packet.load(l3)?;
        if header[0] >> 4 != V6::VERSION {
            return Ok(None);
        }
        let mut protocol = header[6];
        let mut l4 = l3 + HEADER;
        let mut followed = 0;
        while is_extension(protocol) {
            if followed == MAX_EXTENSION_HEADERS {
                return Ok(None);
            }
            let extension: [u8; 2] = packet.load(l4)?;
            protocol = extension[0];
            // RFC 8200 §4: length in units of 8 bytes, not counting the first 8.
            l4 += (usize::from(extension[1]) + 1) * 8;
            followed += 1;
        }
        Ok(Some(Located {
            source: take(&header, V6::SOURCE_OFFSET),
            destination: take(&header, V6::DESTINATION_OFFSET),
            protocol,
            l4,
        }))
    }
}

/// Hop-by-hop options, routing and destination options: the extension headers that may stand before a
/// transport header and have a length (RFC 8200 §4.1). Not the fragment header: fragments are nobody's.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    protocol == IpProto::HopOpt as u8 || protocol == IpProto::Ipv6Route as u8 || protocol == IpProto::Ipv6Opts as u8
}

/// Reads the headers of the packet whose IP header is at `l3`; `None` if no Service could be meant.
///
/// # Errors
/// [`Truncated`] if the packet ends within a header.
#[inline(always)]
pub fn parse<F: ParseFamily, P: Packet>(packet: &P, l3: usize) -> Result<Option<Headers<F>>, Truncated> {
    let Some(Located { source, destination, protocol, l4 }) = F::locate(packet, l3)? else { return Ok(None) };
    let (protocol, ports, tcp, acknowledges) = match Protocol::from_number(protocol) {
        Some(Protocol::Tcp) => {
            const _: () = assert!(TCP_FLAGS_END <= TcpHdr::LEN);
            let header: [u8; TCP_FLAGS_END] = packet.load(l4)?;
            let flags = header[TCP_FLAGS_END - 1];
            (Protocol::Tcp, take::<4>(&header, 0), tcp_state(flags), flags & tcp_flag::ACK != 0)
        }
        Some(Protocol::Udp) => {
            let header: [u8; UdpHdr::LEN] = packet.load(l4)?;
            (Protocol::Udp, take::<4>(&header, 0), TcpState::NONE, false)
        }
        Some(Protocol::Sctp) => {
            let header: [u8; SCTP_HEADER + SCTP_CHUNK_HEADER] = packet.load(l4)?;
            (Protocol::Sctp, take::<4>(&header, 0), sctp_state(header[SCTP_HEADER]), false)
        }
        None => return Ok(None),
    };
    Ok(Some(Headers {
        l3,
        l4,
        protocol,
        source: (source, Port::from_wire(take(&ports, SOURCE_PORT))),
        destination: (destination, Port::from_wire(take(&ports, DESTINATION_PORT))),
        tcp,
        acknowledges,
    }))
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
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN: u8 = 7;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
    pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What the first chunk of an SCTP packet does, in the terms of TCP. INIT and SHUTDOWN COMPLETE are always alone (RFC 9260
/// §6.10).
#[inline(always)]
const fn sctp_state(chunk: u8) -> TcpState {
    match chunk {
        sctp_chunk::INIT => TcpState::SYN,
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
    /// Whether this packet may begin a connection: any UDP datagram, a TCP SYN without ACK, and an SCTP INIT.
    #[inline(always)]
    #[must_use]
    pub fn may_begin_connection(&self) -> bool {
        match self.protocol {
            Protocol::Tcp | Protocol::Sctp => self.tcp.contains(TcpState::SYN) && !self.acknowledges,
            Protocol::Udp => true,
        }
    }

    /// Bytes from the transport header to the end of the packet as the IP header states it: a short frame is padded.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be read, or states no sensible length.
    #[inline(always)]
    pub fn transport_len<P: Packet>(&self, packet: &P) -> Result<usize, Truncated> {
        // IPv4: total length at 2; IPv6: payload length at 4 (RFC 791 §3.1, RFC 8200 §3).
        let (offset, uncounted) = if F::HEADER_CHECKSUM_OFFSET.is_some() { (2, 0) } else { (4, F::HEADER_LEN) };
        let len: [u8; 2] = packet.load(self.l3 + offset)?;
        (usize::from(u16::from_be_bytes(len)) + uncounted).checked_sub(self.l4 - self.l3).ok_or(Truncated)
    }
}
