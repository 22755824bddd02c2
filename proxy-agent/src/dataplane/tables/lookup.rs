//! The pinned tables as the pipeline's, for looking only.
//!
//! Lookups go to the kernel; what is written is kept here and seen by later lookups, and the kernel's tables stay as
//! they are.

use std::{cell::RefCell, collections::BTreeMap};

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Counter, Direction, DropKey, Family, Flow, FlowKey, FlowTable,
    Fragment, FragmentKey, NodeAddress, PlainAddress, ServiceEntry, ServiceId, ServiceKey, Settings, SocketAffinityKey,
    SocketEntry, SocketKey, SourceRangeKey,
};
use proxy_ebpf::{InsertError, Insertion, Tables};

use super::{FamilyTables, HashTable, TableError};

/// What can be looked up at a time.
#[derive(Debug)]
pub struct Lookups<'a, F: Family> {
    tables: &'a FamilyTables<F>,
    pod_devices: &'a HashTable<u32, u32>,
    settings: Settings,
    /// The time, in seconds since boot.
    now: u32,
    /// The first one; the pipeline sees what cannot be read as not there.
    error: RefCell<Option<TableError>>,
}

impl<'a, F: Family<Address: PlainAddress>> Lookups<'a, F> {
    /// Looks into these tables at the time `now`, in seconds since boot.
    #[must_use]
    pub fn new(
        tables: &'a FamilyTables<F>,
        pod_devices: &'a HashTable<u32, u32>,
        settings: Settings,
        now: u32,
    ) -> Self {
        Self { tables, pod_devices, settings, now, error: RefCell::new(None) }
    }

    /// The tables as they are, on which nothing was written yet.
    #[must_use]
    pub fn overlay(&self) -> Overlay<'_, F> {
        Overlay {
            below: self,
            flows: BTreeMap::new(),
            sockets: BTreeMap::new(),
            affinity: BTreeMap::new(),
            socket_affinity: BTreeMap::new(),
        }
    }

    /// Whether all lookups so far could be made.
    ///
    /// # Errors
    /// The first that could not.
    pub fn finish(self) -> Result<(), TableError> {
        self.error.into_inner().map_or(Ok(()), Err)
    }

    fn found<T>(&self, result: Result<Option<T>, TableError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.error.borrow_mut().get_or_insert(error);
            None
        })
    }
}

/// Tables over others that stay as they are. `None`: removed.
#[derive(Debug)]
pub struct Overlay<'a, F: Family> {
    below: &'a Lookups<'a, F>,
    flows: FlowLayer<F::Address>,
    sockets: Layer<SocketKey<F::Address>, SocketEntry<F::Address>>,
    affinity: Layer<AffinityKey<F::Address>, AffinityEntry>,
    socket_affinity: Layer<SocketAffinityKey, AffinityEntry>,
}

type Layer<K, V> = BTreeMap<K, Option<V>>;
/// Both tables of flows.
type FlowLayer<A> = Layer<(FlowTable, FlowKey<A>), Flow<A>>;

/// The element of a layer, which is copied from below if it is not there yet.
fn element<'a, K: Ord + Copy, V>(
    layer: &'a mut Layer<K, V>,
    key: &K,
    below: impl FnOnce() -> Option<V>,
) -> Option<&'a mut V> {
    layer.entry(*key).or_insert_with(below).as_mut()
}

fn insert<K: Ord + Copy, V>(
    layer: &mut Layer<K, V>,
    key: &K,
    value: V,
    insertion: Insertion,
    below: impl FnOnce() -> Option<V>,
) -> Result<(), InsertError> {
    if insertion == Insertion::New && element(layer, key, below).is_some() {
        return Err(InsertError::Exists);
    }
    layer.insert(*key, Some(value));
    Ok(())
}

impl<F: Family<Address: PlainAddress>> Tables<F> for Overlay<'_, F> {
    fn settings(&self) -> &Settings {
        &self.below.settings
    }

    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry> {
        self.below.found(self.below.tables.services.get(key))
    }

    fn node_address(&self, address: &F::Address) -> Option<NodeAddress> {
        self.below.found(self.below.tables.node_addresses.get(address))
    }

    fn allows(&self, key: &SourceRangeKey<F::Address>) -> bool {
        self.below.found(self.below.tables.source_ranges.get(key)).is_some()
    }

    fn slot(&self, index: u32) -> Option<BackendId> {
        self.below.tables.slot(index)
    }

    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        self.below.tables.backend(id).filter(|backend| !backend.is_free())
    }

    fn with_flow<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>) -> R,
    ) -> Option<R> {
        let below = || self.below.found(self.below.tables.flow_table(table).get(key));
        element(&mut self.flows, &(table, *key), below).map(action)
    }

    fn insert_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        let below = || self.below.found(self.below.tables.flow_table(table).get(key));
        insert(&mut self.flows, &(table, *key), *flow, insertion, below)
    }

    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey<F::Address>) {
        self.flows.insert((table, *key), None);
    }

    /// None: what is looked for here is no fragment.
    fn fragment(&self, _: &FragmentKey<F::Address>) -> Option<Fragment<F::Address>> {
        None
    }

    fn insert_fragment(&mut self, _: &FragmentKey<F::Address>, _: &Fragment<F::Address>) {}

    fn remove_fragment(&mut self, _: &FragmentKey<F::Address>) {}

    fn with_socket<R>(
        &mut self,
        key: &SocketKey<F::Address>,
        action: impl FnOnce(&mut SocketEntry<F::Address>) -> R,
    ) -> Option<R> {
        let below = || self.below.found(self.below.tables.sockets.get(key));
        element(&mut self.sockets, key, below).map(action)
    }

    fn insert_socket(
        &mut self,
        key: &SocketKey<F::Address>,
        entry: &SocketEntry<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        let below = || self.below.found(self.below.tables.sockets.get(key));
        insert(&mut self.sockets, key, *entry, insertion, below)
    }

    fn remove_socket(&mut self, key: &SocketKey<F::Address>) {
        self.sockets.insert(*key, None);
    }

    fn with_affinity<R>(
        &mut self,
        key: &AffinityKey<F::Address>,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        let below = || self.below.found(self.below.tables.affinity.get(key));
        element(&mut self.affinity, key, below).map(action)
    }

    fn insert_affinity(&mut self, key: &AffinityKey<F::Address>, entry: &AffinityEntry) {
        self.affinity.insert(*key, Some(*entry));
    }

    fn with_socket_affinity<R>(
        &mut self,
        key: &SocketAffinityKey,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        let below = || self.below.found(self.below.tables.socket_affinity.get(key));
        element(&mut self.socket_affinity, key, below).map(action)
    }

    fn insert_socket_affinity(&mut self, key: &SocketAffinityKey, entry: &AffinityEntry) {
        self.socket_affinity.insert(*key, Some(*entry));
    }

    fn is_pod_device(&self, device: u32) -> bool {
        self.below.found(self.below.pod_devices.get(&device)).is_some()
    }

    fn count(&mut self, _: Counter) {}

    fn count_drop(&mut self, _: &DropKey) {}

    fn count_connection(&mut self, _: ServiceId) {}

    fn count_packet(&mut self, _: ServiceId, _: Direction, _: usize) {}

    /// Always the same: whoever wants more asks a source of its own.
    fn random(&mut self) -> u32 {
        0
    }

    fn now(&self) -> u32 {
        self.below.now
    }
}
