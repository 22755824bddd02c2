//! What is installed, and the changes that make it what is desired.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{ServiceEntry, V4, V6};

use super::{
    Capacities, Changes, FamilyChanges, FamilyUsage, PlanProblem, Refused, Snapshot, Usage,
    adopt::Strays,
    desired::{DesiredPort, desired},
    draft::Pools,
    endpoints::Place,
    family::PlanFamily,
    frontends::Claim,
    lists::FamilyTables,
    problem::{FullTable, Shortage},
    record::{NoLocalEndpoints, Rank, ServiceRecord},
    room::Room,
};
use crate::model::{Affected, CreationTime, Index, ObjectName, Service};

/// What is installed on this node, and what each Service has of it.
///
/// The life of a state:
///
/// 1. [`State::adopt`] what the tables hold. Nothing is planned before the next step.
/// 2. [`State::complete`] once all lists of objects are complete. This plans every Service and
///    removes what was adopted and is in no list.
/// 3. [`State::reconcile`] whenever objects have changed. This plans the Services affected.
///
/// The changes that 2 and 3 return have to be applied in the order they were made, and then be
/// confirmed with [`State::applied`]: numbers and slots that a change retires are given out again
/// only after that, because programs may read them until then. If applying fails, the state is
/// ahead of the tables: go back to step 1 with a fresh snapshot.
///
/// A Service that a table has no room for is refused as a whole, the newest first: it is as if it
/// did not exist, until there is room again ([`State::retry_is_due`]).
#[derive(Debug)]
pub struct State {
    pub(super) capacities: Capacities,
    pub(super) pools: Pools,
    pub(super) services: BTreeMap<ObjectName, ServiceRecord>,
    pub(super) strays: Strays,
    pub(super) no_local_endpoints: NoLocalEndpoints,
    /// Services without room, and the table that lacks it.
    pub(super) waiting: BTreeMap<ObjectName, FullTable>,
    /// Something is free that was in use; counts once it is applied.
    pub(super) frees: bool,
    pub(super) retry: bool,
    pub(super) is_complete: bool,
}

/// The work of one call.
#[derive(Default)]
struct Round {
    changes: Changes,
    /// Services to plan, the oldest first.
    work: BTreeSet<Rank>,
    /// Services that have to go, to make room.
    leaving: BTreeSet<ObjectName>,
    /// Newer Services than this one are planned in the next round only.
    barrier: Option<(Rank, FullTable)>,
}

impl State {
    /// The state of empty tables.
    #[must_use]
    pub fn new(capacities: Capacities) -> Self {
        Self::adopted(capacities, &Snapshot::default())
    }

