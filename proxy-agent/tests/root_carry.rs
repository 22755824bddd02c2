//! Entries of a table go over into another one, before and after the programs do; so flows live on when their tables get another
//! size. Needs root.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData},
};
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
    Backend, BackendId, Direction, FilterRow, Flow, FlowFlags, FlowKey, LAYOUT_VERSION, Port, PortName, Protocol,
    ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange, SocketEntry, SocketKey, V4, V6, maps,
};
use support::{Netns, Node, Pins, eventually, run, settings};

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
    assert_eq!(all(&flows(confirmed)), [], "nobody uses them yet");
    assert!(is_waiting(&node));
    let late = (key(200), used(8));
    reopen(&node.pins.path().join(format!("former/{LAYOUT_VERSION}")), confirmed).insert(&[late]).expect("writes");
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

/// A client outside the node and two endpoints behind it, which are those of one Service with session affinity.
struct Scene {
    node: Node,
    client: Netns,
    _backend: Netns,
    listeners: Vec<TcpListener>,
}

impl Scene {
    fn new() -> Self {
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
        let listen = |port| backend.enter(|| TcpListener::bind(("10.0.0.2", port)).expect("binds"));
        let listeners = ENDPOINT_PORTS.map(listen).into();
        Self { node, client, _backend: backend, listeners }
    }

    fn changes() -> Changes {
        let id = ServiceId::new(1);
        let mut changes = Changes::default();
        let name = PortName::new("default", "web", "http", Protocol::Tcp).expect("short names");
        changes.names.push((id, name));
        let lists = Backend::<[u8; 4]>::IN_CLUSTER_LIST;
        for (number, port) in (1..).zip(ENDPOINT_PORTS) {
            let backend = Backend::new([10, 0, 0, 2], Port::new(port), lists, id);
            changes.v4.backends.push((BackendId::new(number), backend));
        }
        changes.v4.slots.push((1, vec![BackendId::new(1), BackendId::new(2)]));
        let entry = ServiceEntry::new(id, ServiceFlags::AFFINITY, SlotRange::new(1, 2), SlotRange::EMPTY);
        let entry = entry.with_affinity_timeout(3600);
        changes.v4.services.push((ServiceKey::new([10, 96, 0, 1], Port::new(80), Protocol::Tcp), entry));
        changes
    }

    fn open(&self, entries: u32) -> Dataplane {
        self.node.netns.enter(|| Dataplane::open(&sized(&self.node, entries)).unwrap_or_else(|error| panic!("{error}")))
    }

    fn attach(&self, dataplane: Dataplane) {
        self.node.netns.block_on(async || drop(dataplane.hooks.attach(&settings()).await.expect("attaches")));
    }

    /// Connects to the Service.
    fn connect(&self) -> Connection {
        let service = SocketAddr::from(([10, 96, 0, 1], 80));
        let asking = self.client.enter(|| TcpStream::connect_timeout(&service, PATIENCE)).expect("is served");
        asking.set_read_timeout(Some(PATIENCE)).expect("may be set");
        for listener in &self.listeners {
            listener.set_nonblocking(true).expect("may be set");
        }
        let (number, answering) = eventually("it came to an endpoint", || {
            let mut listeners = self.listeners.iter().enumerate();
            listeners.find_map(|(number, listener)| Some((number, listener.accept().ok()?.0)))
        })
        .0;
        answering.set_nonblocking(false).expect("may be set");
        answering.set_read_timeout(Some(PATIENCE)).expect("may be set");
        Connection { asking, answering, endpoint: number }
    }
}

const ENDPOINT_PORTS: [u16; 2] = [8080, 8081];
const PATIENCE: Duration = Duration::from_mins(1);

/// Both ends of a connection.
struct Connection {
    asking: TcpStream,
    answering: TcpStream,
    endpoint: usize,
}

