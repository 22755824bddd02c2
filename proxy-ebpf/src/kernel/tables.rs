//! The maps as the pipeline's tables.

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns},
};
use proxy_common::{
    Backend, BackendId, Counter, Flow, FlowKey, ServiceEntry, ServiceKey, Settings, SocketEntry, SocketKey,
};
use proxy_ebpf::{InsertError, Insertion, Tables};

use super::maps::{COUNTERS, FamilyMaps, POD_DEVICES, SETTINGS};

const NANOSECONDS: u64 = 1_000_000_000;
const EEXIST: i32 = -17;

/// What a program sees before an agent wrote the settings. Not local to its function: names in BTF may have 127 bytes
/// at most on kernels before 6.1, and a local static's has more.
static UNSET: Settings = Settings::UNSET;

/// One family's maps.
pub(super) struct KernelTables<F>(PhantomData<F>);

impl<F> KernelTables<F> {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F: FamilyMaps> Tables<F> for KernelTables<F> {
    #[inline(always)]
    fn settings(&self) -> &Settings {
        SETTINGS.get(0).unwrap_or(&UNSET)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry> {
        // SAFETY: the value is copied at once. The agent replaces elements and never writes into one; the map
        // keeps a replaced element for as long as a program may read it.
        unsafe { F::services().get(key) }.copied()
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
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>) -> R,
    ) -> Option<R> {
        let flow = F::flows().get_ptr_mut(key)?;
        // SAFETY: the pointer comes from a lookup in this program, so the element stays mapped until the program
        // ends. Other CPUs may write it too: its fields are integers written whole, each sensible for itself.
        Some(action(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn insert_flow(
        &mut self,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        F::flows().insert(key, flow, flags(insertion)).map_err(insert_error)
    }

    #[inline(always)]
    fn remove_flow(&mut self, key: &FlowKey<F::Address>) {
        // That it is not there any more is what is wanted.
        let _ = F::flows().remove(key);
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
        // As in `remove_flow`.
        let _ = F::sockets().remove(key);
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
    fn random(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "seconds since boot fit 32 bits for 136 years")]
    fn now(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        (unsafe { bpf_ktime_get_ns() } / NANOSECONDS) as u32
    }
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
