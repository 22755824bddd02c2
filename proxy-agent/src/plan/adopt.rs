//! Taking over what the tables hold when the agent starts, or after an error in the middle of a
//! change.
//!
//! Nothing read here is trusted: numbers out of bounds, slots that two services share, lists that
//! name a backend of another Service or none are left where programs may still use them, and are
//! replaced or removed when the plan is complete.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proxy_common::{
    Backend, BackendId, PortName, Protocol, ServiceEntry, ServiceId, SlotRange, SourceRangeKey, V4, V6,
};

use super::{
    Capacities, FamilySnapshot, Snapshot, State,
    desired::Target,
    draft::Pools,
    family::PlanFamily,
    frontends::Frontends,
    ids::IdPool,
    lists::{FamilyTables, Retired},
    ranges::Ranges,
    record::{BackendRecord, FamilyRecord, NoLocalEndpoints, PortRecord, ServiceRecord},
    slots::SlotAllocator,
};
use crate::model::ObjectName;

/// What was found in the tables and belongs to nothing. It is in use until the plan is complete.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Names to remove.
    pub(super) names: Vec<ServiceId>,
    /// Ids to give back: those of the names, and those that have none.
    pub(super) ids: Vec<ServiceId>,
    pub(super) v4: Retired,
    pub(super) v6: Retired,
}

/// Which port of which Service an id stands for.
type Owners = HashMap<ServiceId, (ObjectName, usize)>;

impl State {
    /// The state of tables that hold this.
    pub(super) fn adopted(capacities: Capacities, snapshot: &Snapshot) -> Self {
        let mut services: BTreeMap<ObjectName, ServiceRecord> = BTreeMap::new();
        let mut owners = Owners::new();
        let mut strays = Strays::default();
        for (&id, name) in &snapshot.names {
            match parts(name) {
                Some((service, port, protocol)) if (1..=number(capacities.names)).contains(&id.get()) => {
                    let ports = &mut services.entry(service.clone()).or_default().ports;
                    if ports.iter().any(|known| known.name == port && known.protocol == protocol) {
                        strays.names.push(id);
                    } else {
                        owners.insert(id, (service, ports.len()));
                        ports.push(PortRecord::new(port, protocol, id));
                    }
                }
                _ => strays.names.push(id),
            }
        }
        let used = used_ids(snapshot);
        strays.ids = used.iter().map(|&id| ServiceId::new(id)).filter(|id| !owners.contains_key(id)).collect();
        let ids = IdPool::new(number(capacities.names), &used);
        let (v4, stray_v4) = family::<V4>(capacities, snapshot, &mut services, &owners);
        let (v6, stray_v6) = family::<V6>(capacities, snapshot, &mut services, &owners);
        (strays.v4, strays.v6) = (stray_v4, stray_v6);
        Self {
            capacities,
            pools: Pools { ids, retired_ids: Vec::new(), v4, v6 },
            services,
            strays,
            no_local_endpoints: NoLocalEndpoints::default(),
            waiting: BTreeMap::new(),
            frees: false,
            retry: false,
            is_complete: false,
        }
    }
}

/// Service, port name and protocol; `None` if they are not a Service port's.
fn parts(name: &PortName) -> Option<(ObjectName, Box<str>, Protocol)> {
    let named = !name.namespace().is_empty() && !name.name().is_empty();
    let service = ObjectName::new(name.namespace(), name.name());
    named.then_some((service, name.port().into(), name.protocol()?))
}

/// Ids with a name, a frontend or a backend.
fn used_ids(snapshot: &Snapshot) -> BTreeSet<u32> {
    fn of_family<F: PlanFamily>(family: &FamilySnapshot<F>) -> impl Iterator<Item = ServiceId> {
        let services = family.services.values().map(ServiceEntry::id);
        services
            .chain(family.backends.values().map(Backend::service))
            .chain(family.source_ranges.iter().map(SourceRangeKey::service))
    }
    let Snapshot { names, v4, v6 } = snapshot;
    let ids = names.keys().copied().chain(of_family(v4)).chain(of_family(v6));
    ids.map(ServiceId::get).filter(|&id| id != 0).collect()
}

