//! Needs root. Every fixture of the pipeline through the TC programs in the kernel (`BPF_PROG_TEST_RUN`, since 4.12;
//! its context argument since 5.2): what the pipeline does on the host, the kernel must do too.

mod marks;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, iter, thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf,
        lpm_trie::{Key, LpmTrie as Trie},
    },
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use marks::mark;
use proxy_agent::dataplane::object::OBJECT;
use proxy_common::{
    ALLOWED, AffinityEntry, AffinityKey, Backend, BackendId, Counter, Decision, DropKey, DropReason, Family, FilterRow,
    Flow, FlowFilterPlace, FlowKey, Fragment, FragmentKey, FrontendFilterPlace, PlainAddress, PortName, ServiceEntry,
    ServiceId, Settings, SourceRange, Trace, V4, V6, maps,
};
use proxy_ebpf::{
    fixtures::{self, Case, Outcome},
    host::{self, Hook, HostPacket, HostTables},
};

/// Length of the link layer's header.
const ETHERNET: usize = 14;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// Size of `struct __sk_buff`, and where the mark is in it (include/uapi/linux/bpf.h).
const CONTEXT: usize = 192;
const MARK: usize = 8;

#[test]
fn the_kernel_does_what_the_pipeline_does() {
    check_all(&mut Kernel::load(LOG_NOTHING, Reading::Directly));
}

/// Headers that are not in the linear part of a packet are read by a helper; here, all are.
#[test]
fn the_kernel_does_the_same_while_it_logs_and_reads_by_a_helper() {
    check_all(&mut Kernel::load(LOG_EVERYTHING, Reading::ByHelper));
}

#[test]
fn the_kernel_tells_what_the_pipeline_tells() {
    let mut kernel = Kernel::load(LOG_NOTHING, Reading::Directly);
    let asked = Trace::all(1).until(u64::MAX);
    Array::try_from(kernel.map(maps::TRACES)).expect("an array of traces").set(1, asked, 0).expect("is written");
    for case in fixtures::all() {
        let told = within_a_second(|| {
            kernel.fill(&case);
            kernel.run(&case);
            kernel.told(maps::EVENTS[1])
        });
        assert_eq!(kernel.told(maps::EVENTS[0]), None, "nobody asked for it there");
        let mut packet = HostPacket::new(case.frame.clone()).with_mark(case.mark);
        let mut world = case.world.clone();
        let (_, expected) = if case.frame[12..14] == [0x86, 0xdd] {
            host::run_told(&mut packet, &mut world.v6, case.hook, ETHERNET)
        } else {
            host::run_told(&mut packet, &mut world.v4, case.hook, ETHERNET)
        };
        // The random numbers are others.
        let told = told.map(|told| what(&told));
        assert_eq!(told, expected.map(|expected| what(&expected)), "{}", case.name);
    }
}

/// What a decision says, but for the time, the device, and what is chosen at random.
fn what(decision: &Decision) -> impl PartialEq + std::fmt::Debug + use<> {
    let goes = decision.backend().1.get() != 0;
    let ends = (decision.source(), decision.destination(), decision.protocol_number(), decision.version());
    let marked = (decision.mark(), decision.is_masqueraded());
    (decision.decided(), decision.service(), ends, marked, goes, decision.client_port().is_some())
}

/// Values of the global that `aya-log` sets: the most verbose level that is logged.
const LOG_NOTHING: u8 = 0;
const LOG_EVERYTHING: u8 = 5;

fn check_all(kernel: &mut Kernel) {
    let cases = fixtures::all();
    assert!(cases.len() > 100, "the fixtures are there");
    for case in cases {
        let name = case.name;
        let (before, (action, frame, mark)) = within_a_second(|| {
            kernel.fill(&case);
            let before = kernel.drops(&case);
            assert_eq!(before.1, 0, "{name}");
            (before, kernel.run(&case))
        });
        match &case.outcome {
            Outcome::Pass { frame: expected, mark: expected_mark } => {
                assert_eq!(action, TC_ACT_UNSPEC, "{name}");
                assert_eq!(&frame, expected, "{name}");
                assert_eq!(mark, *expected_mark, "{name}");
            }
            Outcome::Drop(_) => {
                assert_eq!(action, TC_ACT_SHOT, "{name}");
                assert_eq!(kernel.drops(&case), (before.0 + 1, 1), "{name}");
            }
            Outcome::Answer(expected) => {
                assert_eq!(action, TC_ACT_REDIRECT, "{name}");
                assert_eq!(kernel.drops(&case), (before.0 + 1, 1), "{name}");
                assert_eq!(&frame, expected, "{name}");
            }
        }
    }
}

