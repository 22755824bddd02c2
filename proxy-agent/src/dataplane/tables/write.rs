//! Writing the tables, in the order that keeps packets from seeing half a change.

use std::time::Instant;

use proxy_common::{Backend, DropKey, DropReason, Family, PlainAddress, PortName, ServiceId, ServiceKey, V4, V6};

use super::{FamilyTables, PodTable, TableError, Tables, Writes, frontend_filter::FrontendFilter};
use crate::{
    dataplane::{
        frontends::{FamilyFrontends, FormerFrontends},
        grace::Grace,
        mapped::{self, Access},
        pins::Pins,
    },
    model::IpFamily,
    plan::{self, Changes, FamilyChanges, Pods, Refused, Snapshot},
};

/// The tables of the running agent.
///
/// Two rules keep every packet's view whole. What a program can reach is never written: new backends
/// and slots are written first, then the services are flipped to them, each at once. And nothing is used
/// again while a program that started before the flip may still be reading it: before slots and backends
/// are written that a former change may have released, and before retired backends are cleared and source
/// ranges removed, all running programs are waited for.
pub struct KernelTables {
    tables: Tables,
    filter: FrontendFilter,
    grace: Grace,
    /// Services were flipped or removed, and the programs that ran at that time were not waited for.
    unsettled: bool,
    /// When the last changes were written, but for what is retired.
    in_force: Option<Instant>,
    /// Those of programs that are being replaced.
    former: FormerFrontends,
}

impl KernelTables {
    /// Opens the pinned tables for writing.
    pub(in crate::dataplane) fn open(pins: &Pins, writes: Writes, former: FormerFrontends) -> Result<Self, TableError> {
        let grace =
            Grace::new().map_err(|error| TableError::new(pins.root(), "make the maps to wait with in", error))?;
        // What an agent before this one flipped last is not known.
        let mut tables = Tables::open_for(pins, Access::Write, writes)?;
        let names = tables.names.all()?;
        // Some may have been added by an agent that had no filter, or another one.
        let mut filter = FrontendFilter::open(pins)?;
        filter.mark::<V4>(tables.v4.services.all()?.keys())?;
        filter.mark::<V6>(tables.v6.services.all()?.keys())?;
        // An agent that ended between the two tables would leave the next one with this number what was counted for the last.
        tables.traffic.retain(|id| names.contains_key(&id));
        for key in tables.drops.all()?.into_keys().filter(|key| !names.contains_key(&key.service())) {
            tables.drops.remove(&key)?;
        }
        if tables.pods.is_none() {
            let made = PodTable::open_or_make(pins, writes);
            tables.pods = made.inspect_err(|error| tracing::warn!("no names of pods: {error}")).ok();
        }
        // Those that found none of their own before, in the order in which they came.
        for id in names.into_keys() {
            tables.traffic.begin(id)?;
        }
        Ok(Self { tables, filter, grace, unsettled: true, in_force: None, former })
    }

    /// The tables for reading.
    #[must_use]
    pub fn read(&self) -> &Tables {
        &self.tables
    }

    fn settle(&mut self) -> Result<(), TableError> {
        if self.unsettled {
            self.grace
                .wait()
                .map_err(|error| TableError::new(&self.tables.v4.slots_path, "wait for readers of", error))?;
            self.unsettled = false;
        }
        Ok(())
    }

    fn write_names(&mut self, names: &[(ServiceId, PortName)]) -> Result<(), TableError> {
        for (id, _) in names {
            self.tables.traffic.begin(*id)?;
        }
        let refused = self.tables.names.insert(names)?;
        if !refused.is_empty() {
            // The Services work; only the command line shows numbers for them, and a restart renumbers them.
            tracing::warn!(services = refused.len(), "the names table is full");
        }
        Ok(())
    }
}

impl plan::Tables for KernelTables {
    type Error = TableError;

    fn snapshot(&self) -> Result<Snapshot, TableError> {
        self.tables.snapshot()
    }

