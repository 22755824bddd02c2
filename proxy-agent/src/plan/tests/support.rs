//! A node in memory, and tables as a person would write them down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::SocketAddr,
};

use proxy_common::{
    Backend, BackendId, PortName, ServiceEntry, ServiceFlags, ServiceId, SlotRange, SourceRangeKey, V4, V6,
};

use crate::{
    model::{Affected, Index, Update, testing::NODE},
    plan::{
        Capacities, Changes, FamilySnapshot, Refused, Snapshot, State, Tables, Usage, family::PlanFamily,
        memory::MemoryTables,
    },
};

const LOCAL: u16 = Backend::<[u8; 4]>::LOCAL;

/// A node whose tables follow the objects.
pub(super) struct TestNode {
    pub(super) index: Index,
    pub(super) state: State,
    pub(super) tables: MemoryTables,
}

impl TestNode {
    /// A node without objects, and with empty tables.
    pub(super) fn new() -> Self {
        Self::with_capacities(Capacities::default())
    }

    pub(super) fn with_capacities(capacities: Capacities) -> Self {
        let tables = MemoryTables::new(capacities.services);
        let mut node = Self { index: Index::new(NODE.into()), state: State::new(capacities), tables };
        let changes = node.state.complete(&node.index);
        assert!(changes.is_empty(), "nothing to do without objects");
        node
    }

    /// A node with these objects.
    pub(super) fn having(updates: impl IntoIterator<Item = Update>) -> Self {
        let mut node = Self::new();
        node.apply(updates);
        node
    }

    /// Takes in updates as one, and returns what was written because of them.
    pub(super) fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Changes {
        let mut affected = Affected::none();
        for update in updates {
            affected.merge(self.index.update(update));
        }
        self.reconcile(&affected)
    }

    pub(super) fn reconcile(&mut self, affected: &Affected) -> Changes {
        let changes = self.state.reconcile(&self.index, affected);
        self.write(&changes);
        changes
    }

    /// Writes and confirms; returns the frontends without room.
    pub(super) fn write(&mut self, changes: &Changes) -> Refused {
        let refused = self.tables.apply(changes).expect("the changes are in a safe order");
        self.state.applied(&refused);
        refused
    }

    /// Reconciles until refused Services need not be tried again.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            if !self.state.retry_is_due() {
                return;
            }
            self.reconcile(&Affected::none());
        }
        panic!("the plan does not come to rest");
    }

    /// A new agent on the same tables, with the same objects; what it writes at first.
    pub(super) fn restart(&mut self) -> Changes {
        self.state.adopt(&self.snapshot());
        let changes = self.state.complete(&self.index);
        self.write(&changes);
        changes
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.tables.snapshot().expect("memory can be read")
    }

    /// What is installed, by frontend.
    pub(super) fn view(&self) -> View {
        view(&self.snapshot())
    }

    /// Asserts that the state counts as used exactly what the tables hold.
    pub(super) fn assert_nothing_leaks(&self) {
        let snapshot = self.snapshot();
        let Usage { v4, v6, names } = self.state.usage();
        assert_eq!(names, snapshot.names.len(), "ids");
        assert_eq!(usize_of(v4.slots), snapshot.v4.slots.len(), "slots of IPv4");
        assert_eq!(usize_of(v6.slots), snapshot.v6.slots.len(), "slots of IPv6");
        assert_eq!(v4.backends, snapshot.v4.backends.len(), "backends of IPv4");
        assert_eq!(v6.backends, snapshot.v6.backends.len(), "backends of IPv6");
        assert_eq!(v4.source_ranges, snapshot.v4.source_ranges.len(), "source ranges of IPv4");
        assert_eq!(v6.source_ranges, snapshot.v6.source_ranges.len(), "source ranges of IPv6");
        assert_eq!(v4.services, snapshot.v4.services.len(), "frontends of IPv4");
        assert_eq!(v6.services, snapshot.v6.services.len(), "frontends of IPv6");
    }
}

/// Tables without ids, numbers and offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Frontend, as in `10.0.0.1:80/TCP` → what is behind it.
    pub(super) services: BTreeMap<String, Served>,
    /// Service port, as in `default/web:http/TCP` → its backends; those on this node end in `*`.
    pub(super) backends: BTreeMap<String, BTreeSet<String>>,
    /// Service port → the prefixes that may use its guarded frontends.
    pub(super) source_ranges: BTreeMap<String, BTreeSet<String>>,
    /// Service ports with a name.
    pub(super) names: BTreeSet<String>,
}

