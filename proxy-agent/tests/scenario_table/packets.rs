//! A world of single packets and socket calls: the real model, plan and run loop on one side, and on the other whatever
//! decides about packets. The network around it is played here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use proxy_agent::{
    explain::{Explanation, Hooks, Origin, Question},
    plan::{Tables, Usage},
};
use proxy_common::{DropReason, NodeAddress, Protocol, Settings};
use proxy_ebpf::{
    fixtures::frames::{self, Chunk, Segment},
    host::Hook,
};
use serde_json::Value;

use super::{
    cast::{Client, Family, Pod},
    control::{Control, Shared, settings},
    objects::{OTHER_TARGET, Objects, TARGET},
    row::{Mode, Row},
    runner::{Attempt, FlowId, Seen, Sight, World},
};

/// Cookie of the node's network namespace.
const NODE_NAMESPACE: u64 = 1;
/// A bit of the mark that is somebody else's.
const FOREIGN_MARK: u32 = 0x10;
/// The bit that asks for masquerading.
const MASQUERADE_MARK: u32 = 0x4000;

/// What decides about packets and calls.
pub trait Datapath {
    /// The tables that the plan writes.
    type Tables: Tables;

    /// How it is called in the list of modes.
    const MODE: Mode;

    /// The tables.
    fn tables(&self) -> Shared<Self::Tables>;

    /// Forgets every flow, and has these settings from now on.
    fn begin(&mut self, settings: &Settings);

    /// The node's own addresses.
    fn set_addresses(&mut self, addresses: &BTreeMap<IpAddr, NodeAddress>);

    /// The tables were written.
    fn written(&mut self);

    fn packet(&mut self, packet: Packet) -> Passed;

    /// The index of a device that the tables know as such from now on.
    fn device(&mut self, device: Device) -> u32;

    /// What is said of a connection.
    fn explain(&mut self, question: &Question) -> Explanation;

    fn call(&mut self, call: &Call) -> CallVerdict;

    fn drops(&mut self) -> BTreeMap<DropReason, u64>;

    fn wait(&mut self, seconds: u32);
}

/// A packet at a device.
#[derive(Clone, Debug)]
pub struct Packet {
    pub hook: Hook,
    /// The detector knows the device as one of a pod.
    pub device: Device,
    pub family: Family,
    pub frame: Vec<u8>,
    pub mark: u32,
}

/// What the detector makes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Pods,
    Other,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    On { frame: Vec<u8>, mark: u32 },
    Dropped,
    Answered(Vec<u8>),
}

/// A socket call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub kind: CallKind,
    pub cookie: u64,
    pub namespace: u64,
    pub protocol: Protocol,
    pub peer: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Connect,
    Send,
    PeerName,
}

/// What becomes of a socket call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallVerdict {
    Pass,
    Rewrite(SocketAddr),
    Refuse,
}

/// A connection that stays.
#[derive(Clone, Copy, Debug)]
struct Flow {
    attempt: Attempt,
    source: SocketAddr,
    cookie: u64,
    sight: Sight,
}

/// The world.
pub struct PacketWorld<D: Datapath> {
    datapath: D,
    control: Option<Control<D::Tables>>,
    next: u32,
    flows: Vec<Flow>,
}

impl<D: Datapath> PacketWorld<D> {
    pub fn new(datapath: D) -> Self {
        Self { datapath, control: None, next: 0, flows: vec![] }
    }

    fn control(&mut self) -> &mut Control<D::Tables> {
        self.control.as_mut().expect("a row has begun")
    }

    fn written(&mut self) {
        let addresses = self.control().node_ports();
        self.datapath.set_addresses(&addresses);
        self.datapath.written();
    }

    /// A number that was not used before.
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// A flow that has not begun.
    fn flow(&mut self, attempt: &Attempt) -> Flow {
        let number = self.number();
        let port = 1024 + u16::try_from(number % 50_000).expect("it is less");
        let source = SocketAddr::new(attempt.source(), port);
        Flow { attempt: *attempt, source, cookie: number.into(), sight: Sight::Nothing }
    }

    fn begin_flow(&mut self, flow: &Flow, kind: CallKind) -> Sight {
        if flow.attempt.is_at_socket() {
            return self.call(flow, kind, Moment::Opening);
        }
        self.packet(flow, Moment::Opening)
    }

    /// What a socket call leads to.
    fn call(&mut self, flow: &Flow, kind: CallKind, moment: Moment) -> Sight {
        let Flow { attempt, source, cookie, sight: _ } = *flow;
        let Attempt { client, protocol, to, .. } = attempt;
        let call = Call { kind, cookie, namespace: namespace(client), protocol, peer: to };
        match self.datapath.call(&call) {
            CallVerdict::Refuse => Sight::Refused,
            CallVerdict::Rewrite(at) => {
                let asked = self.datapath.call(&Call { kind: CallKind::PeerName, peer: at, ..call });
                assert_eq!(asked, CallVerdict::Rewrite(to), "{attempt:?}: the name of the peer");
                let frame = moment.frame(protocol, Self::source_towards(flow, at), at);
                let hook = if client == Client::Node { Hook::Egress } else { Hook::Ingress };
                self.assert_untouched(&attempt, hook, frame);
                Sight::Reached { at, source: Seen::Itself }
            }
            CallVerdict::Pass if client == Client::Node => {
                if self.is_delivered(to.ip()) {
                    return Sight::Passed;
                }
                let frame = moment.frame(protocol, source, to);
                self.leaves(&attempt, frame)
            }
            CallVerdict::Pass => self.packet(flow, moment),
        }
    }

