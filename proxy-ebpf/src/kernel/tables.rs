//! The maps as the pipeline's tables.

use core::{arch::asm, marker::PhantomData};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
};
use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Counter, Decided, Direction, DropKey, FamilyFlows, FilterRow, Flow,
    FlowFilterPlace, FlowKey, FlowTable, Fragment, FragmentKey, FrontendFilterPlace, NodeAddress, ServiceEntry,
    ServiceId, ServiceKey, Settings, SocketAffinityKey, SocketEntry, SocketKey, SourceRangeKey, Traffic,
};
use proxy_ebpf::{InsertError, Insertion, Tables, clock};

use super::{
    config,
    maps::{COUNTED, COUNTERS, DROPS, FLOW_FILTER, FRONTEND_FILTER, FamilyMaps, POD_DEVICES, SETTINGS, TRAFFIC},
};

const EEXIST: i32 = -17;

/// What a program sees before an agent wrote the settings. Not local to its function: names in BTF may have 127 bytes
/// at most on kernels before 6.1, and a local static's has more.
static UNSET: Settings = Settings::UNSET;

/// One family's maps.
pub(super) struct KernelTables<F> {
    family: PhantomData<F>,
    decided: Option<(ServiceId, Decided)>,
}

impl<F> KernelTables<F> {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self { family: PhantomData, decided: None }
    }

    /// What was counted last for a Service port since these were made: that a connection begins, or, which is all that happens at a
    /// socket, that one is refused.
    #[inline(always)]
    pub(super) const fn decided(&self) -> Option<(ServiceId, Decided)> {
        self.decided
    }
}

impl<F: FamilyMaps> Tables<F> for KernelTables<F> {
    #[inline(always)]
    fn settings(&self) -> &Settings {
        SETTINGS.get(0).unwrap_or(&UNSET)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry> {
        let place = FrontendFilterPlace::of::<F>(key);
        if !may_have(FRONTEND_FILTER.get(place.row()), place.column()) {
            return None;
        }
        // SAFETY: the value is copied at once. The agent replaces elements and never writes into one; the map
        // keeps a replaced element for as long as a program may read it.
        unsafe { F::services().get(key) }.copied()
    }

    #[inline(always)]
    fn node_address(&self, address: &F::Address) -> Option<NodeAddress> {
        // SAFETY: as in `service`.
        unsafe { F::node_addresses().get(address) }.copied()
    }

    #[inline(always)]
    fn allows(&self, key: &SourceRangeKey<F::Address>) -> bool {
        F::source_ranges().get(&Key::new(key.prefix_len(), key.range())).is_some()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<BackendId> {
        F::slots().get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        F::backends().get(id.get()).copied().filter(|backend| !backend.is_free())
    }

    #[inline(always)]
    fn with_flow<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>) -> R,
    ) -> Option<R> {
        let flow = entry::<F>(table, key)?;
        // SAFETY: the pointer comes from a lookup in this program, so the element stays mapped until the program
        // ends. Other CPUs may write it too: its fields are integers written whole, each sensible for itself.
        Some(action(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn with_flow_now<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>, u32) -> R,
    ) -> Option<R> {
        let flow = entry::<F>(table, key)?;
        let now = Tables::<F>::now(self);
        // SAFETY: as in `with_flow`.
        Some(action(unsafe { &mut *flow }, now))
    }

    #[inline(always)]
    fn may_have_flow(&self, key: &FlowKey<F::Address>) -> bool {
        let place = FlowFilterPlace::of::<F>(key);
        may_have(FLOW_FILTER.get(place.row()), place.column())
    }

    #[inline(always)]
    fn insert_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        note_end::<F>(key);
        // Entries are counted only if there was none with their key, so what replaces is first tried as if it were new.
        let insert = |insertion| match table {
            FlowTable::Confirmed => F::flows().insert(key, flow, flags(insertion)),
            FlowTable::Young => F::young_flows().insert(key, flow, flags(insertion)),
        };
        match insert(Insertion::New).map_err(insert_error) {
            Ok(()) => {
                self.count(Counter::FlowsAdded(FamilyFlows::of::<F>(table)));
                Ok(())
            }
            Err(InsertError::Exists) if insertion == Insertion::Replace => {
                insert(Insertion::Replace).map_err(insert_error)
            }
            Err(error) => Err(error),
        }
    }

