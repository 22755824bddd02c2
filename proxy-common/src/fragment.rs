//! The `fragments` tables: what became of the first fragment of a datagram, for the others, which have no ports.

use crate::{Direction, ServiceId};

/// What tells the fragments of one datagram from others (RFC 791 §3.2, RFC 8200 §4.5), as they are before translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey<A> {
    source: A,
    destination: A,
    identification: u32,
    protocol: u8,
    direction: u8,
    pad: u16,
}

impl<A: Copy> FragmentKey<A> {
    /// The key of fragments from `source` to `destination`. IPv6 tells datagrams apart without their protocol, which is 0.
    #[must_use]
    pub const fn new(source: A, destination: A, identification: u32, protocol: u8, direction: Direction) -> Self {
        Self { source, destination, identification, protocol, direction: direction as u8, pad: 0 }
    }
}

/// What the other fragments of a datagram get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Fragment<A> {
    address: A,
    mark: u32,
    service: u32,
    noted: u32,
    is_early: u32,
}

impl<A: Copy> Fragment<A> {
    /// Seconds for which an entry counts: as long as the kernel waits for a datagram's fragments
    /// (`net.ipv4.ipfrag_time`; RFC 8200 §4.5 says a minute).
    pub const TIMEOUT: u32 = 30;

    /// The first fragment went to `address`, or comes from there, and got the bits of `mark`.
    #[must_use]
    pub const fn translated(address: A, mark: u32, service: ServiceId, now: u32) -> Self {
        Self { address, mark, service: service.get(), noted: now, is_early: 0 }
    }

    /// A fragment to `address` has come before the first one.
    #[must_use]
    pub const fn early(address: A, now: u32) -> Self {
        Self { address, mark: 0, service: 0, noted: now, is_early: 1 }
    }

    /// The address that the fragments get.
    #[must_use]
    pub const fn address(&self) -> A {
        self.address
    }

    /// The mark bits that the fragments get.
    #[must_use]
    pub const fn mark(&self) -> u32 {
        self.mark
    }

    /// The Service port.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// Time of the entry, seconds since boot.
    #[must_use]
    pub const fn noted(&self) -> u32 {
        self.noted
    }

    /// Whether the first fragment has not come yet.
    #[must_use]
    pub const fn is_early(&self) -> bool {
        self.is_early != 0
    }
}
