//! Tables that keep what is looked up in them.

use std::cell::RefCell;

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Counter, Direction, DropKey, Flow, FlowKey, FlowTable, Fragment,
    FragmentKey, NodeAddress, ServiceEntry, ServiceId, ServiceKey, Settings, SocketAffinityKey, SocketEntry, SocketKey,
    SourceRangeKey,
};
use proxy_ebpf::{InsertError, Insertion, Tables};

use super::{Allowed, FlowKind, IpFamily, KnownFlow, LeadsToPods, Locality, Note, Program, Step, socket_address};

/// Other tables, whose users are watched, and whose first random number is given.
#[derive(Debug)]
pub(super) struct Recorder<T> {
    tables: T,
    random: u32,
    /// What was done. Lookups do not change tables, so this is written behind a shared reference.
    steps: RefCell<Vec<Step>>,
}

impl<T> Recorder<T> {
    /// Watches `tables`. `random` is the first random number.
    pub(super) const fn new(tables: T, random: u32) -> Self {
        Self { tables, random, steps: RefCell::new(Vec::new()) }
    }

    /// A program begins.
    pub(super) fn begin(&self, program: Program) {
        self.note(Step::Program(program));
    }

    /// What was done.
    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps.into_inner()
    }

    /// The newest step of which `what` knows something.
    pub(super) fn last<R>(&self, what: impl Fn(&Step) -> Option<R>) -> Option<R> {
        self.steps.borrow().iter().rev().find_map(what)
    }

    fn note(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }
}

impl<F: IpFamily, T: Tables<F>> Tables<F> for Recorder<T> {
    fn settings(&self) -> &Settings {
        self.tables.settings()
    }

    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry> {
        let found = self.tables.service(key);
        self.note(Step::Frontend(socket_address::<F>((key.address(), key.port())), found));
        found
    }

    fn node_address(&self, address: &F::Address) -> Option<NodeAddress> {
        let found = self.tables.node_address(address);
        self.note(Step::NodeAddress(F::ip(*address), found));
        found
    }

    fn allows(&self, key: &SourceRangeKey<F::Address>) -> bool {
        let allows = self.tables.allows(key);
        let allowed = if allows { Allowed::Yes } else { Allowed::No };
        self.note(Step::SourceRange(key.service(), F::ip(key.prefix()), allowed));
        allows
    }

    fn slot(&self, index: u32) -> Option<BackendId> {
        let found = self.tables.slot(index);
        self.note(Step::Slot(index, found));
        found
    }

    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        let found = self.tables.backend(id);
        let place = found.map(|backend| {
            let locality = if backend.is_local() { Locality::ThisNode } else { Locality::Elsewhere };
            (socket_address::<F>((backend.address(), backend.port())), locality)
        });
        self.note(Step::Backend(id, place));
        found
    }

    fn with_flow<R>(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        action: impl FnOnce(&mut Flow<F::Address>) -> R,
    ) -> Option<R> {
        let now = self.tables.now();
        let mut known = None;
        let result = self.tables.with_flow(table, key, |flow| {
            known = Some(KnownFlow {
                to: socket_address::<F>(flow.to()),
                service: flow.service(),
                idle: now.saturating_sub(flow.last_seen()),
                state: flow.state(),
                flags: flow.flags(),
            });
            action(flow)
        });
        let kind = match key.direction() {
            Some(Direction::Reply) => FlowKind::Reply,
            Some(Direction::Original) | None => FlowKind::Original,
        };
        let (from, to) = (socket_address::<F>(key.source()), socket_address::<F>(key.destination()));
        self.note(Step::Flow(kind, from, to, known));
        result
    }

    fn insert_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        let result = self.tables.insert_flow(table, key, flow, insertion);
        if result.is_ok() && key.direction() == Some(Direction::Original) {
            self.note(Step::Notes(Note::Flow));
        }
        result
    }

    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey<F::Address>) {
        self.tables.remove_flow(table, key);
    }

    fn fragment(&self, key: &FragmentKey<F::Address>) -> Option<Fragment<F::Address>> {
        self.tables.fragment(key)
    }

    fn insert_fragment(&mut self, key: &FragmentKey<F::Address>, fragment: &Fragment<F::Address>) {
        self.tables.insert_fragment(key, fragment);
    }

    fn remove_fragment(&mut self, key: &FragmentKey<F::Address>) {
        self.tables.remove_fragment(key);
    }

    fn with_socket<R>(
        &mut self,
        key: &SocketKey<F::Address>,
        action: impl FnOnce(&mut SocketEntry<F::Address>) -> R,
    ) -> Option<R> {
        self.tables.with_socket(key, action)
    }

    fn insert_socket(
        &mut self,
        key: &SocketKey<F::Address>,
        entry: &SocketEntry<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError> {
        self.note(Step::Notes(Note::Socket));
        self.tables.insert_socket(key, entry, insertion)
    }

    fn remove_socket(&mut self, key: &SocketKey<F::Address>) {
        self.tables.remove_socket(key);
    }

    fn with_affinity<R>(
        &mut self,
        key: &AffinityKey<F::Address>,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        let now = self.tables.now();
        let mut known = None;
        let result = self.tables.with_affinity(key, |entry| {
            known = Some((entry.backend(), now.saturating_sub(entry.last_used())));
            action(entry)
        });
        self.note(Step::Affinity(key.service(), known));
        result
    }

    fn insert_affinity(&mut self, key: &AffinityKey<F::Address>, entry: &AffinityEntry) {
        self.note(Step::Notes(Note::Affinity));
        self.tables.insert_affinity(key, entry);
    }

    fn with_socket_affinity<R>(
        &mut self,
        key: &SocketAffinityKey,
        action: impl FnOnce(&mut AffinityEntry) -> R,
    ) -> Option<R> {
        let now = self.tables.now();
        let mut known = None;
        let result = self.tables.with_socket_affinity(key, |entry| {
            known = Some((entry.backend(), now.saturating_sub(entry.last_used())));
            action(entry)
        });
        self.note(Step::Affinity(key.service(), known));
        result
    }

    fn insert_socket_affinity(&mut self, key: &SocketAffinityKey, entry: &AffinityEntry) {
        self.note(Step::Notes(Note::Affinity));
        self.tables.insert_socket_affinity(key, entry);
    }

    fn is_pod_device(&self, device: u32) -> bool {
        let is = self.tables.is_pod_device(device);
        self.note(Step::PodDevice(device, if is { LeadsToPods::Yes } else { LeadsToPods::No }));
        is
    }

    fn count(&mut self, counter: Counter) {
        self.tables.count(counter);
    }

    fn count_drop(&mut self, key: &DropKey) {
        if let Some(reason) = key.reason() {
            self.note(Step::Counts(key.service(), reason));
        }
        self.tables.count_drop(key);
    }

    fn count_connection(&mut self, service: ServiceId) {
        self.tables.count_connection(service);
    }

    fn count_packet(&mut self, service: ServiceId, direction: Direction, bytes: usize) {
        self.tables.count_packet(service, direction, bytes);
    }

    fn random(&mut self) -> u32 {
        let random = self.random;
        // What is asked for after the first number (other ports, other endpoints) may be anything, but not always the same.
        self.random = random.wrapping_mul(0x9E37_79B9).wrapping_add(0x7F4A_7C15);
        random
    }

    fn now(&self) -> u32 {
        self.tables.now()
    }
}
