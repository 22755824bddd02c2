//! The frame as the pipeline sees it.

use proxy_common::Port;

/// The packet has fewer bytes than an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// Bytes of the longest header that [`Packet::read_header`] reads.
pub const HEADER_MAX: usize = 40;

/// A frame in a device's hook. Offsets count bytes from the start of the frame, which is the link
/// layer's header or, on devices without one, the IP header.
pub trait Packet {
    /// Bytes of the frame.
    fn size(&self) -> usize;

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// [`Truncated`] if the frame ends before.
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated>;

    /// What `reader` makes of `N` bytes, at most [`HEADER_MAX`]. For headers that each packet has: it is the fastest way to read
    /// them, and takes the most instructions.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn read_header<const N: usize, R>(
        &self,
        offset: usize,
        reader: impl FnOnce(&[u8; N]) -> R,
    ) -> Result<R, Truncated> {
        self.load(offset).map(|bytes| reader(&bytes))
    }

    /// Writes bytes as they are. Checksums are the caller's affair.
    ///
    /// # Errors
    /// [`Truncated`] if the frame ends before, or cannot be made writable.
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated>;

    /// Writes words of four bytes each, as they lie in memory, like [`Self::store`].
    ///
    /// # Errors
    /// As [`Self::store`].
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[u32; N]) -> Result<(), Truncated>;

    /// Writes bytes of the IP layer or above, and keeps a checksum that the device computed over the
    /// whole packet (`CHECKSUM_COMPLETE`) in step.
    ///
    /// # Errors
    /// As [`Self::store`].
    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated>;

    /// Adds `difference` (see [`checksum`](crate::checksum)) to the IPv4 header checksum at `offset`.
    ///
    /// # Errors
    /// As [`Self::store`].
    fn adjust_header_checksum(&mut self, offset: usize, difference: u32) -> Result<(), Truncated>;

    /// Adds `difference` to the transport checksum at `offset`.
    ///
    /// # Errors
    /// As [`Self::store`].
    fn adjust_transport_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        change: Change,
        zero: ZeroChecksum,
    ) -> Result<(), Truncated>;

    /// Whether a later stage will complete the transport checksum (`CHECKSUM_PARTIAL`). Two bytes at
    /// `scratch` may be overwritten in finding out.
    ///
    /// # Errors
    /// As [`Self::store`].
    fn checksum_is_pending(&mut self, scratch: usize) -> Result<bool, Truncated>;

    /// Cuts or extends the frame to `len` bytes.
    ///
    /// # Errors
    /// [`Truncated`] if that is not possible.
    fn resize(&mut self, len: usize) -> Result<(), Truncated>;

    /// The packet's mark.
    fn mark(&self) -> u32;

    /// Replaces the packet's mark.
    fn set_mark(&mut self, mark: u32);

    /// Index of the device on whose hook the packet is.
    fn device(&self) -> u32;

    /// Whether the packet came by Ethernet, addressed to this device and without a VLAN tag, and a program can send it on.
    fn can_be_sent_on(&self) -> bool;

    /// Payload bytes of each of the segments that the packet will be cut into (GSO); `None` if it will not be.
    fn segment_size(&self) -> Option<u16>;

    /// Where a router leads.
    type Way: Copy;

    /// Where routing leads a packet that is on such a journey from this device; `None` if a router would not send it on there and
    /// now, in one piece.
    fn way(&self, journey: &Journey) -> Option<Self::Way>;

    /// Sends the packet there when the program ends, with the link layer's header that belongs there.
    fn send_on(&mut self, way: &Self::Way);
}

/// What a router goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// 4 or 6.
    pub version: u8,
    /// Number of the transport protocol.
    pub protocol: u8,
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// Length in bytes from the IP header on, of each segment if the packet will be cut into some.
    pub length: u16,
    /// IPv4: type of service and three zeros. IPv6: traffic class and flow label, in network order.
    pub class: [u8; 4],
    /// Source address in network order; of IPv4's, the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
}

/// Where the bytes changed that a transport checksum is adjusted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In the transport header or its payload.
    Segment,
    /// In the pseudo header: the IP addresses.
    PseudoHeader,
}

/// What a transport checksum of zero means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroChecksum {
    /// A checksum like any other (TCP).
    Value,
    /// No checksum was computed (UDP, RFC 768): zero stays zero, and a computed zero becomes `0xffff`.
    Absent,
}
