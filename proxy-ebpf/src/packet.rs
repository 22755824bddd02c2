//! The frame as the pipeline sees it.

/// The packet has fewer bytes than an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// A frame in a device's hook. Offsets count bytes from the start of the frame, which is the link
/// layer's header or, on devices without one, the IP header.
pub trait Packet {
    /// Reads `N` bytes.
    ///
    /// # Errors
    /// [`Truncated`] if the frame ends before.
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated>;

    /// Writes bytes as they are. Checksums are the caller's affair.
    ///
    /// # Errors
    /// [`Truncated`] if the frame ends before, or cannot be made writable.
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated>;

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
