//! Index and plan at the size that a node has to bear.
//!
//! Prints what it measures (`cargo test --release --test scale -- --nocapture`); what it asserts
//! leaves room for a debug build on a busy machine.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod sized;

use std::{
    fs,
    time::{Duration, Instant},
};

use proxy_agent::{
    model::{Affected, Change, EndpointSlice, Index, Service, Update},
    plan::{Capacities, Changes, Refused, State, Tables, memory::MemoryTables},
};
use sized::{ENDPOINTS, NODE, SERVICES, frontends, service, slice};

/// What the index and the plan may take together, in bytes.
const MEMORY_BUDGET: u64 = 40 << 20;

#[test]
fn ten_thousand_services_with_ten_endpoints_each() {
    let before = resident();
    let mut index = Index::new(NODE.into());
    for number in 0..SERVICES {
        let parsed = Service::from_api(&service(number));
        assert_eq!(parsed.problems, []);
        let _ = index.update(Update::Service(parsed.into_change().0));
        let parsed = EndpointSlice::from_api(&slice(number, 0));
        assert_eq!(parsed.problems, []);
        let _ = index.update(Update::Slice(parsed.into_change().0));
    }
    let indexed = resident();

    let mut state = State::new(Capacities::default());
    let (changes, scratch) = timed(|| state.complete(&index));
    state.applied(&Refused::default());
    let all: usize = (0..SERVICES).map(frontends).sum();
    assert_eq!(changes.v4.services.len() + changes.v6.services.len(), all);
    assert_eq!(changes.v4.source_ranges.len() + changes.v6.source_ranges.len(), all - SERVICES as usize);
    assert_eq!(changes.v4.backends.len() + changes.v6.backends.len(), (SERVICES * ENDPOINTS) as usize);
    drop(changes);
    let planned = resident();

    let (changes, unchanged) = timed(|| state.reconcile(&index, &Affected::All));
    assert!(changes.is_empty());

    let mut updates = Vec::new();
    for round in 1..=1_000 {
        let number = round * 7 % SERVICES;
        let change = Change::Apply(EndpointSlice::from_api(&slice(number, round)).object.expect("a sound slice"));
        let (changes, took) = timed(|| {
            let affected = index.update(Update::Slice(change));
            let changes = state.reconcile(&index, &affected);
            state.applied(&Refused::default());
            changes
        });
        assert_eq!(written(&changes), 1 + ENDPOINTS as usize + frontends(number), "one backend, one range, the flips");
        updates.push(took);
    }
    updates.sort_unstable();
    let (median, slowest) = (updates[updates.len() / 2], updates[updates.len() - 1]);

    let (adopted, completed) = restart(&index);

    let mib = |from: u64, to: u64| to.saturating_sub(from) >> 20;
    println!("index {} MiB, plan {} MiB", mib(before, indexed), mib(indexed, planned));
    println!("from scratch {scratch:?}, all unchanged {unchanged:?}");
    println!("restart: adopting {adopted:?}, complete {completed:?}");
    println!("one slice: median {median:?}, slowest {slowest:?}");
    assert!(planned - before < MEMORY_BUDGET, "{} MiB", mib(before, planned));
    assert!(scratch < Duration::from_secs(10), "from scratch {scratch:?}");
    assert!(median < Duration::from_millis(2), "one slice {median:?}");
}

/// A restart with nothing changed: how long it takes to adopt the tables, and to plan everything.
fn restart(index: &Index) -> (Duration, Duration) {
    let capacities = Capacities::default();
    let mut tables = MemoryTables::new(capacities.services);
    let changes = State::new(capacities).complete(index);
    assert_eq!(tables.apply(&changes), Ok(Refused::default()));
    let snapshot = tables.snapshot().expect("memory can be read");
    let mut state = State::new(capacities);
    let ((), adopted) = timed(|| state.adopt(&snapshot));
    let (changes, completed) = timed(|| state.complete(index));
    assert!(changes.is_empty(), "nothing has changed");
    (adopted, completed)
}

/// Backends, slots and services that are written.
fn written(changes: &Changes) -> usize {
    let slots = |slots: &[(u32, Vec<proxy_common::BackendId>)]| slots.iter().map(|(_, ids)| ids.len()).sum::<usize>();
    let v4 = changes.v4.backends.len() + slots(&changes.v4.slots) + changes.v4.services.len();
    v4 + changes.v6.backends.len() + slots(&changes.v6.slots) + changes.v6.services.len()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says how much is resident");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kibibytes");
    kibibytes << 10
}
