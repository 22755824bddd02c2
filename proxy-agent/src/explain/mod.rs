//! What the datapath would do with a new connection, and why.
//!
//! Runs the very pipeline of the kernel's programs over tables that are looked at and never written: what it notes goes
//! nowhere. Owns no decision. A recorder between pipeline and tables keeps what was looked up, and where the pipeline asks for a
//! random number it is run once for each endpoint that could be hit, so that all that can happen is seen, with its
//! probability. Knows neither names nor files.

mod packet;
mod recorder;
mod trials;

use std::net::{IpAddr, SocketAddr};

use proxy_common::{
    BackendId, DropReason, FlowFlags, NodeAddress, Port, Protocol, ServiceEntry, ServiceId, SlotRange, TcpState, V4, V6,
};
use proxy_ebpf::{Tables, tc::TcFamily};

/// A new connection, or the first datagram of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The client's address.
    pub source: IpAddr,
    /// The client's port; `None` for one that no flow has.
    pub source_port: Option<Port>,
    /// Where it connects to, of the source's family.
    pub destination: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// Who the client is.
    pub origin: Origin,
    /// Whether the hooks of socket calls are there.
    pub hooks: Hooks,
}

/// Who the client is, as far as the hooks can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process in the node's network namespace.
    Node,
    /// A process in the network namespace of a pod. What its socket hooks leave to packets enters the node by `device`.
    Pod {
        /// The cookie of the namespace; `None` if it is not known, and then nothing is known of its session affinity.
        namespace: Option<u64>,
        /// The device's index.
        device: u32,
    },
    /// Somebody whose socket calls no hook sees, and whose packets enter the node by the device with this index.
    Packets {
        /// The device's index.
        device: u32,
    },
}

/// Whether there are programs at the hooks of socket calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// There are.
    Attached,
    /// There are none.
    Absent,
}

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `connect4` or `connect6`, in the node's namespace.
    NodeSocket,
    /// The same in a pod's.
    PodSocket,
    /// The TC program for packets that enter the node by this device.
    Ingress(u32),
    /// The TC program for packets that leave the node.
    Egress,
}

/// Something that the pipeline did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A program began.
    Program(Program),
    /// It looked for a frontend; the address is unspecified for a nodePort.
    Frontend(SocketAddr, Option<ServiceEntry>),
    /// It asked whether an address is the node's own.
    NodeAddress(IpAddr, Option<NodeAddress>),
    /// It asked whether a source may use a Service's port.
    SourceRange(ServiceId, IpAddr, Allowed),
    /// It asked whether a device leads to pods.
    PodDevice(u32, LeadsToPods),
    /// It looked for the backend that the client had before, which was used so many seconds ago.
    Affinity(ServiceId, Option<(BackendId, u32)>),
    /// It chose a slot, at random.
    Slot(u32, Option<BackendId>),
    /// It looked at a backend: where it is, if it is not free, and whether it is on this node.
    Backend(BackendId, Option<(SocketAddr, Locality)>),
    /// It looked for a connection from the first address to the second one.
    Flow(FlowKind, SocketAddr, SocketAddr, Option<KnownFlow>),
    /// It noted something that later packets or calls follow.
    Notes(Note),
    /// It counted something that is dropped or refused.
    Counts(ServiceId, DropReason),
}

/// Whether a source may use a Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// Whether pods are behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadsToPods {
    /// They are.
    Yes,
    /// They are not, as far as the agent knows.
    No,
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// On this node.
    ThisNode,
    /// Elsewhere.
    Elsewhere,
}

/// Which way an entry of a flow translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// What the client sends.
    Original,
    /// What the backend answers.
    Reply,
}

/// A connection that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// What it is translated to.
    pub to: SocketAddr,
    /// Its Service.
    pub service: ServiceId,
    /// Seconds since its newest packet.
    pub idle: u32,
    /// What was seen of it in this direction.
    pub state: TcpState,
    /// What its packets are marked with.
    pub flags: FlowFlags,
}

