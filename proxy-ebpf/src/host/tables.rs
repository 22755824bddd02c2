//! Tables in ordinary maps, with a clock that stands still and a repeatable source of random numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Counter, Direction, DropKey, DropReason, Family, FamilyFlows, Flow,
    FlowFilterPlace, FlowKey, FlowTable, Fragment, FragmentKey, NodeAddress, ServiceEntry, ServiceId, ServiceKey,
    Settings, SocketAffinityKey, SocketEntry, SocketKey, SourceRangeKey, Traffic,
};

use crate::tables::{InsertError, Insertion, Tables};

/// What a program did to a table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowChange<A> {
    /// An entry was added or replaced.
    Added(FlowTable, FlowKey<A>),
    /// An entry was removed.
    Removed(FlowTable, FlowKey<A>),
}

/// One family's tables, filled by assigning to the fields.
#[derive(Clone, Debug)]
pub struct HostTables<F: Family> {
    /// The one element of `settings`.
    pub settings: Settings,
    /// Frontends.
    pub services: BTreeMap<ServiceKey<F::Address>, ServiceEntry>,
    /// The node's own addresses.
    pub node_addresses: BTreeMap<F::Address, NodeAddress>,
    /// Who may use Service ports with source ranges.
    pub source_ranges: BTreeSet<SourceRangeKey<F::Address>>,
    /// Slots, by index.
    pub slots: BTreeMap<u32, BackendId>,
    /// Endpoints.
    pub backends: BTreeMap<BackendId, Backend<F::Address>>,
    /// Confirmed connections.
    pub flows: BTreeMap<FlowKey<F::Address>, Flow<F::Address>>,
    /// Entries for which `flows` and `young_flows` have room, each.
    pub flows_capacity: usize,
    /// Other connections.
    pub young_flows: BTreeMap<FlowKey<F::Address>, Flow<F::Address>>,
    /// What programs did to the tables of flows, in order.
    pub flow_changes: Vec<FlowChange<F::Address>>,
    /// Datagrams in fragments.
    pub fragments: BTreeMap<FragmentKey<F::Address>, Fragment<F::Address>>,
    /// Translated sockets.
    pub sockets: BTreeMap<SocketKey<F::Address>, SocketEntry<F::Address>>,
    /// Session affinity of clients.
    pub affinity: BTreeMap<AffinityKey<F::Address>, AffinityEntry>,
    /// Session affinity of network namespaces.
    pub socket_affinity: BTreeMap<SocketAffinityKey, AffinityEntry>,
    /// Devices behind which pods live.
    pub pod_devices: BTreeSet<u32>,
    /// Counters, by index.
    pub counters: BTreeMap<u32, u64>,
    /// What was translated, by Service port.
    pub traffic: BTreeMap<ServiceId, Traffic>,
    /// What was dropped or refused.
    pub drops: BTreeMap<DropKey, u64>,
    /// Seconds since boot.
    pub now: u32,
    /// State of the random numbers; never 0.
    pub seed: u32,
    /// Lookups and inserts in hash tables so far.
    pub hash_accesses: core::cell::Cell<u32>,
}

impl<F: Family> Default for HostTables<F> {
    fn default() -> Self {
        Self {
            settings: Settings::UNSET,
            services: BTreeMap::new(),
            node_addresses: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            flows: BTreeMap::new(),
            flows_capacity: usize::MAX,
            young_flows: BTreeMap::new(),
            flow_changes: Vec::new(),
            fragments: BTreeMap::new(),
            sockets: BTreeMap::new(),
            affinity: BTreeMap::new(),
            socket_affinity: BTreeMap::new(),
            pod_devices: BTreeSet::new(),
            counters: BTreeMap::new(),
            traffic: BTreeMap::new(),
            drops: BTreeMap::new(),
            now: 1_000,
            seed: 1,
            hash_accesses: core::cell::Cell::new(0),
        }
    }
}

impl<F: Family> HostTables<F> {
    /// A counter's value.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(&counter.index()).copied().unwrap_or(0)
    }

    /// How often something was dropped or refused for a Service port.
    #[must_use]
    pub fn drops(&self, service: ServiceId, reason: DropReason) -> u64 {
        self.drops.get(&DropKey::new(service, reason)).copied().unwrap_or(0)
    }

    /// A table of flows.
    pub const fn flow_table(&mut self, table: FlowTable) -> &mut BTreeMap<FlowKey<F::Address>, Flow<F::Address>> {
        match table {
            FlowTable::Confirmed => &mut self.flows,
            FlowTable::Young => &mut self.young_flows,
        }
    }

    fn accessed(&self) {
        self.hash_accesses.set(self.hash_accesses.get() + 1);
    }
}

impl<F: Family> Tables<F> for HostTables<F> {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry> {
        self.accessed();
        self.services.get(key).copied()
    }

    fn node_address(&self, address: &F::Address) -> Option<NodeAddress> {
        self.accessed();
        self.node_addresses.get(address).copied()
    }

