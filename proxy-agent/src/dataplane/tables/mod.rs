//! The pinned tables: reading them, which needs no agent, and writing what the plan asks for.
//!
//! Knows the order of the writes and nothing of what they mean.

mod flow_use;
mod freshness;
mod frontend_filter;
mod hash;
mod lookup;
mod node_addresses;
mod pods;
mod settings;
mod sockets;
mod traffic;
mod trie;
mod write;

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Map, MapData, MapError, MapInfo, PerCpuArray},
};
use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Counter, DropKey, Family, Flow, FlowKey, FlowTable, NodeAddress,
    PlainAddress, PortName, ServiceEntry, ServiceId, ServiceKey, SocketAffinityKey, SocketEntry, SocketKey, V4, V6,
    maps,
};

pub(super) use self::hash::into_io;
pub use self::{
    flow_use::FlowTableUse,
    freshness::FreshnessTable,
    hash::{HashTable, Writes},
    lookup::{Lookups, Overlay},
    node_addresses::NodeAddressTables,
    pods::PodTable,
    settings::SettingsTable,
    sockets::SocketTables,
    traffic::{Counted, TrafficTables},
    trie::SourceRanges,
    write::KernelTables,
};
pub(super) use self::{
    freshness::NAME as FRESHNESS, pods::NAME as PODS, settings::read_any as read_settings_of_any_layout,
};
use super::{
    bpf,
    mapped::{Access, Mapped},
    pins::Pins,
};
use crate::plan::{FamilySnapshot, Snapshot};

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}", path.display())]
pub struct TableError {
    path: PathBuf,
    action: &'static str,
    error: io::Error,
}

impl TableError {
    pub(super) fn new(path: &Path, action: &'static str, error: io::Error) -> Self {
        Self { path: path.to_owned(), action, error }
    }

    /// Whether the process lacks the right.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
    }

    /// Where the table is, or should be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is pinned where the table should be.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.error.raw_os_error() == Some(libc::ENOENT)
    }
}

/// All tables, opened for reading.
pub struct Tables {
    /// What Service ports the ids stand for.
    pub names: HashTable<ServiceId, PortName>,
    /// IPv4's tables.
    pub v4: FamilyTables<V4>,
    /// IPv6's tables.
    pub v6: FamilyTables<V6>,
    /// What the programs count.
    pub counters: Counters,
    /// Packets and calls that were dropped or refused, by Service port and reason.
    pub drops: HashTable<DropKey, u64>,
    /// What was translated, by Service port.
    pub traffic: TrafficTables,
    /// The one element of the `settings` table.
    pub settings: SettingsTable,
    /// The names of pods behind backends; `None` after an agent that did not have the table.
    pub pods: Option<PodTable>,
}

impl Tables {
    /// Opens what is pinned.
    ///
    /// # Errors
    /// A table is not there or has another layout.
    pub fn open(pins: &Pins) -> Result<Self, TableError> {
        let writes = if bpf::knows_batch_update() { Writes::Batched } else { Writes::Single };
        Self::open_for(pins, Access::Read, writes)
    }

    fn open_for(pins: &Pins, access: Access, writes: Writes) -> Result<Self, TableError> {
        Ok(Self {
            names: HashTable::open(&pins.map(maps::NAMES), writes)?,
            v4: FamilyTables::open(pins, access, writes)?,
            v6: FamilyTables::open(pins, access, writes)?,
            counters: Counters::open(pins)?,
            drops: HashTable::open(&pins.map(maps::DROPS), writes)?,
            traffic: TrafficTables::open(pins, access)?,
            settings: SettingsTable::open(pins)?,
            pods: PodTable::open(pins, writes).ok(),
        })
    }

    /// Reads everything that the plan knows of.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, TableError> {
        Ok(Snapshot { names: self.names.all()?, v4: self.v4.snapshot()?, v6: self.v6.snapshot()? })
    }
}

/// The tables of one family.
#[derive(Debug)]
pub struct FamilyTables<F: Family> {
    /// Frontends.
    pub services: HashTable<ServiceKey<F::Address>, ServiceEntry>,
    /// Confirmed flows that the TC programs translate.
    pub flows: HashTable<FlowKey<F::Address>, Flow<F::Address>>,
    /// Flows that are not confirmed; of others, what was known when they were.
    pub young_flows: HashTable<FlowKey<F::Address>, Flow<F::Address>>,
    /// What the socket hooks translated.
    pub sockets: HashTable<SocketKey<F::Address>, SocketEntry<F::Address>>,
    /// Who may use Service ports with `loadBalancerSourceRanges`.
    pub source_ranges: SourceRanges<F::Address>,
    /// The node's own addresses.
    pub node_addresses: HashTable<F::Address, NodeAddress>,
    /// Which backend a client got last from a Service port with session affinity, in a TC program.
    pub affinity: HashTable<AffinityKey<F::Address>, AffinityEntry>,
    /// The same at sockets.
    pub socket_affinity: HashTable<SocketAffinityKey, AffinityEntry>,
    slots: Mapped<BackendId>,
    backends: Mapped<Backend<F::Address>>,
    slots_path: PathBuf,
    backends_path: PathBuf,
}

