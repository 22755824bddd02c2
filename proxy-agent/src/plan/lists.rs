//! One port of one Service in one family: from its targets to backends and slot ranges.
//!
//! Owns the reuse of what is installed: a backend keeps its number while an endpoint is in a slice, a
//! range is kept while its list is the same. Never writes into a range or backend that a program may
//! read, except for a backend's flags.

use proxy_common::{Backend, BackendId, Protocol, SlotRange, SourceRangeKey};

use super::{
    GoneBackend,
    desired::{DesiredFamily, Prefix, Target},
    family::PlanFamily,
    frontends::Frontends,
    ids::IdPool,
    problem::{FullTable, Shortage},
    ranges::Ranges,
    record::{BackendRecord, FamilyRecord, PortRecord},
    slots::SlotAllocator,
};

/// One family's tables: who has what.
#[derive(Clone, Debug)]
pub(super) struct FamilyTables<F: PlanFamily> {
    pub(super) frontends: Frontends<F::Address>,
    pub(super) backends: IdPool,
    pub(super) slots: SlotAllocator,
    pub(super) source_ranges: Ranges<F::Address>,
    /// No longer used, but programs may still read them until the changes are applied.
    pub(super) retired: Retired,
}

/// Backends and slots that are free once the changes are applied.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    pub(super) backends: Vec<BackendId>,
    pub(super) ranges: Vec<SlotRange>,
}

impl Retired {
    /// How many slots are among it.
    pub(super) fn slots(&self) -> usize {
        self.ranges.iter().map(|range| usize::try_from(range.count()).unwrap_or(usize::MAX)).sum()
    }

    /// Adds what else is retired.
    pub(super) fn extend(&mut self, other: Self) {
        self.backends.extend(other.backends);
        self.ranges.extend(other.ranges);
    }
}

impl<F: PlanFamily> FamilyTables<F> {
    /// Makes what was retired available.
    pub(super) fn release_retired(&mut self) {
        let Retired { backends, ranges } = std::mem::take(&mut self.retired);
        for id in backends {
            self.backends.release(id.get());
        }
        for range in ranges {
            self.slots.release(range);
        }
        self.frontends.forget_unclaimed();
        self.source_ranges.forget_strays();
    }
}

/// What one Service needs in one family. Its backends and ranges are taken from the pools, but
/// nothing names them until the draft is carried out; it can be undone.
#[derive(Debug)]
pub(super) struct Draft<F: PlanFamily> {
    pub(super) backends: Vec<(BackendId, Backend<F::Address>)>,
    /// Backends that it did not take, and whose flags change.
    pub(super) flagged: Vec<(BackendId, Backend<F::Address>)>,
    pub(super) slots: Vec<(SlotRange, Vec<BackendId>)>,
    pub(super) retired: Retired,
    /// How many source ranges the table does not have.
    pub(super) new_ranges: usize,
    pub(super) gone: Vec<GoneBackend>,
}

impl<F: PlanFamily> Default for Draft<F> {
    fn default() -> Self {
        Self {
            backends: Vec::new(),
            flagged: Vec::new(),
            slots: Vec::new(),
            retired: Retired::default(),
            new_ranges: 0,
            gone: Vec::new(),
        }
    }
}

impl<F: PlanFamily> Draft<F> {
    /// Gives back what the draft took.
    pub(super) fn undo(self, tables: &mut FamilyTables<F>) {
        let Self { backends, flagged: _, slots, retired: _, new_ranges: _, gone: _ } = self;
        for (range, _) in slots {
            tables.slots.release(range);
        }
        for (id, _) in backends.into_iter().rev() {
            tables.backends.undo(id.get());
        }
    }

    /// Takes `port` from `old` to what is desired of it.
    pub(super) fn port(
        &mut self,
        tables: &mut FamilyTables<F>,
        port: &PortRecord,
        old: &FamilyRecord<F::Address>,
        desired: &DesiredFamily<F::Address>,
    ) -> Result<FamilyRecord<F::Address>, Shortage> {
        let backends = self.backends(tables, port, &old.backends, &desired.targets)?;
        let lists = |member: Member<F>| (list::<F>(&old.backends, member), list::<F>(&backends, member));
        let (old_cluster, new_cluster) = lists(|target| target.in_cluster_list);
        let (old_local, new_local) = lists(|target| target.in_local_list);
        let cluster = self.list(tables, old.cluster, &old_cluster, new_cluster)?;
        let local = self.list(tables, old.local, &old_local, new_local)?;
        Ok(FamilyRecord {
            frontends: desired.frontends.as_slice().into(),
            backends: backends.into(),
            cluster: Some(cluster),
            local: Some(local),
            source_ranges: self.source_ranges(tables, port, &desired.source_ranges)?,
        })
    }

