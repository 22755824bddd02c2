//! A new agent on old tables: after an orderly end, after an error at any write, and with tables
//! that make no sense.

use std::collections::BTreeSet;

use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
    SourceRangeKey,
};

use super::support::{Served, TestNode, served, view};
use crate::{
    model::{
        Service, TrafficPolicy, Update,
        testing::{NODE, endpoint, service, slice, without_service},
    },
    plan::{Capacities, Snapshot, State, Tables, memory::MemoryError},
};

/// Slots of the tables that are damaged.
const CAPACITY: u32 = 100;

fn web() -> Service {
    service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80).with_port("admin", 81)
}

fn objects() -> Vec<Update> {
    vec![
        Service { internal_traffic_policy: TrafficPolicy::Local, ..web() }.into(),
        slice("web-a", "web", &["10.1.0.1", "10.1.0.2"])
            .with(endpoint("10.1.0.3").on(NODE))
            .with_port("http", 8080)
            .with_port("admin", 8081)
            .into(),
        slice("web-b", "web", &["fd01::1"]).with_port("http", 8080).into(),
        service("shop", &["10.0.0.2"])
            .with_port("", 80)
            .balanced_at(&["192.0.2.2"])
            .open_to(&["198.51.100.0/24", "203.0.113.7/32"])
            .into(),
        slice("shop-a", "shop", &["10.1.0.1"]).with_port("", 8080).into(),
    ]
}

/// Other endpoints, another port name, a Service less and one more.
fn later() -> Vec<Update> {
    vec![
        service("web", &["10.0.0.1", "fd00::1"]).with_port("www", 80).with_port("admin", 81).into(),
        slice("web-a", "web", &["10.1.0.2", "10.1.0.4"]).with_port("www", 8080).with_port("admin", 8081).into(),
        without_service("shop"),
        service("docs", &["10.0.0.2"]).with_port("", 80).into(),
        slice("docs-a", "docs", &["10.1.0.9"]).with_port("", 8080).into(),
    ]
}

/// What a node holds that never knew anything else.
fn fresh(updates: Vec<Update>) -> super::support::View {
    TestNode::having(updates).view()
}

#[test]
fn a_restart_with_the_same_objects_writes_nothing() {
    let mut node = TestNode::having(objects());
    let before = node.snapshot();
    assert!(node.restart().is_empty());
    assert_eq!(node.snapshot(), before);
    node.assert_nothing_leaks();
}

#[test]
fn a_service_port_has_the_same_id_after_a_restart() {
    let mut node = TestNode::having(objects());
    let before = node.snapshot().names;
    for update in later() {
        let _ = node.index.update(update);
    }
    node.restart();
    let after = node.snapshot().names;
    let admin = |names: &std::collections::BTreeMap<ServiceId, PortName>| {
        names.iter().find(|(_, name)| name.port() == "admin").map(|(&id, _)| id)
    };
    assert_eq!(admin(&after), admin(&before));
    for (id, name) in &after {
        assert!(before.get(id).is_none_or(|before| before == name), "an id has not changed its meaning");
    }
}

#[test]
fn what_is_in_no_list_goes_when_the_lists_are_complete() {
    let mut node = TestNode::having(objects());
    for update in later() {
        let _ = node.index.update(update);
    }
    node.restart();
    assert_eq!(node.view(), fresh(objects().into_iter().chain(later()).collect()));
    node.assert_nothing_leaks();
    assert!(node.restart().is_empty());
}

#[test]
fn an_error_at_any_write_is_recovered_from() {
    let expected = fresh(objects().into_iter().chain(later()).collect());
    let mut writes = 0;
    loop {
        let mut node = TestNode::having(objects());
        for update in later() {
            let _ = node.index.update(update);
        }
        let changes = node.state.reconcile(&node.index, &crate::model::Affected::All);
        node.tables.fail_after(writes);
        match node.tables.apply(&changes) {
            Ok(_) => break,
            Err(error) => assert_eq!(error, MemoryError::Injected),
        }
        node.restart();
        assert_eq!(node.view(), expected, "after {writes} writes");
        node.assert_nothing_leaks();
        assert!(node.restart().is_empty(), "after {writes} writes");
        writes += 1;
    }
    assert!(writes > 20, "the changes are {writes} writes");
}