    /// Forgets what was known and takes over what the tables hold: ids by their names, ranges and
    /// backends by their services. What is damaged or contradictory there is not used, and replaced
    /// or removed by [`Self::complete`].
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        *self = Self::adopted(self.capacities, snapshot);
    }

    /// Plans all Services, and removes what is installed and belongs to none. Only to be called when
    /// the index holds the complete lists of Services, slices and the own Node.
    #[must_use]
    pub fn complete(&mut self, index: &Index) -> Changes {
        self.is_complete = true;
        let mut round = Round::default();
        for service in index.services() {
            if let Some(record) = self.services.get_mut(&service.name) {
                // So that a Service that was adopted can give way to an older one.
                record.rank.get_or_insert_with(|| rank(service));
            }
        }
        self.retire_strays(&mut round.changes);
        self.pools.v4.frontends.touch_all();
        self.pools.v6.frontends.touch_all();
        self.pools.v4.source_ranges.touch_all();
        self.pools.v6.source_ranges.touch_all();
        self.add_all(index, &mut round.work);
        self.carry_out(index, round)
    }

    /// Plans the Services affected. Empty before [`Self::complete`], which plans them anyway.
    #[must_use]
    pub fn reconcile(&mut self, index: &Index, affected: &Affected) -> Changes {
        if !self.is_complete {
            return Changes::default();
        }
        let mut round = Round::default();
        match affected {
            Affected::Services(names) => round.work.extend(names.iter().map(|name| self.rank(name, index))),
            Affected::All => self.add_all(index, &mut round.work),
        }
        if std::mem::take(&mut self.retry) {
            round.work.extend(self.waiting.keys().map(|name| self.rank(name, index)));
        }
        self.carry_out(index, round)
    }

    /// Confirms that all changes so far are applied, but for frontends that had no room. What they
    /// retired can be given out again.
    pub fn applied(&mut self, refused: &Refused) {
        self.pools.release_retired();
        note_refused(&mut self.pools.v4, refused, &mut self.waiting);
        note_refused(&mut self.pools.v6, refused, &mut self.waiting);
        self.retry |= std::mem::take(&mut self.frees) && !self.waiting.is_empty();
    }

    /// Whether Services that were refused may fit now. Then the next [`Self::reconcile`], which may
    /// be one with [`Affected::none`], tries them again.
    #[must_use]
    pub const fn retry_is_due(&self) -> bool {
        self.retry
    }

    /// What is not served at present, sorted.
    #[must_use]
    pub fn problems(&self) -> Vec<PlanProblem> {
        let no_room = |(service, &table): (&ObjectName, _)| PlanProblem::NoRoom { service: service.clone(), table };
        let mut problems: Vec<PlanProblem> = self.waiting.iter().map(no_room).collect();
        problems.extend(clashes(&self.pools.v4));
        problems.extend(clashes(&self.pools.v6));
        problems.sort_unstable();
        problems
    }

    /// How much of the tables is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let Pools { ids, retired_ids: _, v4, v6 } = &self.pools;
        Usage { v4: family_usage(v4), v6: family_usage(v6), names: ids.used() }
    }

    /// How many Service ports have endpoints, and none here where they should.
    #[must_use]
    pub const fn no_local_endpoints(&self) -> NoLocalEndpoints {
        self.no_local_endpoints
    }

    fn count_no_local(&mut self, of_service: NoLocalEndpoints, change: fn(usize, usize) -> usize) {
        self.no_local_endpoints = self.no_local_endpoints.with(of_service, change);
    }

    fn add_all(&self, index: &Index, work: &mut BTreeSet<Rank>) {
        work.extend(index.services().map(rank));
        let gone = self.services.keys().filter(|name| index.service(name).is_none());
        work.extend(gone.map(|name| self.rank(name, index)));
    }

    fn rank(&self, name: &ObjectName, index: &Index) -> Rank {
        let installed = || self.services.get(name).and_then(|record| record.rank.clone());
        let unknown = || Rank { created: CreationTime::UNKNOWN, name: name.clone() };
        index.service(name).map(rank).or_else(installed).unwrap_or_else(unknown)
    }

    fn carry_out(&mut self, index: &Index, mut round: Round) -> Changes {
        while let Some(rank) = round.work.pop_first() {
            let service = index.service(&rank.name);
            if round.leaving.contains(&rank.name) {
                self.remove(&rank.name, &mut round);
            } else if let Some(service) = service {
                match round.barrier {
                    Some((ref barrier, table)) if *barrier < rank => {
                        self.waiting.insert(rank.name, table);
                    }
                    _ => self.plan(service, index, &mut round),
                }
            } else {
                self.waiting.remove(&rank.name);
                self.remove(&rank.name, &mut round);
            }
        }
        let mut changes = round.changes;
        settle::<V4>(&mut self.pools.v4, &self.services, &mut changes);
        settle::<V6>(&mut self.pools.v6, &self.services, &mut changes);
        self.frees |= removes(&changes.v4) || removes(&changes.v6) || self.pools.has_retired();
        changes
    }

    fn plan(&mut self, service: &Service, index: &Index, round: &mut Round) {
        let place = Place { node: index.node_name(), zone: index.zone() };
        let desired = desired(service, index.slices(&service.name), place, index.facts());
        let nothing = ServiceRecord::default();
        let old = self.services.get(&service.name).unwrap_or(&nothing);
        match self.pools.plan(service, old, &desired, &mut round.changes) {
            Ok((new, moved)) => {
                self.count_no_local(new.no_local_endpoints(), usize::saturating_add);
                if let Some(old) = self.services.insert(service.name.clone(), new) {
                    self.count_no_local(old.no_local_endpoints(), usize::saturating_sub);
                }
                self.waiting.remove(&service.name);
                round.work.extend(moved);
            }
            Err(shortage) => self.refuse(service, &desired, shortage, round),
        }
    }

    fn remove(&mut self, name: &ObjectName, round: &mut Round) {
        if let Some(old) = self.services.remove(name) {
            self.count_no_local(old.no_local_endpoints(), usize::saturating_sub);
            round.work.extend(self.pools.remove(&old, &mut round.changes));
        }
    }

    /// A Service does not fit: it waits as it is installed now, or goes, as [`Room`] says.
    fn refuse(&mut self, service: &Service, desired: &[DesiredPort], shortage: Shortage, round: &mut Round) {
        let giving_way = match self.make_room(service, desired, shortage) {
            Room::After(newer) => {
                // Nobody newer may take the room before the Service is tried again.
                round.barrier = Some((rank(service), shortage.table));
                self.waiting.insert(service.name.clone(), shortage.table);
                newer
            }
            Room::Never => vec![rank(service)],
        };
        for rank in giving_way {
            self.waiting.insert(rank.name.clone(), shortage.table);
            round.leaving.insert(rank.name.clone());
            round.work.insert(rank);
        }
    }

    fn retire_strays(&mut self, changes: &mut Changes) {
        let Strays { names, ids, v4, v6 } = std::mem::take(&mut self.strays);
        changes.retired_names.extend(names);
        self.pools.retired_ids.extend(ids);
        changes.v4.retired_backends.extend(&v4.backends);
        changes.v6.retired_backends.extend(&v6.backends);
        self.pools.v4.retired.extend(v4);
        self.pools.v6.retired.extend(v6);
    }
}

