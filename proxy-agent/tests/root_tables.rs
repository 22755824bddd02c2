//! Writing the tables: what a full one refuses, what old kernels need, and that no connection ever sees
//! half a change. Needs root.

mod support;

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aya::{
    maps::{Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use proxy_agent::{
    dataplane::{
        Dataplane,
        features::{Feature, Features},
        pins::Pins,
        tables::{HashTable, KernelTables, PodTable, SourceRanges, Writes},
    },
    model::{Change, EndpointSlice, Index, IpFamily, NodeFacts, Service, Update},
    plan::{BackendNumber, Capacities, Changes, Pods, Refused, Snapshot, State, Tables as _, memory::MemoryTables},
    source::decode,
};
use proxy_common::{
    Backend, BackendId, DropKey, DropReason, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId,
    ServiceKey, SlotRange, SourceRangeKey, Traffic, V4, maps,
};
use serde_json::{Value, json};
use support::Node;

const SERVICE: ServiceId = ServiceId::new(1);

fn key(number: usize) -> ServiceKey<[u8; 4]> {
    let number = u32::try_from(number).expect("few services");
    ServiceKey::new(number.to_be_bytes(), Port::new(80), Protocol::Tcp)
}

fn entry(range: SlotRange) -> ServiceEntry {
    ServiceEntry::new(SERVICE, ServiceFlags::NONE, range, SlotRange::EMPTY)
}

fn services(numbers: impl Iterator<Item = usize>) -> Changes {
    let mut changes = Changes::default();
    changes.v4.services = numbers.map(|number| (key(number), entry(SlotRange::EMPTY))).collect();
    changes
}

#[test]
fn a_full_table_refuses_what_is_new_and_keeps_what_is_there() {
    let node = Node::default();
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let capacity = maps::SERVICES_CAPACITY;
    let refused = tables.apply(&services(0..capacity - 1)).expect("there is room");
    assert_eq!(refused, Refused::default());

    // The first of these fits, the others do not; what is there can still be changed.
    let mut changes = services(capacity - 1..capacity + 2);
    changes.v4.services.push((key(0), entry(SlotRange::new(8, 1))));
    let refused = tables.apply(&changes).expect("a full table is no error");
    assert_eq!((refused.v4, refused.v6), (vec![key(capacity), key(capacity + 1)], vec![]));
    let services = tables.snapshot().expect("readable").v4.services;
    assert_eq!(services.len(), capacity);
    assert_eq!(services[&key(0)], entry(SlotRange::new(8, 1)));
}

#[test]
fn without_batches_elements_are_read_and_written_one_by_one() {
    let node = Node::default();
    let features = Features::probe().expect("root").except(Feature::BatchUpdate);
    let mut tables = Dataplane::open_with(&node.config(), features).expect("opens").tables;
    let mut changes = services(0..1000);
    changes.names = vec![(SERVICE, PortName::new("a", "b", "c", Protocol::Tcp).expect("short names"))];
    tables.apply(&changes).expect("writes");
    let singly = tables.snapshot().expect("readable");
    assert_eq!(singly.v4.services.len(), 1000);
    drop(tables);
    let batched = Dataplane::open(&node.config()).expect("opens").tables.snapshot().expect("readable");
    assert_eq!(singly, batched);
}

#[test]
fn removals_and_retirements() {
    let node = Node::default();
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let mut changes = services(0..2);
    let name = PortName::new("a", "b", "c", Protocol::Tcp).expect("short names");
    changes.names = vec![(SERVICE, name), (ServiceId::new(2), name)];
    let backend = Backend::new([10, 0, 0, 1], Port::new(80), 0, SERVICE);
    changes.v4.backends = vec![(BackendId::new(1), backend), (BackendId::new(2), backend)];
    tables.apply(&changes).expect("writes");
    // What the programs dropped for either Service port.
    let drops_pin = node.pins.path().join(maps::DROPS);
    let mut drops = HashTable::<DropKey, u64>::open(&drops_pin, Writes::Single).expect("the table is there");
    let dropped = |service| DropKey::new(service, DropReason::SourceNotAllowed);
    assert_eq!(drops.insert(&[(dropped(SERVICE), 5), (dropped(ServiceId::new(2)), 6)]).expect("writes"), []);

    let mut changes = Changes::default();
    // That something is gone already is no error.
    changes.v4.removed_services = vec![key(0), key(7)];
    changes.v4.retired_backends = vec![BackendId::new(1)];
    changes.retired_names = vec![SERVICE, ServiceId::new(9)];
    let begin = Instant::now();
    tables.apply(&changes).expect("writes");
    let in_force = tables.in_force().expect("it has been written");
    assert!((begin..Instant::now()).contains(&in_force), "by this change");
    let snapshot = tables.snapshot().expect("readable");
    assert_eq!(snapshot.v4.services.keys().collect::<Vec<_>>(), [&key(1)]);
    assert_eq!(snapshot.v4.backends.keys().collect::<Vec<_>>(), [&BackendId::new(2)]);
    assert_eq!(snapshot.names.keys().collect::<Vec<_>>(), [&ServiceId::new(2)]);
    let rest = [(dropped(ServiceId::new(2)), 6)].into();
    assert_eq!(drops.all().expect("readable"), rest, "who gets the id next starts from nothing");
}

/// An element for each Service port, as long as there are some; who gets one that another had starts from nothing.
#[test]
fn service_ports_have_elements_of_their_own_for_what_is_counted() {
    let node = Node::default();
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let name = PortName::new("a", "b", "c", Protocol::Tcp).expect("short names");
    let room = u32::try_from(maps::TRAFFIC_CAPACITY - 1).expect("fits");
    let names = (1..=room + 2).map(|id| (ServiceId::new(id), name)).collect();
    tables.apply(&Changes { names, ..Changes::default() }).expect("writes");
    let counted = |tables: &KernelTables| -> Vec<u32> {
        tables.read().traffic.read().expect("readable").services.into_keys().map(ServiceId::get).collect()
    };
    assert_eq!(counted(&tables), (1..=room).collect::<Vec<_>>(), "those who came first");

    // Somebody counted something in all elements, whoever has them.
    let pin = node.pins.path().join(maps::TRAFFIC);
    let map = Map::from_map_data(MapData::from_pin(pin).expect("pinned")).expect("a map");
    let mut elements: PerCpuArray<_, Traffic> = map.try_into().expect("an array");
    let mut seen = Traffic::default();
    seen.add_connection();
    let values = || PerCpuValues::try_from(vec![seen; nr_cpus().expect("known")]).expect("one for each processor");
    for element in 0..=room {
        elements.set(element, values(), 0).expect("is written");
    }
    let retired_names = vec![ServiceId::new(5)];
    tables.apply(&Changes { retired_names, ..Changes::default() }).expect("writes");
    assert!(!counted(&tables).contains(&5));
    drop(tables);

    // The next agent gives the free element to the first who has none.
    let tables = Dataplane::open(&node.config()).expect("opens").tables;
    assert_eq!(counted(&tables).len(), usize::try_from(room).expect("fits"));
    let all = tables.read().traffic.read().expect("readable");
    assert_eq!(all.services[&ServiceId::new(room + 1)], Traffic::default(), "nothing was counted for it");
    assert!(all.services[&ServiceId::new(1)].connections() > 0, "others keep what they have");
    assert!(all.others.connections() > 0);
}

/// An agent that ended in the middle of a change: the name of a Service port is gone, and what was counted for it is not yet. Who gets its
/// number starts from nothing.
#[test]
fn what_was_counted_for_a_number_that_nobody_has_is_forgotten() {
    let node = Node::default();
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let name = PortName::new("a", "b", "c", Protocol::Tcp).expect("short names");
    let [stays, goes] = [1, 2].map(ServiceId::new);
    let with_names =
        |ids: &[ServiceId]| Changes { names: ids.iter().map(|&id| (id, name)).collect(), ..Changes::default() };
    tables.apply(&with_names(&[stays, goes])).expect("writes");
    let pin = |name: &str| node.pins.path().join(name);
    let drops: HashTable<DropKey, u64> = HashTable::open(&pin(maps::DROPS), Writes::Single).expect("pinned");
    let mut table = HashTable::open(&pin(maps::DROPS), Writes::Single).expect("pinned");
    let counted = [stays, goes].map(|id| (DropKey::new(id, DropReason::NoEndpoint), 7_u64));
    table.insert(&counted).expect("writes");
    let mut names: HashTable<ServiceId, PortName> = HashTable::open(&pin(maps::NAMES), Writes::Single).expect("pinned");
    names.remove(&goes).expect("writes");
    drop(tables);

    let tables = Dataplane::open(&node.config()).expect("opens").tables;
    let services = tables.read().traffic.read().expect("readable").services;
    assert_eq!(services.into_keys().collect::<Vec<_>>(), [stays]);
    assert_eq!(drops.all().expect("readable"), [counted[0]].into());
}

#[test]
fn writing_beyond_a_table_is_an_error_that_names_it() {
    let node = Node::default();
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let mut changes = Changes::default();
    changes.v6.slots = vec![(u32::try_from(maps::SLOTS_CAPACITY).expect("fits"), vec![BackendId::new(1)])];
    let error = tables.apply(&changes).expect_err("there is no such slot").to_string();
    assert!(error.starts_with("cannot write beyond the end of") && error.contains("slots_v6"), "{error}");
}

/// Opened by its pin, as whoever writes it does.
fn source_ranges(node: &Node) -> SourceRanges<[u8; 4]> {
    SourceRanges::open(&node.pins.path().join(maps::SOURCE_RANGES.name::<V4>())).expect("the table is there")
}

#[test]
fn source_ranges_come_and_go() {
    let node = Node::default();
    let tables = Dataplane::open(&node.config()).expect("opens").tables;
    let mut ranges = source_ranges(&node);
    let range = |service, prefix, bits| SourceRangeKey::new(ServiceId::new(service), prefix, bits);
    // One within another, the same prefix of another Service, one host, and everything.
    let all = [
        range(1, [10, 0, 0, 0], 8),
        range(1, [10, 1, 0, 0], 16),
        range(256, [10, 0, 0, 0], 8),
        range(256, [192, 0, 2, 1], 32),
        range(257, [0, 0, 0, 0], 0),
    ];
    assert_eq!(ranges.insert(&all).expect("writes"), []);
    assert_eq!(tables.read().v4.source_ranges.all().expect("readable"), BTreeSet::from(all));
    for gone in &all[1..3] {
        ranges.remove(gone).expect("is removed");
        ranges.remove(gone).expect("that it is gone already is no error");
    }
    assert_eq!(ranges.all().expect("readable"), BTreeSet::from([all[0], all[3], all[4]]));
}

#[test]
fn a_full_table_of_source_ranges_refuses_what_is_new() {
    let node = Node::default();
    let _tables = Dataplane::open(&node.config()).expect("opens").tables;
    let mut ranges = source_ranges(&node);
    let host = |number: u32| SourceRangeKey::new(SERVICE, number.to_be_bytes(), 32);
    let capacity = ranges.capacity();
    let filling: Vec<_> = (0..capacity).map(host).collect();
    assert_eq!(ranges.insert(&filling).expect("there is room"), []);
    let refused = ranges.insert(&[host(capacity), host(capacity + 1)]).expect("a full table is no error");
    assert_eq!(refused, [host(capacity), host(capacity + 1)]);
}

/// Where the kernel has no memory for a range, everything else is written, and what lacks is tried again.
#[test]
fn a_range_that_does_not_fit_fails_the_change_and_stops_nothing_else() {
    let node = Node::default();
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let mut ranges = source_ranges(&node);
    let host = |number: u32| SourceRangeKey::new(ServiceId::new(77), number.to_be_bytes(), 32);
    let filling: Vec<_> = (0..ranges.capacity()).map(host).collect();
    assert_eq!(ranges.insert(&filling).expect("there is room"), []);
    let (key, entry) = (ServiceKey::new([10, 96, 0, 1], Port::new(80), Protocol::Tcp), ServiceEntry::default());
    let key6 = ServiceKey::new([0xfd; 16], Port::new(80), Protocol::Tcp);
    let mut changes = Changes::default();
    changes.v4.source_ranges = vec![SourceRangeKey::new(SERVICE, [192, 0, 2, 0], 24)];
    changes.v4.services = vec![(key, entry)];
    changes.v6.services = vec![(key6, entry)];
    // What is gone is gone for everybody.
    let backend = Backend::new([10, 0, 0, 1], Port::new(80), 0, SERVICE);
    changes.v4.backends = vec![(BackendId::new(1), backend), (BackendId::new(2), backend)];
    changes.v4.retired_backends = vec![BackendId::new(1)];
    let error = tables.apply(&changes).expect_err("the range does not fit").to_string();
    assert!(error.contains("source_ranges_v4") && error.contains("Cannot allocate memory"), "{error}");
    assert_eq!(tables.read().v4.services.get(&key).expect("readable"), Some(entry));
    assert_eq!(tables.read().v6.services.get(&key6).expect("readable"), Some(entry));
    let backends = tables.snapshot().expect("readable").v4.backends;
    assert_eq!(backends.keys().collect::<Vec<_>>(), [&BackendId::new(2)]);
    ranges.remove(&filling[0]).expect("is removed");
    tables.apply(&changes).expect("there is room now");
}

/// A load balancer with everything that the plan writes tables for.
fn shop(ports: &[&str], ranges: &[&str], affinity: &str) -> Update {
    let ports: Vec<Value> = (0_u16..)
        .zip(ports)
        .map(|(number, name)| json!({"name": name, "port": 80 + number, "nodePort": 30_080 + number}))
        .collect();
    let service = json!({
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": ports, "externalIPs": ["198.51.100.1"], "externalTrafficPolicy": "Local",
            "sessionAffinity": affinity, "loadBalancerSourceRanges": ranges,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}},
    });
    Update::Service(Change::Apply(decode::<Service>(&service).object.expect("a good Service")))
}