/// Adopts what makes no sense, and asserts that a complete plan makes it right.
///
/// The tables' own checks do not apply to what was there before, so the writes are followed by hand.
fn assert_repaired(what: &str, damage: impl FnOnce(&mut Snapshot)) {
    let node = TestNode::having(objects());
    let mut snapshot = node.snapshot();
    damage(&mut snapshot);
    let slots = CAPACITY as usize;
    let capacities = Capacities { services: 100, slots, backends: 100, source_ranges: 100, names: 100 };
    let mut state = State::new(capacities);
    state.adopt(&snapshot);
    let changes = state.complete(&node.index);
    follow(&mut snapshot, &changes);
    assert_eq!(view(&snapshot), fresh(objects()), "{what}");
    state.applied(&crate::plan::Refused::default());

    let mut again = State::new(capacities);
    again.adopt(&snapshot);
    assert!(again.complete(&node.index).is_empty(), "{what}: there is more to repair");
    assert_eq!(state.usage(), again.usage(), "{what}: something leaks");
}

/// Does to a snapshot what the changes do to tables.
fn follow(snapshot: &mut Snapshot, changes: &crate::plan::Changes) {
    fn family<F: crate::plan::family::PlanFamily>(
        snapshot: &mut crate::plan::FamilySnapshot<F>,
        changes: &crate::plan::FamilyChanges<F>,
    ) {
        for &range in &changes.source_ranges {
            assert!(snapshot.source_ranges.insert(range), "a new range was not there");
        }
        for range in &changes.removed_source_ranges {
            assert!(snapshot.source_ranges.remove(range), "a removed range was there");
        }
        for &(id, backend) in &changes.backends {
            let place = |backend: &Backend<F::Address>| (backend.address(), backend.port(), backend.service());
            let old = snapshot.backends.insert(id, backend);
            assert!(old.is_none_or(|old| place(&old) == place(&backend)), "backend {id:?} is in use");
        }
        let in_use: BTreeSet<u32> = snapshot.services.values().flat_map(slots).collect();
        for (offset, ids) in &changes.slots {
            for (slot, &id) in (*offset..).zip(ids) {
                assert!(!in_use.contains(&slot), "slot {slot} is in use");
                snapshot.slots.insert(slot, id);
            }
        }
        snapshot.services.extend(changes.services.iter().copied());
        for key in &changes.removed_services {
            assert!(snapshot.services.remove(key).is_some(), "a removed service was there");
        }
        for id in &changes.retired_backends {
            assert!(snapshot.backends.remove(id).is_some(), "a retired backend was there");
        }
        let named = |range: SlotRange| range.offset()..range.offset() + range.count();
        let named: Vec<u32> =
            snapshot.services.values().flat_map(|entry| named(entry.cluster()).chain(named(entry.local()))).collect();
        snapshot.slots.retain(|slot, _| named.contains(slot));
    }
    snapshot.names.extend(changes.names.iter().copied());
    family(&mut snapshot.v4, &changes.v4);
    family(&mut snapshot.v6, &changes.v6);
    for id in &changes.retired_names {
        assert!(snapshot.names.remove(id).is_some(), "a retired name was there");
    }
}

/// The slots that a service names and the table has.
fn slots(entry: &ServiceEntry) -> impl Iterator<Item = u32> + use<> {
    let slots = |range: SlotRange| {
        let end = range.offset().saturating_add(range.count()).min(CAPACITY);
        range.offset()..end
    };
    slots(entry.cluster()).chain(slots(entry.local()))
}

fn first_key(snapshot: &Snapshot) -> ServiceKey<[u8; 4]> {
    *snapshot.v4.services.keys().next().expect("there are frontends")
}

fn set_first(snapshot: &mut Snapshot, change: impl FnOnce(ServiceEntry) -> ServiceEntry) {
    let key = first_key(snapshot);
    let entry = snapshot.v4.services[&key];
    snapshot.v4.services.insert(key, change(entry));
}

