//! What the TC programs do: DNAT and policy where a packet enters the node, reverse NAT where it leaves.
//!
//! A program is a chain of stages; each returns a [`Verdict`], which may name the next one. An established packet is done
//! after the first stage and costs one hash lookup, and once a second per flow a second one that keeps the entry of the other
//! direction from being evicted.

mod egress;
mod flows;
mod ingress;

use proxy_common::{
    BackendId, DropReason, Family, FlowFlags, Port, ServiceEntry, ServiceFlags, ServiceId, SlotRange, SourceRangeKey,
};

pub use self::{
    egress::{egress, leave},
    ingress::{admit, choose, follow, ingress, refuse, remember},
};
use crate::{
    answer::AnswerFamily,
    headers::{Headers, ParseFamily},
    policy::List,
    rewrite::WriteFamily,
    tables::{Insertion, Tables},
};

/// An IP version that the TC programs handle.
pub trait TcFamily: ParseFamily + WriteFamily + AnswerFamily {}

impl<F: ParseFamily + WriteFamily + AnswerFamily> TcFamily for F {}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated or not.
    Pass,
    /// It is dropped without a word.
    Drop(DropReason),
    /// It has been turned into an answer to its sender and leaves through the device it came in on.
    Answer,
    /// Another stage decides.
    Continue(Stage),
}

/// A part of the pipeline behind the first one.
///
/// In the kernel each stage is a function of its own, because a program has 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The packet belongs to no flow and may begin one: [`admit`].
    Admit,
    /// The packet may use a frontend: [`choose`].
    Choose,
    /// There is a backend for the packet's flow: [`remember`].
    Remember,
    /// The packet's flow has just begun: [`follow`].
    Follow,
    /// The Service has no endpoint: [`refuse`].
    Refuse,
    /// The packet leaves the node and is no reply: [`leave`].
    Leave,
}

/// What the stages know of the packet that they handle. The headers are there from the start; a stage reads of the rest
/// what a stage before it wrote.
#[derive(Clone, Copy, Debug)]
pub struct Work<F: Family> {
    /// Addresses, ports and positions.
    pub headers: Headers<F>,
    admitted: Admitted,
    chosen: Chosen<F::Address>,
}

impl<F: Family> Work<F> {
    /// A packet of which only the headers are known.
    #[must_use]
    pub fn new(headers: Headers<F>) -> Self {
        let chosen = Chosen {
            backend: BackendId::default(),
            to: (F::UNSPECIFIED, Port::default()),
            insertion: Insertion::New,
            is_recalled: false,
        };
        Self { headers, admitted: Admitted::default(), chosen }
    }
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
    /// How the reply entry is written.
    insertion: Insertion,
    /// Session affinity remembers a backend that is still one to choose, whether it is this one or not.
    is_recalled: bool,
}

/// Whether the frontend may be used from `source`.
#[inline(always)]
fn allows_source<F: Family, T: Tables<F>>(tables: &T, service: &ServiceEntry, source: F::Address) -> bool {
    !service.flags().contains(ServiceFlags::SOURCE_RANGES)
        || tables.allows(&SourceRangeKey::lookup(service.id(), source))
}

#[inline(always)]
fn drop<F: Family, T: Tables<F>>(tables: &mut T, service: ServiceId, reason: DropReason) -> Verdict {
    tables.dropped(service, reason);
    Verdict::Drop(reason)
}
