//! What a client and a backend say to each other, and what others say about it.

use proptest::{prelude::*, sample::select};

use super::packet::{ACK, FIN, PSH, RST, SYN, URG};
use super::{addresses::SERVED, packet::Sum};

/// What a conversation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection of a Service, from its first packet to its end.
    Tcp,
    /// Datagrams of a Service.
    Udp,
    /// What no Service is there for, or none with endpoints.
    Strangers,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Strangers];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Strangers => "strangers",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
}

/// Moves, and which of the Service's ports they use.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub port: (u16, u16),
    pub moves: Vec<Move>,
}

/// One packet, or the fragments of one.
#[derive(Clone, Debug)]
pub struct Move {
    pub side: Side,
    pub what: What,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub enum What {
    /// A segment of the connection with the Service.
    Tcp { flags: u8, payload: usize, options: u8 },
    /// A datagram to the Service, or the answer to one.
    Udp { payload: usize },
    /// A complaint about the last packet that this side got.
    Error(Complaint),
    /// Something that is no Service's.
    Stranger(Stranger),
}

/// An ICMP error.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub about: Trouble,
    pub code: u8,
    /// How many bytes of the packet it repeats.
    pub quote: usize,
    /// Whether a router sends it, or who got the packet.
    pub by_router: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Unreachable,
    TooBig,
    TimeExceeded,
    Parameter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    TcpToUnserved,
    UdpToUnserved,
    TcpToRefused,
    UdpToRefused,
    TcpToBackend,
    UdpToBackend,
    TcpFromBackend,
    UdpFromBackend,
    /// An echo request to the Service's address.
    Ping,
    PingBackend,
    /// A protocol without ports, to the Service's address.
    Gre,
    /// IP and nothing more.
    Nothing,
}

/// Everything about a packet that has nothing to do with what it says.
#[derive(Clone, Debug)]
pub struct Shape {
    pub ttl: u8,
    pub class: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub options: u8,
    pub sum: Sum,
    /// In fragments of so many times eight bytes.
    pub fragments: Option<u8>,
    /// So many bytes are missing at the end.
    pub cut: usize,
}

pub fn conversations(kind: Kind) -> BoxedStrategy<Conversation> {
    let port = select(&SERVED[..]);
    let moves = match kind {
        Kind::Tcp => connection().boxed(),
        Kind::Udp => datagrams().boxed(),
        Kind::Strangers => strangers().boxed(),
    };
    (port, moves).prop_map(|(port, moves)| Conversation { port, moves }).boxed()
}

/// How a connection ends, if it does.
#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    Finished(Side),
    Reset(Side),
}

fn connection() -> impl Strategy<Value = Vec<Move>> {
    let segment = |side, flags: u8, payload: BoxedStrategy<usize>, shape: BoxedStrategy<Shape>| {
        (payload, 0_u8..=10, shape).prop_map(move |(payload, options, shape)| Move {
            side,
            what: What::Tcp { flags, payload, options },
            shape,
        })
    };
    let control = move |side, flags| segment(side, flags, Just(0).boxed(), plain().boxed());
    let data = (sides(), select(vec![ACK, ACK | PSH, ACK | URG, ACK | PSH | 0x40, ACK | 0x80]))
        .prop_flat_map(move |(side, flags)| segment(side, flags, (0_usize..=1300).boxed(), any_shape().boxed()));
    let handshake = (control(Side::Client, SYN), control(Side::Backend, SYN | ACK), control(Side::Client, ACK));
    let middle = prop::collection::vec(prop_oneof![4 => data.boxed(), 2 => complaint().boxed()], 0..8);
    let end = prop_oneof![Just(End::Open), sides().prop_map(End::Finished), sides().prop_map(End::Reset)];
    let ending = end.prop_flat_map(move |end| match end {
        End::Open => Just(Vec::new()).boxed(),
        End::Finished(side) => {
            (control(side, FIN | ACK), control(side.other(), ACK), control(side.other(), FIN | ACK), control(side, ACK))
                .prop_map(|(a, b, c, d)| vec![a, b, c, d])
                .boxed()
        }
        End::Reset(side) => control(side, RST | ACK).prop_map(|reset| vec![reset]).boxed(),
    });
    let again = (control(Side::Client, SYN), control(Side::Backend, SYN | ACK), any::<bool>());
    (handshake, middle, ending, again).prop_map(|((syn, answer, ack), middle, ending, (again, greeting, reopen))| {
        let ended = !ending.is_empty();
        let mut moves = vec![syn, answer, ack];
        moves.extend(middle);
        moves.extend(ending);
        if reopen && ended {
            moves.extend([again, greeting]);
        }
        moves
    })
}

