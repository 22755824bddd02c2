//! Telling a client that its Service has no endpoint: the packet is turned into a TCP RST, an SCTP ABORT or an
//! ICMP/ICMPv6 "port unreachable" to its sender, from the address it was sent to.
//!
//! The answer takes the place of the packet: link and network addresses are exchanged, the transport
//! part is written anew, the rest is cut off. Packets with IPv4 options or IPv6 extension headers
//! are not answered (an ICMP error must quote the whole header). Nor are packets that were not sent to one
//! machine by one machine: a broadcast would otherwise be answered by every node (RFC 1122 §3.2.2 and §4.2.3.10,
//! RFC 4443 §2.4 (e)).

use network_types::tcp::TcpHdr;
use proxy_common::{Family, Protocol, V4, V6};

use crate::{
    bytes::{put, take},
    checksum::{finish, fold, sum},
    crc32c,
    headers::{
        Headers, ICMP_HEADER, ParseFamily, Piece, SCTP_CHECKSUM, SCTP_CHUNK_HEADER, SCTP_HEADER, TCP_CHECKSUM,
        sctp_chunk, tcp_flag,
    },
    packet::{Packet, Truncated},
};

/// Length of a MAC address; a link-layer header of other length than [`ETHERNET`] has none to exchange.
const MAC: usize = 6;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of the refused packet that an ICMP error quotes behind its IP header (RFC 792; RFC 4443 asks
/// for more where possible, and accepts this).
const QUOTED: usize = 8;
/// Hop limit of answers.
const HOP_LIMIT: u8 = 64;
/// Offset of the two unused bytes in an ICMP "unreachable" header that take a pending checksum, see
/// [`icmp_header`].
const ICMP_UNUSED: usize = 6;

/// How many ICMP errors a CPU has answered with lately. They are limited (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)): whoever invents
/// senders would have the node tell as many others. Answers of TCP and SCTP are not, as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorRate {
    second: u32,
    sent: u32,
}

impl ErrorRate {
    /// Errors in a second, at most.
    pub const LIMIT: u32 = 1_000;

    /// Whether one more may be sent in this second (of any clock).
    #[inline(always)]
    #[must_use]
    pub const fn admit(&mut self, second: u32) -> bool {
        if self.second != second {
            self.second = second;
            self.sent = 0;
        }
        if self.sent >= Self::LIMIT {
            return false;
        }
        self.sent += 1;
        true
    }
}

/// An IP version in which answers can be written.
pub trait AnswerFamily: ParseFamily {
    /// Type and code of "port unreachable" (RFC 792; RFC 4443 §3.1).
    const PORT_UNREACHABLE: [u8; 2];

    /// Whether the address may be one host's, and that host may be answered over a device.
    fn is_host(address: Self::Address) -> bool;

    /// Sum of the pseudo header of an ICMP message, 0 where there is none.
    fn icmp_pseudo_sum(source: Self::Address, destination: Self::Address, len: usize) -> u32;

    /// Turns the IP header at `l3` into the header of the answer with `payload` bytes of `protocol`.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be read or written.
    fn write_header<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        protocol: u8,
        payload: usize,
    ) -> Result<(), Truncated>;

    /// Writes the ICMP error behind the answer's IP header. The refused packet's headers are still in
    /// place when this is called; the packet is resized here.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be read or written.
    fn write_unreachable<P: Packet>(packet: &mut P, headers: &Headers<Self>) -> Result<(), Truncated>;
}

/// Turns the packet into a refusal to its sender.
///
/// # Errors
/// [`Truncated`] if that is not possible or not allowed; the packet must then be dropped.
#[inline(always)]
pub fn refuse<F: AnswerFamily, P: Packet>(packet: &mut P, headers: &Headers<F>) -> Result<(), Truncated> {
    // What answers a segment says how long it was, which the first fragment does not tell.
    let is_fragment = headers.part.piece != Piece::Whole && headers.protocol != Protocol::Udp;
    if is_fragment
        || headers.l4 != headers.l3 + F::HEADER_LEN
        || !F::is_host(headers.source().0)
        || is_to_group(packet, headers.l3)?
    {
        return Err(Truncated);
    }
    match headers.protocol {
        Protocol::Tcp => reset(packet, headers)?,
        Protocol::Sctp => abort(packet, headers)?,
        Protocol::Udp => F::write_unreachable(packet, headers)?,
    }
    exchange_link_addresses(packet, headers.l3)
}

