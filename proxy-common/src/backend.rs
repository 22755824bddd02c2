//! The `backends` tables: where connections are sent.

use crate::{Port, ServiceId};

/// Index into a `backends` table. 0 is never allocated, so that an unwritten slot names nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BackendId(u32);

impl BackendId {
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

/// One endpoint of one Service port. All zero: the id is free.
///
/// Address, port and Service port are written only while no slot names the entry, so a program never reads half of
/// one. The flags change in place; they share a word with the port, and words are written whole. A flow or
/// socket that remembers an id is still valid if address, port and Service port are what it remembers; otherwise the
/// endpoint is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Backend<A> {
    address: A,
    port: u16,
    flags: u16,
    service: u32,
}

impl<A: Copy> Backend<A> {
    /// The endpoint is on this node.
    pub const LOCAL: u16 = 1;
    /// New connections under traffic policy `Cluster` may choose the endpoint.
    pub const IN_CLUSTER_LIST: u16 = 1 << 1;
    /// New connections under traffic policy `Local` may choose the endpoint.
    pub const IN_LOCAL_LIST: u16 = 1 << 2;

    /// The endpoint `address:port` of `service`.
    #[must_use]
    pub const fn new(address: A, port: Port, flags: u16, service: ServiceId) -> Self {
        Self { address, port: port.get(), flags, service: service.get() }
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

    /// Whether the endpoint is on this node.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.has(Self::LOCAL)
    }

    /// The flags: [`Self::LOCAL`], [`Self::IN_CLUSTER_LIST`], [`Self::IN_LOCAL_LIST`].
    #[must_use]
    pub const fn flags(&self) -> u16 {
        self.flags
    }

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// The Service port the endpoint belongs to.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// Whether the id is unused.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.port == 0
    }
}
