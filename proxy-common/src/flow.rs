//! The `flows` and `young_flows` tables: connections that the TC programs translate, two entries for each.

use crate::{BackendId, Port, Protocol, ServiceId};

/// Which way a flow entry translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Client to frontend: the destination becomes the backend (DNAT).
    Original = 0,
    /// Backend to client: the source becomes the frontend (reverse NAT).
    Reply = 1,
}

/// Which of the two tables of flows.
///
/// A connection begins in the young one and becomes part of the other when both of its ends have shown that they are there:
/// so whoever invents senders fills the young one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FlowTable {
    /// `flows`: the connection is confirmed. What is said here goes before what the young table says.
    Confirmed = 0,
    /// `young_flows`: the connection is not confirmed, or this is what was known when it was.
    Young = 1,
}

impl FlowTable {
    /// Both, in the order in which they are asked.
    pub const ALL: [Self; 2] = [Self::Confirmed, Self::Young];

    /// The table of the newer connections or of the older ones, as a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Young => "young",
        }
    }
}

/// Addresses and ports as they are on the wire before translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct FlowKey<A> {
    source: A,
    destination: A,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    direction: u8,
    pad: u16,
}

impl<A: Copy> FlowKey<A> {
    /// The key of packets from `source` to `destination`.
    #[must_use]
    pub const fn new(source: (A, Port), destination: (A, Port), protocol: Protocol, direction: Direction) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1.get(),
            destination_port: destination.1.get(),
            protocol: protocol.number(),
            direction: direction as u8,
            pad: 0,
        }
    }

    /// Source address and port.
    #[must_use]
    pub const fn source(&self) -> (A, Port) {
        (self.source, Port::new(self.source_port))
    }

    /// Destination address and port.
    #[must_use]
    pub const fn destination(&self) -> (A, Port) {
        (self.destination, Port::new(self.destination_port))
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

/// Properties of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FlowFlags(u8);

impl FlowFlags {
    /// No property.
    pub const NONE: Self = Self(0);
    /// Each packet gets the masquerade mark.
    pub const MASQUERADE: Self = Self(1);
    /// Each packet gets the mark of nodePort traffic that keeps its source (`externalTrafficPolicy: Local`), if the
    /// settings have one.
    pub const LOCAL_NODE_PORT: Self = Self(1 << 1);

    /// Nothing is translated: the node's own datagrams, or what it masqueraded, left from an address and port that are a
    /// frontend, and these are the answers.
    pub const OWN: Self = Self(1 << 2);

    /// An answer has been sent on by a TC program, so requests may be too, if the settings say so.
    pub const SENT_ON: Self = Self(1 << 3);

    /// The flags from their bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// These flags and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags but for `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a flow entry has seen of a TCP connection or SCTP association, in its own direction; a set of bits. In brackets, what
/// counts as the same in SCTP. Of UDP, only that an answer was seen: [`Self::DATA`] in the reply entry of a young flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TcpState(u8);

impl TcpState {
    /// Nothing yet.
    pub const NONE: Self = Self(0);
    /// A SYN (INIT, INIT ACK).
    pub const SYN: Self = Self(1);
    /// A segment without SYN, FIN or RST (any other chunk).
    pub const DATA: Self = Self(1 << 1);
    /// A FIN (SHUTDOWN, SHUTDOWN ACK).
    pub const FIN: Self = Self(1 << 2);
    /// A RST (ABORT, SHUTDOWN COMPLETE).
    pub const RST: Self = Self(1 << 3);

    /// The state from its bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// This state after `other` was seen too.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` were seen.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether this side has ended the connection (FIN or RST).
    #[must_use]
    pub const fn is_closing(self) -> bool {
        self.0 & (Self::FIN.0 | Self::RST.0) != 0
    }
}

/// What to do with the packets of a flow entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Flow<A> {
    address: A,
    port: u16,
    flags: u8,
    state: u8,
    backend: u32,
    service: u32,
    last_seen: u32,
    client_port: u16,
    awaited: u16,
}

impl<A: Copy> Flow<A> {
    /// An entry that rewrites to `to`: the destination of an original, the source of a reply entry.
    #[must_use]
    pub const fn new(to: (A, Port), flags: FlowFlags, backend: BackendId, service: ServiceId, now: u32) -> Self {
        Self {
            address: to.0,
            port: to.1.get(),
            flags: flags.bits(),
            state: 0,
            backend: backend.get(),
            service: service.get(),
            last_seen: now,
            client_port: 0,
            awaited: 0,
        }
    }

    /// The same for a connection that the backend knows by another port of the client's: the source port that an original
    /// entry gives, the destination port that a reply entry gives.
    #[must_use]
    pub const fn with_client_port(mut self, port: Port) -> Self {
        self.client_port = port.get();
        self
    }

    /// The client's port that the packet gets; `None` if it stays as it is.
    #[must_use]
    pub const fn client_port(&self) -> Option<Port> {
        match self.client_port {
            0 => None,
            port => Some(Port::new(port)),
        }
    }

    /// Address and port that the packet gets.
    #[must_use]
    pub const fn to(&self) -> (A, Port) {
        (self.address, Port::new(self.port))
    }

    /// Properties.
    #[must_use]
    pub const fn flags(&self) -> FlowFlags {
        FlowFlags(self.flags)
    }

    /// Replaces the properties.
    pub const fn set_flags(&mut self, flags: FlowFlags) {
        self.flags = flags.bits();
    }

    /// What was seen of the connection in this direction.
    #[must_use]
    pub const fn state(&self) -> TcpState {
        TcpState::from_bits(self.state)
    }

    /// The backend that was chosen.
    #[must_use]
    pub const fn backend(&self) -> BackendId {
        BackendId::new(self.backend)
    }

    /// The Service port that the client asked for.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// Time of the newest packet, seconds since boot.
    #[must_use]
    pub const fn last_seen(&self) -> u32 {
        self.last_seen
    }

    /// The lower half of the acknowledgment number that confirms a TCP connection, if a SYN with ACK has passed this reply
    /// entry: its sequence number plus one (RFC 9293 §3.5).
    #[must_use]
    pub const fn awaited(&self) -> u16 {
        self.awaited
    }

    /// Of an original entry of UDP, the generation of UDP frontends (see [`Settings::generation`](crate::Settings::generation)) in which the
    /// frontend was last known to be the Service's.
    #[must_use]
    pub const fn generation(&self) -> u16 {
        // Only reply entries of TCP await anything.
        self.awaited
    }

    /// Sets what [`Self::generation`] gives.
    pub const fn note_generation(&mut self, generation: u16) {
        self.awaited = generation;
    }

    /// Of an original entry of TCP or SCTP, what tells its last SYN (INIT) from one of another connection: the lower half of its
    /// sequence number (of the association's Initiate Tag).
    #[must_use]
    pub const fn opening(&self) -> u16 {
        // Only reply entries of TCP await anything.
        self.awaited
    }

    /// Sets what [`Self::opening`] gives.
    pub const fn note_opening(&mut self, number: u16) {
        self.awaited = number;
    }

    /// Sets what [`Self::awaited`] gives.
    pub const fn await_acknowledgment(&mut self, number: u16) {
        self.awaited = number;
    }

    /// Takes over what the former entry of the same packets saw, awaits, and when it was used last.
    pub const fn succeed(&mut self, former: &Self) {
        (self.state, self.awaited, self.last_seen) = (former.state, former.awaited, former.last_seen);
    }

    /// Notes a packet. Writes only what changes, so that an established flow's cache line stays
    /// clean for most packets.
    pub const fn note(&mut self, now: u32, seen: TcpState) {
        if self.last_seen != now {
            self.last_seen = now;
        }
        let state = self.state | seen.bits();
        if self.state != state {
            self.state = state;
        }
    }
}
