//! The `affinity` and `socket_affinity` tables: which backend a client of a Service with session affinity
//! got last.

use crate::{BackendId, ServiceId};

/// A client whose packets a TC program sees, and a Service port: the key of the `affinity` tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct AffinityKey<A> {
    client: A,
    service: u32,
}

impl<A: Copy> AffinityKey<A> {
    /// The key of `client`, an address in network order, at `service`.
    #[must_use]
    pub const fn new(client: A, service: ServiceId) -> Self {
        Self { client, service: service.get() }
    }

    /// The client's address.
    #[must_use]
    pub const fn client(&self) -> A {
        self.client
    }

    /// The Service port, whose frontends share their affinity.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }
}

/// A client that is served at its socket, and a Service port: the key of the `socket_affinity` tables.
///
/// The client is its network namespace, that is a pod or the node: when a socket hook runs, the source address
/// is often not chosen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SocketAffinityKey {
    namespace: u64,
    service: u32,
    pad: u32,
}

impl SocketAffinityKey {
    /// `namespace` is the cookie of the network namespace (`SO_NETNS_COOKIE`, kernel commit f318903c0bf4).
    #[must_use]
    pub const fn new(namespace: u64, service: ServiceId) -> Self {
        Self { namespace, service: service.get(), pad: 0 }
    }

    /// The cookie of the network namespace.
    #[must_use]
    pub const fn namespace(&self) -> u64 {
        self.namespace
    }

    /// The Service port, whose frontends share their affinity.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }
}

/// What a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct AffinityEntry {
    backend: u32,
    last_used: u32,
}

impl AffinityEntry {
    /// The client began a connection to `backend` at `now`, in seconds since boot.
    #[must_use]
    pub const fn new(backend: BackendId, now: u32) -> Self {
        Self { backend: backend.get(), last_used: now }
    }

    /// The backend.
    #[must_use]
    pub const fn backend(&self) -> BackendId {
        BackendId::new(self.backend)
    }

    /// When the newest connection began, in seconds since boot.
    #[must_use]
    pub const fn last_used(&self) -> u32 {
        self.last_used
    }

    /// Notes another connection; writes only if the second changed.
    pub const fn note(&mut self, now: u32) {
        if self.last_used != now {
            self.last_used = now;
        }
    }
}
