//! The one file that changes addresses and ports of a packet, and owns the order of checksums.
//!
//! The transport checksum covers a pseudo header with the addresses, and the transport header with the
//! ports. Each change is reported to [`Packet::adjust_transport_checksum`] for itself, because an skb
//! whose checksum is still to be completed (`CHECKSUM_PARTIAL`) holds the pseudo header's sum alone: there
//! only the change of address counts. IPv4's header checksum covers the addresses too. SCTP's checksum covers ports and payload
//! alone, and in a packet whose checksum is still to be completed it is zero.

use proxy_common::{Family as _, Port, Protocol};

use crate::{
    checksum::{adjusted, difference},
    crc32c,
    headers::{
        DESTINATION_PORT, Headers, ICMP_CHECKSUM, Located, ParseFamily, Piece, Quoted, SCTP_CHECKSUM, SOURCE_PORT,
        TCP_CHECKSUM, UDP_CHECKSUM, V4_REST, payload_len,
    },
    packet::{Change, Packet, Truncated, ZeroChecksum},
};

/// Gives the packet another destination (DNAT).
///
/// # Errors
/// [`Truncated`] if the packet cannot be written; it may then be half written and must be dropped.
#[inline(always)]
pub fn destination<F: WriteFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    to: (F::Address, Port),
) -> Result<(), Truncated> {
    end::<F, P>(packet, headers, End::Destination, to)
}

/// Gives the packet another source (reverse NAT).
///
/// # Errors
/// As [`destination`].
#[inline(always)]
pub fn source<F: WriteFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    to: (F::Address, Port),
) -> Result<(), Truncated> {
    end::<F, P>(packet, headers, End::Source, to)
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its source.
    Source,
    /// Its destination.
    Destination,
}

/// Gives an end of the packet another port and leaves its address.
///
/// # Errors
/// As [`destination`].
#[inline(always)]
pub fn port<F: WriteFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    end: End,
    to: Port,
) -> Result<(), Truncated> {
    let (from, port_offset) = match end {
        End::Source => (headers.source().1, SOURCE_PORT),
        End::Destination => (headers.destination().1, DESTINATION_PORT),
    };
    let wire = to.to_wire();
    let (checksum, zero) = match headers.protocol {
        Protocol::Tcp => (headers.l4 + TCP_CHECKSUM, ZeroChecksum::Value),
        Protocol::Udp => (headers.l4 + UDP_CHECKSUM, ZeroChecksum::Absent),
        Protocol::Sctp => {
            if headers.part.piece != Piece::Whole {
                return Err(Truncated);
            }
            adjust_crc(packet, headers, from, to, port_offset)?;
            return packet.store_summed(headers.l4 + port_offset, &wire);
        }
    };
    let ports = difference(&from.to_wire(), &wire);
    packet.adjust_transport_checksum(checksum, ports, Change::Segment, zero)?;
    packet.store(headers.l4 + port_offset, &wire)
}

/// Gives a fragment without a transport header another address.
///
/// # Errors
/// As [`destination`].
#[inline(always)]
pub fn fragment<F: WriteFamily, P: Packet>(
    packet: &mut P,
    located: &Located<F::Address>,
    end: End,
    to: F::Address,
) -> Result<(), Truncated> {
    let (from, offset) = match end {
        End::Source => (located.source, F::SOURCE_OFFSET),
        End::Destination => (located.destination, F::DESTINATION_OFFSET),
    };
    if let Some(header) = F::HEADER_CHECKSUM_OFFSET {
        packet.adjust_header_checksum(located.l3 + header, difference(from.as_ref(), to.as_ref()))?;
    }
    F::store_address(packet, located.l3 + offset, to)
}

