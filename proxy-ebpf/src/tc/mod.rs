//! What the TC programs do: DNAT and policy where a packet enters the node, reverse NAT where it leaves.
//!
//! A program is a chain of stages; each returns a [`Verdict`], which may name the next one. A packet of a confirmed flow is done
//! after the second stage and costs one hash lookup, and once a second per flow a second one that keeps the entry of the other
//! direction from being evicted.

mod clashes;
mod egress;
mod errors;
mod flows;
mod forward;
mod fragments;
mod ingress;
mod told;
mod young;

use proxy_common::{
    BackendId, DropReason, Family, FlowFlags, Port, Protocol, ServiceEntry, ServiceFlags, ServiceId, SlotRange,
    SourceRangeKey,
};

use self::flows::{Defence, Former};
pub use self::{
    clashes::{ATTEMPTS, change_port, evade},
    egress::{egress, leave},
    errors::{correct, error},
    forward::{ForwardFamily, forward, returns, send_back},
    fragments::{later_fragment, note_fragment},
    ingress::{admit, choose, follow, ingress, refuse, remember},
    told::decision,
    young::{young, young_reply},
};
use crate::{
    answer::{AnswerFamily, ErrorRate},
    headers::{self, Headers, Kind, Located, ParseFamily, Part, Piece, Quoted},
    packet::Packet,
    policy::List,
    rewrite::WriteFamily,
    tables::Tables,
};

/// An IP version that the TC programs handle.
pub trait TcFamily: ParseFamily + WriteFamily + AnswerFamily + ForwardFamily {}

impl<F: ParseFamily + WriteFamily + AnswerFamily + ForwardFamily> TcFamily for F {}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated or not.
    Pass,
    /// It is dropped without a word.
    Drop(DropReason),
    /// It has been turned into an answer to its sender and leaves through the device it came in on.
    Answer,
    /// It leaves at once, to where [`Packet::send_on`] was told.
    SendOn,
    /// Another stage decides.
    Continue(Stage),
}

/// A part of the pipeline behind the first one.
///
/// In the kernel each stage is a function of its own, because a program has 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The packet has ports: [`ingress`] or [`egress`].
    Match,
    /// The packet is translated and may be sent on: [`forward`].
    Forward,
    /// The packet enters the node and may be an answer that is to be sent on: [`returns`].
    Return,
    /// The packet is such an answer: [`send_back`].
    SendBack,
    /// The packet enters the node and belongs to no confirmed flow: [`young`](young()).
    Young,
    /// The packet leaves the node and is no reply of a confirmed flow: [`young_reply`].
    YoungReply,
    /// The packet belongs to no flow and may begin one: [`admit`].
    Admit,
    /// The packet may use a frontend: [`choose`].
    Choose,
    /// The backend has another connection from the same port of the client: [`evade`].
    Evade,
    /// There is a backend for the packet's flow: [`remember`].
    Remember,
    /// The packet's flow has just begun: [`follow`].
    Follow,
    /// The Service has no endpoint: [`refuse`].
    Refuse,
    /// The packet leaves the node and is no reply: [`leave`].
    Leave,
    /// The packet is translated, but for the client's port: [`change_port`].
    ChangePort,
    /// The packet is an ICMP error: [`error`].
    Error,
    /// The packet is an ICMP error about what was translated: [`correct`].
    Correct,
    /// The packet is a fragment without a transport header: [`later_fragment`].
    LaterFragment,
}

/// What the stages know of the packet that they handle. A stage reads what a stage before it wrote.
#[derive(Clone, Copy, Debug)]
pub struct Work<F: Family> {
    /// Addresses, ports and positions, of a packet that has them.
    headers: Headers<F>,
    /// What the IP header of any other packet says.
    located: Located<F::Address>,
    /// What an ICMP error quotes.
    quoted: Quoted<F>,
    found: Found<F::Address>,
    /// The port that the client's end gets, and whose packet it is. Also whose it is if it is dropped or refused, or begins a flow.
    client_port: Port,
    owner: ServiceId,
    /// The packet is the first fragment of a datagram.
    is_first_fragment: bool,
    /// The Service port whose frontend the packet was translated for, if it is a first fragment.
    translated: Option<ServiceId>,
    /// The packet belonged to a flow that is over.
    supersedes: bool,
    /// If the packet may begin a connection: [`Headers::opening`].
    opening: u16,
    /// Answers of the packet's flow have been sent on.
    is_sent_on: bool,
    admitted: Admitted,
    chosen: Chosen<F::Address>,
    /// Of all packets before, too.
    errors: ErrorRate,
}

