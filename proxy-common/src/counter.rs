//! Drop reasons and counters: one list for verdicts, table indexes, metric labels and messages.

use crate::{Family, FlowTable, ServiceId};

/// Why the datapath dropped or refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum DropReason {
    /// The Service has no usable endpoint anywhere; the client is told.
    NoEndpoint = 0,
    /// The Service has endpoints, but none on this node, and its traffic policy is `Local`.
    NoLocalEndpoint = 1,
    /// The backend has other connections with the client from its port and from every other one that was tried, or all
    /// backends that were tried were just removed.
    TupleClash = 2,
    /// The packet ended before a header that it announced, or could not be rewritten.
    Malformed = 3,
    /// The flow table refused an entry.
    FlowTableFull = 4,
    /// The frontend has `loadBalancerSourceRanges`, and the source is in none of them.
    SourceNotAllowed = 5,
    /// A fragment came before the first one of its datagram, so that nobody knew whose it was. It was passed on, and the
    /// datagram cannot be put together.
    FragmentOutOfOrder = 6,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::NoEndpoint,
        Self::NoLocalEndpoint,
        Self::TupleClash,
        Self::Malformed,
        Self::FlowTableFull,
        Self::SourceNotAllowed,
        Self::FragmentOutOfOrder,
    ];

    /// The reason in `snake_case`, as a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::TupleClash => "tuple_clash",
            Self::Malformed => "malformed",
            Self::FlowTableFull => "flow_table_full",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::FragmentOutOfOrder => "fragment_out_of_order",
        }
    }
}

/// A Service port and a reason: the key of the `drops` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct DropKey {
    service: u32,
    reason: u32,
}

impl DropKey {
    /// The key of what was dropped or refused for `service` because of `reason`.
    #[must_use]
    pub const fn new(service: ServiceId, reason: DropReason) -> Self {
        Self { service: service.get(), reason: reason as u32 }
    }

    /// The Service port.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// The reason; `None` for a number that this version does not know.
    #[must_use]
    pub fn reason(&self) -> Option<DropReason> {
        DropReason::ALL.into_iter().find(|reason| *reason as u32 == self.reason)
    }
}

/// An index into the per-CPU `counters` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Connections, or peers of an unconnected socket, that a socket hook translated.
    SocketConnections,
    /// Flows that a TC program began to translate.
    Flows,
    /// Connections and packets that were dropped or refused.
    Drop(DropReason),
    /// Entries that the TC programs added to a table of flows.
    FlowsAdded(FamilyFlows),
    /// Entries that the TC programs removed from a table of flows.
    FlowsRemoved(FamilyFlows),
}

/// A family's table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilyFlows {
    is_v6: bool,
    table: FlowTable,
}

impl FamilyFlows {
    const COUNT: u32 = 4;

    /// The family's table.
    #[must_use]
    pub const fn of<F: Family>(table: FlowTable) -> Self {
        Self { is_v6: F::VERSION == 6, table }
    }

    const fn number(self) -> u32 {
        self.is_v6 as u32 * 2 + self.table as u32
    }

    fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|is_v6| FlowTable::ALL.map(|table| Self { is_v6, table }))
    }
}

impl Counter {
    const FIRST_DROP: u32 = 2;
    #[expect(clippy::cast_possible_truncation, reason = "there are few reasons")]
    const FIRST_ADDED: u32 = Self::FIRST_DROP + DropReason::ALL.len() as u32;
    const FIRST_REMOVED: u32 = Self::FIRST_ADDED + FamilyFlows::COUNT;

    /// All counters, in the order of their indexes.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::SocketConnections, Self::Flows]
            .into_iter()
            .chain(DropReason::ALL.into_iter().map(Self::Drop))
            .chain(FamilyFlows::all().map(Self::FlowsAdded))
            .chain(FamilyFlows::all().map(Self::FlowsRemoved))
    }

    /// Index into the table.
    #[must_use]
    pub const fn index(self) -> u32 {
        match self {
            Self::SocketConnections => 0,
            Self::Flows => 1,
            Self::Drop(reason) => Self::FIRST_DROP + reason as u32,
            Self::FlowsAdded(flows) => Self::FIRST_ADDED + flows.number(),
            Self::FlowsRemoved(flows) => Self::FIRST_REMOVED + flows.number(),
        }
    }
}