fn with_cluster(entry: ServiceEntry, cluster: SlotRange) -> ServiceEntry {
    ServiceEntry::new(entry.id(), entry.flags(), cluster, entry.local())
}

#[test]
fn sound_tables_need_no_repair() {
    assert_repaired("nothing damaged", |_| {});
}

#[test]
fn damaged_ranges_are_repaired() {
    assert_repaired("beyond the table", |snapshot| {
        set_first(snapshot, |entry| with_cluster(entry, SlotRange::new(90, 20)));
    });
    assert_repaired("far beyond the table", |snapshot| {
        set_first(snapshot, |entry| with_cluster(entry, SlotRange::new(u32::MAX - 1, u32::MAX)));
    });
    assert_repaired("two services on the same slots", |snapshot| {
        let ranges: Vec<SlotRange> = snapshot.v4.services.values().map(ServiceEntry::cluster).collect();
        let other = *ranges.last().expect("there are frontends");
        set_first(snapshot, |entry| with_cluster(entry, other));
    });
    assert_repaired("one range within another", |snapshot| {
        set_first(snapshot, |entry| with_cluster(entry, SlotRange::new(0, 9)));
    });
    assert_repaired("lists that overlap", |snapshot| {
        set_first(snapshot, |entry| ServiceEntry::new(entry.id(), entry.flags(), entry.cluster(), entry.cluster()));
    });
    assert_repaired("no list at all", |snapshot| {
        set_first(snapshot, |entry| with_cluster(entry, SlotRange::EMPTY));
    });
}

#[test]
fn damaged_slots_are_repaired() {
    assert_repaired("never written", |snapshot| snapshot.v4.slots.clear());
    assert_repaired("in another order", |snapshot| {
        let ids: Vec<BackendId> = snapshot.v4.slots.values().rev().copied().collect();
        for (slot, id) in snapshot.v4.slots.values_mut().zip(ids) {
            *slot = id;
        }
    });
    assert_repaired("of nobody", |snapshot| {
        for slot in snapshot.v4.slots.values_mut() {
            *slot = BackendId::new(77);
        }
    });
    assert_repaired("all the same", |snapshot| {
        let first = *snapshot.v4.slots.values().next().expect("there are slots");
        for slot in snapshot.v4.slots.values_mut() {
            *slot = first;
        }
    });
}

#[test]
fn damaged_services_are_repaired() {
    assert_repaired("a frontend of nobody", |snapshot| {
        let key = ServiceKey::new([10, 0, 0, 77], Port::new(80), Protocol::Udp);
        let entry = ServiceEntry::new(ServiceId::new(50), ServiceFlags::NONE, SlotRange::new(40, 3), SlotRange::EMPTY);
        snapshot.v4.services.insert(key, entry);
    });
    assert_repaired("another id", |snapshot| {
        set_first(snapshot, |entry| {
            ServiceEntry::new(ServiceId::new(0), entry.flags(), entry.cluster(), entry.local())
        });
    });
    assert_repaired("another Service's id", |snapshot| {
        let id = snapshot.v4.services.values().next_back().expect("there are frontends").id();
        set_first(snapshot, |entry| ServiceEntry::new(id, entry.flags(), entry.cluster(), entry.local()));
    });
    assert_repaired("other flags", |snapshot| {
        set_first(snapshot, |entry| {
            ServiceEntry::new(entry.id(), ServiceFlags::EXTERNAL, entry.cluster(), entry.local())
                .with_affinity_timeout(9)
        });
    });
    assert_repaired("a missing frontend", |snapshot| {
        let key = first_key(snapshot);
        snapshot.v4.services.remove(&key);
    });
    assert_repaired("no frontend at all", |snapshot| snapshot.v4.services.clear());
}

