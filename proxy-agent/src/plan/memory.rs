//! Tables in memory that check every write: what the kernel's tables must never be asked to do is an
//! error here.
//!
//! For tests, of this module and of whoever applies [`Changes`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
};

use proxy_common::{
    Backend, BackendId, Family, PortName, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange, SourceRangeKey,
    V4, V6,
};

use super::{BackendNumber, Changes, FamilyChanges, FamilySnapshot, Pods, Refused, Snapshot, Tables};
use crate::model::IpFamily;

/// The kernel's tables, with the rules by which they may be written.
#[derive(Clone, Debug)]
pub struct MemoryTables {
    names: BTreeMap<ServiceId, PortName>,
    v4: FamilyTables<V4>,
    v6: FamilyTables<V6>,
    /// Frontends for which a `services` table has room.
    capacity: usize,
    pods: BTreeMap<BackendNumber, Box<str>>,
    /// How many writes go well before one fails.
    writes_left: Option<usize>,
}

#[derive(Clone, Debug)]
struct FamilyTables<F: Family> {
    services: BTreeMap<ServiceKey<F::Address>, ServiceEntry>,
    slots: HashMap<u32, BackendId>,
    backends: BTreeMap<BackendId, Backend<F::Address>>,
    source_ranges: BTreeSet<SourceRangeKey<F::Address>>,
    /// How many services name each slot.
    slot_users: HashMap<u32, usize>,
    /// How often a slot that a service names names each backend.
    backend_users: HashMap<BackendId, usize>,
}

/// A write that could let a packet see half a change, or a write that was made to fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// See [`MemoryTables::fail_after`].
    #[error("this write was to fail")]
    Injected,
    /// A service would name an id without a name.
    #[error("id {0:?} has no name")]
    Nameless(ServiceId),
    /// A name would be removed or replaced while its id is in use.
    #[error("id {0:?} is in use")]
    IdInUse(ServiceId),
    /// A slot would be written while a service names it.
    #[error("slot {0} is in use")]
    SlotInUse(u32),
    /// A service would name a slot that was never written.
    #[error("slot {0} was never written")]
    UnwrittenSlot(u32),
    /// A service would name a backend that is free or another service's.
    #[error("backend {0:?} is not one of the service's")]
    NotTheServices(BackendId),
    /// A backend that is not free would become another one, or one that a slot names be cleared. Only flags
    /// change in place.
    #[error("backend {0:?} is in use")]
    BackendInUse(BackendId),
    /// A service that is not there would be removed.
    #[error("a service to remove is not there")]
    NoSuchService,
    /// A backend that is free would be cleared, or a name or source range that is not there removed.
    #[error("what is to be removed is not there")]
    NothingToRemove,
    /// A source range that is there would be inserted.
    #[error("a source range is there already")]
    RangeTwice,
    /// A service would ask for source ranges of an id that has none, and shut out everybody.
    #[error("a service of id {0:?} is guarded and has no source ranges")]
    NoRange(ServiceId),
}