    /// Retires all that a port has.
    pub(super) fn retire(&mut self, port: &PortRecord) {
        let FamilyRecord { frontends: _, backends, cluster, local, source_ranges: _ } = F::of_record(port);
        for backend in backends {
            self.give_up(port, backend);
        }
        self.retired.ranges.extend([*cluster, *local].into_iter().flatten());
    }

    fn give_up(&mut self, port: &PortRecord, backend: &BackendRecord<F::Address>) {
        let &BackendRecord { id, flags: _, target } = backend;
        self.retired.backends.push(id);
        if port.protocol == Protocol::Udp {
            let address = (F::to_ip(target.address), target.port.get()).into();
            self.gone.push(GoneBackend { service: port.id, backend: id, address });
        }
    }

    /// Both sides are sorted by address and port.
    fn backends(
        &mut self,
        tables: &mut FamilyTables<F>,
        port: &PortRecord,
        old: &[BackendRecord<F::Address>],
        targets: &[Target<F::Address>],
    ) -> Result<Vec<BackendRecord<F::Address>>, Shortage> {
        let place = |target: &Target<F::Address>| (target.address, target.port);
        let mut old = old.iter().peekable();
        let mut backends = Vec::with_capacity(targets.len());
        for target in targets {
            while let Some(gone) = old.next_if(|old| place(&old.target) < place(target)) {
                self.give_up(port, gone);
            }
            let backend = target.backend(port.id);
            let id = if let Some(known) = old.next_if(|old| place(&old.target) == place(target)) {
                if known.flags != backend.flags() {
                    self.flagged.push((known.id, backend));
                }
                known.id
            } else {
                let Some(id) = tables.backends.take().map(BackendId::new) else {
                    let rest = targets.len() - backends.len();
                    let missing = rest.saturating_sub(old.len()).max(1);
                    return Err(Shortage { table: FullTable::Backends(F::IP_FAMILY), missing });
                };
                self.backends.push((id, backend));
                id
            };
            backends.push(BackendRecord { id, flags: backend.flags(), target: *target });
        }
        for gone in old {
            self.give_up(port, gone);
        }
        Ok(backends)
    }

    fn list(
        &mut self,
        tables: &mut FamilyTables<F>,
        range: Option<SlotRange>,
        old: &[BackendId],
        new: Vec<BackendId>,
    ) -> Result<SlotRange, Shortage> {
        if let Some(range) = range
            && *old == *new
        {
            return Ok(range);
        }
        let missing = new.len().saturating_sub(tables.slots.available()).max(1);
        let shortage = Shortage { table: FullTable::Slots(F::IP_FAMILY), missing };
        let count = u32::try_from(new.len()).map_err(|_| shortage)?;
        let taken = tables.slots.take(count).ok_or(shortage)?;
        self.retired.ranges.extend(range);
        if count > 0 {
            self.slots.push((taken, new));
        }
        Ok(taken)
    }

    fn source_ranges(
        &mut self,
        tables: &FamilyTables<F>,
        port: &PortRecord,
        prefixes: &[Prefix<F::Address>],
    ) -> Result<Box<[SourceRangeKey<F::Address>]>, Shortage> {
        let range = |prefix: &Prefix<F::Address>| SourceRangeKey::new(port.id, prefix.address, prefix.bits);
        let ranges: Box<[_]> = prefixes.iter().map(range).collect();
        self.new_ranges += tables.source_ranges.missing(&ranges);
        match tables.source_ranges.excess(self.new_ranges) {
            0 => Ok(ranges),
            missing => Err(Shortage { table: FullTable::SourceRanges(F::IP_FAMILY), missing }),
        }
    }
}

type Member<F> = fn(&Target<<F as proxy_common::Family>::Address>) -> bool;

fn list<F: PlanFamily>(backends: &[BackendRecord<F::Address>], member: Member<F>) -> Vec<BackendId> {
    backends.iter().filter(|backend| member(&backend.target)).map(|backend| backend.id).collect()
}