    #[inline(always)]
    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey<F::Address>) {
        let removed = match table {
            FlowTable::Confirmed => F::flows().remove(key),
            FlowTable::Young => F::young_flows().remove(key),
        };
        // That it is not there any more is what is wanted.
        if removed.is_ok() {
            self.count(Counter::FlowsRemoved(FamilyFlows::of::<F>(table)));
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<F::Address>) -> Option<Fragment<F::Address>> {
        // SAFETY: the value is copied at once. Programs replace elements and never write into one; an element that is
        // evicted or replaced meanwhile may be half another datagram's, as good as one that is not there.
        unsafe { F::fragments().get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragment(&mut self, key: &FragmentKey<F::Address>, fragment: &Fragment<F::Address>) {
        // Without an entry the datagram is lost, as any packet may be.
        let _ = F::fragments().insert(key, fragment, flags(Insertion::Replace));
    }

    #[inline(always)]
    fn remove_fragment(&mut self, key: &FragmentKey<F::Address>) {
        // That it is not there any more is what is wanted.
        let _ = F::fragments().remove(key);
    }

    #[inline(always)]
    fn with_socket<R>(
        &mut self,
        key: &SocketKey<F::Address>,
        action: impl FnOnce(&mut SocketEntry<F::Address>) -> R,
    ) -> Option<R> {
        let entry = F::sockets().get_ptr_mut(key)?;
        // SAFETY: as in `with_flow`.
        Some(action(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn insert_socket(
        &mut self,
        key: &SocketKey<F::Address>,
        entry: &SocketEntry<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        F::sockets().insert(key, entry, flags(insertion)).map_err(insert_error)
    }

    #[inline(always)]
    fn remove_socket(&mut self, key: &SocketKey<F::Address>) {
        // That it is not there any more is what is wanted.
        let _ = F::sockets().remove(key);
    }

    #[inline(always)]
    fn with_affinity<R>(
        &mut self,
        key: &AffinityKey<F::Address>,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        let entry = F::affinity().get_ptr_mut(key)?;
        // SAFETY: as in `with_flow`.
        Some(action(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn insert_affinity(&mut self, key: &AffinityKey<F::Address>, entry: &AffinityEntry) {
        // Without an entry the next connection chooses anew.
        let _ = F::affinity().insert(key, entry, flags(Insertion::Replace));
    }

    #[inline(always)]
    fn with_socket_affinity<R>(
        &mut self,
        key: &SocketAffinityKey,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        let entry = F::socket_affinity().get_ptr_mut(key)?;
        // SAFETY: as in `with_flow`.
        Some(action(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn insert_socket_affinity(&mut self, key: &SocketAffinityKey, entry: &AffinityEntry) {
        // As in `insert_affinity`.
        let _ = F::socket_affinity().insert(key, entry, flags(Insertion::Replace));
    }

    #[inline(always)]
    fn is_pod_device(&self, device: u32) -> bool {
        POD_DEVICES.get_ptr(device).is_some()
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        if let Some(number) = COUNTERS.get_ptr_mut(counter.index()) {
            // SAFETY: the element is this CPU's own.
            unsafe { *number += 1 };
        }
    }

    #[inline(always)]
    fn count_drop(&mut self, key: &DropKey) {
        self.decided = Some((key.service(), Decided::Refused));
        if !add_drop(key) && DROPS.insert(key, 1, flags(Insertion::New)).is_err() {
            // Another CPU was faster, or there is no room.
            add_drop(key);
        }
    }

    #[inline(always)]
    fn count_connection(&mut self, service: ServiceId) {
        self.decided = Some((service, Decided::Begins));
        if let Some(traffic) = traffic(service) {
            // SAFETY: the element is this CPU's own. A TC program may interrupt a socket hook in the middle of it, which costs a count.
            unsafe { &mut *traffic }.add_connection();
        }
    }

    #[inline(always)]
    fn count_packet(&mut self, service: ServiceId, direction: Direction, bytes: usize) {
        if let Some(traffic) = traffic(service) {
            // SAFETY: as above.
            unsafe { &mut *traffic }.add_packet(direction, bytes as u64);
        }
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // The time of the last tick is good enough for seconds, and the processor's clock is slow to read. Both count from the same moment.
        // SAFETY: neither helper has preconditions.
        clock::seconds(unsafe {
            if config::has_coarse_clock() { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() }
        })
    }
}

#[inline(always)]
fn entry<F: FamilyMaps>(table: FlowTable, key: &FlowKey<F::Address>) -> Option<*mut Flow<F::Address>> {
    match table {
        FlowTable::Confirmed => F::flows().get_ptr_mut(key),
        FlowTable::Young => F::young_flows().get_ptr_mut(key),
    }
}

/// Whether an end may have an entry, by its place in a filter.
#[inline(always)]
fn may_have(row: Option<&FilterRow>, column: usize) -> bool {
    // Without the row nothing is known.
    row.is_none_or(|row| row.get(column).is_none_or(|mark| *mark != 0))
}

/// Marks the end of a flow that is about to be added.
#[inline(always)]
fn note_end<F: FamilyMaps>(key: &FlowKey<F::Address>) {
    let place = FlowFilterPlace::of::<F>(key);
    let Some(row) = FLOW_FILTER.get_ptr_mut(place.row()) else { return };
    // SAFETY: the row stays for as long as the table, and its bytes are read and written one by one, always with the same mark.
    if let Some(mark) = unsafe { &mut *row }.get_mut(place.column())
        && *mark == 0
    {
        *mark = FlowFilterPlace::MARK;
    }
}

/// What is counted for a Service port, on this CPU.
#[inline(always)]
fn traffic(service: ServiceId) -> Option<*mut Traffic> {
    TRAFFIC.get_ptr_mut(COUNTED.get(service.get()).copied().unwrap_or(0))
}

/// Adds one to an element that is there.
#[inline(always)]
fn add_drop(key: &DropKey) -> bool {
    let Some(number) = DROPS.get_ptr_mut(key) else { return false };
    // SAFETY: the element is eight aligned bytes and stays mapped until the program ends, and every program changes it by this
    // one instruction, which is atomic and touches nothing else. `core` has no atomic addition for bpf: the compiler would
    // have to know of every kernel that it can order memory (5.12).
    unsafe {
        asm!("lock *(u64 *)({number} + 0) += {one}", number = in(reg) number, one = in(reg) 1_u64, options(nostack));
    };
    true
}

#[inline(always)]
const fn flags(insertion: Insertion) -> u64 {
    match insertion {
        Insertion::New => BPF_NOEXIST as u64,
        Insertion::Replace => BPF_ANY as u64,
    }
}

#[inline(always)]
const fn insert_error(error: i32) -> InsertError {
    if error == EEXIST { InsertError::Exists } else { InsertError::Full }
}
