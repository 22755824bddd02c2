//! A frame in a byte buffer, with the parts of an skb that the pipeline can tell.

use std::vec::Vec;

use crate::{
    checksum::{adjusted, fold},
    packet::{Change, Journey, Packet, Truncated, ZeroChecksum},
};

/// Who computes the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// It is in the packet.
    Done,
    /// The packet holds the pseudo header's sum, the device adds the rest (`CHECKSUM_PARTIAL`).
    Pending,
}

/// A frame, its mark and its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    bytes: Vec<u8>,
    mark: u32,
    device: u32,
    checksum: ChecksumState,
    road: Option<Journey>,
}

impl HostPacket {
    /// A frame with mark 0 on device 1 whose checksums are done.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, mark: 0, device: 1, checksum: ChecksumState::Done, road: None }
    }

    /// The same frame with this mark.
    #[must_use]
    pub fn with_mark(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// The same frame on this device.
    #[must_use]
    pub fn on_device(mut self, device: u32) -> Self {
        self.device = device;
        self
    }

    /// The same frame with this state of its checksum.
    #[must_use]
    pub fn with_checksum(mut self, checksum: ChecksumState) -> Self {
        self.checksum = checksum;
        self
    }

    /// The same frame where this journey, and no other, leads somewhere.
    #[must_use]
    pub fn with_road(mut self, journey: Journey) -> Self {
        self.road = Some(journey);
        self
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn field(&self, offset: usize) -> Result<[u8; 2], Truncated> {
        self.load(offset)
    }
}

impl Packet for HostPacket {
    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        self.bytes.get(offset..).and_then(<[u8]>::first_chunk).copied().ok_or(Truncated)
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        let place = self.bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut).ok_or(Truncated)?;
        *place = *bytes;
        Ok(())
    }

    fn store_words<const N: usize>(&mut self, offset: usize, words: &[u32; N]) -> Result<(), Truncated> {
        let bytes = words.map(u32::to_ne_bytes);
        let place = self.bytes.get_mut(offset..).and_then(|rest| rest.get_mut(..N * 4)).ok_or(Truncated)?;
        place.copy_from_slice(bytes.as_flattened());
        Ok(())
    }

    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        self.store(offset, bytes)
    }

    fn adjust_header_checksum(&mut self, offset: usize, difference: u32) -> Result<(), Truncated> {
        let field = self.field(offset)?;
        self.store(offset, &adjusted(field, difference))
    }

    fn adjust_transport_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        change: Change,
        zero: ZeroChecksum,
    ) -> Result<(), Truncated> {
        let field = self.field(offset)?;
        if zero == ZeroChecksum::Absent && field == [0, 0] {
            return Ok(());
        }
        let new = match (self.checksum, change) {
            (ChecksumState::Done, _) => adjusted(field, difference),
            (ChecksumState::Pending, Change::PseudoHeader) => {
                fold(u32::from(u16::from_ne_bytes(field)) + u32::from(fold(difference))).to_ne_bytes()
            }
            (ChecksumState::Pending, Change::Segment) => field,
        };
        let new = if zero == ZeroChecksum::Absent && new == [0, 0] { [0xff, 0xff] } else { new };
        self.store(offset, &new)
    }

    fn checksum_is_pending(&mut self, scratch: usize) -> Result<bool, Truncated> {
        self.store(scratch, &[0xde, 0xad])?;
        Ok(self.checksum == ChecksumState::Pending)
    }

    fn resize(&mut self, len: usize) -> Result<(), Truncated> {
        self.bytes.resize(len, 0);
        Ok(())
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn device(&self) -> u32 {
        self.device
    }

    fn can_be_sent_on(&self) -> bool {
        self.road.is_some()
    }

    fn segment_size(&self) -> Option<u16> {
        None
    }

    type Way = ();

    fn way(&self, journey: &Journey) -> Option<()> {
        (self.road.as_ref() == Some(journey)).then_some(())
    }

    fn send_on(&mut self, (): &()) {}
}