    /// What a packet that enters the node leads to.
    fn packet(&mut self, flow: &Flow, moment: Moment) -> Sight {
        let Flow { attempt, source, .. } = *flow;
        let Attempt { protocol, to, .. } = attempt;
        let frame = moment.frame(protocol, source, to);
        let (after, mark) = match self.pass(&attempt, Hook::Ingress, frame.clone()) {
            Passed::Dropped => return Sight::Nothing,
            Passed::Answered(answer) => {
                assert_eq!(answer, refusal(protocol, &frame), "{attempt:?}: the refusal");
                return Sight::Refused;
            }
            Passed::On { frame, mark } => (frame, mark),
        };
        assert_eq!(mark & !MASQUERADE_MARK, FOREIGN_MARK, "{attempt:?}: bits of others stay");
        if after == frame {
            assert_eq!(mark, FOREIGN_MARK, "{attempt:?}: what is no Service's is not marked");
            return if self.is_delivered(to.ip()) { Sight::Passed } else { self.leaves(&attempt, frame) };
        }
        let targets = Pod::ALL.into_iter().flat_map(|pod| {
            let ip = pod.ip(attempt.family);
            [TARGET, OTHER_TARGET].map(|port| SocketAddr::new(ip, port))
        });
        let mut targets = targets.filter(|&at| moment.frame(protocol, source, at) == after);
        let at =
            targets.next().unwrap_or_else(|| panic!("{attempt:?}: it goes to no pod, or is damaged: {after:02x?}"));
        let seen = if mark & MASQUERADE_MARK == 0 { Seen::Itself } else { Seen::TheNode };
        self.forwarded(flow, at, seen, moment);
        Sight::Reached { at, source: seen }
    }

    /// The packet goes to the pod, and the pod answers.
    fn forwarded(&mut self, flow: &Flow, at: SocketAddr, seen: Seen, moment: Moment) {
        let Flow { attempt, source, .. } = *flow;
        let Attempt { protocol, to, family, .. } = attempt;
        let pod = Pod::at(at.ip()).expect("a pod's");
        let as_seen = match seen {
            Seen::Itself => source,
            Seen::TheNode => SocketAddr::new(pod.gateway(family), source.port()),
        };
        self.assert_untouched(&attempt, Hook::Egress, moment.frame(protocol, as_seen, at));
        self.assert_untouched(&attempt, Hook::Ingress, moment.answer(protocol, at, as_seen));
        // Behind our ingress the masquerade is undone.
        let answer = self.pass(&attempt, Hook::Egress, moment.answer(protocol, at, source));
        let expected = Passed::On { frame: moment.answer(protocol, to, source), mark: FOREIGN_MARK };
        assert_eq!(answer, expected, "{attempt:?}: the answer comes from where the client asked");
    }

    /// A packet leaves the node for where it was sent.
    fn leaves(&mut self, attempt: &Attempt, frame: Vec<u8>) -> Sight {
        match self.pass(attempt, Hook::Egress, frame.clone()) {
            Passed::Dropped => Sight::Nothing,
            passed => {
                assert_eq!(passed, Passed::On { frame, mark: FOREIGN_MARK }, "{attempt:?}: as it was");
                Sight::Passed
            }
        }
    }

    fn assert_untouched(&mut self, attempt: &Attempt, hook: Hook, frame: Vec<u8>) {
        let passed = self.pass(attempt, hook, frame.clone());
        assert_eq!(passed, Passed::On { frame, mark: FOREIGN_MARK }, "{attempt:?}: {hook:?} has nothing to do");
    }

    fn pass(&mut self, attempt: &Attempt, hook: Hook, frame: Vec<u8>) -> Passed {
        let device = self.device(attempt);
        self.datapath.packet(Packet { hook, device, family: attempt.family, frame, mark: FOREIGN_MARK })
    }

    fn device(&mut self, attempt: &Attempt) -> Device {
        let device = if attempt.client.is_behind_pod_device() { Device::Pods } else { Device::Other };
        if self.control().detects_devices() { device } else { Device::Other }
    }

    /// The address that a client's socket gets on the way to a pod.
    fn source_towards(flow: &Flow, at: SocketAddr) -> SocketAddr {
        let Flow { attempt, source, .. } = *flow;
        match (attempt.client, Pod::at(at.ip())) {
            (Client::Node, Some(pod)) => SocketAddr::new(pod.gateway(attempt.family), source.port()),
            _ => source,
        }
    }

    /// Whether the node keeps what is sent there.
    fn is_delivered(&mut self, to: IpAddr) -> bool {
        to.is_loopback() || to.is_unspecified() || self.control().addresses().contains(&to)
    }
}

