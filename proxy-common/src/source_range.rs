//! The `source_ranges` tables: who may use a frontend with `loadBalancerSourceRanges`. Longest-prefix-match tries; that
//! a lookup finds anything is the permission.

use crate::ServiceId;

/// A Service port and an address: what the bits of a prefix count over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SourceRange<A> {
    service: [u8; 4],
    address: A,
}

/// A range of source addresses that may use a Service port, as the kernel wants the key of a trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SourceRangeKey<A> {
    prefix_len: u32,
    range: SourceRange<A>,
}

/// The value of each range: the kernel has no tries without values.
pub const ALLOWED: u32 = 1;

/// Bits of the Service port's number, which are part of each prefix.
const SERVICE_BITS: u32 = 32;

impl<A: Copy + AsRef<[u8]>> SourceRangeKey<A> {
    /// The range `prefix`/`bits` of `service`. Bits of `prefix` beyond the first `bits` count for nothing, but two keys
    /// are equal only if they are too.
    #[must_use]
    pub const fn new(service: ServiceId, prefix: A, bits: u8) -> Self {
        let service = service.get().to_be_bytes();
        Self { prefix_len: SERVICE_BITS + bits as u32, range: SourceRange { service, address: prefix } }
    }

    /// The key that finds the narrowest range of `service` with `source` in it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "an address has at most 128 bits")]
    pub fn lookup(service: ServiceId, source: A) -> Self {
        Self::new(service, source, (source.as_ref().len() * 8) as u8)
    }
}

impl<A: Copy> SourceRangeKey<A> {
    /// The key from its parts in the kernel's form.
    #[must_use]
    pub const fn from_parts(prefix_len: u32, range: SourceRange<A>) -> Self {
        Self { prefix_len, range }
    }

    /// How many bits of [`Self::range`] count.
    #[must_use]
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_len
    }

    /// Service port and address, in the order in which their bits count.
    #[must_use]
    pub const fn range(&self) -> SourceRange<A> {
        self.range
    }

    /// The Service port.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(u32::from_be_bytes(self.range.service))
    }

    /// The prefix, in network order.
    #[must_use]
    pub const fn prefix(&self) -> A {
        self.range.address
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.prefix_len.saturating_sub(SERVICE_BITS)
    }
}
