//! Entries of a table go over into another one, before and after the programs do. Needs root.

mod support;

use std::path::Path;

use aya::EbpfLoader;
use proxy_agent::dataplane::{
    carry::{Carried, CarryOver as _, HashCarry},
    object::OBJECT,
    tables::{HashTable, Writes},
};
use proxy_common::{BackendId, Direction, Flow, FlowFlags, FlowKey, Port, Protocol, ServiceId, V4, maps};
use support::Pins;

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
