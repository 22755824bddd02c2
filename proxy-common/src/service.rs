//! The `services` tables: what this node does with an address, port and protocol.

use crate::{Port, Protocol};

/// Number of a Service port: one for each namespace, name, port name and protocol; the same in both
/// families. 0 is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ServiceId(u32);

impl ServiceId {
    /// An id from its number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The id's number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A frontend: what a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct ServiceKey<A> {
    address: A,
    port: u16,
    protocol: u8,
    pad: u8,
}

impl<A: Copy> ServiceKey<A> {
    /// The frontend `address:port`.
    #[must_use]
    pub const fn new(address: A, port: Port, protocol: Protocol) -> Self {
        Self { address, port: port.get(), protocol: protocol.number(), pad: 0 }
    }

    /// Address in network order.
    #[must_use]
    pub const fn address(&self) -> A {
        self.address
    }

    /// Port.
    #[must_use]
    pub const fn port(&self) -> Port {
        Port::new(self.port)
    }

    /// Protocol; `None` for a number that no Service can have.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol)
    }
}

/// A contiguous range of the `slots` table: the backends among which a new connection chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SlotRange {
    offset: u32,
    count: u32,
}

impl SlotRange {
    /// No backend.
    pub const EMPTY: Self = Self { offset: 0, count: 0 };

    /// `count` slots from `offset`.
    #[must_use]
    pub const fn new(offset: u32, count: u32) -> Self {
        Self { offset, count }
    }

    /// Index of the first slot.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.offset
    }

    /// Number of slots.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Whether there is no backend.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The slot that a uniformly random number chooses; `None` if the range is empty.
    #[must_use]
    pub const fn choose(self, random: u32) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        // Multiplying and taking the high half is uniform up to count / 2^32 and needs no division.
        let index = ((random as u64 * self.count as u64) >> 32) as u32;
        Some(self.offset + index)
    }
}

/// Properties of a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ServiceFlags(u32);

impl ServiceFlags {
    /// A plain clusterIP.
    pub const NONE: Self = Self(0);
    /// The frontend is meant for clients outside the cluster (nodePort, externalIP, load balancer).
    pub const EXTERNAL: Self = Self(1);
    /// The traffic policy that applies to the frontend is `Local`.
    pub const LOCAL: Self = Self(1 << 1);
    /// Session affinity `ClientIP`.
    pub const AFFINITY: Self = Self(1 << 2);
    /// `loadBalancerSourceRanges` guard the frontend.
    pub const SOURCE_RANGES: Self = Self(1 << 3);
    /// The source ranges allow what this node's own processes send to the frontend, with the source address that the
    /// kernel chooses for it. A socket hook cannot look that up: no source is chosen yet.
    pub const NODE_ALLOWED: Self = Self(1 << 4);
    /// The frontend is a nodePort: its key has the unspecified address.
    pub const NODE_PORT: Self = Self(1 << 5);

    /// These flags and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// What to do with a frontend's traffic. The same for both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ServiceEntry {
    id: u32,
    flags: u32,
    affinity_timeout: u32,
    cluster: SlotRange,
    local: SlotRange,
}

impl ServiceEntry {
    /// An entry without session affinity.
    #[must_use]
    pub const fn new(id: ServiceId, flags: ServiceFlags, cluster: SlotRange, local: SlotRange) -> Self {
        Self { id: id.get(), flags: flags.bits(), affinity_timeout: 0, cluster, local }
    }

    /// The same entry with the timeout of its session affinity, in seconds.
    #[must_use]
    pub const fn with_affinity_timeout(mut self, seconds: u32) -> Self {
        self.affinity_timeout = seconds;
        self
    }

    /// The Service port this frontend belongs to.
    #[must_use]
    pub const fn id(&self) -> ServiceId {
        ServiceId::new(self.id)
    }

    /// Properties.
    #[must_use]
    pub const fn flags(&self) -> ServiceFlags {
        ServiceFlags(self.flags)
    }

    /// Timeout of the session affinity in seconds; 0 without affinity.
    #[must_use]
    pub const fn affinity_timeout(&self) -> u32 {
        self.affinity_timeout
    }

    /// Backends in the whole cluster.
    #[must_use]
    pub const fn cluster(&self) -> SlotRange {
        self.cluster
    }

    /// Backends on this node.
    #[must_use]
    pub const fn local(&self) -> SlotRange {
        self.local
    }
}
