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
/// An entry is written only while no slot names it, so a program never reads half of one. A flow or
/// socket that remembers an id is still valid if the entry equals what it remembers; otherwise the
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
        self.flags & Self::LOCAL != 0
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