    fn allows(&self, key: &SourceRangeKey<F::Address>) -> bool {
        self.accessed();
        self.source_ranges.iter().any(|range| range.service() == key.service() && contains(range, key.prefix()))
    }

    fn slot(&self, index: u32) -> Option<BackendId> {
        self.slots.get(&index).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        self.backends.get(&id).copied()
    }

    fn with_flow<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>) -> R,
    ) -> Option<R> {
        self.accessed();
        self.flow_table(table).get_mut(key).map(action)
    }

    /// As if each entry had been added by a program.
    fn may_have_flow(&self, key: &FlowKey<F::Address>) -> bool {
        let place = FlowFilterPlace::of::<F>(key);
        self.flows.keys().chain(self.young_flows.keys()).any(|key| FlowFilterPlace::of::<F>(key) == place)
    }

    fn insert_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        self.accessed();
        let capacity = self.flows_capacity;
        let flows = self.flow_table(table);
        let exists = flows.contains_key(key);
        if exists && insertion == Insertion::New {
            return Err(InsertError::Exists);
        }
        if !exists && flows.len() >= capacity {
            return Err(InsertError::Full);
        }
        flows.insert(*key, *flow);
        self.flow_changes.push(FlowChange::Added(table, *key));
        if !exists {
            self.count(Counter::FlowsAdded(FamilyFlows::of::<F>(table)));
        }
        Ok(())
    }

    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey<F::Address>) {
        self.accessed();
        if self.flow_table(table).remove(key).is_some() {
            self.flow_changes.push(FlowChange::Removed(table, *key));
            self.count(Counter::FlowsRemoved(FamilyFlows::of::<F>(table)));
        }
    }

    fn fragment(&self, key: &FragmentKey<F::Address>) -> Option<Fragment<F::Address>> {
        self.accessed();
        self.fragments.get(key).copied()
    }

    fn insert_fragment(&mut self, key: &FragmentKey<F::Address>, fragment: &Fragment<F::Address>) {
        self.accessed();
        self.fragments.insert(*key, *fragment);
    }

    fn remove_fragment(&mut self, key: &FragmentKey<F::Address>) {
        self.accessed();
        self.fragments.remove(key);
    }

    fn with_socket<R>(
        &mut self,
        key: &SocketKey<F::Address>,
        action: impl FnOnce(&mut SocketEntry<F::Address>) -> R,
    ) -> Option<R> {
        self.accessed();
        self.sockets.get_mut(key).map(action)
    }

    fn insert_socket(
        &mut self,
        key: &SocketKey<F::Address>,
        entry: &SocketEntry<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        self.accessed();
        if insertion == Insertion::New && self.sockets.contains_key(key) {
            return Err(InsertError::Exists);
        }
        self.sockets.insert(*key, *entry);
        Ok(())
    }

    fn remove_socket(&mut self, key: &SocketKey<F::Address>) {
        self.accessed();
        self.sockets.remove(key);
    }

    fn with_affinity<R>(
        &mut self,
        key: &AffinityKey<F::Address>,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        self.accessed();
        self.affinity.get_mut(key).map(action)
    }

    fn insert_affinity(&mut self, key: &AffinityKey<F::Address>, entry: &AffinityEntry) {
        self.accessed();
        self.affinity.insert(*key, *entry);
    }

    fn with_socket_affinity<R>(
        &mut self,
        key: &SocketAffinityKey,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        self.accessed();
        self.socket_affinity.get_mut(key).map(action)
    }

    fn insert_socket_affinity(&mut self, key: &SocketAffinityKey, entry: &AffinityEntry) {
        self.accessed();
        self.socket_affinity.insert(*key, *entry);
    }

    fn is_pod_device(&self, device: u32) -> bool {
        self.accessed();
        self.pod_devices.contains(&device)
    }

    fn count(&mut self, counter: Counter) {
        *self.counters.entry(counter.index()).or_default() += 1;
    }

    fn count_drop(&mut self, key: &DropKey) {
        self.accessed();
        *self.drops.entry(*key).or_default() += 1;
    }

    fn count_connection(&mut self, service: ServiceId) {
        self.traffic.entry(service).or_default().add_connection();
    }

    fn count_packet(&mut self, service: ServiceId, direction: Direction, bytes: usize) {
        self.traffic.entry(service).or_default().add_packet(direction, bytes as u64);
    }

    fn random(&mut self) -> u32 {
        // xorshift32 (Marsaglia 2003): every value but 0 once in its period.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        self.seed
    }

    fn now(&self) -> u32 {
        self.now
    }
}

/// Whether the range holds the address, by comparing bit for bit.
fn contains<A: Copy + AsRef<[u8]>>(range: &SourceRangeKey<A>, address: A) -> bool {
    let bits = |address: A| {
        let bytes = address.as_ref().to_vec();
        bytes.into_iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
    };
    let len = usize::try_from(range.bits()).unwrap_or(usize::MAX);
    bits(range.prefix()).take(len).eq(bits(address).take(len))
}