impl MemoryTables {
    /// Empty tables with room for `capacity` frontends per family.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let names = BTreeMap::new();
        let (v4, v6) = (FamilyTables::default(), FamilyTables::default());
        Self { names, v4, v6, capacity, pods: BTreeMap::new(), writes_left: None }
    }

    /// The names of pods behind backends.
    #[must_use]
    pub const fn pods(&self) -> &BTreeMap<BackendNumber, Box<str>> {
        &self.pods
    }

    /// Lets `writes` more writes go well and the one after them fail; all go well after that.
    pub fn fail_after(&mut self, writes: usize) {
        self.writes_left = Some(writes);
    }

    fn write<T>(&mut self, write: impl FnOnce(&mut Self) -> Result<T, MemoryError>) -> Result<T, MemoryError> {
        match self.writes_left {
            Some(0) => {
                self.writes_left = None;
                return Err(MemoryError::Injected);
            }
            Some(left) => self.writes_left = Some(left - 1),
            None => {}
        }
        write(self)
    }

    fn uses(&self, id: ServiceId) -> bool {
        self.v4.uses(id) || self.v6.uses(id)
    }

    /// Backends, slots, source ranges, services, removals: all but what comes after the grace period.
    fn apply_family<F: Family>(
        &mut self,
        family: fn(&mut Self) -> &mut FamilyTables<F>,
        changes: &FamilyChanges<F>,
    ) -> Result<Vec<ServiceKey<F::Address>>, MemoryError> {
        let FamilyChanges {
            backends,
            slots,
            source_ranges,
            services,
            removed_services,
            retired_backends: _,
            removed_source_ranges: _,
        } = changes;
        for &(id, backend) in backends {
            self.write(|tables| family(tables).write_backend(id, backend))?;
        }
        for (offset, ids) in slots {
            for (slot, &id) in (*offset..).zip(ids) {
                self.write(|tables| family(tables).write_slot(slot, id))?;
            }
        }
        for &range in source_ranges {
            self.write(
                |tables| {
                    if family(tables).source_ranges.insert(range) { Ok(()) } else { Err(MemoryError::RangeTwice) }
                },
            )?;
        }
        let mut refused = Vec::new();
        for &(key, entry) in services {
            let written = self.write(|tables| {
                if !tables.names.contains_key(&entry.id()) {
                    return Err(MemoryError::Nameless(entry.id()));
                }
                let capacity = tables.capacity;
                family(tables).write_service(key, entry, capacity)
            })?;
            if !written {
                refused.push(key);
            }
        }
        for &key in removed_services {
            self.write(|tables| family(tables).remove_service(key))?;
        }
        Ok(refused)
    }

    /// What comes after the grace period.
    fn retire_family<F: Family>(
        &mut self,
        family: fn(&mut Self) -> &mut FamilyTables<F>,
        changes: &FamilyChanges<F>,
    ) -> Result<(), MemoryError> {
        for &id in &changes.retired_backends {
            self.write(|tables| family(tables).clear_backend(id))?;
        }
        for range in &changes.removed_source_ranges {
            self.write(|tables| family(tables).remove_range(range))?;
        }
        Ok(())
    }
}

impl Tables for MemoryTables {
    type Error = MemoryError;

    fn snapshot(&self) -> Result<Snapshot, MemoryError> {
        Ok(Snapshot { names: self.names.clone(), v4: self.v4.snapshot(), v6: self.v6.snapshot() })
    }

    fn apply(&mut self, changes: &Changes) -> Result<Refused, MemoryError> {
        let Changes { names, v4, v6, retired_names, gone_backends: _ } = changes;
        for &(id, name) in names {
            self.write(|tables| {
                let is_new = tables.names.insert(id, name).is_none();
                if is_new { Ok(()) } else { Err(MemoryError::IdInUse(id)) }
            })?;
        }
        let refused = Refused {
            v4: self.apply_family(|tables| &mut tables.v4, v4)?,
            v6: self.apply_family(|tables| &mut tables.v6, v6)?,
        };
        self.retire_family(|tables| &mut tables.v4, v4)?;
        self.retire_family(|tables| &mut tables.v6, v6)?;
        for &id in retired_names {
            self.write(|tables| {
                if tables.uses(id) {
                    return Err(MemoryError::IdInUse(id));
                }
                tables.names.remove(&id).map(drop).ok_or(MemoryError::NothingToRemove)
            })?;
        }
        for (family, retired) in [(IpFamily::V4, &v4.retired_backends), (IpFamily::V6, &v6.retired_backends)] {
            for &id in retired {
                self.pods.remove(&BackendNumber { family, id });
            }
        }
        Ok(refused)
    }

    fn name_pods(&mut self, pods: &Pods<'_>) {
        match pods {
            Pods::All(pods) => self.pods = pods.iter().map(|&(number, pod)| (number, pod.into())).collect(),
            Pods::Some(pods) => {
                for (number, pod) in pods {
                    match pod {
                        Some(pod) => drop(self.pods.insert(*number, (*pod).into())),
                        None => drop(self.pods.remove(number)),
                    }
                }
            }
        }
    }
}

impl<F: Family> Default for FamilyTables<F> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            slots: HashMap::new(),
            backends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
            slot_users: HashMap::new(),
            backend_users: HashMap::new(),
        }
    }
}