impl Connection {
    fn exchange(&mut self, byte: u8) {
        let mut read = [0];
        self.asking.write_all(&[byte]).expect("sends");
        self.answering.read_exact(&mut read).expect("arrives");
        self.answering.write_all(&read).expect("sends");
        self.asking.read_exact(&mut read).expect("arrives");
        assert_eq!(read, [byte]);
    }
}

/// A connection while agents come that want tables of other sizes.
#[test]
fn a_connection_goes_on_when_the_tables_get_another_size() {
    let scene = Scene::new();
    let start = |entries| scene.attach(scene.open(entries));
    // Large enough that the young tables get another size, too: a young entry that is left behind would do as well.
    let mut first = scene.open(131_072);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    for (byte, entries) in [(1, 262_144), (2, 262_144), (3, 131_072)] {
        connection.exchange(byte);
        start(entries);
        connection.exchange(byte);
    }
}

/// Makes the pinned tables what an agent with layout 3 would have left: flows without a client's port, all in one table, shorter
/// settings, and other sizes of tables.
fn make_layout_3(pins: &Path) {
    let table = |name: &str, words: &str| {
        let path = pins.join(name);
        std::fs::remove_file(&path).expect("it is pinned");
        run(Command::new("bpftool").args(["map", "create"]).arg(&path).args(words.split(' ')).args(["name", name]));
        path
    };
    let settings: [u8; 88] = array(&pins.join("settings")).get(&0, 0).expect("readable");
    // Without the timeout of established connections.
    let mut shorter: Vec<u8> = [&settings[..32], &settings[36..84]].concat();
    shorter[..4].copy_from_slice(&3_u32.to_ne_bytes());
    let shorter: [u8; 80] = shorter.try_into().expect("80 bytes");
    let path = table("settings", "type array key 4 value 80 entries 1");
    array::<[u8; 80]>(&path).set(0, shorter, 0).expect("writable");

    let [confirmed, young] = ["flows_v4", "young_flows_v4"].map(|name| open::<Key, [u8; 24]>(&pins.join(name)).all());
    let mut flows = young.expect("readable");
    flows.extend(confirmed.expect("readable"));
    let shorter: Vec<(Key, [u8; 20])> =
        flows.into_iter().map(|(key, flow)| (key, *flow.first_chunk().expect("longer"))).collect();
    let path = table("flows_v4", "type lru_hash key 16 value 20 entries 8192");
    open(&path).insert(&shorter).expect("writable");
    table("flows_v6", "type lru_hash key 40 value 32 entries 8192");
    for name in ["young_flows_v4", "young_flows_v6", maps::FLOW_FILTER] {
        std::fs::remove_file(pins.join(name)).expect("it is pinned");
    }

    let entries = open::<[u8; 8], [u8; 8]>(&pins.join("affinity_v4")).all().expect("readable");
    assert_eq!(entries.len(), 1, "the client's");
    let path = table("affinity_v4", "type lru_hash key 8 value 8 entries 8192");
    open::<[u8; 8], [u8; 8]>(&path).insert(&entries.into_iter().collect::<Vec<_>>()).expect("writable");
    let path = table("sockets_v4", "type lru_hash key 16 value 20 entries 8192");
    open(&path).insert(&[socket()]).expect("writable");
}

fn open<K: aya::Pod + Ord, V: aya::Pod>(path: &Path) -> HashTable<K, V> {
    HashTable::open(path, Writes::Single).expect("it is pinned")
}

fn array<V: aya::Pod>(path: &Path) -> Array<MapData, V> {
    let data = MapData::from_pin(path).expect("it is pinned");
    Map::from_map_data(data).and_then(Array::try_from).expect("an array of such elements")
}

/// A socket that is connected to the Service.
fn socket() -> (SocketKey<[u8; 4]>, SocketEntry<[u8; 4]>) {
    let peer = ([10, 0, 0, 2], Port::new(8080));
    let entry = SocketEntry::new(([10, 96, 0, 1], Port::new(80)), BackendId::new(1), ServiceId::new(1), 5);
    (SocketKey::new(1, peer, Protocol::Tcp, Direction::Reply), entry)
}