impl<D: Datapath> World for PacketWorld<D> {
    const MODE: Mode = D::MODE;

    fn begin(&mut self, row: &Row) {
        self.flows.clear();
        self.datapath.begin(&settings(row.setting, NODE_NAMESPACE));
        match &mut self.control {
            Some(control) => control.begin(row.setting),
            None => self.control = Some(Control::new(row.setting, self.datapath.tables())),
        }
        self.written();
    }

    fn set(&mut self, _: &Row, objects: &Objects, node: &Value) {
        self.control().set(objects, node);
        self.written();
    }

    fn add_address(&mut self, address: IpAddr) {
        self.control().add_address(address);
    }

    fn connect(&mut self, attempt: &Attempt) -> Sight {
        let flow = self.flow(attempt);
        let kind = if attempt.protocol == Protocol::Udp && attempt.number.is_multiple_of(2) {
            CallKind::Send
        } else {
            CallKind::Connect
        };
        self.begin_flow(&flow, kind)
    }

    fn explain(&mut self, attempt: &Attempt) -> Explanation {
        let device = self.device(attempt);
        let device = self.datapath.device(device);
        let question = Question {
            source: attempt.source(),
            source_port: None,
            destination: attempt.to,
            protocol: attempt.protocol,
            origin: match attempt.client {
                Client::Node => Origin::Node,
                client if client.is_at_socket() => Origin::Pod { namespace: Some(namespace(client)), device },
                _ => Origin::Packets { device },
            },
            hooks: Hooks::Attached,
        };
        self.datapath.explain(&question)
    }

    fn open(&mut self, attempt: &Attempt) -> (FlowId, Sight) {
        let mut flow = self.flow(attempt);
        let kind = if attempt.protocol == Protocol::Udp { CallKind::Send } else { CallKind::Connect };
        flow.sight = self.begin_flow(&flow, kind);
        self.flows.push(flow);
        (FlowId(self.flows.len() - 1), flow.sight)
    }

    fn again(&mut self, id: FlowId) -> Sight {
        let flow = self.flows[id.0];
        let sight = match (flow.attempt.is_at_socket(), flow.attempt.protocol, flow.sight) {
            (true, Protocol::Udp, _) => self.call(&flow, CallKind::Send, Moment::Ongoing),
            // The connection is one to the pod itself.
            (true, _, Sight::Reached { at, .. }) => {
                let frame = Moment::Ongoing.frame(flow.attempt.protocol, Self::source_towards(&flow, at), at);
                let hook = if flow.attempt.client == Client::Node { Hook::Egress } else { Hook::Ingress };
                self.assert_untouched(&flow.attempt, hook, frame);
                flow.sight
            }
            _ => self.packet(&flow, Moment::Ongoing),
        };
        self.flows[id.0].sight = sight;
        sight
    }

    fn drops(&mut self) -> BTreeMap<DropReason, u64> {
        self.datapath.drops()
    }

    fn wait(&mut self, seconds: u32) {
        self.datapath.wait(seconds);
    }

    fn restart(&mut self) {
        self.control().restart();
        self.written();
    }

    fn tells(&mut self, words: &str) -> bool {
        self.control().tells(words)
    }

    fn end(&mut self, row: &Row) {
        self.control().clear();
        assert_eq!(self.control().usage(), Usage::default(), "{}: nothing is left in the tables", row.name);
    }
}

/// Cookie of the namespace of a client's socket.
fn namespace(client: Client) -> u64 {
    match client {
        Client::Node => NODE_NAMESPACE,
        Client::From(pod) | Client::AtSocket(pod) => pod.number().into(),
        Client::Pod => 2,
        Client::Sandboxed | Client::Outside | Client::Crowd | Client::OtherNode => 3,
    }
}

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Opening,
    Ongoing,
}

impl Moment {
    /// The client's packet.
    fn frame(self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        match (protocol, self) {
            (Protocol::Tcp, Self::Opening) => frames::tcp(from, to, Segment::Syn, &[]),
            (Protocol::Tcp, Self::Ongoing) => frames::tcp(from, to, Segment::Ack, b"more"),
            (Protocol::Udp, _) => frames::udp(from, to, b"question"),
            (Protocol::Sctp, Self::Opening) => frames::sctp(from, to, Chunk::Init, &[]),
            (Protocol::Sctp, Self::Ongoing) => frames::sctp(from, to, Chunk::Data, b"more"),
        }
    }

    /// The other end's packet.
    fn answer(self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        match (protocol, self) {
            (Protocol::Tcp, Self::Opening) => frames::tcp(from, to, Segment::SynAck, &[]),
            (Protocol::Sctp, Self::Opening) => frames::sctp(from, to, Chunk::InitAck, &[]),
            _ => Self::Ongoing.frame(protocol, from, to),
        }
    }
}

/// What tells the sender of this packet that nobody is there.
fn refusal(protocol: Protocol, refused: &[u8]) -> Vec<u8> {
    match protocol {
        Protocol::Tcp => frames::reset(refused),
        Protocol::Udp => frames::unreachable(refused),
        Protocol::Sctp => frames::abort(refused),
    }
}
