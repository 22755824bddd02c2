//! Packets of each kind that the pipeline sees again and again, with tables in which they find what they look for.

use std::{hint::black_box, net::SocketAddr};

use proxy_common::{Protocol, TcpState};
use proxy_ebpf::{
    Verdict,
    fixtures::{
        Frontend, World,
        frames::{self, Segment},
    },
    host::{self, Hook, HostPacket},
};

const ETHERNET: usize = 14;

/// A packet on its way, and the tables that it meets.
#[derive(Clone, Debug)]
pub struct Passage {
    world: World,
    packet: HostPacket,
    hook: Hook,
    is_v4: bool,
}

impl Passage {
    /// Runs the pipeline. The packet is as it leaves it, so each passage is for one run.
    pub fn run(&mut self) -> Verdict {
        let Self { world, packet, hook, is_v4 } = black_box(self);
        if *is_v4 {
            host::run(packet, &mut world.v4, *hook, ETHERNET)
        } else {
            host::run(packet, &mut world.v6, *hook, ETHERNET)
        }
    }
}

/// Who takes part, in one family.
struct Cast {
    client: SocketAddr,
    newcomer: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
    stranger: SocketAddr,
}

impl Cast {
    fn new(is_v4: bool) -> Self {
        let texts = if is_v4 {
            ["192.0.2.7:5000", "192.0.2.8:5000", "203.0.113.5:80", "10.1.1.9:8080", "198.51.100.1:443"]
        } else {
            ["[2001:db8::7]:5000", "[2001:db8::8]:5000", "[2001:db8:5::5]:80", "[fd01::9]:8080", "[2001:db8:9::1]:443"]
        };
        let [client, newcomer, frontend, backend, stranger] =
            texts.map(|text| text.parse().expect("a well-formed address"));
        Self { client, newcomer, frontend, backend, stranger }
    }
}

/// What a packet is, and the passage of such a one.
pub const KINDS: [&str; 6] = [
    "request of an established connection",
    "answer of an established connection",
    "first packet of a connection",
    "datagram of an established flow",
    "packet that is no Service's",
    "packet that opens what is no Service's",
];

/// A passage of one of [`KINDS`].
///
/// # Panics
/// It is none of them.
pub fn passage(kind: &str, is_v4: bool) -> Passage {
    let Cast { client, newcomer, frontend, backend, stranger } = Cast::new(is_v4);
    let served = |protocol| Frontend::external(frontend, protocol).cluster(&[backend]);
    let world = World::default()
        .serve(served(Protocol::Udp))
        .connection(client, frontend, Protocol::Udp, backend, TcpState::NONE)
        .serve(served(Protocol::Tcp))
        .connection(client, frontend, Protocol::Tcp, backend, TcpState::DATA);
    let tcp = |from, to, segment| frames::tcp(from, to, segment, b"");
    let (hook, frame) = match kind {
        "request of an established connection" => (Hook::Ingress, tcp(client, frontend, Segment::Ack)),
        "answer of an established connection" => (Hook::Egress, tcp(backend, client, Segment::Ack)),
        "first packet of a connection" => (Hook::Ingress, tcp(newcomer, frontend, Segment::Syn)),
        "datagram of an established flow" => (Hook::Ingress, frames::udp(client, frontend, b"question")),
        "packet that is no Service's" => (Hook::Ingress, tcp(client, stranger, Segment::Ack)),
        "packet that opens what is no Service's" => (Hook::Ingress, tcp(client, stranger, Segment::Syn)),
        other => panic!("{other}: no such kind of packet"),
    };
    Passage { world, packet: HostPacket::new(frame), hook, is_v4 }
}
