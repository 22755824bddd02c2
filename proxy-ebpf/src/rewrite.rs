//! The one file that changes addresses and ports of a packet, and owns the order of checksums.
//!
//! The transport checksum covers a pseudo header with the addresses, and the transport header with the
//! ports. Each change is reported to [`Packet::adjust_transport_checksum`] for itself, because an skb
//! whose checksum is still to be completed (`CHECKSUM_PARTIAL`) holds the pseudo header's sum alone: there
//! only the change of address counts. IPv4's header checksum covers the addresses too. SCTP's checksum covers ports and payload
//! alone, and in a packet whose checksum is still to be completed it is zero.

use proxy_common::{Family, Port, Protocol};

use crate::{
    checksum::difference,
    crc32c,
    headers::{DESTINATION_PORT, Headers, SCTP_CHECKSUM, SOURCE_PORT, TCP_CHECKSUM, UDP_CHECKSUM},
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
    end::<F, P>(packet, headers, headers.destination, to, F::DESTINATION_OFFSET, DESTINATION_PORT)
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
    end::<F, P>(packet, headers, headers.source, to, F::SOURCE_OFFSET, SOURCE_PORT)
}

/// An IP version whose addresses this module can write.
pub trait WriteFamily: Family {
    /// Writes an address into the IP header.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be written.
    fn store_address<P: Packet>(packet: &mut P, offset: usize, address: Self::Address) -> Result<(), Truncated>;
}

impl WriteFamily for proxy_common::V4 {
    #[inline(always)]
    fn store_address<P: Packet>(packet: &mut P, offset: usize, address: [u8; 4]) -> Result<(), Truncated> {
        // The header checksum makes up for the address, so the sum over the packet stays the same.
        packet.store(offset, &address)
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
}

#[inline(always)]
fn end<F: WriteFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    from: (F::Address, Port),
    to: (F::Address, Port),
    address_offset: usize,
    port_offset: usize,
) -> Result<(), Truncated> {
    let addresses = difference(from.0.as_ref(), to.0.as_ref());
    let port = to.1.to_wire();
    match headers.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let (checksum, zero) = match headers.protocol {
                Protocol::Udp => (headers.l4 + UDP_CHECKSUM, ZeroChecksum::Absent),
                Protocol::Tcp | Protocol::Sctp => (headers.l4 + TCP_CHECKSUM, ZeroChecksum::Value),
            };
            packet.adjust_transport_checksum(checksum, addresses, Change::PseudoHeader, zero)?;
            if from.1 != to.1 {
                let ports = difference(&from.1.to_wire(), &port);
                packet.adjust_transport_checksum(checksum, ports, Change::Segment, zero)?;
                packet.store(headers.l4 + port_offset, &port)?;
            }
        }
        Protocol::Sctp if from.1 != to.1 => {
            adjust_crc(packet, headers, from.1, to.1, port_offset)?;
            // No field makes up for the port in a device's sum over the packet.
            packet.store_summed(headers.l4 + port_offset, &port)?;
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
    // Both ports are in the first four bytes.
    let ports = u32::from(u16::from_le_bytes(from.to_wire()) ^ u16::from_le_bytes(to.to_wire())) << (port_offset * 8);
    let len = u32::try_from(headers.transport_len(packet)?).map_err(|_| Truncated)?;
    let crc = u32::from_le_bytes(field) ^ crc32c::change(ports, len);
    packet.store_summed(offset, &crc.to_le_bytes())
}
