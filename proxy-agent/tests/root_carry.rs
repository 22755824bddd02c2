//! Entries of a table go over into another one, before and after the programs do; so flows live on when their tables get another
//! size. Needs root.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use aya::EbpfLoader;
use proxy_agent::{
    dataplane::{
        Adoption, Config, Dataplane,
        carry::{Carried, CarryOver as _, HashCarry},
        flow_tables::FlowTableSize,
        object::OBJECT,
        read_tables,
        tables::{HashTable, Writes},
    },
    plan::{Changes, Tables as _},
};
use proxy_common::{
    Backend, BackendId, Direction, Flow, FlowFlags, FlowKey, Port, Protocol, ServiceEntry, ServiceFlags, ServiceId,
    ServiceKey, SlotRange, V4, V6, maps,
};
use support::{Netns, Node, Pins, settings};

type Key = FlowKey<[u8; 4]>;
type Value = Flow<[u8; 4]>;
type Table = HashTable<Key, Value>;

/// A table of flows for so many entries. LRU tables keep a reserve for each processor, so the tests use hundreds.
fn table(pins: &Path, name: &str, entries: u32) -> Table {
    let path = pins.join(name);
    let flows = maps::FLOWS.name::<V4>();
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(flows, entries).map_pin_path(flows, path.as_path());
    loader.load(OBJECT).expect("the object's maps are created");
    Table::open(&path, Writes::Batched).expect("it is pinned")
}

fn key(number: u16) -> Key {
    let client = ([192, 0, 2, 1], Port::new(number));
    FlowKey::new(client, ([10, 96, 0, 1], Port::new(80)), Protocol::Tcp, Direction::Original)
}

/// An entry that was used last in this second.
fn used(second: u32) -> Value {
    Flow::new(([10, 1, 0, 1], Port::new(80)), FlowFlags::NONE, BackendId::new(1), ServiceId::new(1), second)
}

fn carried(written: usize, left_behind: usize) -> Carried {
    Carried { written, left_behind }
}

fn all(table: &Table) -> Vec<(Key, Value)> {
    table.all().expect("it can be read").into_iter().collect()
}

#[test]
fn entries_go_over_again_and_again_and_what_the_programs_write_stays() {
    let pins = Pins::default();
    let mut former = table(pins.path(), "former", 4096);
    let new = table(pins.path(), "new", 2048);
    let (mut former_again, mut new_again) = (reopen(pins.path(), "former"), reopen(pins.path(), "new"));
    let entries: Vec<_> = (0..1000).map(|number| (key(number), used(7))).collect();
    assert_eq!(former.insert(&entries).expect("writes"), []);
    let mut carry = HashCarry::new(former, new, |key, value| Some((key, value)), Flow::last_seen);
    assert_eq!(carry.copy().expect("copies"), carried(1000, 0));
    assert_eq!(all(&new_again), entries);
    assert_eq!(carry.copy().expect("copies"), carried(0, 0), "nothing has changed");

    // The former programs go on.
    former_again.insert(&[(key(3), used(8)), (key(2000), used(8))]).expect("writes");
    assert_eq!(carry.copy().expect("copies"), carried(2, 0));
    assert_eq!(new_again.get(&key(3)).expect("reads"), Some(used(8)));

    // They have been replaced, and the last that they wrote is not in the new table.
    former_again.insert(&[(key(2001), used(9)), (key(5), used(9))]).expect("writes");
    new_again.insert(&[(key(5), used(10)), (key(2002), used(10))]).expect("writes");
    assert_eq!(carry.finish().expect("finishes"), carried(1, 0));
    assert_eq!(new_again.get(&key(2001)).expect("reads"), Some(used(9)));
    assert_eq!(new_again.get(&key(5)).expect("reads"), Some(used(10)), "the new programs know better");
    assert_eq!(all(&new_again).len(), 1003);
}

#[test]
fn a_smaller_table_gets_the_newest() {
    let pins = Pins::default();
    let mut former = table(pins.path(), "former", 4096);
    let new = table(pins.path(), "new", 512);
    let entries: Vec<_> = (0..1000).map(|number| (key(number), used(u32::from((number * 7) % 1000)))).collect();
    former.insert(&entries).expect("writes");
    let mut carry = HashCarry::new(former, new, |key, value| Some((key, value)), Flow::last_seen);
    assert_eq!(carry.copy().expect("copies"), carried(512, 488));
    let kept = all(&reopen(pins.path(), "new"));
    assert_eq!(kept.len(), 512);
    assert!(kept.iter().all(|(_, flow)| flow.last_seen() >= 488));
}

#[test]
fn an_entry_may_become_another_or_none() {
    let pins = Pins::default();
    let mut former = table(pins.path(), "former", 4096);
    let new = table(pins.path(), "new", 4096);
    former.insert(&[(key(1), used(1)), (key(2), used(2))]).expect("writes");
    let convert = |_: Key, value: Value| (value.last_seen() == 2).then(|| (key(20), used(20)));
    let mut carry = HashCarry::new(former, new, convert, Flow::last_seen);
    assert_eq!(carry.copy().expect("copies"), carried(1, 0));
    assert_eq!(all(&reopen(pins.path(), "new")), [(key(20), used(20))]);
}

fn reopen(pins: &Path, name: &str) -> Table {
    Table::open(&pins.join(name), Writes::Batched).expect("it is pinned")
}

/// The configuration of an agent on this node with so many flows.
fn sized(node: &Node, entries: u32) -> Config {
    Config { flow_table_size: FlowTableSize::new(entries).expect("a size"), ..node.config() }
}