/// Gives a packet that an ICMP error quotes another end, and the error itself the same address at its other end. The quoted
/// packet's other end gets the port `peer`, if there is one.
///
/// The quoted packet's checksums are adjusted as far as they are quoted, so that one that was right still is.
///
/// # Errors
/// As [`destination`].
#[inline(always)]
pub fn error<F: WriteFamily, P: Packet>(
    packet: &mut P,
    outer: &Located<F::Address>,
    inner: &Quoted<F>,
    end: End,
    to: (F::Address, Port),
    peer: Option<Port>,
) -> Result<(), Truncated> {
    let change = quotation(packet, inner, end, to, peer)?;
    let checksum = outer.l4 + ICMP_CHECKSUM;
    packet.adjust_transport_checksum(checksum, change, Change::Segment, ZeroChecksum::Value)?;
    let (from, offset) = match end {
        End::Source => (outer.destination, F::DESTINATION_OFFSET),
        End::Destination => (outer.source, F::SOURCE_OFFSET),
    };
    let addresses = difference(from.as_ref(), to.0.as_ref());
    if F::ICMP_HAS_PSEUDO_HEADER {
        packet.adjust_transport_checksum(checksum, addresses, Change::PseudoHeader, ZeroChecksum::Value)?;
    }
    if let Some(header) = F::HEADER_CHECKSUM_OFFSET {
        packet.adjust_header_checksum(outer.l3 + header, addresses)?;
    }
    F::store_address(packet, outer.l3 + offset, to.0)
}

/// Rewrites the quoted packet and returns what has to be taken into the checksum of the error.
#[inline(always)]
fn quotation<F: WriteFamily, P: Packet>(
    packet: &mut P,
    inner: &Quoted<F>,
    end: End,
    to: (F::Address, Port),
    peer: Option<Port>,
) -> Result<u32, Truncated> {
    let (from, address_offset) = match end {
        End::Source => (inner.source, F::SOURCE_OFFSET),
        End::Destination => (inner.destination, F::DESTINATION_OFFSET),
    };
    let addresses = difference(from.0.as_ref(), to.0.as_ref());
    let mut change = addresses;
    if let Some(header) = F::HEADER_CHECKSUM_OFFSET {
        change += adjust_quoted(packet, inner.l3 + header, addresses, ZeroChecksum::Value)?;
    }
    F::store_compensated(packet, inner.l3 + address_offset, to.0)?;

    let before = both(inner.source.1, inner.destination.1);
    let after = match end {
        End::Source => both(to.1, peer.unwrap_or(inner.destination.1)),
        End::Destination => both(peer.unwrap_or(inner.source.1), to.1),
    };
    let ports = difference(&before, &after);
    packet.store(inner.l4 + SOURCE_PORT, &after)?;
    change += ports;
    match inner.protocol {
        Protocol::Tcp if inner.len >= TCP_CHECKSUM + 2 => {
            change += adjust_quoted(packet, inner.l4 + TCP_CHECKSUM, addresses + ports, ZeroChecksum::Value)?;
        }
        Protocol::Udp if inner.len >= UDP_CHECKSUM + 2 => {
            change += adjust_quoted(packet, inner.l4 + UDP_CHECKSUM, addresses + ports, ZeroChecksum::Absent)?;
        }
        // The rest of a datagram in fragments is not known, and its CRC covers that too.
        Protocol::Sctp if inner.piece == Piece::Whole && inner.len >= SCTP_CHECKSUM + 4 && before != after => {
            let offset = inner.l4 + SCTP_CHECKSUM;
            let crc: [u8; 4] = packet.load(offset)?;
            let len = payload_len::<F, P>(packet, inner.l3, inner.l4)?;
            let adjusted = crc_after(crc, before, after, len)?;
            packet.store(offset, &adjusted)?;
            change += difference(&crc, &adjusted);
        }
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {}
    }
    Ok(change)
}

