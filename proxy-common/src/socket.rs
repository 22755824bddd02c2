//! The `sockets` tables: what the socket hooks translated, so that the application gets back the
//! address it asked for.

use crate::{BackendId, Direction, Port, Protocol, ServiceId};

/// A socket and one peer address of it.
///
/// `Direction::Original` entries exist for unconnected UDP only: key is the frontend, value the
/// backend, so that all datagrams of a flow go one way. `Direction::Reply` entries: key is the
/// backend, value the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, packed(4))]
pub struct SocketKey<A> {
    cookie: u64,
    address: A,
    port: u16,
    protocol: u8,
    direction: u8,
}

impl<A: Copy> SocketKey<A> {
    /// `cookie` is the kernel's socket cookie (`SO_COOKIE`).
    #[must_use]
    pub const fn new(cookie: u64, peer: (A, Port), protocol: Protocol, direction: Direction) -> Self {
        Self { cookie, address: peer.0, port: peer.1.get(), protocol: protocol.number(), direction: direction as u8 }
    }

    /// The kernel's socket cookie.
    #[must_use]
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The peer's address and port.
    #[must_use]
    pub const fn peer(&self) -> (A, Port) {
        (self.address, Port::new(self.port))
    }

    /// Protocol; `None` for a number that no Service can have.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol)
    }

    /// Which way the entry translates; `None` for a value that this version does not know.
    #[must_use]
    pub const fn direction(&self) -> Option<Direction> {
        match self.direction {
            0 => Some(Direction::Original),
            1 => Some(Direction::Reply),
            _ => None,
        }
    }
}

/// What a socket's peer is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SocketEntry<A> {
    address: A,
    port: u16,
    pad: u16,
    backend: u32,
    service: u32,
    last_used: u32,
}

impl<A: Copy> SocketEntry<A> {
    /// An entry that translates to `to`; `now` in seconds since boot.
    #[must_use]
    pub const fn new(to: (A, Port), backend: BackendId, service: ServiceId, now: u32) -> Self {
        Self { address: to.0, port: to.1.get(), pad: 0, backend: backend.get(), service: service.get(), last_used: now }
    }

    /// Address and port of the other side of the translation.
    #[must_use]
    pub const fn to(&self) -> (A, Port) {
        (self.address, Port::new(self.port))
    }

    /// The backend that was chosen.
    #[must_use]
    pub const fn backend(&self) -> BackendId {
        BackendId::new(self.backend)
    }

    /// The Service port that the application asked for.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// Time of the newest datagram, seconds since boot.
    #[must_use]
    pub const fn last_used(&self) -> u32 {
        self.last_used
    }

    /// Notes a datagram; writes only if the second changed.
    pub const fn note(&mut self, now: u32) {
        if self.last_used != now {
            self.last_used = now;
        }
    }
}