/// Packets of no flow and to no frontend, which most are, are to cost no lookup: what those of one are told by is the mark of their
/// end.
#[test]
fn a_packet_whose_end_has_no_mark_is_not_looked_up() {
    let mut kernel = Kernel::load(LOG_NOTHING, Reading::Directly);
    let cases = fixtures::all();
    for (filter, name) in [
        (maps::FLOW_FILTER, "an established connection keeps its backend when the frontend becomes another Service's"),
        (maps::FRONTEND_FILTER, "a first packet to a clusterIP goes to its backend, foreign mark bits stay"),
    ] {
        let mut seen = 0;
        for case in cases.iter().filter(|case| case.name == name) {
            let Outcome::Pass { frame: translated, .. } = &case.outcome else { panic!("{case:?}") };
            kernel.fill(case);
            kernel.unmark(filter);
            assert_eq!(kernel.run(case).1, case.frame, "{case:?}");
            kernel.fill(case);
            assert_eq!(&kernel.run(case).1, translated);
            seen += 1;
        }
        assert!(seen > 0, "there is a case {name:?}");
    }
}

/// Does it until no second has begun meanwhile: only then are ages what a case says, to the second.
fn within_a_second<T>(mut action: impl FnMut() -> T) -> T {
    for _ in 0..50 {
        let second = uptime();
        let result = action();
        if uptime() == second {
            return result;
        }
    }
    panic!("the machine is too slow: a case takes over a second");
}

/// The tables that a case fills and the next one empties, and their size here, which is more than any case needs.
const HASHES: [maps::FamilyMap; 6] =
    [maps::SERVICES, maps::NODE_ADDRESSES, maps::FLOWS, maps::YOUNG_FLOWS, maps::FRAGMENTS, maps::AFFINITY];
const ELEMENTS: u32 = 1024;

/// The object's maps and its TC programs, attached nowhere.
struct Kernel {
    bpf: Ebpf,
}

/// How programs read the headers of packets.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Reading {
    ByHelper = 0,
    Directly = 1,
}