/// Adjusts a checksum in a quoted packet, and returns by how much that changes what contains it.
#[inline(always)]
fn adjust_quoted<P: Packet>(
    packet: &mut P,
    offset: usize,
    difference_of_data: u32,
    zero: ZeroChecksum,
) -> Result<u32, Truncated> {
    let before: [u8; 2] = packet.load(offset)?;
    if zero == ZeroChecksum::Absent && before == [0, 0] {
        return Ok(0);
    }
    let after = match (adjusted(before, difference_of_data), zero) {
        ([0, 0], ZeroChecksum::Absent) => [0xff, 0xff],
        (after, _) => after,
    };
    packet.store(offset, &after)?;
    Ok(difference(&before, &after))
}

/// An IP version whose addresses this module can write.
pub trait WriteFamily: ParseFamily {
    /// Writes an address into the IP header.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be written.
    fn store_address<P: Packet>(packet: &mut P, offset: usize, address: Self::Address) -> Result<(), Truncated>;

    /// Writes an address into a part of the packet where a checksum that covers it is adjusted too, so that the sum over
    /// the packet stays the same.
    ///
    /// # Errors
    /// As [`Self::store_address`].
    fn store_compensated<P: Packet>(packet: &mut P, offset: usize, address: Self::Address) -> Result<(), Truncated>;

    /// Writes an end of a TCP segment or UDP datagram whose transport checksum has been adjusted, and IPv4's header checksum;
    /// `addresses` is by how much its sum changes. In as few calls as can be: each costs as much as a third of a lookup.
    ///
    /// # Errors
    /// As [`Self::store_address`].
    fn store_end<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        end: End,
        to: (Self::Address, Port),
        addresses: u32,
    ) -> Result<(), Truncated>;
}

impl WriteFamily for proxy_common::V4 {
    #[inline(always)]
    fn store_address<P: Packet>(packet: &mut P, offset: usize, address: [u8; 4]) -> Result<(), Truncated> {
        // The header checksum makes up for the address.
        Self::store_compensated(packet, offset, address)
    }

    #[inline(always)]
    fn store_compensated<P: Packet>(packet: &mut P, offset: usize, address: [u8; 4]) -> Result<(), Truncated> {
        packet.store(offset, &address)
    }

    #[inline(always)]
    fn store_end<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        end: End,
        to: ([u8; 4], Port),
        addresses: u32,
    ) -> Result<(), Truncated> {
        let (source, destination) = match end {
            End::Source => (to, headers.destination()),
            End::Destination => (headers.source(), to),
        };
        let [ttl, protocol, sum @ ..] = headers.rest;
        let [high, low] = adjusted(sum, addresses);
        let words = [[ttl, protocol, high, low], source.0, destination.0, both(source.1, destination.1)];
        let [first, second, third, ports] = words.map(u32::from_ne_bytes);
        let offset = headers.l3 + V4_REST;
        if headers.l4 == headers.l3 + Self::HEADER_LEN {
            return packet.store_words(offset, &[first, second, third, ports]);
        }
        packet.store_words(offset, &[first, second, third])?;
        packet.store_words(headers.l4 + SOURCE_PORT, &[ports])
    }
}

impl WriteFamily for proxy_common::V6 {
    #[inline(always)]
    fn store_address<P: Packet>(packet: &mut P, offset: usize, address: [u8; 16]) -> Result<(), Truncated> {
        // The helper that adjusted the transport checksum has taken the pseudo header's change into
        // the device's sum over the packet, as is right for IPv4 (kernel commit ead7f9b8de65). Here no header
        // checksum makes up for it; storing the address summed does.
        packet.store_summed(offset, &address)
    }

    #[inline(always)]
    fn store_compensated<P: Packet>(packet: &mut P, offset: usize, address: [u8; 16]) -> Result<(), Truncated> {
        packet.store(offset, &address)
    }

    #[inline(always)]
    fn store_end<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        end: End,
        to: ([u8; 16], Port),
        _addresses: u32,
    ) -> Result<(), Truncated> {
        let (from, address_offset, port_offset) = match end {
            End::Source => (headers.source(), Self::SOURCE_OFFSET, SOURCE_PORT),
            End::Destination => (headers.destination(), Self::DESTINATION_OFFSET, DESTINATION_PORT),
        };
        if from.1 != to.1 {
            packet.store(headers.l4 + port_offset, &to.1.to_wire())?;
        }
        Self::store_address(packet, headers.l3 + address_offset, to.0)
    }
}

