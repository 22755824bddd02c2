//! The tables `flow_filter` and `frontend_filter`: which ends flows and frontends have, so that packets of no Service need no lookup.
//!
//! Most packets of a node are no Service's. A packet into the node can only belong to a flow if its destination is a frontend
//! that had one, and a packet out of the node can only be a reply if its source is a backend that had one; and what begins a connection
//! is a Service's only if its destination is a frontend. Each such end has a mark at a place that follows from it (a Bloom filter with
//! one hash function). Marks are set before an entry is added, and not removed with it: an end without a mark has no entry, one with a
//! mark may have one.

use crate::{Direction, Family, FlowKey, Port, Protocol, ServiceKey};

/// An element of such a table: the marks of so many places.
pub type FilterRow = [u8; COLUMNS];

/// Where the mark of a flow's end is. A million places: some thousands of ends lead a packet in a hundred to a lookup in vain.
pub type FlowFilterPlace = FilterPlace<{ 1 << 14 }>;

/// Where a frontend's mark is. Half a million places: 10,000 Services, with three frontends each, lead one in twenty of what begins to a
/// lookup in vain.
pub type FrontendFilterPlace = FilterPlace<{ 1 << 13 }>;

/// Places of a row: a cache line's.
const COLUMNS: usize = 64;

/// Where in a table of `ROWS` rows an end's mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilterPlace<const ROWS: usize> {
    row: u32,
    column: usize,
}

impl<const ROWS: usize> FilterPlace<ROWS> {
    /// Places of a row.
    pub const COLUMNS: usize = COLUMNS;
    /// Rows of the table.
    pub const ROWS: usize = ROWS;
    /// The mark. A place without one is 0.
    pub const MARK: u8 = 1;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
    const fn at(hash: u64) -> Self {
        let index = (hash >> (u64::BITS - ROWS.ilog2() - COLUMNS.ilog2())) as usize;
        Self { row: (index / COLUMNS) as u32, column: index % COLUMNS }
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

impl FlowFilterPlace {
    /// The place of the end that makes a packet one of this flow: the destination of an original key, the source of a reply key.
    #[inline]
    #[must_use]
    pub fn of<F: Family>(key: &FlowKey<F::Address>) -> Self {
        let (kind, end) = match key.direction() {
            Some(Direction::Reply) => (1, key.source()),
            Some(Direction::Original) | None => (0, key.destination()),
        };
        Self::at(hash::<F>(kind, end, key.protocol()))
    }
}

impl FrontendFilterPlace {
    /// The frontend's place.
    #[inline]
    #[must_use]
    pub fn of<F: Family>(key: &ServiceKey<F::Address>) -> Self {
        Self::at(hash::<F>(0, (key.address(), key.port()), key.protocol()))
    }
}

/// A hash of which the uppermost bits depend on everything.
#[inline]
fn hash<F: Family>(kind: u64, (address, port): (F::Address, Port), protocol: Option<Protocol>) -> u64 {
    let protocol = protocol.map_or(0, |protocol| u64::from(protocol.number()));
    let mut hash = u64::from(port.get()) | protocol << 16 | kind << 24 | u64::from(F::VERSION) << 25;
    let (words, rest) = address.as_ref().as_chunks();
    for word in words {
        hash = mixed(hash, u64::from_be_bytes(*word));
    }
    if let Some(word) = rest.first_chunk() {
        hash = mixed(hash, u64::from(u32::from_be_bytes(*word)) << 32);
    }
    hash
}

/// Takes a word into a hash, of which the uppermost bits depend on all bits of the word.
#[inline]
const fn mixed(hash: u64, word: u64) -> u64 {
    // 2^64 divided by the golden ratio, as Knuth recommends for multiplicative hashing (TAOCP 3, §6.4).
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 29
}