impl Kernel {
    fn load(log_level: u8, reading: Reading) -> Self {
        let mut loader = EbpfLoader::new();
        // To see that a table is empty, the kernel walks over all of its buckets.
        let hashes = HASHES.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]);
        for name in hashes.chain([maps::DROPS, maps::POD_DEVICES]) {
            loader.map_max_entries(name, ELEMENTS);
        }
        let mut bpf = loader
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .override_global("READS_UNALIGNED", &(reading as u8), true)
            .load(OBJECT)
            .expect("the object's maps are created");
        for name in ["tc_ingress", "tc_egress"] {
            program(&mut bpf, name).load().expect("the verifier accepts the program");
        }
        Self { bpf }
    }

    fn fill(&mut self, case: &Case) {
        let settings = case.world.v4.settings;
        let mut table: Array<_, Settings> = Array::try_from(self.map(maps::SETTINGS)).expect("an array of settings");
        table.set(0, settings, 0).expect("settings are written");
        self.fill_family::<V4>(&case.world.v4);
        self.fill_family::<V6>(&case.world.v6);
        self.refill(maps::POD_DEVICES, case.world.v4.pod_devices.iter().map(|device| (*device, 1)));
        self.refill(maps::DROPS, iter::empty::<(DropKey, u64)>());
    }

    fn fill_family<F: Family<Address: PlainAddress>>(&mut self, world: &HostTables<F>) {
        mark(&mut self.bpf, maps::FRONTEND_FILTER, world.services.keys().map(FrontendFilterPlace::of::<F>));
        self.refill(maps::SERVICES.name::<F>(), copies(&world.services));
        self.refill(maps::NODE_ADDRESSES.name::<F>(), copies(&world.node_addresses));
        let ranges = world.source_ranges.iter().map(|range| (Key::new(range.prefix_len(), range.range()), ALLOWED));
        let mut trie: Trie<_, SourceRange<F::Address>, u32> =
            LpmTrie::try_from(self.map(maps::SOURCE_RANGES.name::<F>())).expect("a trie of ranges");
        let former: Vec<_> = trie.keys().collect::<Result<_, _>>().expect("the table is read");
        for range in &former {
            trie.remove(range).expect("the range is removed");
        }
        for (key, value) in ranges {
            trie.insert(&key, value, 0).expect("the range is written");
        }

        let mut slots: Array<_, BackendId> =
            Array::try_from(self.map(maps::SLOTS.name::<F>())).expect("an array of slots");
        for (index, id) in &world.slots {
            slots.set(*index, *id, 0).expect("the slot is written");
        }
        let mut backends: Array<_, Backend<F::Address>> =
            Array::try_from(self.map(maps::BACKENDS.name::<F>())).expect("an array of backends");
        let free = Backend::new(F::UNSPECIFIED, proxy_common::Port::new(0), 0, ServiceId::new(0));
        assert!(world.backends.keys().all(|id| id.get() < BACKENDS), "all backends are written");
        for number in 0..BACKENDS {
            let backend = world.backends.get(&BackendId::new(number)).copied().unwrap_or(free);
            backends.set(number, backend, 0).expect("the backend is written");
        }

        // The same age by the kernel's clock as by the fixture's.
        let flows = world.flows.values().chain(world.young_flows.values()).map(Flow::last_seen);
        let others = world.fragments.values().map(Fragment::noted);
        let times = flows.chain(others).chain(world.affinity.values().map(AffinityEntry::last_used));
        let oldest = times.map(|then| world.now - then).max().unwrap_or(0);
        // A virtual machine may have booted a moment ago, and no entry can be older than the clock.
        while uptime() < oldest {
            thread::sleep(Duration::from_millis(100));
        }
        let uptime = uptime();
        let at = |then: u32| uptime - (world.now - then);
        let installed = |(key, flow): (&FlowKey<F::Address>, &Flow<F::Address>)| {
            let seen = at(flow.last_seen());
            let mut installed = Flow::new(flow.to(), flow.flags(), flow.backend(), flow.service(), seen);
            installed.note(seen, flow.state());
            let installed = flow.client_port().map_or(installed, |port| installed.with_client_port(port));
            (*key, installed)
        };
        let places = world.flows.keys().chain(world.young_flows.keys()).map(FlowFilterPlace::of::<F>);
        mark(&mut self.bpf, maps::FLOW_FILTER, places);
        self.refill(maps::FLOWS.name::<F>(), world.flows.iter().map(installed));
        self.refill(maps::YOUNG_FLOWS.name::<F>(), world.young_flows.iter().map(installed));
        let fragments = world.fragments.iter().map(|(key, entry)| {
            let noted = at(entry.noted());
            (*key, Fragment::translated(entry.address(), entry.mark(), entry.service(), noted))
        });
        self.refill::<FragmentKey<F::Address>, _>(maps::FRAGMENTS.name::<F>(), fragments);
        let affinity = world.affinity.iter();
        let affinity = affinity.map(|(key, entry)| (*key, AffinityEntry::new(entry.backend(), at(entry.last_used()))));
        self.refill::<AffinityKey<F::Address>, _>(maps::AFFINITY.name::<F>(), affinity);
    }

    /// Removes all marks from a filter.
    fn unmark(&mut self, filter: &str) {
        let mut filter: Array<_, FilterRow> = Array::try_from(self.map(filter)).expect("an array of marks");
        for row in 0..filter.len() {
            filter.set(row, [0; FlowFilterPlace::COLUMNS], 0).expect("the row is written");
        }
    }

    /// Replaces all elements of a hash.
    fn refill<K: Pod, V: Pod>(&mut self, name: &str, elements: impl Iterator<Item = (K, V)>) {
        let mut table: HashMap<_, K, V> = HashMap::try_from(self.map(name)).expect("a hash of these elements");
        clear(&mut table);
        elements.for_each(|(key, value)| table.insert(key, value, 0).expect("the element is written"));
    }

    /// The program's action, and the frame and its mark after it.
    fn run(&mut self, case: &Case) -> (u32, Vec<u8>, u32) {
        let name = match case.hook {
            Hook::Ingress => "tc_ingress",
            Hook::Egress => "tc_egress",
        };
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&case.mark.to_ne_bytes());
        let mut context_after = [0; CONTEXT];
        let mut frame = vec![0; 4096];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&case.frame);
        options.data_out = Some(&mut frame);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_after);
        let result = program(&mut self.bpf, name).test_run(options).expect("the kernel runs the program");
        frame.truncate(usize::try_from(result.data_size_out).expect("a short frame"));
        let mark = context_after[MARK..].first_chunk().copied().map(u32::from_ne_bytes).expect("the context is whole");
        (result.return_value, frame, mark)
    }

    /// How often the reason was counted that the case expects, and how often for a Service of the case; 0 if it expects
    /// neither drop nor refusal.
    fn drops(&mut self, case: &Case) -> (u64, u64) {
        let reason = match case.outcome {
            Outcome::Drop(reason) => reason,
            Outcome::Answer(_) => DropReason::NoEndpoint,
            Outcome::Pass { .. } => return (0, 0),
        };
        let counters: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.map(maps::COUNTERS)).expect("an array of counters");
        let all = counters.get(&Counter::Drop(reason).index(), 0).expect("the counter is read").iter().sum();
        let services = case.world.v4.services.values().chain(case.world.v6.services.values());
        let ids: BTreeSet<ServiceId> = services.map(ServiceEntry::id).collect();
        let drops: HashMap<_, DropKey, u64> = HashMap::try_from(self.map(maps::DROPS)).expect("a hash of drops");
        let drops = drops.iter().map(|drop| drop.expect("the table is read"));
        let of_services =
            drops.filter(|(key, _)| key.reason() == Some(reason) && ids.contains(&key.service())).map(|(_, n)| n);
        (all, of_services.sum())
    }

    /// The newest decision that was told.
    fn told(&mut self, events: &str) -> Option<Decision> {
        let mut events = RingBuf::try_from(self.map(events)).expect("a ring buffer");
        let mut told = None;
        while let Some(record) = events.next() {
            told = Some(Decision::read(&record).expect("a decision"));
        }
        told
    }

    fn map(&mut self, name: &str) -> &mut aya::maps::Map {
        self.bpf.map_mut(name).unwrap_or_else(|| panic!("the object has a map {name}"))
    }
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = bpf.program_mut(name).unwrap_or_else(|| panic!("the object has a program {name}"));
    program.try_into().expect("it is a TC program")
}

