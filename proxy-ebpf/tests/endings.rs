//! When a connection is over: on its client's word, which anybody can say who invents senders, and on the backend's.

use std::net::{IpAddr, SocketAddr};

use proxy_common::{Protocol, TcpState};
use proxy_ebpf::{
    Verdict,
    fixtures::{
        HALF_CLOSED_TIMEOUT, World,
        frames::{self, Chunk, Segment},
    },
    host::{self, Hook, HostPacket},
    policy::List,
};

const ETHERNET: usize = 14;
const ENDS: [Segment; 2] = [Segment::FinAck, Segment::Rst];

#[derive(Clone, Copy)]
struct Stage {
    protocol: Protocol,
    client: SocketAddr,
    frontend: SocketAddr,
    /// Of another Service.
    elsewhere: SocketAddr,
    backend: SocketAddr,
    /// Where new connections go.
    other: SocketAddr,
}

fn stages() -> Vec<Stage> {
    let v4 = ["192.0.2.7:5000", "10.96.0.10:80", "10.96.0.11:80", "10.1.1.9:8080", "10.1.1.8:8080"];
    let v6 = ["[2001:db8::7]:5000", "[fd96::a]:80", "[fd96::b]:80", "[fd01::1:9]:8080", "[fd01::1:8]:8080"];
    let of = |protocol, ends: [&str; 5]| {
        let [client, frontend, elsewhere, backend, other] =
            ends.map(|text| text.parse().expect("a well-formed address"));
        Stage { protocol, client, frontend, elsewhere, backend, other }
    };
    [Protocol::Tcp, Protocol::Sctp].into_iter().flat_map(|protocol| [of(protocol, v4), of(protocol, v6)]).collect()
}

impl Stage {
    /// A Service whose new connections go to `other`.
    fn service(&self) -> World {
        World::default().cluster_ip(self.frontend, self.protocol, &[self.other])
    }

    /// The client's connection to an endpoint that is in `list`, confirmed or not.
    fn connection(&self, list: Option<List>, state: TcpState) -> [World; 2] {
        let world = self.service().remembered(self.client.ip(), self.backend, list);
        let world = world.connection(self.client, self.frontend, self.protocol, self.backend, state);
        [world.clone().unconfirmed(), world]
    }

    /// The same to one that is in no slice any more.
    fn connection_to_what_is_gone(&self) -> [World; 2] {
        let world = self.service();
        let world = world.connection(self.client, self.frontend, self.protocol, self.backend, TcpState::DATA);
        [world.clone().unconfirmed(), world]
    }

    fn packet(&self, from: SocketAddr, to: SocketAddr, segment: Segment) -> Vec<u8> {
        let chunk = match segment {
            Segment::Syn => Chunk::Init,
            Segment::SynAck => Chunk::InitAck,
            Segment::Ack => Chunk::Data,
            Segment::FinAck => Chunk::Shutdown,
            Segment::Rst => Chunk::Abort,
        };
        match self.protocol {
            Protocol::Tcp => frames::tcp(from, to, segment, b""),
            Protocol::Sctp => frames::sctp(from, to, chunk, b""),
            Protocol::Udp => unreachable!("not asked for here"),
        }
    }

    #[track_caller]
    fn pass(&self, world: &mut World, hook: Hook, frame: Vec<u8>) -> Vec<u8> {
        let mut packet = HostPacket::new(frame);
        let verdict = if self.client.is_ipv4() {
            host::run(&mut packet, &mut world.v4, hook, ETHERNET)
        } else {
            host::run(&mut packet, &mut world.v6, hook, ETHERNET)
        };
        assert_eq!(verdict, Verdict::Pass);
        packet.bytes().to_vec()
    }

    /// What comes from the client's address and port goes to `to`, which knows the client as `known`.
    #[track_caller]
    fn goes_to(&self, world: &mut World, segment: Segment, known: SocketAddr, to: SocketAddr) {
        let sent = self.pass(world, Hook::Ingress, self.packet(self.client, self.frontend, segment));
        assert_eq!(sent, self.packet(known, to, segment));
    }

    /// The connection is what it was.
    #[track_caller]
    fn lives(&self, world: &mut World, known: SocketAddr) {
        for _ in 0..2 {
            let answer = self.pass(world, Hook::Egress, self.packet(self.backend, known, Segment::Ack));
            assert_eq!(answer, self.packet(self.frontend, self.client, Segment::Ack));
            self.goes_to(world, Segment::Ack, known, self.backend);
        }
    }
}

#[test]
fn who_does_not_see_a_connection_does_not_move_it() {
    for stage in stages() {
        for end in ENDS {
            for mut world in stage.connection(Some(List::Cluster), TcpState::DATA) {
                for _ in 0..2 {
                    stage.goes_to(&mut world, end, stage.client, stage.backend);
                    for _ in 0..2 {
                        stage.goes_to(&mut world, Segment::Syn, stage.client, stage.backend);
                        let sent = stage.packet(stage.client, stage.backend, Segment::Syn);
                        assert_eq!(stage.pass(&mut world, Hook::Ingress, sent.clone()), sent, "at a second device");
                    }
                    stage.lives(&mut world, stage.client);
                }
            }
        }
    }
}