/// What is noted for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A connection that packets follow.
    Flow,
    /// A socket's peer.
    Socket,
    /// The client's backend, for session affinity.
    Affinity,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It goes to a backend.
    Translated(Translation),
    /// It is no connection of its own but the answer of a backend, and its source becomes the address that the client knows.
    Answers(SocketAddr),
    /// The client is told that nobody is there.
    Refused(ServiceId, Place),
    /// It is dropped without a word.
    Dropped(Option<ServiceId>, DropReason),
    /// Nothing is done about it.
    Passes,
}

/// A connection that goes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Translation {
    /// Where it is translated.
    pub place: Place,
    /// The backend.
    pub backend: SocketAddr,
    /// The mark of its packets, which were not marked before. At a socket it is 0.
    pub mark: u32,
    /// Whether the mark asks for masquerading.
    pub source: SourceAddress,
    /// The port that the client's end gets, if it is another.
    pub source_port: Option<u16>,
}

/// Where something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At the socket, once.
    Socket,
    /// In each packet.
    Packets,
}

/// Which source address the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceAddress {
    /// The client's.
    Kept,
    /// The node's.
    Masqueraded,
}

/// One of the things that can happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// What.
    pub outcome: Outcome,
    /// How likely it is, from 0 to 1.
    pub probability: f64,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What the pipeline did, in the case that is told; where endpoints are chosen, the first one's.
    pub steps: Vec<Step>,
    /// All that can happen, the likeliest first.
    pub chances: Vec<Chance>,
}

impl Explanation {
    /// The frontend that the connection meets.
    #[must_use]
    pub fn frontend(&self) -> Option<ServiceEntry> {
        self.steps.iter().find_map(|step| match step {
            Step::Frontend(_, entry) => *entry,
            _ => None,
        })
    }

    /// Of what no program sees.
    #[must_use]
    pub fn nothing_done() -> Self {
        Self { steps: Vec::new(), chances: vec![Chance { outcome: Outcome::Passes, probability: 1.0 }] }
    }
}

/// The frontend, and its slots among which the pipeline chose; `None` if it did not choose.
#[must_use]
pub fn chosen_among(steps: &[Step]) -> Option<(ServiceEntry, SlotRange)> {
    let slot = steps.iter().find_map(|step| match step {
        Step::Slot(index, _) => Some(*index),
        _ => None,
    })?;
    let entries = steps.iter().filter_map(|step| match step {
        Step::Frontend(_, Some(entry)) => Some(*entry),
        _ => None,
    });
    let mut ranges = entries.flat_map(|entry| [(entry, entry.cluster()), (entry, entry.local())]);
    ranges.find(|(_, range)| slot.checked_sub(range.offset()).is_some_and(|index| index < range.count()))
}

/// An IP version whose addresses are the standard library's too.
pub trait IpFamily: TcFamily {
    /// The address; `None` if it is of the other version.
    fn octets(address: IpAddr) -> Option<Self::Address>;

    /// The address.
    fn ip(address: Self::Address) -> IpAddr;
}

impl IpFamily for V4 {
    fn octets(address: IpAddr) -> Option<[u8; 4]> {
        match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(address: [u8; 4]) -> IpAddr {
        address.into()
    }
}

impl IpFamily for V6 {
    fn octets(address: IpAddr) -> Option<[u8; 16]> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        }
    }

    fn ip(address: [u8; 16]) -> IpAddr {
        address.into()
    }
}

/// Source and destination are not both of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("source and destination are not of the same IP version")]
pub struct MixedFamilies;

/// What becomes of the connection. `tables` gives the same tables each time; what is written into them is not looked at.
///
/// # Errors
/// An address is not of the family.
pub fn explain<F: IpFamily, T: Tables<F>>(
    question: &Question,
    tables: impl Fn() -> T,
) -> Result<Explanation, MixedFamilies> {
    let source = F::octets(question.source).ok_or(MixedFamilies)?;
    let destination = F::octets(question.destination.ip()).ok_or(MixedFamilies)?;
    Ok(trials::all::<F, T>(question, source, destination, &tables))
}

/// Address and port as the standard library's.
fn socket_address<F: IpFamily>((address, port): (F::Address, Port)) -> SocketAddr {
    SocketAddr::new(F::ip(address), port.get())
}