#[test]
fn connections_and_affinity_outlive_an_upgrade_from_layout_3() {
    let scene = Scene::new();
    let pins = scene.node.pins.path();
    let mut first = scene.open(16_384);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    connection.exchange(1);
    let affinity = || read_tables(pins).expect("of this layout").v4.affinity.all().expect("readable");
    let before = affinity();
    make_layout_3(pins);

    // The first agent ends before it has replaced a program; the second one before it has written anything.
    let tables = read_tables(pins).err().expect("another layout");
    assert!(tables.path().ends_with("flows_v4") || tables.path().ends_with("young_flows_v4"), "{tables}");
    let upgraded = scene.open(16_384);
    assert_eq!(upgraded.adoption, Adoption::Adopted);
    drop(upgraded);
    let late: (Key, [u8; 20]) = (key(7), [9; 20]);
    open(&pins.join("former/3/flows_v4")).insert(&[late]).expect("writable");
    array::<[u8; 88]>(&pins.join("settings")).set(0, [0_u8; 88], 0).expect("writable");
    let upgraded = scene.open(16_384);
    assert_eq!(upgraded.adoption, Adoption::New, "as far as is known");
    connection.exchange(2);
    scene.attach(upgraded);
    connection.exchange(3);

    let tables = read_tables(pins).expect("of this layout");
    assert_eq!(tables.settings.read().expect("readable").layout_version(), LAYOUT_VERSION);
    let late = tables.v4.flows.get(&late.0).expect("readable").expect("has gone over");
    assert_eq!((late.to(), late.client_port()), (([9; 4], Port::new(0x0909)), None));
    assert_eq!(tables.v4.sockets.get(&socket().0).expect("readable"), Some(socket().1));
    assert!(!is_waiting(&scene.node), "nothing is left of the former tables");
    assert_eq!(affinity(), before);
    for _ in 0..10 {
        assert_eq!(scene.connect().endpoint, connection.endpoint, "the client has its endpoint");
    }
    let restarted = scene.open(16_384);
    assert_eq!(restarted.adoption, Adoption::Adopted);
    scene.attach(restarted);
    connection.exchange(4);
}

/// Agents with layout 4 had no filter in front of the tables of flows. One that comes back after an upgrade leaves a filter that does
/// not know its flows.
#[test]
fn connections_outlive_an_upgrade_from_a_layout_without_a_filter() {
    let scene = Scene::new();
    let pins = scene.node.pins.path();
    let mut first = scene.open(16_384);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    connection.exchange(1);
    for is_left in [false, true] {
        let filter = pins.join(maps::FLOW_FILTER);
        if is_left {
            unmark(&filter);
        } else {
            std::fs::remove_file(&filter).expect("it is pinned");
        }
        set_layout(pins, 4);
        let upgraded = scene.open(16_384);
        assert_eq!(upgraded.adoption, Adoption::Adopted);
        scene.attach(upgraded);
        connection.exchange(2);
        let tables = read_tables(pins).expect("of this layout");
        assert_eq!(tables.settings.read().expect("readable").layout_version(), LAYOUT_VERSION);
    }
}

/// Agents with layout 5 had no filter of frontends. One that comes back after an upgrade leaves a filter that does not know its frontends.
#[test]
fn frontends_are_served_after_an_upgrade_from_a_layout_without_a_filter_of_them() {
    let scene = Scene::new();
    let pins = scene.node.pins.path();
    let mut first = scene.open(16_384);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    connection.exchange(1);
    for (layout, is_left) in [(5, false), (5, true), (LAYOUT_VERSION, true)] {
        let filter = pins.join(maps::FRONTEND_FILTER);
        if is_left {
            unmark(&filter);
        } else {
            std::fs::remove_file(&filter).expect("it is pinned");
        }
        set_layout(pins, layout);
        let upgraded = scene.open(16_384);
        assert_eq!(upgraded.adoption, Adoption::Adopted, "{layout} {is_left}");
        scene.attach(upgraded);
        connection.exchange(2);
        scene.connect().exchange(1);
    }
}

