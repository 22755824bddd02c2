//! One Service, all ports and both families: what it needs, taken from the pools all or nothing.

use proxy_common::{PortName, ServiceId, SourceRangeKey, V4, V6};

use super::{
    Changes,
    desired::{DesiredPort, Frontend},
    family::PlanFamily,
    frontends::Claim,
    ids::IdPool,
    lists::{Draft, FamilyTables, Retired},
    problem::{FullTable, Shortage},
    record::{FamilyRecord, PortRecord, Rank, ServiceRecord},
};
use crate::model::{ObjectName, Service};

/// The tables of both families, and the ids of Service ports.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    pub(super) ids: IdPool,
    pub(super) retired_ids: Vec<ServiceId>,
    pub(super) v4: FamilyTables<V4>,
    pub(super) v6: FamilyTables<V6>,
}

/// What one Service needs. Undone unless it is carried out.
#[derive(Debug, Default)]
struct ServiceDraft {
    names: Vec<(ServiceId, PortName)>,
    retired_ids: Vec<ServiceId>,
    v4: Draft<V4>,
    v6: Draft<V6>,
}

impl Pools {
    /// Takes a Service from `old` to what is desired, and writes down what that changes. Returns
    /// its new record and the other Services that gained or lost a frontend by it.
    ///
    /// # Errors
    /// A table has no room; then nothing has changed.
    pub(super) fn plan(
        &mut self,
        service: &Service,
        old: &ServiceRecord,
        desired: &[DesiredPort],
        changes: &mut Changes,
    ) -> Result<(ServiceRecord, Vec<Rank>), Shortage> {
        let rank = Rank { created: service.created, name: service.name.clone() };
        excess(&self.v4, desired)?;
        excess(&self.v6, desired)?;
        let mut draft = ServiceDraft::default();
        match self.draft(&rank, old, desired, &mut draft) {
            Ok(ports) => {
                let new = ServiceRecord { rank: Some(rank), ports };
                let moved = self.carry_out(draft, old, &new, changes);
                Ok((new, moved))
            }
            Err(shortage) => {
                let ServiceDraft { names, retired_ids: _, v4, v6 } = draft;
                v4.undo(&mut self.v4);
                v6.undo(&mut self.v6);
                for (id, _) in names.into_iter().rev() {
                    self.ids.undo(id.get());
                }
                Err(shortage)
            }
        }
    }

    /// Removes all that a Service has. Returns the other Services that gained a frontend by it.
    pub(super) fn remove(&mut self, old: &ServiceRecord, changes: &mut Changes) -> Vec<Rank> {
        let mut draft = ServiceDraft::default();
        draft.retire(old.ports.iter());
        self.carry_out(draft, old, &ServiceRecord::default(), changes)
    }

    /// Makes what was retired available.
    pub(super) fn release_retired(&mut self) {
        for id in self.retired_ids.drain(..) {
            self.ids.release(id.get());
        }
        self.v4.release_retired();
        self.v6.release_retired();
    }

    /// Whether something can be given out again once the changes are applied.
    pub(super) fn has_retired(&self) -> bool {
        let Self { ids: _, retired_ids, v4, v6 } = self;
        let is_empty = |retired: &Retired| retired.backends.is_empty() && retired.slots() == 0;
        !retired_ids.is_empty() || !is_empty(&v4.retired) || !is_empty(&v6.retired)
    }

    fn draft(
        &mut self,
        rank: &Rank,
        old: &ServiceRecord,
        desired: &[DesiredPort],
        draft: &mut ServiceDraft,
    ) -> Result<Vec<PortRecord>, Shortage> {
        let mut ports = Vec::with_capacity(desired.len());
        for port in desired {
            let known = old.ports.iter().find(|known| is_of(known, port));
            let id = match known {
                Some(known) => known.id,
                None => self.name(&rank.name, port, draft)?,
            };
            let mut record = PortRecord::new(port.name.clone(), port.protocol, id);
            record.v4 = family(&mut self.v4, &mut draft.v4, rank, &record, known, port)?;
            record.v6 = family(&mut self.v6, &mut draft.v6, rank, &record, known, port)?;
            ports.push(record);
        }
        draft.retire(old.ports.iter().filter(|known| !desired.iter().any(|port| is_of(known, port))));
        Ok(ports)
    }

    fn name(
        &mut self,
        service: &ObjectName,
        port: &DesiredPort,
        draft: &mut ServiceDraft,
    ) -> Result<ServiceId, Shortage> {
        let shortage = Shortage { table: FullTable::Names, missing: 1 };
        let name = PortName::new(service.namespace(), service.name(), &port.name, port.protocol).ok_or(shortage)?;
        let id = self.ids.take().map(ServiceId::new).ok_or(shortage)?;
        draft.names.push((id, name));
        Ok(id)
    }