    fn apply(&mut self, changes: &Changes) -> Result<Refused, TableError> {
        let Changes { names, v4, v6, retired_names, gone_backends: _ } = changes;
        self.write_names(names)?;
        if writes_arrays(v4) || writes_arrays(v6) {
            self.settle()?;
        }
        // Before the writes: if one of them fails, those before it have flipped services all the same.
        self.unsettled |= flips(v4) || flips(v6);
        // What fails in one family is not the other's affair.
        let written_v4 = write(&mut self.tables.v4, &mut self.filter, v4, &self.former.v4);
        let written_v6 = write(&mut self.tables.v6, &mut self.filter, v6, &self.former.v6);
        let (written_v4, written_v6) = (written_v4?, written_v6?);
        self.in_force = Some(Instant::now());
        if retires(v4) || retires(v6) {
            self.settle()?;
            clear(&mut self.tables.v4, v4)?;
            clear(&mut self.tables.v6, v6)?;
            if let Some(pods) = &mut self.tables.pods {
                pods.remove(IpFamily::V4, &v4.retired_backends)?;
                pods.remove(IpFamily::V6, &v6.retired_backends)?;
            }
        }
        for id in retired_names {
            self.tables.names.remove(id)?;
            self.tables.traffic.end(*id);
            // Whoever gets the id next starts from nothing.
            for reason in DropReason::ALL {
                self.tables.drops.remove(&DropKey::new(*id, reason))?;
            }
        }
        match written_v4.no_memory.or(written_v6.no_memory) {
            None => Ok(Refused { v4: written_v4.refused, v6: written_v6.refused }),
            Some(error) => Err(error),
        }
    }

    fn name_pods(&mut self, pods: &Pods<'_>) {
        let written = self.tables.pods.as_mut().map_or(Ok(0), |table| table.write(pods));
        if let Err(error) = written {
            tracing::warn!("the names of pods: {error}");
        }
    }

    fn in_force(&self) -> Option<Instant> {
        self.in_force
    }
}

fn writes_arrays<F: Family>(changes: &FamilyChanges<F>) -> bool {
    !changes.backends.is_empty() || !changes.slots.is_empty()
}

fn flips<F: Family>(changes: &FamilyChanges<F>) -> bool {
    !changes.services.is_empty() || !changes.removed_services.is_empty()
}

fn retires<F: Family>(changes: &FamilyChanges<F>) -> bool {
    !changes.retired_backends.is_empty() || !changes.removed_source_ranges.is_empty()
}

/// What [`write`] could not write.
struct Written<K> {
    /// The frontends for which there is no room.
    refused: Vec<K>,
    /// There was no memory for a source range: those who may use the Service are shut out until it is tried again. All else is written.
    no_memory: Option<TableError>,
}

/// Everything but what is retired, in order.
///
/// # Errors
/// A write failed.
fn write<F: Family<Address: PlainAddress>>(
    tables: &mut FamilyTables<F>,
    filter: &mut FrontendFilter,
    changes: &FamilyChanges<F>,
    former: &FamilyFrontends<F>,
) -> Result<Written<ServiceKey<F::Address>>, TableError> {
    let FamilyChanges {
        backends,
        slots,
        source_ranges,
        services,
        removed_services,
        retired_backends: _,
        removed_source_ranges: _,
    } = changes;
    for (id, backend) in backends {
        tables.write_backend(*id, backend)?;
    }
    for (first, run) in slots {
        for (index, backend) in (*first..).zip(run) {
            tables.write_slot(index, *backend)?;
        }
    }
    filter.mark::<F>(services.iter().map(|(frontend, _)| frontend))?;
    mapped::settle();
    let refused_ranges = tables.source_ranges.insert(source_ranges)?;
    let refused = tables.services.insert(services)?;
    for key in removed_services {
        tables.services.remove(key)?;
    }
    former.apply(services, removed_services)?;
    // The plan counts what there is room for.
    let no_memory = (!refused_ranges.is_empty()).then(|| tables.source_ranges.no_memory());
    Ok(Written { refused, no_memory })
}

fn clear<F>(tables: &mut FamilyTables<F>, changes: &FamilyChanges<F>) -> Result<(), TableError>
where
    F: Family<Address: PlainAddress>,
    Backend<F::Address>: Default,
{
    changes.retired_backends.iter().try_for_each(|id| tables.write_backend(*id, &Backend::default()))?;
    changes.removed_source_ranges.iter().try_for_each(|range| tables.source_ranges.remove(range))
}