fn datagrams() -> impl Strategy<Value = Vec<Move>> {
    let datagram = |side: Side| {
        (prop_oneof![0_usize..=1400, 0_usize..=16, 1401_usize..=4000], any_shape()).prop_map(
            move |(payload, mut shape)| {
                if payload > 1400 {
                    // Too long for one packet.
                    shape.fragments = Some(shape.fragments.unwrap_or(150).clamp(10, 170));
                }
                Move { side, what: What::Udp { payload }, shape }
            },
        )
    };
    let first = datagram(Side::Client).prop_map(|mut first| {
        // What dies at the node leaves no trace in netfilter.
        first.shape.ttl = first.shape.ttl.max(2);
        first.shape.cut = 0;
        first
    });
    let more = prop_oneof![3 => sides().prop_flat_map(datagram).boxed(), 1 => complaint().boxed()];
    (first, prop::collection::vec(more, 0..8)).prop_map(|(first, more)| {
        let mut moves = vec![first];
        moves.extend(more);
        moves
    })
}

fn strangers() -> impl Strategy<Value = Vec<Move>> {
    use Stranger::{
        Gre, Nothing, Ping, PingBackend, TcpFromBackend, TcpToBackend, TcpToRefused, TcpToUnserved, UdpFromBackend,
        UdpToBackend, UdpToRefused, UdpToUnserved,
    };
    let all = vec![
        TcpToUnserved,
        UdpToUnserved,
        TcpToRefused,
        UdpToRefused,
        TcpToBackend,
        UdpToBackend,
        TcpFromBackend,
        UdpFromBackend,
        Ping,
        PingBackend,
        Gre,
        Nothing,
    ];
    let one = (select(all), any_shape()).prop_map(|(stranger, mut shape)| {
        if matches!(stranger, TcpToRefused | UdpToRefused) {
            // Here a packet is refused before anything else of the node looks at it.
            shape = Shape { ttl: shape.ttl.max(2), cut: 0, options: 0, sum: Sum::Right, fragments: None, ..shape };
        }
        let side = if matches!(stranger, TcpFromBackend | UdpFromBackend) { Side::Backend } else { Side::Client };
        Move { side, what: What::Stranger(stranger), shape }
    });
    one.prop_map(|one| vec![one])
}

fn complaint() -> impl Strategy<Value = Move> {
    let about = select(vec![Trouble::Unreachable, Trouble::TooBig, Trouble::TimeExceeded, Trouble::Parameter]);
    let quote = prop_oneof![28_usize..=64, Just(usize::MAX), 64_usize..=500];
    (sides(), about, 0_u8..=5, quote, any::<bool>(), plain()).prop_map(
        |(side, about, code, quote, by_router, shape)| Move {
            side,
            what: What::Error(Complaint { about, code, quote, by_router }),
            shape,
        },
    )
}

fn sides() -> impl Strategy<Value = Side> {
    select(vec![Side::Client, Side::Backend])
}

impl Side {
    /// Its place among both.
    pub const fn index(self) -> usize {
        match self {
            Self::Client => 0,
            Self::Backend => 1,
        }
    }

    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// A packet that nothing is wrong with.
fn plain() -> impl Strategy<Value = Shape> {
    (2_u8..=255, any::<u8>(), any::<u16>(), any::<bool>(), 0_u8..=4).prop_map(
        |(ttl, class, id, dont_fragment, options)| Shape {
            ttl,
            class,
            id,
            dont_fragment,
            options,
            sum: Sum::Right,
            fragments: None,
            cut: 0,
        },
    )
}

/// Any packet.
fn any_shape() -> impl Strategy<Value = Shape> {
    let ttl = prop_oneof![9 => 2_u8..=255, 1 => Just(1)];
    let sum = prop_oneof![8 => Just(Sum::Right), 1 => Just(Sum::Wrong), 1 => Just(Sum::None)];
    let fragments = prop_oneof![6 => Just(None), 1 => (1_u8..=170).prop_map(Some)];
    let cut = prop_oneof![12 => Just(0_usize), 1 => 1_usize..=40];
    (plain(), ttl, sum, fragments, cut).prop_map(|(shape, ttl, sum, fragments, cut)| Shape {
        ttl,
        sum,
        fragments,
        // What is cut is no fragment: half a datagram would wait for the rest.
        cut: if fragments.is_some() { 0 } else { cut },
        ..shape
    })
}