#[test]
fn damaged_backends_are_repaired() {
    let backend = |port, service| Backend::new([10, 9, 9, 9], Port::new(port), 0, ServiceId::new(service));
    assert_repaired("a missing one", |snapshot| {
        snapshot.v4.backends.pop_first();
    });
    assert_repaired("of nobody", |snapshot| {
        snapshot.v4.backends.insert(BackendId::new(60), backend(80, 0));
        snapshot.v4.backends.insert(BackendId::new(61), backend(80, 40));
    });
    assert_repaired("two of one endpoint", |snapshot| {
        let (_, first) = snapshot.v4.backends.first_key_value().expect("there are backends");
        let first = *first;
        snapshot.v4.backends.insert(BackendId::new(60), first);
    });
    for (what, flags) in [
        ("on another node", Backend::<[u8; 4]>::LOCAL),
        ("in other lists", Backend::<[u8; 4]>::IN_CLUSTER_LIST | Backend::<[u8; 4]>::IN_LOCAL_LIST),
        ("with a flag that nobody knows", 1 << 15),
    ] {
        assert_repaired(what, |snapshot| {
            for backend in snapshot.v4.backends.values_mut() {
                let flags = backend.flags() ^ flags;
                *backend = Backend::new(backend.address(), backend.port(), flags, backend.service());
            }
        });
    }
    assert_repaired("none at all", |snapshot| snapshot.v4.backends.clear());
}

#[test]
fn damaged_source_ranges_are_repaired() {
    let range = |service, bits| SourceRangeKey::new(ServiceId::new(service), [192, 0, 2, 0], bits);
    assert_repaired("of nobody", |snapshot| {
        snapshot.v4.source_ranges.extend([range(0, 24), range(50, 24), range(u32::MAX, 32)]);
    });
    assert_repaired("of a Service that has none", |snapshot| {
        let web = snapshot.v4.services.values().next().expect("there are frontends").id();
        snapshot.v4.source_ranges.insert(SourceRangeKey::new(web, [0, 0, 0, 0], 0));
    });
    assert_repaired("of the other family", |snapshot| {
        let shop = snapshot.v4.source_ranges.first().expect("there are ranges").service();
        snapshot.v6.source_ranges.insert(SourceRangeKey::new(shop, [0; 16], 128));
    });
    assert_repaired("a missing one", |snapshot| {
        snapshot.v4.source_ranges.pop_first();
    });
    assert_repaired("none at all", |snapshot| snapshot.v4.source_ranges.clear());
}

#[test]
fn damaged_names_are_repaired() {
    let name = |namespace, name, port| PortName::new(namespace, name, port, Protocol::Tcp).expect("short names");
    assert_repaired("of a Service that is gone", |snapshot| {
        snapshot.names.insert(ServiceId::new(30), name("default", "gone", "http"));
    });
    assert_repaired("twice", |snapshot| {
        snapshot.names.insert(ServiceId::new(30), name("default", "web", "http"));
    });
    assert_repaired("without a Service", |snapshot| {
        snapshot.names.insert(ServiceId::new(30), name("", "", ""));
        snapshot.names.insert(ServiceId::new(0), name("default", "zero", ""));
        snapshot.names.insert(ServiceId::new(u32::MAX), name("default", "web", "www"));
    });
    assert_repaired("a missing one", |snapshot| {
        snapshot.names.pop_first();
    });
    assert_repaired("none at all", |snapshot| snapshot.names.clear());
}

#[test]
fn a_frontend_whose_service_left_while_the_agent_was_down_is_removed() {
    let mut node = TestNode::having(objects());
    let _ = node.index.update(without_service("web"));
    let changes = node.restart();
    assert_eq!((changes.v4.removed_services.len(), changes.v6.removed_services.len()), (2, 2));
    let shop = served("default/shop:/TCP", &["10.1.0.1:8080"]);
    let flags = ServiceFlags::EXTERNAL.with(ServiceFlags::SOURCE_RANGES);
    let balanced = Served { flags, ..shop.clone() };
    let expected = [("10.0.0.2:80/TCP".to_owned(), shop), ("192.0.2.2:80/TCP".to_owned(), balanced)];
    assert_eq!(node.view().services, expected.into());
    node.assert_nothing_leaks();
}