/// A RST that acknowledges the refused SYN (RFC 9293 §3.10.7.1: no ACK in, so sequence number 0 out).
#[inline(always)]
fn reset<F: AnswerFamily, P: Packet>(packet: &mut P, headers: &Headers<F>) -> Result<(), Truncated> {
    let refused: [u8; 14] = packet.load(headers.l4)?;
    let data_offset = usize::from(refused[12] >> 4) * 4;
    let data = headers.transport_len(packet)?.checked_sub(data_offset).ok_or(Truncated)?;
    // A SYN takes one sequence number, so does each byte of data it carries.
    #[expect(clippy::cast_possible_truncation, reason = "a segment's length fits 16 bits")]
    let acknowledged = u32::from_be_bytes(take(&refused, 4)).wrapping_add(1).wrapping_add(data as u32);

    let mut header = [0; TcpHdr::LEN];
    put(&mut header, 0, &headers.destination().1.to_wire());
    put(&mut header, 2, &headers.source().1.to_wire());
    put(&mut header, 8, &acknowledged.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = tcp_flag::RST | tcp_flag::ACK;
    let pseudo = pseudo_sum::<F>(headers.destination().0, headers.source().0, Protocol::Tcp.number(), TcpHdr::LEN);

    let pending = packet.checksum_is_pending(headers.l4 + TCP_CHECKSUM)?;
    packet.resize(headers.l4 + TcpHdr::LEN)?;
    let checksum = if pending { fold(pseudo).to_ne_bytes() } else { finish(pseudo + sum(&header)) };
    put(&mut header, TCP_CHECKSUM, &checksum);
    F::write_header(packet, headers, Protocol::Tcp.number(), TcpHdr::LEN)?;
    packet.store_summed(headers.l4, &header)
}

/// An ABORT with the Initiate Tag of the refused INIT (RFC 9260 §8.4).
#[inline(always)]
fn abort<F: AnswerFamily, P: Packet>(packet: &mut P, headers: &Headers<F>) -> Result<(), Truncated> {
    const LEN: usize = SCTP_HEADER + SCTP_CHUNK_HEADER;
    let tag: [u8; 4] = packet.load(headers.l4 + LEN)?;

    let mut answer = [0; LEN];
    put(&mut answer, 0, &headers.destination().1.to_wire());
    put(&mut answer, 2, &headers.source().1.to_wire());
    put(&mut answer, 4, &tag);
    put(&mut answer, SCTP_HEADER, &[sctp_chunk::ABORT]);
    put(&mut answer, SCTP_HEADER + 2, &wire_len(SCTP_CHUNK_HEADER));

    let pending = packet.checksum_is_pending(headers.l4 + SCTP_CHECKSUM)?;
    packet.resize(headers.l4 + LEN)?;
    if !pending {
        let crc = crc32c::of(&answer);
        put(&mut answer, SCTP_CHECKSUM, &crc);
    }
    F::write_header(packet, headers, Protocol::Sctp.number(), LEN)?;
    packet.store_summed(headers.l4, &answer)
}

impl AnswerFamily for V4 {
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];

    /// Not "this network" or loopback, and neither multicast, reserved nor broadcast (RFC 6890, RFC 1112 §4).
    #[inline(always)]
    fn is_host(address: [u8; 4]) -> bool {
        let network = address[0];
        network != 0 && network != 127 && network < 224
    }

    #[inline(always)]
    fn icmp_pseudo_sum(_: [u8; 4], _: [u8; 4], _: usize) -> u32 {
        0
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        protocol: u8,
        payload: usize,
    ) -> Result<(), Truncated> {
        let mut header = [0; Self::HEADER_LEN];
        header[0] = 0x45;
        put(&mut header, 2, &wire_len(Self::HEADER_LEN + payload));
        // Don't fragment: the answer is smaller than any MTU, and needs no identification (RFC 6864).
        header[6] = 0x40;
        header[8] = HOP_LIMIT;
        header[9] = protocol;
        put(&mut header, Self::SOURCE_OFFSET, &headers.destination().0);
        put(&mut header, Self::DESTINATION_OFFSET, &headers.source().0);
        let checksum = finish(sum(&header));
        put(&mut header, 10, &checksum);
        packet.store_summed(headers.l3, &header)
    }

    #[inline(always)]
    fn write_unreachable<P: Packet>(packet: &mut P, headers: &Headers<Self>) -> Result<(), Truncated> {
        unreachable::<Self, P, { Self::HEADER_LEN + QUOTED }>(packet, headers)
    }
}