    fn carry_out(
        &mut self,
        draft: ServiceDraft,
        old: &ServiceRecord,
        new: &ServiceRecord,
        changes: &mut Changes,
    ) -> Vec<Rank> {
        let ServiceDraft { names, retired_ids, v4, v6 } = draft;
        changes.names.extend(names);
        changes.retired_names.extend(&retired_ids);
        self.retired_ids.extend(retired_ids);
        let mut moved = carry_out_family(&mut self.v4, v4, old, new, changes);
        moved.extend(carry_out_family(&mut self.v6, v6, old, new, changes));
        let service = new.rank.as_ref().or(old.rank.as_ref());
        moved.retain(|rank| service.is_none_or(|service| service.name != rank.name));
        moved
    }
}

impl ServiceDraft {
    fn retire<'a>(&mut self, ports: impl Iterator<Item = &'a PortRecord>) {
        for port in ports {
            self.retired_ids.push(port.id);
            self.v4.retire(port);
            self.v6.retire(port);
        }
    }
}

fn is_of(record: &PortRecord, port: &DesiredPort) -> bool {
    record.name == port.name && record.protocol == port.protocol
}

/// Fails if the table has no room for the frontends.
fn excess<F: PlanFamily>(tables: &FamilyTables<F>, desired: &[DesiredPort]) -> Result<(), Shortage> {
    let keys = desired.iter().flat_map(|port| &F::of_desired(port).frontends).map(|frontend| frontend.key);
    match tables.frontends.excess(keys) {
        0 => Ok(()),
        missing => Err(Shortage { table: FullTable::Services(F::IP_FAMILY), missing }),
    }
}

fn family<F: PlanFamily>(
    tables: &mut FamilyTables<F>,
    draft: &mut Draft<F>,
    rank: &Rank,
    new: &PortRecord,
    known: Option<&PortRecord>,
    port: &DesiredPort,
) -> Result<FamilyRecord<F::Address>, Shortage> {
    let desired = F::of_desired(port);
    if desired.frontends.iter().any(|frontend| tables.frontends.would_win(frontend.key, rank)) {
        let nothing = FamilyRecord::default();
        draft.port(tables, new, known.map_or(&nothing, F::of_record), desired)
    } else {
        // Nobody can reach the port's backends: it has none until it gets a frontend.
        if let Some(known) = known {
            draft.retire(known);
        }
        Ok(FamilyRecord { frontends: desired.frontends.as_slice().into(), ..FamilyRecord::default() })
    }
}

fn carry_out_family<F: PlanFamily>(
    tables: &mut FamilyTables<F>,
    draft: Draft<F>,
    old: &ServiceRecord,
    new: &ServiceRecord,
    changes: &mut Changes,
) -> Vec<Rank> {
    let Draft { backends, flagged, slots, retired, new_ranges: _, gone } = draft;
    changes.gone_backends.extend(gone);
    let changes = F::of_changes(changes);
    changes.backends.extend(backends);
    changes.backends.extend(flagged);
    changes.slots.extend(slots.into_iter().map(|(range, ids)| (range.offset(), ids)));
    changes.retired_backends.extend(&retired.backends);
    tables.retired.backends.extend(retired.backends);
    tables.retired.ranges.extend(retired.ranges);
    tables.source_ranges.replace(source_ranges::<F>(old), source_ranges::<F>(new));

    if old.rank == new.rank && frontends::<F>(old).eq(frontends::<F>(new)) {
        tables.frontends.touch(frontends::<F>(new).map(|(_, frontend)| frontend.key));
        return Vec::new();
    }
    let claim = |(id, frontend): (ServiceId, &Frontend<F::Address>)| {
        let &Frontend { key, flags, affinity_timeout } = frontend;
        Some((key, Claim { rank: new.rank.clone()?, id, flags, affinity_timeout }))
    };
    let claims = frontends::<F>(new).filter_map(claim).collect();
    tables.frontends.replace(frontends::<F>(old).map(|(id, frontend)| (frontend.key, id)).collect(), claims)
}

fn source_ranges<F: PlanFamily>(record: &ServiceRecord) -> impl Iterator<Item = SourceRangeKey<F::Address>> {
    record.ports.iter().flat_map(|port| F::of_record(port).source_ranges.iter().copied())
}

fn frontends<F: PlanFamily>(record: &ServiceRecord) -> impl Iterator<Item = (ServiceId, &Frontend<F::Address>)> {
    let ports = record.ports.iter();
    ports.flat_map(|port| F::of_record(port).frontends.iter().map(move |frontend| (port.id, frontend)))
}