/// What is behind a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) port: String,
    pub(super) flags: ServiceFlags,
    pub(super) affinity_timeout: u32,
    pub(super) cluster: Vec<String>,
    pub(super) local: Vec<String>,
}

/// A clusterIP of a Service with policy `Cluster`.
pub(super) fn served(port: &str, cluster: &[&str]) -> Served {
    let cluster = cluster.iter().map(ToString::to_string).collect();
    Served { port: port.into(), cluster, ..Served::default() }
}

pub(super) fn view(snapshot: &Snapshot) -> View {
    let names: BTreeMap<ServiceId, String> = snapshot.names.iter().map(|(&id, name)| (id, port(name))).collect();
    let mut view = View { names: names.values().cloned().collect(), ..View::default() };
    view_family::<V4>(snapshot, &names, &mut view);
    view_family::<V6>(snapshot, &names, &mut view);
    view
}

fn view_family<F: PlanFamily>(snapshot: &Snapshot, names: &BTreeMap<ServiceId, String>, view: &mut View) {
    let family = F::of_snapshot(snapshot);
    for (key, entry) in &family.services {
        let address = SocketAddr::from((F::to_ip(key.address()), key.port().get()));
        let protocol = key.protocol().expect("the plan knows its protocols");
        let list = |range: SlotRange| {
            let slots = range.offset()..range.offset() + range.count();
            slots.map(|slot| backend::<F>(&family.backends[&family.slots[&slot]])).collect()
        };
        let served = Served {
            port: names[&entry.id()].clone(),
            flags: entry.flags(),
            affinity_timeout: entry.affinity_timeout(),
            cluster: list(entry.cluster()),
            local: list(entry.local()),
        };
        view.services.insert(format!("{address}/{protocol}"), served);
    }
    for range in &family.source_ranges {
        let port = names[&range.service()].clone();
        view.source_ranges.entry(port).or_default().insert(prefix::<F>(range));
    }
    for (&id, entry) in &family.backends {
        if let Some(lists) = lists::<F>(family, id, entry) {
            assert_eq!(entry.flags() & !LOCAL, lists, "the flags tell in which lists {entry:?} is");
        }
        view.backends.entry(names[&entry.service()].clone()).or_default().insert(backend::<F>(entry));
    }
}

fn prefix<F: PlanFamily>(range: &SourceRangeKey<F::Address>) -> String {
    format!("{}/{}", F::to_ip(range.prefix()), range.bits())
}

/// A backend's flags by the lists of its Service port that name it; `None` if the table had no room for any
/// frontend of the port.
fn lists<F: PlanFamily>(family: &FamilySnapshot<F>, id: BackendId, backend: &Backend<F::Address>) -> Option<u16> {
    let services: Vec<&ServiceEntry> =
        family.services.values().filter(|entry| entry.id() == backend.service()).collect();
    let names =
        |range: SlotRange| (range.offset()..range.offset() + range.count()).any(|slot| family.slots[&slot] == id);
    let flags = services.iter().fold(0, |flags, entry| {
        let cluster = if names(entry.cluster()) { Backend::<F::Address>::IN_CLUSTER_LIST } else { 0 };
        let local = if names(entry.local()) { Backend::<F::Address>::IN_LOCAL_LIST } else { 0 };
        flags | cluster | local
    });
    (!services.is_empty()).then_some(flags)
}

fn backend<F: PlanFamily>(backend: &Backend<F::Address>) -> String {
    let address = SocketAddr::from((F::to_ip(backend.address()), backend.port().get()));
    let mark = if backend.is_local() { "*" } else { "" };
    format!("{address}{mark}")
}

fn port(name: &PortName) -> String {
    let protocol = name.protocol().expect("the plan knows its protocols");
    format!("{}/{}:{}/{protocol}", name.namespace(), name.name(), name.port())
}

/// The entry of an IPv4 frontend.
pub(super) fn entry_v4(snapshot: &Snapshot, address: [u8; 4]) -> ServiceEntry {
    let mut services = snapshot.v4.services.iter();
    *services.find(|(key, _)| key.address() == address).expect("the frontend is installed").1
}

fn usize_of(count: u32) -> usize {
    usize::try_from(count).expect("tables fit into memory")
}
