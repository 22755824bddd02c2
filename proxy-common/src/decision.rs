//! The `traces` table and the ring buffers of `events`: what the programs decide, told to whoever asks while it happens.

use crate::{DropReason, Family, Port, Protocol, ServiceId};

/// The program that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DecidedAt {
    /// A socket's connect(2).
    Connect = 0,
    /// A datagram that a socket sends without having connected.
    SendMsg = 1,
    /// A packet that enters the node.
    Ingress = 2,
    /// A packet that leaves the node.
    Egress = 3,
}

impl DecidedAt {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Connect, Self::SendMsg, Self::Ingress, Self::Egress];

    /// The name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::SendMsg => "sendmsg",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decided {
    /// A connection, or a flow of datagrams, begins: it goes to a backend.
    Begins,
    /// The client is told that nobody is there.
    Refused,
    /// The packet is dropped without a word.
    Dropped(DropReason),
}

impl Decided {
    const FIRST_DROP: u8 = 2;

    const fn number(self) -> u8 {
        match self {
            Self::Begins => 0,
            Self::Refused => 1,
            Self::Dropped(reason) => Self::FIRST_DROP + reason as u8,
        }
    }
}

/// One decision about a connection or packet of a Service: a record of a ring buffer.
///
/// Addresses have 16 bytes in either family; an IPv4 address is the first four, the others are zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Decision {
    time: u64,
    cookie: u64,
    source: [u8; 16],
    destination: [u8; 16],
    backend: [u8; 16],
    service: u32,
    mark: u32,
    device: u32,
    source_port: u16,
    destination_port: u16,
    backend_port: u16,
    client_port: u16,
    protocol: u8,
    version: u8,
    at: u8,
    decided: u8,
    flags: u32,
    pad: u32,
}

impl Decision {
    const MASQUERADED: u32 = 1;

    /// A decision about what is addressed to `destination`, whose IP header names this protocol.
    #[inline]
    #[must_use]
    pub fn new<F: Family>(
        at: DecidedAt,
        decided: Decided,
        service: ServiceId,
        protocol: u8,
        destination: &(F::Address, Port),
    ) -> Self {
        Self {
            time: 0,
            cookie: 0,
            source: [0; 16],
            destination: F::widen(destination.0),
            backend: [0; 16],
            service: service.get(),
            mark: 0,
            device: 0,
            source_port: 0,
            destination_port: destination.1.get(),
            backend_port: 0,
            client_port: 0,
            protocol,
            version: F::VERSION,
            at: at as u8,
            decided: decided.number(),
            flags: 0,
            pad: 0,
        }
    }

    /// It is about a call of the socket with this cookie.
    #[inline]
    pub const fn set_socket(&mut self, cookie: u64) {
        self.cookie = cookie;
    }

    /// It is about a packet of this sender's at a device, which has this mark now.
    #[inline]
    pub fn set_packet<F: Family>(&mut self, source: &(F::Address, Port), device: u32, mark: u32) {
        self.source = F::widen(source.0);
        self.source_port = source.1.get();
        self.device = device;
        self.mark = mark;
    }

    /// It goes to this backend.
    #[inline]
    pub fn set_backend<F: Family>(&mut self, backend: &(F::Address, Port)) {
        self.backend = F::widen(backend.0);
        self.backend_port = backend.1.get();
    }

    /// The backend knows the client by this port, and not by its own.
    #[inline]
    pub const fn set_client_port(&mut self, port: Port) {
        self.client_port = port.get();
    }

    /// It is masqueraded when it leaves the node.
    #[inline]
    pub const fn set_masqueraded(&mut self) {
        self.flags |= Self::MASQUERADED;
    }

    /// It was made at this time, in nanoseconds of `CLOCK_MONOTONIC`.
    #[inline]
    pub const fn set_time(&mut self, nanoseconds: u64) {
        self.time = nanoseconds;
    }