/// Nor does who is faster than the backend's answers.
#[test]
fn who_does_not_wait_for_answers_does_not_move_a_connection() {
    for stage in stages() {
        for end in ENDS {
            for mut world in stage.connection(Some(List::Cluster), TcpState::DATA) {
                for _ in 0..3 {
                    stage.goes_to(&mut world, end, stage.client, stage.backend);
                    stage.goes_to(&mut world, Segment::Syn, stage.client, stage.backend);
                }
                stage.lives(&mut world, stage.client);
                stage.goes_to(&mut world, end, stage.client, stage.backend);
                let mut world = world.later(HALF_CLOSED_TIMEOUT + 1);
                stage.goes_to(&mut world, Segment::Syn, stage.client, stage.other);
            }
        }
    }
}

/// Nor one that its backend knows by another port.
#[test]
fn who_does_not_see_a_connection_does_not_change_its_port() {
    for stage in stages() {
        let known = SocketAddr::new(stage.client.ip(), 45_000);
        let world = stage.service().remembered(stage.client.ip(), stage.backend, Some(List::Cluster));
        let mut world = world
            .connection(stage.client, stage.elsewhere, stage.protocol, stage.backend, TcpState::DATA)
            .evading(stage.client, known.port(), stage.frontend, stage.protocol, stage.backend);
        stage.goes_to(&mut world, Segment::Rst, known, stage.backend);
        stage.goes_to(&mut world, Segment::Syn, known, stage.backend);
        stage.lives(&mut world, known);
    }
}

/// A client that resets its connections, as health checks of load balancers do, has its port for another way to the same endpoint.
#[test]
fn a_client_that_resets_a_connection_has_its_port_for_another() {
    for stage in stages() {
        for world in stage.connection(Some(List::Cluster), TcpState::DATA) {
            let world = world.cluster_ip(stage.elsewhere, stage.protocol, &[stage.backend]);
            for to in [stage.elsewhere, stage.backend] {
                let mut world = world.clone();
                stage.goes_to(&mut world, Segment::Rst, stage.client, stage.backend);
                let sent = stage.pass(&mut world, Hook::Ingress, stage.packet(stage.client, to, Segment::Syn));
                assert_eq!(sent, stage.packet(stage.client, stage.backend, Segment::Syn), "from its own port");
                let answer = stage.packet(stage.backend, stage.client, Segment::SynAck);
                let answer = stage.pass(&mut world, Hook::Egress, answer);
                assert_eq!(answer, stage.packet(to, stage.client, Segment::SynAck));
            }
        }
    }
}

#[test]
fn a_connection_to_an_endpoint_that_is_gone_is_left_alone() {
    for stage in stages() {
        for mut world in stage.connection_to_what_is_gone() {
            stage.goes_to(&mut world, Segment::Syn, stage.client, stage.backend);
            stage.lives(&mut world, stage.client);
        }
    }
}

/// Who does begin anew asks twice: nobody has answered the first time.
#[test]
fn a_client_of_an_endpoint_that_is_gone_meets_another_when_it_asks_again() {
    for stage in stages() {
        for world in stage.connection_to_what_is_gone() {
            let mut world = world.later(1);
            stage.goes_to(&mut world, Segment::Syn, stage.client, stage.backend);
            let mut world = world.later(1);
            stage.goes_to(&mut world, Segment::Syn, stage.client, stage.other);
        }
        for end in ENDS {
            for mut world in stage.connection(Some(List::Cluster), TcpState::DATA) {
                stage.goes_to(&mut world, end, stage.client, stage.backend);
                stage.goes_to(&mut world, Segment::Syn, stage.client, stage.backend);
                world.v4.backends.retain(|_, backend| IpAddr::from(backend.address()) != stage.backend.ip());
                world.v6.backends.retain(|_, backend| IpAddr::from(backend.address()) != stage.backend.ip());
                stage.goes_to(&mut world, Segment::Syn, stage.client, stage.backend);
                let mut world = world.later(1);
                stage.goes_to(&mut world, Segment::Syn, stage.client, stage.other);
            }
        }
    }
}

#[test]
fn what_the_backend_has_ended_begins_anew() {
    for stage in stages() {
        for end in ENDS {
            for mut world in stage.connection(Some(List::Cluster), TcpState::DATA) {
                stage.pass(&mut world, Hook::Egress, stage.packet(stage.backend, stage.client, end));
                stage.goes_to(&mut world, Segment::Syn, stage.client, stage.other);
            }
        }
    }
}

/// What only the client has ended, and what cannot have been answered for long, or is not to be.
#[test]
fn a_client_does_not_wait_for_a_backend_that_is_silent_or_gone() {
    for stage in stages() {
        for end in ENDS {
            let worlds = stage
                .connection(None, TcpState::DATA)
                .into_iter()
                .chain(stage.connection(Some(List::Local), TcpState::DATA))
                .chain(stage.connection(Some(List::Cluster), TcpState::NONE))
                .chain(stage.connection_to_what_is_gone())
                .map(|world| (world, false))
                .chain(stage.connection(Some(List::Cluster), TcpState::DATA).map(|world| (world, true)));
            for (mut world, falls_silent) in worlds {
                stage.goes_to(&mut world, end, stage.client, stage.backend);
                if falls_silent {
                    world = world.later(HALF_CLOSED_TIMEOUT + 1);
                }
                stage.goes_to(&mut world, Segment::Syn, stage.client, stage.other);
            }
        }
        for world in stage.connection_to_what_is_gone() {
            let mut world = world.later(HALF_CLOSED_TIMEOUT);
            stage.goes_to(&mut world, Segment::Syn, stage.client, stage.other);
        }
    }
}