#[inline(always)]
fn end<F: WriteFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    end: End,
    to: (F::Address, Port),
) -> Result<(), Truncated> {
    let (from, address_offset, port_offset) = match end {
        End::Source => (headers.source(), F::SOURCE_OFFSET, SOURCE_PORT),
        End::Destination => (headers.destination(), F::DESTINATION_OFFSET, DESTINATION_PORT),
    };
    let addresses = difference(from.0.as_ref(), to.0.as_ref());
    match headers.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let (checksum, zero) = match headers.protocol {
                Protocol::Udp => (headers.l4 + UDP_CHECKSUM, ZeroChecksum::Absent),
                Protocol::Tcp | Protocol::Sctp => (headers.l4 + TCP_CHECKSUM, ZeroChecksum::Value),
            };
            packet.adjust_transport_checksum(checksum, addresses, Change::PseudoHeader, zero)?;
            if from.1 != to.1 {
                let ports = difference(&from.1.to_wire(), &to.1.to_wire());
                packet.adjust_transport_checksum(checksum, ports, Change::Segment, zero)?;
            }
            return F::store_end(packet, headers, end, to, addresses);
        }
        // The CRC covers the other fragments too, whose length nobody knows yet.
        Protocol::Sctp if from.1 != to.1 && headers.part.piece != Piece::Whole => return Err(Truncated),
        Protocol::Sctp if from.1 != to.1 => {
            adjust_crc(packet, headers, from.1, to.1, port_offset)?;
            // No field makes up for the port in a device's sum over the packet.
            packet.store_summed(headers.l4 + port_offset, &to.1.to_wire())?;
        }
        Protocol::Sctp => {}
    }
    if let Some(offset) = F::HEADER_CHECKSUM_OFFSET {
        packet.adjust_header_checksum(headers.l3 + offset, addresses)?;
    }
    F::store_address(packet, headers.l3 + address_offset, to.0)
}

/// Takes the change of a port into an SCTP packet's CRC, unless the CRC is still to be completed.
#[inline(always)]
fn adjust_crc<F: WriteFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    from: Port,
    to: Port,
    port_offset: usize,
) -> Result<(), Truncated> {
    let offset = headers.l4 + SCTP_CHECKSUM;
    let field: [u8; 4] = packet.load(offset)?;
    // Asking for the state of the checksum writes; only in one packet of 2^32 it is not to be completed and zero.
    if field == [0; 4] {
        let is_pending = packet.checksum_is_pending(offset)?;
        packet.store(offset, &field)?;
        if is_pending {
            return Ok(());
        }
    }
    // The other port drops out of the difference.
    let (from, to) = match port_offset {
        SOURCE_PORT => (both(from, Port::default()), both(to, Port::default())),
        _ => (both(Port::default(), from), both(Port::default(), to)),
    };
    let after = crc_after(field, from, to, headers.transport_len(packet)?)?;
    packet.store_summed(offset, &after)
}

/// The CRC of a packet of `len` bytes after a change of its first four, the ports.
#[inline(always)]
fn crc_after(crc: [u8; 4], before: [u8; 4], after: [u8; 4], len: usize) -> Result<[u8; 4], Truncated> {
    let ports = u32::from_le_bytes(before) ^ u32::from_le_bytes(after);
    let len = u32::try_from(len).map_err(|_| Truncated)?;
    Ok((u32::from_le_bytes(crc) ^ crc32c::change(ports, len)).to_le_bytes())
}

/// The ports as they begin a transport header.
#[inline(always)]
const fn both(source: Port, destination: Port) -> [u8; 4] {
    const _: () = assert!(SOURCE_PORT == 0 && DESTINATION_PORT == 2);
    let ([a, b], [c, d]) = (source.to_wire(), destination.to_wire());
    [a, b, c, d]
}