/// Precedence of a Service.
pub(super) fn rank(service: &Service) -> Rank {
    Rank { created: service.created, name: service.name.clone() }
}

/// Writes down the frontends and source ranges that differ from what is installed.
fn settle<F: PlanFamily>(
    tables: &mut FamilyTables<F>,
    services: &BTreeMap<ObjectName, ServiceRecord>,
    changes: &mut Changes,
) {
    let entry = |claim: &Claim| {
        let ports = &services.get(&claim.rank.name)?.ports;
        let record = F::of_record(ports.iter().find(|port| port.id == claim.id)?);
        let entry = ServiceEntry::new(claim.id, claim.flags, record.cluster?, record.local?);
        Some(entry.with_affinity_timeout(claim.affinity_timeout))
    };
    let difference = tables.frontends.settle(entry);
    let changes = F::of_changes(changes);
    changes.services.extend(difference.services);
    changes.removed_services.extend(difference.removed_services);
    let difference = tables.source_ranges.settle();
    changes.source_ranges.extend(difference.source_ranges);
    changes.removed_source_ranges.extend(difference.removed_source_ranges);
}

/// Whether what goes makes room in a table of which this side keeps no list of what is retired.
fn removes<F: PlanFamily>(changes: &FamilyChanges<F>) -> bool {
    !changes.removed_services.is_empty() || !changes.removed_source_ranges.is_empty()
}

fn note_refused<F: PlanFamily>(
    tables: &mut FamilyTables<F>,
    refused: &Refused,
    waiting: &mut BTreeMap<ObjectName, FullTable>,
) {
    for &key in F::of_refused(refused) {
        if let Some(rank) = tables.frontends.refused(key) {
            waiting.insert(rank.name, FullTable::Services(F::IP_FAMILY));
        }
    }
}

fn clashes<F: PlanFamily>(tables: &FamilyTables<F>) -> impl Iterator<Item = PlanProblem> {
    tables.frontends.contested().filter_map(|(key, claims)| Some((key, claims.split_first()?))).flat_map(
        |(key, (winner, losers))| {
            losers.iter().filter_map(move |loser| {
                Some(PlanProblem::Clash {
                    service: loser.rank.name.clone(),
                    frontend: (F::to_ip(key.address()), key.port().get()).into(),
                    protocol: key.protocol()?,
                    winner: winner.rank.name.clone(),
                })
            })
        },
    )
}

fn family_usage<F: PlanFamily>(tables: &FamilyTables<F>) -> FamilyUsage {
    FamilyUsage {
        services: tables.frontends.len(),
        slots: tables.slots.used(),
        backends: tables.backends.used(),
        source_ranges: tables.source_ranges.len(),
    }
}
