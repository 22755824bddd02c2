//! The tables as the pipeline sees them.

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Counter, Direction, DropKey, DropReason, Family, Flow, FlowKey,
    FlowTable, Fragment, FragmentKey, NodeAddress, ServiceEntry, ServiceId, ServiceKey, Settings, SocketAffinityKey,
    SocketEntry, SocketKey, SourceRangeKey,
};

/// What an insert does if the key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Insertion {
    /// Fails with [`InsertError::Exists`].
    New = 0,
    /// Replaces the value.
    Replace = 1,
}

/// Why an insert did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// There is no room.
    Full,
}

/// One family's tables, the shared tables, a clock and a source of random numbers.
pub trait Tables<F: Family> {
    /// The node's settings.
    fn settings(&self) -> &Settings;

    /// The frontend's entry.
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry>;

    /// What one of the node's own addresses is good for; `None` if the address is not the node's.
    fn node_address(&self, address: &F::Address) -> Option<NodeAddress>;

    /// Whether a source range of the key's Service port holds the key's address.
    fn allows(&self, key: &SourceRangeKey<F::Address>) -> bool;

    /// The backend that a slot names.
    fn slot(&self, index: u32) -> Option<BackendId>;

    /// A backend; `None` if the number is out of range or free.
    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>>;

    /// Calls `action` on the flow's entry in a table, where it lies.
    fn with_flow<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>) -> R,
    ) -> Option<R>;

    /// As [`Self::with_flow`]; `action` is also told the time, in seconds since boot, for which nobody asks if there is no entry.
    #[inline(always)]
    fn with_flow_now<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>, u32) -> R,
    ) -> Option<R> {
        let now = self.now();
        self.with_flow(table, key, |flow| action(flow, now))
    }

    /// Whether one of the tables of flows may have an entry with this key; `false` if none has.
    #[inline(always)]
    fn may_have_flow(&self, _key: &FlowKey<F::Address>) -> bool {
        true
    }

    /// Adds a flow's entry to a table.
    ///
    /// # Errors
    /// The key exists and must not, or there is no room.
    fn insert_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError>;

    /// Removes a flow's entry from a table; nothing if it is not there.
    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey<F::Address>);

    /// What became of the first fragment of a datagram.
    fn fragment(&self, key: &FragmentKey<F::Address>) -> Option<Fragment<F::Address>>;

    /// Adds or replaces what became of a first fragment. A full table costs an old one.
    fn insert_fragment(&mut self, key: &FragmentKey<F::Address>, fragment: &Fragment<F::Address>);

    /// Removes what became of a first fragment; nothing if it is not there.
    fn remove_fragment(&mut self, key: &FragmentKey<F::Address>);

    /// Calls `action` on the socket's entry where it lies.
    fn with_socket<R>(
        &mut self,
        key: &SocketKey<F::Address>,
        action: impl FnOnce(&mut SocketEntry<F::Address>) -> R,
    ) -> Option<R>;

    /// Adds a socket's entry.
    ///
    /// # Errors
    /// The key exists and must not, or there is no room.
    fn insert_socket(
        &mut self,
        key: &SocketKey<F::Address>,
        entry: &SocketEntry<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError>;

    /// Removes a socket's entry; nothing if it is not there.
    fn remove_socket(&mut self, key: &SocketKey<F::Address>);

    /// Calls `action` on the client's affinity where it lies.
    fn with_affinity<R>(
        &mut self,
        key: &AffinityKey<F::Address>,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R>;

    /// Adds or replaces a client's affinity. A full table costs an old one.
    fn insert_affinity(&mut self, key: &AffinityKey<F::Address>, entry: &AffinityEntry);

    /// Calls `action` on a network namespace's affinity where it lies.
    fn with_socket_affinity<R>(
        &mut self,
        key: &SocketAffinityKey,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R>;

    /// Adds or replaces a network namespace's affinity. A full table costs an old one.
    fn insert_socket_affinity(&mut self, key: &SocketAffinityKey, entry: &AffinityEntry);

    /// Whether pods live behind the device.
    fn is_pod_device(&self, device: u32) -> bool;

    /// Adds one to a counter.
    fn count(&mut self, counter: Counter);

    /// Adds one to what was dropped or refused for a Service port.
    fn count_drop(&mut self, key: &DropKey);

    /// Counts a packet or call of a Service port that is dropped or refused.
    #[inline(always)]
    fn dropped(&mut self, service: ServiceId, reason: DropReason) {
        self.count(Counter::Drop(reason));
        self.count_drop(&DropKey::new(service, reason));
    }

    /// Adds one to the connections of a Service port.
    fn count_connection(&mut self, service: ServiceId);

    /// Adds a translated packet, whose IP header and payload have so many bytes, to those of a Service port.
    fn count_packet(&mut self, service: ServiceId, direction: Direction, bytes: usize);

    /// Counts a connection of a Service port that begins; `counter` says where it is translated.
    #[inline(always)]
    fn begun(&mut self, service: ServiceId, counter: Counter) {
        self.count(counter);
        self.count_connection(service);
    }

    /// A uniformly distributed random number.
    fn random(&mut self) -> u32;

    /// Seconds since boot.
    fn now(&self) -> u32;
}