/// More than any fixture has.
const BACKENDS: u32 = 64;

fn copies<K: Copy, V: Copy>(elements: &BTreeMap<K, V>) -> impl Iterator<Item = (K, V)> {
    elements.iter().map(|(key, value)| (*key, *value))
}

fn clear<K: Pod, V: Pod>(table: &mut HashMap<&mut MapData, K, V>) {
    let keys: Vec<K> = table.keys().collect::<Result<_, _>>().expect("the table is read");
    for key in keys {
        table.remove(&key).expect("the key is removed");
    }
}

/// Seconds since boot, as the programs' clock counts them.
fn uptime() -> u32 {
    let text = fs::read_to_string("/proc/uptime").expect("procfs is mounted");
    let seconds = text.split('.').next().expect("a number");
    seconds.parse().expect("a number")
}

#[test]
fn every_shared_map_is_in_the_object() {
    let bpf = EbpfLoader::new().load(OBJECT).expect("the object's maps are created");
    let names = maps::SHARED_MAPS.into_iter();
    let names = names.chain(maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]));
    for name in names {
        assert!(bpf.map(name).is_some(), "the object has a map {name}");
    }
    let _: HashMap<_, ServiceId, PortName> =
        HashMap::try_from(bpf.map(maps::NAMES).expect("asserted above")).expect("a hash of names");
}
