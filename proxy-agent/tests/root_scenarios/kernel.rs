//! The TC programs in the kernel, run on single packets (`BPF_PROG_TEST_RUN`, since 4.12; its context argument since 5.2).

use std::{collections::BTreeMap, net::IpAddr, thread, time::Duration};

use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use proxy_agent::{
    dataplane::{
        Dataplane, PacketLog,
        features::Features,
        loader,
        object::OBJECT,
        pins::Pins,
        read_tables,
        tables::{FamilyTables, HashTable, KernelTables, Lookups, NodeAddressTables, SettingsTable, Tables, Writes},
    },
    explain::{Explanation, Question, explain},
};
use proxy_common::{Counter, DropReason, Family, NodeAddress, PlainAddress, Settings, V4, V6, maps};
use proxy_ebpf::host::Hook;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    scenario_table::{
        control::Shared,
        packets::{Call, CallVerdict, Datapath, Device, Packet, Passed},
        row::Mode,
    },
    support::Node,
};

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// Size of `struct __sk_buff`, and where the mark is in it (include/uapi/linux/bpf.h).
const CONTEXT: usize = 192;
const MARK: usize = 8;

/// The loopback device: every packet is on it.
const DEVICE: u32 = 1;

/// Pinned tables, and the programs on them, attached nowhere.
pub struct KernelDatapath {
    tables: Shared<KernelTables>,
    addresses: NodeAddressTables,
    settings: SettingsTable,
    pod_devices: HashTable<u32, u32>,
    read: Tables,
    programs: Ebpf,
    /// Where the tables are pinned.
    _node: Node,
}

impl KernelDatapath {
    pub fn new() -> Self {
        let node = Node::default();
        let features = Features::probe().expect("root may ask the kernel");
        let dataplane = Dataplane::open(&node.config()).unwrap_or_else(|error| panic!("{error}"));
        let pins = Pins::new(node.pins.path());
        let names = maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]);
        let paths: Vec<_> = names.chain(maps::SHARED_MAPS).map(|name| (name, pins.map(name))).collect();
        let mut loader = loader(&features, PacketLog::Off);
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut programs = loader.load(OBJECT).expect("the pinned maps are opened");
        for hook in [Hook::Ingress, Hook::Egress] {
            program(&mut programs, hook).load().expect("the verifier accepts the program");
        }
        Self {
            tables: Shared::new(dataplane.tables),
            addresses: dataplane.node_addresses,
            settings: SettingsTable::open(&pins).expect("it is pinned"),
            pod_devices: HashTable::open(&pins.map(maps::POD_DEVICES), Writes::Single).expect("it is pinned"),
            read: read_tables(node.pins.path()).expect("they are pinned"),
            programs,
            _node: node,
        }
    }
}

impl Datapath for KernelDatapath {
    type Tables = KernelTables;
    const MODE: Mode = Mode::Kernel;

    fn tables(&self) -> Shared<KernelTables> {
        self.tables.clone()
    }

    fn begin(&mut self, settings: &Settings) {
        self.settings.write(settings).expect("it can be written");
        forget(&mut self.read.v4);
        forget(&mut self.read.v6);
    }

    fn set_addresses(&mut self, addresses: &BTreeMap<IpAddr, NodeAddress>) {
        let refused = self.addresses.replace(addresses).expect("they can be written");
        assert_eq!(refused, Vec::<IpAddr>::new());
    }

    fn written(&mut self) {}

    fn packet(&mut self, packet: Packet) -> Passed {
        let Packet { hook, device, family: _, frame, mark } = packet;
        Datapath::device(self, device);
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        let mut context_after = [0; CONTEXT];
        let mut frame_after = vec![0; 4096];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut frame_after);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_after);
        let result = program(&mut self.programs, hook).test_run(options).expect("the kernel runs the program");
        frame_after.truncate(usize::try_from(result.data_size_out).expect("a short frame"));
        let mark = context_after[MARK..].first_chunk().copied().map(u32::from_ne_bytes).expect("the context is whole");
        match result.return_value {
            TC_ACT_UNSPEC => Passed::On { frame: frame_after, mark },
            TC_ACT_SHOT => Passed::Dropped,
            TC_ACT_REDIRECT => Passed::Answered(frame_after),
            other => panic!("the program returns {other}"),
        }
    }

    fn device(&mut self, device: Device) -> u32 {
        match device {
            Device::Pods => drop(self.pod_devices.insert(&[(DEVICE, 1)]).expect("it can be written")),
            Device::Other => self.pod_devices.remove(&DEVICE).expect("it can be written"),
        }
        DEVICE
    }

    fn explain(&mut self, question: &Question) -> Explanation {
        let before = self.drops();
        let explanation = explained(question, &self.read, &self.pod_devices);
        assert_eq!(self.drops(), before, "explaining counts nothing");
        explanation
    }

    fn call(&mut self, call: &Call) -> CallVerdict {
        panic!("hooks of sockets cannot be run: {call:?}")
    }

    fn drops(&mut self) -> BTreeMap<DropReason, u64> {
        let counters = self.read.counters.read().expect("they can be read");
        let drops = counters.into_iter().filter_map(|(counter, count)| match counter {
            Counter::Drop(reason) if count > 0 => Some((reason, count)),
            _ => None,
        });
        drops.collect()
    }

    fn wait(&mut self, seconds: u32) {
        thread::sleep(Duration::from_secs(seconds.into()));
    }
}

/// The explanation over tables in the kernel.
pub fn explained(question: &Question, tables: &Tables, pod_devices: &HashTable<u32, u32>) -> Explanation {
    let settings = tables.settings.read().expect("it can be read");
    let now = u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).expect("a short time");
    let explanation = if question.destination.is_ipv4() {
        let lookups = Lookups::<V4>::new(&tables.v4, pod_devices, settings, now);
        let explanation = explain(question, || lookups.overlay());
        lookups.finish().expect("the tables can be read");
        explanation
    } else {
        let lookups = Lookups::<V6>::new(&tables.v6, pod_devices, settings, now);
        let explanation = explain(question, || lookups.overlay());
        lookups.finish().expect("the tables can be read");
        explanation
    };
    explanation.expect("both ends are of one family")
}

/// No flow and no affinity is left.
fn forget<F: Family<Address: PlainAddress>>(tables: &mut FamilyTables<F>) {
    for flows in [&mut tables.flows, &mut tables.young_flows] {
        for key in flows.all().expect("it can be read").keys() {
            flows.remove(key).expect("it can be written");
        }
    }
    for key in tables.affinity.all().expect("it can be read").keys() {
        tables.affinity.remove(key).expect("it can be written");
    }
}

fn program(programs: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    let name = match hook {
        Hook::Ingress => "tc_ingress",
        Hook::Egress => "tc_egress",
    };
    let program = programs.program_mut(name).unwrap_or_else(|| panic!("the object has a program {name}"));
    program.try_into().expect("it is a TC program")
}