/// Removes all marks from a filter.
fn unmark(filter: &Path) {
    let mut filter = array::<FilterRow>(filter);
    for row in 0..filter.len() {
        filter.set(row, [0; size_of::<FilterRow>()], 0).expect("writable");
    }
}

/// Lets the tables say that an agent with this layout wrote them.
fn set_layout(pins: &Path, layout: u32) {
    let mut settings = array::<[u8; 88]>(&pins.join(maps::SETTINGS));
    let mut bytes = settings.get(&0, 0).expect("readable");
    bytes[..4].copy_from_slice(&layout.to_ne_bytes());
    settings.set(0, bytes, 0).expect("writable");
}

/// An agent was killed while it replaced tables: the filter has no marks yet, or flows are set aside and there is no filter at all.
#[test]
fn connections_outlive_an_upgrade_that_was_interrupted_before_the_filter_was_marked() {
    let scene = Scene::new();
    let pins = scene.node.pins.path();
    let mut first = scene.open(16_384);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    connection.exchange(1);
    let (filter, unmarked) = (pins.join(maps::FLOW_FILTER), pins.join("unmarked_flow_filter"));
    unmark(&filter);
    std::fs::rename(&filter, &unmarked).expect("it is pinned");
    scene.attach(scene.open(16_384));
    connection.exchange(2);
    assert!(!unmarked.exists(), "for the loader only");

    let former = pins.join(format!("former/{LAYOUT_VERSION}"));
    std::fs::create_dir_all(&former).expect("the BPF file system has directories");
    for name in ["flows_v4", "young_flows_v4", "flows_v6", "young_flows_v6"] {
        std::fs::rename(pins.join(name), former.join(name)).expect("it is pinned");
    }
    std::fs::remove_file(&filter).expect("it is pinned");
    scene.attach(scene.open(16_384));
    connection.exchange(3);
}

/// A version before left no such table, and nothing is known by numbers in it.
#[test]
fn a_table_that_lacks_and_follows_from_others_costs_nothing() {
    let scene = Scene::new();
    let pins = scene.node.pins.path();
    let mut first = scene.open(16_384);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    connection.exchange(1);
    std::fs::remove_file(pins.join(maps::PEER_DEVICES)).expect("it is pinned");
    let dataplane = scene.open(16_384);
    assert_eq!(dataplane.adoption, Adoption::Adopted);
    assert_eq!(read_tables(pins).expect("of this layout").v4.affinity.count().expect("readable"), 1);
    scene.attach(dataplane);
    connection.exchange(2);
}

/// What cannot go over is lost alone; if it is the agent's, everything that is known by number is lost with it, and is filled anew
/// before a program is replaced. Connections go on.
#[test]
fn what_cannot_go_over_costs_no_more_than_it_must() {
    let scene = Scene::new();
    let pins = scene.node.pins.path();
    let mut first = scene.open(16_384);
    first.tables.apply(&Scene::changes()).expect("the tables can be written");
    scene.attach(first);
    let mut connection = scene.connect();
    connection.exchange(1);
    for (name, adoption, affinities) in [("drops", true, 1), ("names", false, 0)] {
        let path = pins.join(name);
        std::fs::remove_file(&path).expect("it is pinned");
        run(Command::new("bpftool")
            .args(["map", "create"])
            .arg(&path)
            .args("type hash key 4 value 4 entries 8 name other".split(' ')));
        let mut dataplane = scene.open(16_384);
        assert_eq!(dataplane.adoption == Adoption::Adopted, adoption, "{name}: {:?}", dataplane.adoption);
        let tables = read_tables(pins).expect("of this layout");
        assert_eq!(tables.v4.affinity.count().expect("readable"), affinities, "{name}");
        assert_eq!(tables.v4.services.count().expect("readable"), usize::from(adoption), "{name}");
        if !adoption {
            dataplane.tables.apply(&Scene::changes()).expect("the tables can be written");
        }
        scene.attach(dataplane);
        connection.exchange(2);
    }
}
