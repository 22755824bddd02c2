//! What to do when a table has no room for a Service: who gives way, and who waits.
//!
//! Age decides: a Service never goes without because of a newer one. Others give way only if that
//! lets the Service in for sure, which is tried on a copy of the pools; so the set of Services that
//! are served, compared from the oldest on, only ever improves, and retrying comes to an end.

use super::{
    Changes,
    desired::DesiredPort,
    draft::Pools,
    problem::{FullTable, Shortage},
    record::{PortRecord, Rank, ServiceRecord},
    state::{State, rank},
};
use crate::model::{IpFamily, Service};

/// How a Service gets the room that it lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is enough once the changes so far are applied and these Services are gone.
    After(Vec<Rank>),
    /// There is not enough, even without all newer Services.
    Never,
}

impl State {
    /// How to make room for a Service that does not fit now.
    pub(super) fn make_room(&self, service: &Service, desired: &[DesiredPort], shortage: Shortage) -> Room {
        let mut newer = self.newer(&rank(service));
        let room = newer.iter().map(|(_, record)| held(record, shortage.table)).sum::<usize>();
        if room_to_come(&self.pools, shortage.table) + room < shortage.missing {
            return Room::Never;
        }
        let nothing = ServiceRecord::default();
        let old = self.services.get(&service.name).unwrap_or(&nothing);
        let mut trial = self.pools.clone();
        trial.release_retired();
        let mut gone = Vec::new();
        // Free slots may be too scattered for a long list; then more and more have to go.
        let mut least = 1;
        while let Err(Shortage { table, missing }) = trial.plan(service, old, desired, &mut Changes::default()) {
            let mut missing = missing.max(least);
            let before = gone.len();
            newer.retain(|(rank, record)| {
                let held = held(record, table);
                if missing == 0 || held == 0 {
                    return true;
                }
                missing = missing.saturating_sub(held);
                trial.remove(record, &mut Changes::default());
                gone.push((*rank).clone());
                false
            });
            if gone.len() == before {
                return Room::Never;
            }
            trial.release_retired();
            least *= 2;
        }
        Room::After(gone)
    }

    /// The installed Services that are newer, the newest first.
    fn newer(&self, rank: &Rank) -> Vec<(&Rank, &ServiceRecord)> {
        let ranked = self.services.values().filter_map(|record| Some((record.rank.as_ref()?, record)));
        let mut newer: Vec<(&Rank, &ServiceRecord)> = ranked.filter(|&(other, _)| other > rank).collect();
        newer.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        newer
    }
}

/// Entries that are free once the changes so far are applied.
fn room_to_come(pools: &Pools, table: FullTable) -> usize {
    match table {
        FullTable::Services(IpFamily::V4) => pools.v4.frontends.removable(),
        FullTable::Services(IpFamily::V6) => pools.v6.frontends.removable(),
        FullTable::Slots(IpFamily::V4) => pools.v4.retired.slots(),
        FullTable::Slots(IpFamily::V6) => pools.v6.retired.slots(),
        FullTable::Backends(IpFamily::V4) => pools.v4.retired.backends.len(),
        FullTable::Backends(IpFamily::V6) => pools.v6.retired.backends.len(),
        FullTable::SourceRanges(IpFamily::V4) => pools.v4.source_ranges.removable(),
        FullTable::SourceRanges(IpFamily::V6) => pools.v6.source_ranges.removable(),
        FullTable::Names => pools.retired_ids.len(),
    }
}

/// How many entries of the table a Service holds.
fn held(record: &ServiceRecord, table: FullTable) -> usize {
    let slots = |slots| usize::try_from(slots).unwrap_or(usize::MAX);
    let of_port = |port: &PortRecord| match table {
        FullTable::Services(IpFamily::V4) => port.v4.frontends.len(),
        FullTable::Services(IpFamily::V6) => port.v6.frontends.len(),
        FullTable::Slots(IpFamily::V4) => slots(port.v4.slots()),
        FullTable::Slots(IpFamily::V6) => slots(port.v6.slots()),
        FullTable::Backends(IpFamily::V4) => port.v4.backends.len(),
        FullTable::Backends(IpFamily::V6) => port.v6.backends.len(),
        FullTable::SourceRanges(IpFamily::V4) => port.v4.source_ranges.len(),
        FullTable::SourceRanges(IpFamily::V6) => port.v6.source_ranges.len(),
        FullTable::Names => 1,
    };
    record.ports.iter().map(of_port).sum()
}
