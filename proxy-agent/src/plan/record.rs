//! What is installed for each Service, as far as the next change needs to know it.

use proxy_common::{BackendId, Protocol, ServiceFlags, ServiceId, SlotRange, SourceRangeKey};

use super::desired::{Frontend, Target};
use crate::model::{CreationTime, ObjectName};

/// Precedence of a Service: the least is the oldest and wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) created: CreationTime,
    pub(super) name: ObjectName,
}

/// What is installed for a Service.
#[derive(Debug, Default)]
pub(super) struct ServiceRecord {
    /// `None`: adopted, and not planned since.
    pub(super) rank: Option<Rank>,
    pub(super) ports: Vec<PortRecord>,
}

/// Service ports whose traffic policy is `Local` and that have endpoints, but none on this node: their
/// traffic is dropped here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// In IPv4.
    pub v4: ByPolicy,
    /// In IPv6.
    pub v6: ByPolicy,
}

/// Numbers of Service ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByPolicy {
    /// By `internalTrafficPolicy`.
    pub internal: usize,
    /// By `externalTrafficPolicy`.
    pub external: usize,
}

impl NoLocalEndpoints {
    /// Each number changed by that of a Service.
    pub(super) fn with(self, of_service: Self, change: fn(usize, usize) -> usize) -> Self {
        let policy = |all: ByPolicy, one: ByPolicy| ByPolicy {
            internal: change(all.internal, one.internal),
            external: change(all.external, one.external),
        };
        Self { v4: policy(self.v4, of_service.v4), v6: policy(self.v6, of_service.v6) }
    }
}

impl ByPolicy {
    /// The number of those of these records that have no endpoint here and should have one.
    fn of<'a, A: 'a>(records: &(impl Iterator<Item = &'a FamilyRecord<A>> + Clone)) -> Self {
        let count =
            |counts: fn(ServiceFlags) -> bool| records.clone().filter(|record| record.lacks_local(counts)).count();
        Self {
            internal: count(|flags| !flags.contains(ServiceFlags::EXTERNAL)),
            external: count(|flags| flags.contains(ServiceFlags::EXTERNAL)),
        }
    }
}

impl ServiceRecord {
    /// How many of the Service's ports have no endpoint here and should have one.
    pub(super) fn no_local_endpoints(&self) -> NoLocalEndpoints {
        let ports = self.ports.iter();
        NoLocalEndpoints {
            v4: ByPolicy::of(&ports.clone().map(|port| &port.v4)),
            v6: ByPolicy::of(&ports.map(|port| &port.v6)),
        }
    }
}

/// What is installed for a port of a Service.
#[derive(Debug)]
pub(super) struct PortRecord {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) id: ServiceId,
    pub(super) v4: FamilyRecord<[u8; 4]>,
    pub(super) v6: FamilyRecord<[u8; 16]>,
}

impl PortRecord {
    pub(super) fn new(name: Box<str>, protocol: Protocol, id: ServiceId) -> Self {
        Self { name, protocol, id, v4: FamilyRecord::default(), v6: FamilyRecord::default() }
    }
}

/// One family's part of a port.
#[derive(Debug)]
pub(super) struct FamilyRecord<A> {
    /// The frontends that the port claims, whether or not it has them.
    pub(super) frontends: Box<[Frontend<A>]>,
    /// Sorted by address and port.
    pub(super) backends: Box<[BackendRecord<A>]>,
    /// The slots that hold the ids of `backends` with `in_cluster_list`, in their order. `None`:
    /// there is no such range.
    pub(super) cluster: Option<SlotRange>,
    /// The same for `in_local_list`.
    pub(super) local: Option<SlotRange>,
    /// Who may use the frontends that are guarded.
    pub(super) source_ranges: Box<[SourceRangeKey<A>]>,
}

impl<A> FamilyRecord<A> {
    /// The slots that the port's lists take.
    pub(super) fn slots(&self) -> u32 {
        [self.cluster, self.local].into_iter().flatten().map(SlotRange::count).sum()
    }

    /// Whether one of the frontends that count may only use endpoints on this node, and the only ones are
    /// elsewhere.
    fn lacks_local(&self, counts: fn(ServiceFlags) -> bool) -> bool {
        let is_some = |list: Option<SlotRange>| list.is_some_and(|list| !list.is_empty());
        let needs_local = |flags: ServiceFlags| flags.contains(ServiceFlags::LOCAL) && counts(flags);
        is_some(self.cluster)
            && !is_some(self.local)
            && self.frontends.iter().any(|frontend| needs_local(frontend.flags))
    }
}

impl<A> Default for FamilyRecord<A> {
    fn default() -> Self {
        Self {
            frontends: Box::default(),
            backends: Box::default(),
            cluster: None,
            local: None,
            source_ranges: Box::default(),
        }
    }
}

/// An endpoint and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackendRecord<A> {
    pub(super) id: BackendId,
    /// Flags in the `backends` table.
    pub(super) flags: u16,
    /// In which lists the slots have it.
    pub(super) target: Target<A>,
}