    /// The decision that a record of a ring buffer holds; `None` if it has another length.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        if record.len() != size_of::<Self>() {
            return None;
        }
        let (time, rest) = record.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (destination, rest) = rest.split_first_chunk()?;
        let (backend, rest) = rest.split_first_chunk()?;
        let (service, rest) = rest.split_first_chunk()?;
        let (mark, rest) = rest.split_first_chunk()?;
        let (device, rest) = rest.split_first_chunk()?;
        let (source_port, rest) = rest.split_first_chunk()?;
        let (destination_port, rest) = rest.split_first_chunk()?;
        let (backend_port, rest) = rest.split_first_chunk()?;
        let (client_port, rest) = rest.split_first_chunk()?;
        let ([protocol, version, at, decided], rest) = rest.split_first_chunk()?;
        let (flags, _) = rest.split_first_chunk()?;
        Some(Self {
            time: u64::from_ne_bytes(*time),
            cookie: u64::from_ne_bytes(*cookie),
            source: *source,
            destination: *destination,
            backend: *backend,
            service: u32::from_ne_bytes(*service),
            mark: u32::from_ne_bytes(*mark),
            device: u32::from_ne_bytes(*device),
            source_port: u16::from_ne_bytes(*source_port),
            destination_port: u16::from_ne_bytes(*destination_port),
            backend_port: u16::from_ne_bytes(*backend_port),
            client_port: u16::from_ne_bytes(*client_port),
            protocol: *protocol,
            version: *version,
            at: *at,
            decided: *decided,
            flags: u32::from_ne_bytes(*flags),
            pad: 0,
        })
    }

    /// When it was decided, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// The cookie of the socket; `None` of a packet.
    #[must_use]
    pub const fn socket(&self) -> Option<u64> {
        match self.cookie {
            0 => None,
            cookie => Some(cookie),
        }
    }

    /// `4` or `6`.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// The sender of a packet. Of a socket it is not known: it is chosen later.
    #[must_use]
    pub const fn source(&self) -> ([u8; 16], Port) {
        (self.source, Port::new(self.source_port))
    }

    /// What it is addressed to.
    #[must_use]
    pub const fn destination(&self) -> ([u8; 16], Port) {
        (self.destination, Port::new(self.destination_port))
    }

    /// Where it goes; the port is 0 if nowhere.
    #[must_use]
    pub const fn backend(&self) -> ([u8; 16], Port) {
        (self.backend, Port::new(self.backend_port))
    }

    /// By which port the backend knows the client; `None` if it is the client's own.
    #[must_use]
    pub const fn client_port(&self) -> Option<Port> {
        match self.client_port {
            0 => None,
            port => Some(Port::new(port)),
        }
    }

    /// The Service's port.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// The packet's mark after it was decided.
    #[must_use]
    pub const fn mark(&self) -> u32 {
        self.mark
    }

    /// The index of the device; 0 of a socket.
    #[must_use]
    pub const fn device(&self) -> u32 {
        self.device
    }

    /// IANA's number of the protocol.
    #[must_use]
    pub const fn protocol_number(&self) -> u8 {
        self.protocol
    }

    /// The protocol; `None` for one that no Service has, such as ICMP.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol)
    }

    /// Whether it is masqueraded when it leaves the node.
    #[must_use]
    pub const fn is_masqueraded(&self) -> bool {
        self.flags & Self::MASQUERADED != 0
    }

    /// Where it was decided; `None` for a number that this version does not know.
    #[must_use]
    pub fn at(&self) -> Option<DecidedAt> {
        DecidedAt::ALL.into_iter().find(|at| *at as u8 == self.at)
    }

    /// What was decided; `None` for a number that this version does not know.
    #[must_use]
    pub fn decided(&self) -> Option<Decided> {
        let drops = DropReason::ALL.into_iter().map(Decided::Dropped);
        [Decided::Begins, Decided::Refused].into_iter().chain(drops).find(|decided| decided.number() == self.decided)
    }
}

/// How many may follow decisions at a time: elements of `traces`, and ring buffers.
pub const TRACES: usize = 4;

/// An element of `traces`: what somebody wants to be told, and for how long. The ring buffer is the one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Trace {
    until: u64,
    owner: u64,
    address: [u8; 16],
    services: [u32; Self::SERVICES],
    protocol: u32,
    version: u32,
}

impl Trace {
    /// How many Service ports can be asked for.
    pub const SERVICES: usize = 8;

    /// Nobody asks.
    pub const OFF: Self =
        Self { until: 0, owner: 0, address: [0; 16], services: [0; Self::SERVICES], protocol: 0, version: 0 };

    /// Everything is asked for, by an owner whose number nobody else has.
    #[must_use]
    pub const fn all(owner: u64) -> Self {
        Self { owner, ..Self::OFF }
    }

    /// The same for these Service ports only; for all, if there are more than [`Self::SERVICES`].
    #[must_use]
    pub fn of_services(mut self, services: impl IntoIterator<Item = ServiceId>) -> Self {
        let mut wanted = [0; Self::SERVICES];
        for (index, service) in services.into_iter().enumerate() {
            let Some(place) = wanted.get_mut(index) else { return self };
            *place = service.get();
        }
        self.services = wanted;
        self
    }

    /// The same for one protocol only.
    #[must_use]
    pub const fn of_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol.number() as u32;
        self
    }

    /// The same for what has this address as its source, destination or backend.
    #[must_use]
    pub fn of_address<F: Family>(mut self, address: F::Address) -> Self {
        self.address = F::widen(address);
        self.version = u32::from(F::VERSION);
        self
    }

    /// The same until a time, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub const fn until(mut self, nanoseconds: u64) -> Self {
        self.until = nanoseconds;
        self
    }

    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> u64 {
        self.owner
    }

    /// Whether anybody asked; the time may be over.
    #[inline]
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.until != 0
    }

    /// Whether somebody asks at this time, in nanoseconds of `CLOCK_MONOTONIC`.
    #[inline]
    #[must_use]
    pub const fn lasts(&self, now: u64) -> bool {
        now < self.until
    }

    /// The address that is asked for, with its IP version; any, if that is 0.
    #[inline]
    #[must_use]
    pub const fn address(&self) -> (u32, &[u8; 16]) {
        (self.version, &self.address)
    }

    /// The Service ports that are asked for; any, if the first is nobody's number.
    #[inline]
    #[must_use]
    pub const fn services(&self) -> &[u32; Self::SERVICES] {
        &self.services
    }

    /// IANA's number of the protocol that is asked for; any, if it is 0.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u32 {
        self.protocol
    }
}

/// An element of the per-CPU table `trace_rates`, one for each trace: how much was told lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceRate {
    second: u32,
    told: u32,
    untold: u64,
}

impl TraceRate {
    /// Decisions that a CPU tells in a second, at most.
    pub const LIMIT: u32 = 1_000;

    /// Whether one more may be told in this second (of any clock). If not, it is counted.
    #[inline]
    #[must_use]
    pub const fn admit(&mut self, second: u32) -> bool {
        if self.second != second {
            self.second = second;
            self.told = 0;
        }
        if self.told >= Self::LIMIT {
            self.leave_out();
            return false;
        }
        self.told += 1;
        true
    }

    /// Counts a decision that is not told.
    #[inline]
    pub const fn leave_out(&mut self) {
        self.untold += 1;
    }

    /// Decisions that were asked for and not told, since the table was made.
    #[must_use]
    pub const fn untold(&self) -> u64 {
        self.untold
    }
}