fn pods(addresses: &[&str]) -> Update {
    let endpoint = |address: &&str| json!({"addresses": [address], "nodeName": "node-1"});
    let slice = json!({
        "metadata": {"name": "shop-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    });
    Update::Slice(Change::Apply(decode::<EndpointSlice>(&slice).object.expect("a good slice")))
}

/// The kernel's tables hold after each step what the plan's own model of them holds, and a new agent reads
/// that back.
#[test]
fn the_kernel_holds_what_the_plan_says() {
    let node = Node::default();
    let mut kernel = Dataplane::open(&node.config()).expect("opens").tables;
    let mut memory = MemoryTables::new(maps::SERVICES_CAPACITY);
    let mut index = Index::new("node-1".to_owned());
    let mut state = State::new(Capacities::default());
    let _ = state.complete(&index);
    let narrow = &["203.0.113.0/24", "2001:db8:7::/48"][..];
    let facts = NodeFacts { addresses: ["203.0.113.5".parse().expect("an address")].into(), ..NodeFacts::default() };
    for (step, update) in [
        ("a slice", pods(&["10.0.0.1", "10.0.0.2"])),
        ("a Service", shop(&["http", "admin"], narrow, "None")),
        ("an address of the node in a range", Update::Facts(facts)),
        ("other ranges", shop(&["http", "admin"], &["203.0.113.7/32", "198.18.0.0/15"], "None")),
        ("affinity", shop(&["http", "admin"], narrow, "ClientIP")),
        ("an endpoint less", pods(&["10.0.0.2"])),
        ("a port less", shop(&["http"], narrow, "ClientIP")),
        ("another name", shop(&["www"], narrow, "None")),
        ("no ranges", shop(&["www"], &[], "None")),
        ("ranges again", shop(&["www"], narrow, "None")),
        ("nothing", Update::Service(Change::Reset(Vec::new()))),
    ] {
        let affected = index.update(update);
        let changes = state.reconcile(&index, &affected);
        let refused = memory.apply(&changes).expect("a safe order");
        assert_eq!(kernel.apply(&changes).expect("the kernel takes it"), refused, "{step}");
        state.applied(&refused);
        let snapshot = kernel.snapshot().expect("readable");
        assert_eq!(snapshot, memory.snapshot().expect("readable"), "{step}");
        let mut restarted = State::new(Capacities::default());
        restarted.adopt(&snapshot);
        assert_eq!(restarted.complete(&index), Changes::default(), "{step}: a new agent has nothing to do");
    }
    assert_eq!(kernel.snapshot().expect("readable"), Snapshot::default());
}

/// A Service moves between two backends again and again, always using the same slots and ids, while a
/// process connects to it. Every connection must reach the backend that the Service had before or after,
/// and none a backend of another Service, which sits in the slots in between.
#[test]
fn no_connection_sees_half_a_change() {
    let node = Node::default();
    node.netns.ip("addr add 10.0.0.1/32 dev lo");
    node.netns.ip("addr add 10.0.0.2/32 dev lo");
    node.netns.ip("addr add 10.0.0.9/32 dev lo");
    node.netns.ip("route add 10.96.0.0/16 dev lo");
    let (mut tables, _hooks) = node.start(&Changes::default());
    let frontend = |last| ServiceKey::new([10, 96, 0, last], Port::new(80), Protocol::Tcp);
    // Slots 8 and 9 are taken by turns: by the Service under test, and by the other one.
    let turn = |even: bool| {
        let (mine, other) = if even { (8, 9) } else { (9, 8) };
        let (address, id) = if even { ([10, 0, 0, 1], 1) } else { ([10, 0, 0, 2], 2) };
        let mut changes = Changes::default();
        changes.v4.backends = vec![(BackendId::new(id), Backend::new(address, Port::new(8080), 0, SERVICE))];
        changes.v4.slots = vec![(mine, vec![BackendId::new(id)])];
        changes.v4.services = vec![(frontend(1), entry(SlotRange::new(mine, 1)))];
        changes.v4.retired_backends = vec![BackendId::new(3 - id)];
        let other_entry =
            ServiceEntry::new(ServiceId::new(2), ServiceFlags::NONE, SlotRange::new(other, 1), SlotRange::EMPTY);
        let mut then = Changes::default();
        then.v4.backends =
            vec![(BackendId::new(9), Backend::new([10, 0, 0, 9], Port::new(8080), 0, ServiceId::new(2)))];
        then.v4.slots = vec![(other, vec![BackendId::new(9)])];
        then.v4.services = vec![(frontend(2), other_entry)];
        [changes, then]
    };
    for changes in turn(true) {
        tables.apply(&changes).expect("writes");
    }

    let listeners: Vec<TcpListener> = node.netns.enter(|| {
        ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.9:8080"].map(|at| TcpListener::bind(at).expect("binds")).into()
    });
    let service = SocketAddr::from(([10, 96, 0, 1], 80));
    let done = AtomicBool::new(false);
    let connect = || -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        while !done.load(Ordering::Relaxed) {
            let mut name = String::new();
            let connected = TcpStream::connect_timeout(&service, Duration::from_secs(1));
            let mut stream = connected.expect("the Service always has an endpoint");
            stream.read_to_string(&mut name).expect("the endpoint tells its name");
            seen.insert(name);
        }
        seen
    };
    let (mut turns, start) = (0_u32, Instant::now());
    let seen = std::thread::scope(|scope| {
        for (listener, name) in listeners.iter().zip(["first", "second", "of another Service"]) {
            scope.spawn(move || {
                for stream in listener.incoming().take_while(Result::is_ok) {
                    let stream = stream.expect("taken while it is");
                    std::io::Write::write_all(&mut &stream, name.as_bytes()).expect("writes");
                }
            });
        }
        let client = scope.spawn(|| node.netns.enter(|| node.cgroup.enter(connect)));
        // An emulated machine takes few turns in two seconds.
        while start.elapsed() < Duration::from_secs(2) || turns <= 20 {
            turns += 1;
            for changes in turn(turns.is_multiple_of(2)) {
                assert_eq!(tables.apply(&changes).expect("writes"), Refused::default());
            }
        }
        done.store(true, Ordering::Relaxed);
        let seen = client.join();
        for listener in &listeners {
            rustix::net::shutdown(listener, rustix::net::Shutdown::Both).expect("ends the listener");
        }
        seen.expect("no connection failed")
    });
    assert_eq!(seen, ["first", "second"].map(str::to_owned).into(), "after {turns} turns");
}

#[test]
fn names_of_pods_are_written_where_they_are_others() {
    for writes in [Writes::Single, Writes::Batched] {
        let node = Node::default();
        drop(Dataplane::open(&node.config()).expect("opens"));
        let mut table = PodTable::open(&Pins::new(node.pins.path()), writes).expect("the agent made it");
        let number = |id| BackendNumber { family: IpFamily::V4, id: BackendId::new(id) };
        let all = |pods: &[(u32, &'static str)]| Pods::All(pods.iter().map(|&(id, pod)| (number(id), pod)).collect());
        assert_eq!(table.write(&all(&[(1, "a"), (2, "b"), (3, "c")])).expect("writes"), 3);
        assert_eq!(table.write(&all(&[(1, "a"), (2, "b"), (3, "c")])).expect("writes"), 0, "after a restart");
        assert_eq!(table.write(&all(&[(1, "a"), (2, "d")])).expect("writes"), 2, "one is another, one is gone");
        assert_eq!(table.write(&Pods::Some(vec![(number(1), None)])).expect("writes"), 1);
        let names = [1, 2, 3].map(|id| table.get(number(id)).expect("readable"));
        assert_eq!(names, [None, Some("d".to_owned()), None]);
    }
}