fn family<F: PlanFamily>(
    capacities: Capacities,
    snapshot: &Snapshot,
    services: &mut BTreeMap<ObjectName, ServiceRecord>,
    owners: &Owners,
) -> (FamilyTables<F>, Retired) {
    let snapshot = F::of_snapshot(snapshot);
    let mut stray = Retired { backends: backends(snapshot, services, owners), ranges: Vec::new() };
    let mut slots = SlotAllocator::new(number(capacities.slots));
    for entry in snapshot.services.values() {
        if let Some(record) = record::<F>(services, owners, entry.id())
            && record.cluster.is_none()
            && record.local.is_none()
        {
            adopt_lists(record, entry, snapshot, &mut slots);
        }
    }
    for entry in snapshot.services.values() {
        let record = record::<F>(services, owners, entry.id());
        let adopted = record.map_or([None, None], |record| [record.cluster, record.local]);
        for range in [entry.cluster(), entry.local()] {
            if !adopted.contains(&Some(range)) {
                stray.ranges.extend(slots.reserve_rest(range));
            }
        }
    }
    let used = snapshot.backends.keys().map(|id| id.get()).collect();
    let tables = FamilyTables {
        frontends: Frontends::new(capacities.services, snapshot.services.iter().map(|(&key, &entry)| (key, entry))),
        backends: IdPool::new(number(capacities.backends).saturating_sub(1), &used),
        slots,
        source_ranges: Ranges::new(capacities.source_ranges, snapshot.source_ranges.iter().copied()),
        retired: Retired::default(),
    };
    (tables, stray)
}

fn record<'a, F: PlanFamily>(
    services: &'a mut BTreeMap<ObjectName, ServiceRecord>,
    owners: &Owners,
    id: ServiceId,
) -> Option<&'a mut FamilyRecord<F::Address>> {
    let (service, port) = owners.get(&id)?;
    Some(F::of_record_mut(services.get_mut(service)?.ports.get_mut(*port)?))
}

/// Gives each port its backends, in no list for now. Returns those that are nobody's, and those that
/// say the same as another.
fn backends<F: PlanFamily>(
    snapshot: &FamilySnapshot<F>,
    services: &mut BTreeMap<ObjectName, ServiceRecord>,
    owners: &Owners,
) -> Vec<BackendId> {
    let mut of_port: HashMap<ServiceId, Vec<BackendRecord<F::Address>>> = HashMap::new();
    let mut strays = Vec::new();
    for (&id, backend) in &snapshot.backends {
        if !owners.contains_key(&backend.service()) {
            strays.push(id);
            continue;
        }
        let target = Target {
            address: backend.address(),
            port: backend.port(),
            on_this_node: backend.is_local(),
            in_cluster_list: false,
            in_local_list: false,
        };
        of_port.entry(backend.service()).or_default().push(BackendRecord { id, flags: backend.flags(), target });
    }
    for (service, mut backends) in of_port {
        backends.sort_unstable_by_key(|backend| (backend.target.address, backend.target.port, backend.id));
        backends.dedup_by(|later, earlier| {
            let place = |target: &Target<F::Address>| (target.address, target.port);
            let same = place(&later.target) == place(&earlier.target);
            if same {
                strays.push(later.id);
            }
            same
        });
        if let Some(record) = record::<F>(services, owners, service) {
            record.backends = backends.into();
        }
    }
    strays
}

/// Takes over the ranges of a frontend, as far as they hold what this program would have written.
fn adopt_lists<F: PlanFamily>(
    record: &mut FamilyRecord<F::Address>,
    entry: &ServiceEntry,
    snapshot: &FamilySnapshot<F>,
    slots: &mut SlotAllocator,
) {
    let backends = &mut record.backends;
    let mut adopt = |range: SlotRange, join: fn(&mut Target<F::Address>)| {
        let members = members(range, backends, snapshot)?;
        slots.reserve(range).then(|| {
            for member in members {
                join(&mut backends[member].target);
            }
            range
        })
    };
    record.cluster = adopt(entry.cluster(), |target| target.in_cluster_list = true);
    record.local = adopt(entry.local(), |target| target.in_local_list = true);
}

/// The positions among `backends` of what the range's slots name; `None` if they do not name some of
/// them in their order.
fn members<F: PlanFamily>(
    range: SlotRange,
    backends: &[BackendRecord<F::Address>],
    snapshot: &FamilySnapshot<F>,
) -> Option<Vec<usize>> {
    let mut members = Vec::new();
    let mut rest = backends.iter().enumerate();
    for slot in range.offset()..range.offset().checked_add(range.count())? {
        let id = snapshot.slots.get(&slot)?;
        members.push(rest.find(|(_, backend)| backend.id == *id)?.0);
    }
    Some(members)
}

/// A capacity as table indexes are numbered.
fn number(capacity: usize) -> u32 {
    u32::try_from(capacity).unwrap_or(u32::MAX)
}