impl<F: Family> Default for Work<F> {
    /// Nothing is known.
    fn default() -> Self {
        let nobody = (F::UNSPECIFIED, Port::default());
        let headers = Headers::NONE;
        let located = Located {
            l3: 0,
            source: F::UNSPECIFIED,
            destination: F::UNSPECIFIED,
            protocol: 0,
            l4: 0,
            rest: [0; 4],
            part: Part::default(),
        };
        let quoted = Quoted {
            l3: 0,
            l4: 0,
            protocol: Protocol::Tcp,
            source: nobody,
            destination: nobody,
            len: 0,
            piece: Piece::Whole,
        };
        let found = Found { to: nobody, client_port: None, service: ServiceId::default() };
        let chosen = Chosen {
            backend: BackendId::default(),
            to: nobody,
            client_port: nobody.1,
            former: Former::None,
            defence: Defence::Nobody,
            is_recalled: false,
            evasions: 0,
        };
        Self {
            headers,
            located,
            quoted,
            found,
            client_port: Port::default(),
            owner: ServiceId::default(),
            is_first_fragment: false,
            translated: None,
            supersedes: false,
            opening: 0,
            is_sent_on: false,
            admitted: Admitted::default(),
            chosen,
            errors: ErrorRate::default(),
        }
    }
}

impl<F: Family> Work<F> {
    /// Whether the packet is the first fragment of a datagram. If all else is done and it goes on, [`note_fragment`] is
    /// to follow.
    #[inline(always)]
    #[must_use]
    pub const fn is_first_fragment(&self) -> bool {
        self.is_first_fragment
    }

    /// What is left to do for a packet of `service` that is translated, but for the client's port.
    #[inline(always)]
    fn with_client_port(&mut self, port: Port, present: Port, service: ServiceId) -> Verdict {
        if port == present {
            return Verdict::Pass;
        }
        (self.client_port, self.owner) = (port, service);
        Verdict::Continue(Stage::ChangePort)
    }

    #[inline(always)]
    const fn note_translation(&mut self, service: ServiceId) {
        if self.is_first_fragment {
            self.translated = Some(service);
        }
    }
}

/// What [`error`] finds out: what the quoted packet's end becomes, and whose it is.
#[derive(Clone, Copy, Debug)]
struct Found<A> {
    to: (A, Port),
    /// The port that its other end, the client, gets.
    client_port: Option<Port>,
    service: ServiceId,
}

/// What [`admit`] finds out.
#[derive(Clone, Copy, Debug, Default)]
struct Admitted {
    service: ServiceEntry,
    range: SlotRange,
    list: List,
    flags: FlowFlags,
}

/// What [`choose`] finds out.
#[derive(Clone, Copy, Debug)]
struct Chosen<A> {
    backend: BackendId,
    to: (A, Port),
    /// The client's port that the backend knows.
    client_port: Port,
    /// What the reply entry takes the place of.
    former: Former,
    /// Who defends the connection that it is of, if it is the same one.
    defence: Defence,
    /// Session affinity remembers a backend that is still one to choose, whether it is this one or not.
    is_recalled: bool,
    /// Other ports of the client that were tried and are taken.
    evasions: u8,
}

/// The first stage: reads the headers of the packet whose IP header is at `l3`.
#[inline(always)]
pub fn inspect<F: TcFamily, P: Packet>(packet: &P, work: &mut Work<F>, l3: usize) -> Verdict {
    work.is_first_fragment = false;
    read(packet, work, l3).map_or(Verdict::Pass, Verdict::Continue)
}

/// Which stage is next, if any.
#[inline(always)]
fn read<F: TcFamily, P: Packet>(packet: &P, work: &mut Work<F>, l3: usize) -> Option<Stage> {
    let located = F::locate(packet, l3).ok()??;
    match headers::kind::<F, _>(packet, &located).ok()? {
        Kind::Transport(protocol) => {
            work.headers = headers::transport(packet, &located, protocol).ok()?;
            if located.part.piece == Piece::First {
                work.is_first_fragment = true;
                work.translated = None;
            }
            Some(Stage::Match)
        }
        Kind::Error => {
            (work.located, work.headers.l4) = (located, told::PORTLESS);
            Some(Stage::Error)
        }
        Kind::LaterFragment => {
            (work.located, work.headers.l4) = (located, told::PORTLESS);
            Some(Stage::LaterFragment)
        }
        Kind::Other => None,
    }
}

/// Whether the frontend may be used from `source`.
#[inline(always)]
fn allows_source<F: Family, T: Tables<F>>(tables: &T, service: &ServiceEntry, source: F::Address) -> bool {
    !service.flags().contains(ServiceFlags::SOURCE_RANGES)
        || tables.allows(&SourceRangeKey::lookup(service.id(), source))
}

/// The end of a packet of `service`. [`count_end`] counts it.
#[inline(always)]
const fn drop<F: Family>(work: &mut Work<F>, service: ServiceId, reason: DropReason) -> Verdict {
    work.owner = service;
    Verdict::Drop(reason)
}

/// Counts a packet that was dropped or refused: the last stage of it, in one place for all stages that end packets.
#[inline(always)]
pub fn count_end<F: Family, T: Tables<F>>(tables: &mut T, work: &Work<F>, reason: DropReason) {
    tables.dropped(work.owner, reason);
}