/// The entries that the four tables of flows have room for.
fn sizes(node: &Node) -> Vec<u32> {
    let tables = read_tables(node.pins.path()).expect("pinned");
    let (v4, v6) = (tables.v4, tables.v6);
    vec![v4.flows.capacity(), v6.flows.capacity(), v4.young_flows.capacity(), v6.young_flows.capacity()]
}

/// Whether tables wait for their entries to go over.
fn is_waiting(node: &Node) -> bool {
    node.pins.path().join("former").exists()
}

#[test]
fn tables_get_another_size_and_keep_their_flows() {
    let node = Node::default();
    let open = |entries| {
        let dataplane = Dataplane::open(&sized(&node, entries)).unwrap_or_else(|error| panic!("{error}"));
        assert!(!matches!(dataplane.adoption, Adoption::Replaced { .. }));
        dataplane
    };
    let attach = |dataplane: Dataplane| {
        node.netns.block_on(async || drop(dataplane.hooks.attach(&settings()).await.expect("attaches")));
    };
    attach(open(4096));
    assert_eq!(sizes(&node), [4096, 4096, 16_384, 16_384]);
    let flows = |name: &str| reopen(node.pins.path(), name);
    let [confirmed, young] = [maps::FLOWS, maps::YOUNG_FLOWS].map(|map| map.name::<V4>());
    let entries: Vec<_> = (0..100).map(|number| (key(number), used(7))).collect();
    flows(confirmed).insert(&entries).expect("writes");
    flows(young).insert(&entries[..50]).expect("writes");

    // The programs use the former tables for as long as they are not replaced, also if the agent ends meanwhile.
    let dataplane = open(131_072);
    assert_eq!(sizes(&node), [131_072, 131_072, 32_768, 32_768]);
    assert_eq!(all(&flows(confirmed)), entries);
    assert!(is_waiting(&node));
    let late = (key(200), used(8));
    reopen(&node.pins.path().join("former"), confirmed).insert(&[late]).expect("writes");
    drop(dataplane);
    let dataplane = open(2048);
    assert!(is_waiting(&node));
    attach(dataplane);
    assert!(!is_waiting(&node), "the tables that were set aside are gone");
    assert_eq!(sizes(&node), [2048, 2048, 16_384, 16_384]);
    assert_eq!(all(&flows(confirmed)), [&entries[..], &[late]].concat());
    assert_eq!(all(&flows(young)), &entries[..50]);
    let v6 = HashTable::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>::open(
        &node.pins.path().join(maps::FLOWS.name::<V6>()),
        Writes::Batched,
    );
    assert_eq!(v6.expect("it is pinned").all().expect("it can be read").len(), 0);
}

/// A connection from outside the node to a backend behind it, while agents come that want tables of other sizes.
#[test]
fn a_connection_goes_on_when_the_tables_get_another_size() {
    let (node, client, backend) = (Node::default(), Netns::new(), Netns::new());
    client.veth("eth0", &node.netns, "outside");
    backend.veth("eth0", &node.netns, "inside");
    node.netns.sysctl("net/ipv4/ip_forward", "1");
    for (namespace, device, address) in [
        (&client, "eth0", "192.0.2.2/24"),
        (&node.netns, "outside", "192.0.2.1/24"),
        (&node.netns, "inside", "10.0.0.1/24"),
        (&backend, "eth0", "10.0.0.2/24"),
    ] {
        namespace.ip(&format!("addr add {address} dev {device}"));
    }
    client.ip("route add default via 192.0.2.1");
    backend.ip("route add default via 10.0.0.1");
    let start = |entries, changes: &Changes| {
        let Dataplane { mut tables, hooks, .. } =
            node.netns.enter(|| Dataplane::open(&sized(&node, entries)).unwrap_or_else(|error| panic!("{error}")));
        tables.apply(changes).expect("the tables can be written");
        node.netns.block_on(async || drop(hooks.attach(&settings()).await.expect("attaches")));
    };
    let id = ServiceId::new(1);
    let mut changes = Changes::default();
    changes.v4.backends.push((BackendId::new(1), Backend::new([10, 0, 0, 2], Port::new(8080), 0, id)));
    changes.v4.slots.push((1, vec![BackendId::new(1)]));
    let entry = ServiceEntry::new(id, ServiceFlags::NONE, SlotRange::new(1, 1), SlotRange::EMPTY);
    changes.v4.services.push((ServiceKey::new([10, 96, 0, 1], Port::new(80), Protocol::Tcp), entry));
    // Large enough that the young tables get another size, too: a young entry that is left behind would do as well.
    start(131_072, &changes);

    let listener = backend.enter(|| TcpListener::bind("10.0.0.2:8080").expect("binds"));
    let service = SocketAddr::from(([10, 96, 0, 1], 80));
    let patience = Duration::from_mins(1);
    let mut asking = client.enter(|| TcpStream::connect_timeout(&service, patience)).expect("is served");
    let (mut answering, _) = listener.accept().expect("came here");
    asking.set_read_timeout(Some(patience)).expect("may be set");
    answering.set_read_timeout(Some(patience)).expect("may be set");
    let mut exchange = |byte: u8| {
        let mut read = [0];
        asking.write_all(&[byte]).expect("sends");
        answering.read_exact(&mut read).expect("arrives");
        answering.write_all(&read).expect("sends");
        asking.read_exact(&mut read).expect("arrives");
        assert_eq!(read, [byte]);
    };
    for (byte, entries) in [(1, 262_144), (2, 262_144), (3, 131_072)] {
        exchange(byte);
        start(entries, &Changes::default());
        exchange(byte);
    }
}