impl AnswerFamily for V6 {
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];

    /// Neither multicast, unspecified nor loopback (RFC 4291 §2.4).
    #[inline(always)]
    fn is_host(address: [u8; 16]) -> bool {
        address[0] != 0xff && u128::from_be_bytes(address) > 1
    }

    #[inline(always)]
    fn icmp_pseudo_sum(source: [u8; 16], destination: [u8; 16], len: usize) -> u32 {
        pseudo_sum::<Self>(source, destination, Self::ICMP_PROTOCOL, len)
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        protocol: u8,
        payload: usize,
    ) -> Result<(), Truncated> {
        let mut header = [0; Self::HEADER_LEN];
        header[0] = 0x60;
        put(&mut header, 4, &wire_len(payload));
        header[6] = protocol;
        header[7] = HOP_LIMIT;
        put(&mut header, Self::SOURCE_OFFSET, &headers.destination().0);
        put(&mut header, Self::DESTINATION_OFFSET, &headers.source().0);
        packet.store_summed(headers.l3, &header)
    }

    #[inline(always)]
    fn write_unreachable<P: Packet>(packet: &mut P, headers: &Headers<Self>) -> Result<(), Truncated> {
        unreachable::<Self, P, { Self::HEADER_LEN + QUOTED }>(packet, headers)
    }
}

/// `N` is the length of the quotation: the refused packet's IP header and 8 bytes.
#[inline(always)]
fn unreachable<F: AnswerFamily, P: Packet, const N: usize>(
    packet: &mut P,
    headers: &Headers<F>,
) -> Result<(), Truncated> {
    let quoted: [u8; N] = packet.load(headers.l3)?;
    let pseudo = F::icmp_pseudo_sum(headers.destination().0, headers.source().0, ICMP_HEADER + N);
    let pending = packet.checksum_is_pending(headers.l4 + ICMP_UNUSED)?;
    let header = icmp_header::<F>(pseudo, &quoted, pending);
    packet.resize(headers.l4 + ICMP_HEADER + N)?;
    F::write_header(packet, headers, F::ICMP_PROTOCOL, ICMP_HEADER + N)?;
    packet.store_summed(headers.l4, &header)?;
    packet.store_summed(headers.l4 + ICMP_HEADER, &quoted)
}

/// The header of the error. If the refused UDP packet's checksum is still pending, a later stage will sum
/// everything from the transport header on and store the complement where UDP's checksum was. In the
/// ICMP header two unused bytes lie there, so seeding them with the pseudo header makes the
/// message's sum right without a checksum in the usual place.
#[inline(always)]
fn icmp_header<F: AnswerFamily>(pseudo: u32, quoted: &[u8], pending: bool) -> [u8; ICMP_HEADER] {
    let mut header = [0; ICMP_HEADER];
    put(&mut header, 0, &F::PORT_UNREACHABLE);
    if pending {
        put(&mut header, ICMP_UNUSED, &fold(pseudo).to_ne_bytes());
    } else {
        let checksum = finish(pseudo + sum(&header) + sum(quoted));
        put(&mut header, 2, &checksum);
    }
    header
}

/// Sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1); the two families' sum the same for lengths of 16 bits.
#[inline(always)]
fn pseudo_sum<F: Family>(source: F::Address, destination: F::Address, protocol: u8, len: usize) -> u32 {
    sum(source.as_ref()) + sum(destination.as_ref()) + sum(&[0, protocol]) + sum(&wire_len(len))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "answers are shorter than 100 bytes")]
const fn wire_len(len: usize) -> [u8; 2] {
    (len as u16).to_be_bytes()
}

/// Whether the frame was sent to a group of machines: the lowest bit of the first byte on the wire (IEEE 802 §8.2).
#[inline(always)]
fn is_to_group<P: Packet>(packet: &P, l3: usize) -> Result<bool, Truncated> {
    if l3 != ETHERNET {
        return Ok(false);
    }
    let [first]: [u8; 1] = packet.load(0)?;
    Ok(first & 1 != 0)
}

#[inline(always)]
fn exchange_link_addresses<P: Packet>(packet: &mut P, l3: usize) -> Result<(), Truncated> {
    if l3 != ETHERNET {
        return Ok(());
    }
    let [to, from]: [[u8; MAC]; 2] = [packet.load(0)?, packet.load(MAC)?];
    packet.store(0, &from)?;
    packet.store(MAC, &to)
}
