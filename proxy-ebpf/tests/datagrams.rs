//! Flows of datagrams whose frontend or endpoint becomes another one: where they go, and what becomes of the answers of those who
//! had them before.

use std::net::SocketAddr;

use proxy_common::{Direction, NodeAddress, Protocol, TcpState};
use proxy_ebpf::{
    Verdict,
    fixtures::{Frontend, World, frames},
    host::{self, Hook, HostPacket},
};

const ETHERNET: usize = 14;

/// The frame after the IPv4 program, which must pass it.
#[track_caller]
fn pass(world: &mut World, hook: Hook, frame: Vec<u8>) -> Vec<u8> {
    let mut packet = HostPacket::new(frame);
    assert_eq!(host::run(&mut packet, &mut world.v4, hook, ETHERNET), Verdict::Pass);
    packet.bytes().to_vec()
}

struct Stage {
    client: SocketAddr,
    frontend: SocketAddr,
    former: SocketAddr,
    present: SocketAddr,
}

fn stage() -> Stage {
    let [client, frontend, former, present] = ["192.0.2.7:5000", "203.0.113.5:53", "10.1.1.9:5353", "10.1.1.8:5353"]
        .map(|text| text.parse().expect("a well-formed address"));
    Stage { client, frontend, former, present }
}

impl Stage {
    /// A client's flow, confirmed or not.
    fn flow(&self) -> [World; 2] {
        let world = World::default()
            .serve(Frontend::external(self.frontend, Protocol::Udp).cluster(&[self.former]))
            .connection(self.client, self.frontend, Protocol::Udp, self.former, TcpState::NONE);
        [world.clone().unconfirmed(), world]
    }

    #[track_caller]
    fn goes_to(&self, world: &mut World, backend: SocketAddr) {
        let request = frames::udp(self.client, self.frontend, b"request");
        assert_eq!(pass(world, Hook::Ingress, request), frames::udp(self.client, backend, b"request"));
    }

    /// Whether what `backend` answers comes from the frontend, or else from itself.
    fn answers(&self, world: &mut World, backend: SocketAddr) -> bool {
        let answer = pass(world, Hook::Egress, frames::udp(backend, self.client, b"answer"));
        let from_itself = frames::udp(backend, self.client, b"answer");
        assert!(answer == from_itself || answer == frames::udp(self.frontend, self.client, b"answer"));
        answer != from_itself
    }
}

#[test]
fn an_address_that_moves_takes_its_flows_along() {
    let stage = stage();
    for world in stage.flow() {
        let world = world.serve(Frontend::external(stage.frontend, Protocol::Udp).cluster(&[stage.present]));
        let mut world = world.next_generation();
        stage.goes_to(&mut world, stage.present);
        assert!(stage.answers(&mut world, stage.present), "those of the present Service");
        assert!(!stage.answers(&mut world, stage.former), "not those of the former one");
    }
}

/// The frontend is looked up once after a change only; the number of lookups says so.
#[test]
fn a_flow_that_stays_is_looked_up_once() {
    let stage = stage();
    for world in stage.flow() {
        let mut world = world.next_generation();
        let mut costs = [0; 3];
        for cost in &mut costs {
            world.v4.hash_accesses.set(0);
            stage.goes_to(&mut world, stage.former);
            *cost = world.v4.hash_accesses.get();
        }
        assert!(costs[0] > costs[1], "{costs:?}");
        assert_eq!(costs[1], costs[2]);
    }
}

#[test]
fn an_address_that_nobody_has_any_more_takes_no_flow_away() {
    let stage = stage();
    for world in stage.flow() {
        let mut world = world.next_generation();
        world.v4.services.clear();
        stage.goes_to(&mut world, stage.former);
        assert!(stage.answers(&mut world, stage.former));
    }
}

/// In between the address is that of a Service that refuses: what is remembered of the flow is not half of it.
#[test]
fn an_address_that_comes_back_serves_its_flows_again() {
    let stage = stage();
    for world in stage.flow() {
        let services = world.v4.services.clone();
        let world = world.serve(Frontend::external(stage.frontend, Protocol::Udp));
        let mut world = world.next_generation();
        let mut refused = HostPacket::new(frames::udp(stage.client, stage.frontend, b"request"));
        assert_eq!(host::run(&mut refused, &mut world.v4, Hook::Ingress, ETHERNET), Verdict::Answer);
        assert!(!stage.answers(&mut world, stage.former));
        world.v4.services = services;
        let mut world = world.next_generation();
        stage.goes_to(&mut world, stage.former);
        assert!(stage.answers(&mut world, stage.former));
    }
}