impl<F: Family<Address: PlainAddress>> FamilyTables<F> {
    fn open(pins: &Pins, access: Access, writes: Writes) -> Result<Self, TableError> {
        let slots_path = pins.map(maps::SLOTS.name::<F>());
        let backends_path = pins.map(maps::BACKENDS.name::<F>());
        Ok(Self {
            services: HashTable::open(&pins.map(maps::SERVICES.name::<F>()), writes)?,
            flows: HashTable::open(&pins.map(maps::FLOWS.name::<F>()), writes)?,
            young_flows: HashTable::open(&pins.map(maps::YOUNG_FLOWS.name::<F>()), writes)?,
            sockets: HashTable::open(&pins.map(maps::SOCKETS.name::<F>()), writes)?,
            source_ranges: SourceRanges::open(&pins.map(maps::SOURCE_RANGES.name::<F>()))?,
            node_addresses: HashTable::open(&pins.map(maps::NODE_ADDRESSES.name::<F>()), writes)?,
            affinity: HashTable::open(&pins.map(maps::AFFINITY.name::<F>()), writes)?,
            socket_affinity: HashTable::open(&pins.map(maps::SOCKET_AFFINITY.name::<F>()), writes)?,
            slots: map_array(&slots_path, access)?,
            backends: map_array(&backends_path, access)?,
            slots_path,
            backends_path,
        })
    }

    /// A table of flows.
    #[must_use]
    pub const fn flow_table(&self, table: FlowTable) -> &HashTable<FlowKey<F::Address>, Flow<F::Address>> {
        match table {
            FlowTable::Confirmed => &self.flows,
            FlowTable::Young => &self.young_flows,
        }
    }

    /// Shows the entries of all flows, confirmed or not, each as the programs see it. Those that come or go meanwhile may be
    /// shown or not.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn visit_flows(&self, mut visit: impl FnMut(FlowKey<F::Address>, Flow<F::Address>)) -> Result<(), TableError> {
        self.flows.visit(&mut visit)?;
        let mut failed = None;
        self.young_flows.visit(|key, flow| match self.flows.get(&key) {
            Ok(None) => visit(key, flow),
            Ok(Some(_)) => {}
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The entry of a flow, as the programs see it.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn flow(&self, key: &FlowKey<F::Address>) -> Result<Option<Flow<F::Address>>, TableError> {
        match self.flows.get(key)? {
            Some(flow) => Ok(Some(flow)),
            None => self.young_flows.get(key),
        }
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots_capacity(&self) -> u32 {
        self.slots.len()
    }

    /// How many backends there is room for.
    #[must_use]
    pub fn backends_capacity(&self) -> u32 {
        self.backends.len()
    }

    /// The backend that a slot names; `None` beyond the end.
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<BackendId> {
        self.slots.get(index)
    }

    /// A backend, which may be free; `None` beyond the end.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        self.backends.get(id.get())
    }

    /// The services, the slots that they name, all backends and all source ranges.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn snapshot(&self) -> Result<FamilySnapshot<F>, TableError> {
        let services = self.services.all()?;
        let ranges = services.values().flat_map(|entry| [entry.cluster(), entry.local()]);
        let indexes = ranges.flat_map(|range| range.offset()..range.offset().saturating_add(range.count()));
        let slots = indexes.filter_map(|index| Some((index, self.slots.get(index)?))).collect();
        let backends = self.backends.nonzero().map(|(index, backend)| (BackendId::new(index), backend));
        let backends = backends.filter(|(_, backend)| !backend.is_free()).collect();
        Ok(FamilySnapshot { services, slots, backends, source_ranges: self.source_ranges.all()? })
    }

    fn write_backend(&mut self, id: BackendId, backend: &Backend<F::Address>) -> Result<(), TableError> {
        if self.backends.set(id.get(), backend) { Ok(()) } else { Err(beyond(&self.backends_path)) }
    }

    fn write_slot(&mut self, index: u32, backend: BackendId) -> Result<(), TableError> {
        if self.slots.set(index, &backend) { Ok(()) } else { Err(beyond(&self.slots_path)) }
    }
}

/// The `counters` table.
pub struct Counters {
    path: PathBuf,
    array: PerCpuArray<MapData, u64>,
}

impl Counters {
    fn open(pins: &Pins) -> Result<Self, TableError> {
        let path = pins.map(maps::COUNTERS);
        let array = open_map(&path)?.try_into().map_err(|error| TableError::new(&path, "open", into_io(error)))?;
        Ok(Self { path, array })
    }

    /// All counters, each summed over the processors.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self) -> Result<BTreeMap<Counter, u64>, TableError> {
        let read = |counter: Counter| {
            let values = self.array.get(&counter.index(), 0);
            let values = values.map_err(|error| TableError::new(&self.path, "read", into_io(error)))?;
            Ok((counter, values.iter().sum()))
        };
        Counter::all().map(read).collect()
    }
}

pub(super) fn open_map(path: &Path) -> Result<Map, TableError> {
    let error = |error: MapError| TableError::new(path, "open", into_io(error));
    MapData::from_pin(path).and_then(Map::from_map_data).map_err(error)
}

fn map_array<T: Pod>(path: &Path, access: Access) -> Result<Mapped<T>, TableError> {
    let error = |error: MapError| TableError::new(path, "open", into_io(error));
    let info = MapInfo::from_pin(path).map_err(error)?;
    let expected =
        u32::try_from(size_of::<T>()).map_err(|error| TableError::new(path, "open", io::Error::other(error)))?;
    if info.value_size() != expected {
        let sizes = format!("its elements have {} bytes and not {expected}", info.value_size());
        return Err(TableError::new(path, "open", io::Error::other(sizes)));
    }
    let data = MapData::from_pin(path).map_err(error)?;
    Mapped::new(data.fd().as_fd(), info.max_entries(), access).map_err(|error| TableError::new(path, "map", error))
}

fn beyond(path: &Path) -> TableError {
    TableError::new(path, "write beyond the end of", io::Error::from_raw_os_error(libc::E2BIG))
}
