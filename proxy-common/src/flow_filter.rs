//! The `flow_filter` table: which ends the packets of flows have, so that packets of no flow need no lookup.
//!
//! Most packets of a node are no Service's. A packet into the node can only belong to a flow if its destination is a frontend
//! that had one, and a packet out of the node can only be a reply if its source is a backend that had one. Each such end has a
//! mark in this table, at a place that follows from it (a Bloom filter with one hash function). Marks are set before a flow is
//! added and never removed: an end without a mark has no flow, one with a mark may have one.

use crate::{Direction, Family, FlowKey};

/// An element of the table: the marks of so many places.
pub type FlowFilterRow = [u8; FlowFilterPlace::COLUMNS];

/// Where in the table an end's mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowFilterPlace {
    row: u32,
    column: usize,
}

impl FlowFilterPlace {
    /// Places of a row: a cache line's.
    pub const COLUMNS: usize = 64;
    /// Rows. With one place for each end, a million of them, some thousands of ends lead a packet in a hundred to a lookup in vain.
    pub const ROWS: usize = 1 << 14;
    /// The mark. A place without one is 0.
    pub const MARK: u8 = 1;

    /// The place of the end that makes a packet one of this flow: the destination of an original key, the source of a reply key.
    #[inline]
    #[must_use]
    pub fn of<F: Family>(key: &FlowKey<F::Address>) -> Self {
        let (direction, (address, port)) = match key.direction() {
            Some(Direction::Reply) => (1, key.source()),
            Some(Direction::Original) | None => (0, key.destination()),
        };
        let protocol = key.protocol().map_or(0, |protocol| u64::from(protocol.number()));
        let mut hash = u64::from(port.get()) | protocol << 16 | direction << 24 | u64::from(F::VERSION) << 25;
        let (words, rest) = address.as_ref().as_chunks();
        for word in words {
            hash = mixed(hash, u64::from_be_bytes(*word));
        }
        if let Some(word) = rest.first_chunk() {
            hash = mixed(hash, u64::from(u32::from_be_bytes(*word)) << 32);
        }
        Self::at(hash)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
    const fn at(hash: u64) -> Self {
        let index = (hash >> (u64::BITS - Self::ROWS.ilog2() - Self::COLUMNS.ilog2())) as usize;
        Self { row: (index / Self::COLUMNS) as u32, column: index % Self::COLUMNS }
    }

    /// Index of the element.
    #[must_use]
    pub const fn row(self) -> u32 {
        self.row
    }

    /// Index within the element.
    #[must_use]
    pub const fn column(self) -> usize {
        self.column
    }
}

/// Takes a word into a hash, of which the uppermost bits depend on all bits of the word.
#[inline]
const fn mixed(hash: u64, word: u64) -> u64 {
    // 2^64 divided by the golden ratio, as Knuth recommends for multiplicative hashing (TAOCP 3, §6.4).
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 29
}