impl<F: Family> FamilyTables<F> {
    fn write_backend(&mut self, id: BackendId, backend: Backend<F::Address>) -> Result<(), MemoryError> {
        // Slots may name the entry, and flows remember what it stands for until it is cleared.
        let endpoint = |backend: &Backend<F::Address>| (backend.address(), backend.port(), backend.service());
        match self.backends.insert(id, backend) {
            None => Ok(()),
            Some(old) if endpoint(&old) == endpoint(&backend) && old.flags() != backend.flags() => Ok(()),
            Some(_) => Err(MemoryError::BackendInUse(id)),
        }
    }

    fn write_slot(&mut self, slot: u32, id: BackendId) -> Result<(), MemoryError> {
        if self.slot_users.contains_key(&slot) {
            return Err(MemoryError::SlotInUse(slot));
        }
        self.slots.insert(slot, id);
        Ok(())
    }

    /// Whether there was room.
    fn write_service(
        &mut self,
        key: ServiceKey<F::Address>,
        entry: ServiceEntry,
        capacity: usize,
    ) -> Result<bool, MemoryError> {
        for slot in slots(&entry) {
            let id = *self.slots.get(&slot).ok_or(MemoryError::UnwrittenSlot(slot))?;
            if self.backends.get(&id).is_none_or(|backend| backend.service() != entry.id()) {
                return Err(MemoryError::NotTheServices(id));
            }
        }
        if entry.flags().contains(ServiceFlags::SOURCE_RANGES) && !self.has_range(entry.id()) {
            return Err(MemoryError::NoRange(entry.id()));
        }
        let old = self.services.get(&key).copied();
        if old.is_none() && self.services.len() >= capacity {
            return Ok(false);
        }
        self.services.insert(key, entry);
        for slot in slots(&entry) {
            *self.slot_users.entry(slot).or_default() += 1;
            *self.backend_users.entry(self.slots[&slot]).or_default() += 1;
        }
        if let Some(old) = old {
            self.stop_using(&old);
        }
        Ok(true)
    }

    fn remove_service(&mut self, key: ServiceKey<F::Address>) -> Result<(), MemoryError> {
        let old = self.services.remove(&key).ok_or(MemoryError::NoSuchService)?;
        self.stop_using(&old);
        Ok(())
    }

    fn clear_backend(&mut self, id: BackendId) -> Result<(), MemoryError> {
        if self.backend_users.contains_key(&id) {
            return Err(MemoryError::BackendInUse(id));
        }
        self.backends.remove(&id).map(drop).ok_or(MemoryError::NothingToRemove)
    }

    fn remove_range(&mut self, range: &SourceRangeKey<F::Address>) -> Result<(), MemoryError> {
        if !self.source_ranges.remove(range) {
            return Err(MemoryError::NothingToRemove);
        }
        let id = range.service();
        let is_guarded = |entry: &ServiceEntry| entry.id() == id && entry.flags().contains(ServiceFlags::SOURCE_RANGES);
        if !self.has_range(id) && self.services.values().any(is_guarded) {
            return Err(MemoryError::NoRange(id));
        }
        Ok(())
    }

    fn has_range(&self, id: ServiceId) -> bool {
        self.source_ranges.iter().any(|range| range.service() == id)
    }

    fn stop_using(&mut self, entry: &ServiceEntry) {
        for slot in slots(entry) {
            decrement(&mut self.slot_users, slot);
            decrement(&mut self.backend_users, self.slots[&slot]);
        }
    }

    fn uses(&self, id: ServiceId) -> bool {
        self.services.values().any(|entry| entry.id() == id)
            || self.backends.values().any(|backend| backend.service() == id)
            || self.has_range(id)
    }

    fn snapshot(&self) -> FamilySnapshot<F> {
        let named: BTreeSet<u32> = self.services.values().flat_map(slots).collect();
        FamilySnapshot {
            services: self.services.clone(),
            slots: named.into_iter().map(|slot| (slot, self.slots[&slot])).collect(),
            backends: self.backends.clone(),
            source_ranges: self.source_ranges.clone(),
        }
    }
}

/// The slots that a service names.
fn slots(entry: &ServiceEntry) -> impl Iterator<Item = u32> + use<> {
    let slots = |range: SlotRange| range.offset()..range.offset() + range.count();
    slots(entry.cluster()).chain(slots(entry.local()))
}

fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