/// The kernel gives up either entry of a flow when it needs room.
#[test]
fn a_flow_without_its_reply_entry_begins_anew() {
    let stage = stage();
    for mut world in stage.flow() {
        for table in [&mut world.v4.flows, &mut world.v4.young_flows] {
            table.retain(|key, _| key.direction() == Some(Direction::Original));
        }
        stage.goes_to(&mut world, stage.former);
        assert!(stage.answers(&mut world, stage.former));
    }
}

/// The endpoint is gone from all slices, or its Service with it.
#[test]
fn an_endpoint_that_is_gone_answers_for_nobody() {
    let stage = stage();
    for mut world in stage.flow() {
        world.v4.backends.clear();
        let mut world = world.serve(Frontend::external(stage.frontend, Protocol::Udp).cluster(&[stage.present]));
        stage.goes_to(&mut world, stage.present);
        assert!(stage.answers(&mut world, stage.present));
        assert!(!stage.answers(&mut world, stage.former));
    }
}

/// A client asks one endpoint through two frontends, from different ports. What becomes of one flow is not the other's affair.
#[test]
fn answers_to_another_flow_are_not_forgotten() {
    let stage = stage();
    let other = SocketAddr::new("203.0.113.6".parse().expect("an address"), 53);
    for world in stage.flow() {
        let world = world.also(&Frontend::external(other, Protocol::Udp));
        let mut world = world.connection(stage.client, other, Protocol::Udp, stage.former, TcpState::NONE);
        // The reply entry is the other flow's now.
        let mut world = {
            world.v4.backends.retain(|_, backend| backend.address() != [10, 1, 1, 9]);
            world.serve(Frontend::external(stage.frontend, Protocol::Udp).cluster(&[stage.present]))
        };
        stage.goes_to(&mut world, stage.present);
        let answer = pass(&mut world, Hook::Egress, frames::udp(stage.former, stage.client, b"answer"));
        assert_eq!(answer, frames::udp(other, stage.client, b"answer"));
    }
}

/// What the node sends from an address for clients outside gets its answers, as with netfilter, whose connections are found before
/// anything is translated.
#[test]
fn what_the_node_asks_from_a_frontend_is_answered_to_the_node() {
    let Stage { client, frontend, former, .. } = stage();
    let world = World::default()
        .node_address(frontend.ip(), NodeAddress::PLAIN)
        .serve(Frontend::external(frontend, Protocol::Udp).cluster(&[former]));
    let answer = || frames::udp(client, frontend, b"answer");
    let mut ignorant = world.clone();
    let mut world = world.external_datagrams();
    for world in [&mut ignorant, &mut world] {
        pass(world, Hook::Egress, frames::udp(frontend, client, b"question"));
    }
    assert_eq!(pass(&mut world, Hook::Ingress, answer()), answer());
    assert!(ignorant.v4.flows.is_empty(), "nothing is looked up where no such Service is");
    let other = SocketAddr::new(client.ip(), client.port() + 1);
    let request = pass(&mut world, Hook::Ingress, frames::udp(other, frontend, b"request"));
    assert_eq!(request, frames::udp(other, former, b"request"), "others are served");
}

/// An endpoint's answer is the frontend's where it leaves the second device: that is no exchange of the node's own.
#[test]
fn an_answer_that_passes_two_devices_takes_its_flow_along() {
    let Stage { client, frontend, former: backend, .. } = stage();
    let mut world = World::default()
        .node_address(frontend.ip(), NodeAddress::NODE_PORTS)
        .serve(Frontend::node_port(frontend, Protocol::Udp).cluster(&[backend]));
    for _ in 0..3 {
        let request = pass(&mut world, Hook::Ingress, frames::udp(client, frontend, b"request"));
        assert_eq!(request, frames::udp(client, backend, b"request"));
        for _ in 0..2 {
            let answer = pass(&mut world, Hook::Egress, frames::udp(backend, client, b"answer"));
            assert_eq!(answer, frames::udp(frontend, client, b"answer"));
            assert_eq!(pass(&mut world, Hook::Egress, answer.clone()), answer);
        }
    }
}
