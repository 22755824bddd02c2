//! What a run of a TC program costs by itself: `BPF_PROG_TEST_RUN` with everything in the caches, with full tables.
//!
//! The kernel runs the program again and again on the same packet, as the run before left it. Where that translates the packet,
//! two flows lead from the one form to the other and back, so that each run finds a flow and translates. A packet that begins a
//! connection is each time another one, in a run of its own.

use std::{fs, io::ErrorKind, net::SocketAddr};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use proxy_agent::dataplane::{PacketLog, features::Features, loader, object::OBJECT};
use proxy_common::{
    Backend, BackendId, Counter, Direction, Family, Flow, FlowFilterPlace, FlowFlags, FlowKey, FrontendFilterPlace,
    PlainAddress, Port, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, Settings, SlotRange, TcpState, V4,
    V6, maps,
};
use proxy_ebpf::fixtures::{
    self,
    frames::{self, Segment},
};

use super::{
    Size,
    figure::{Figure, Sorted},
    marks::mark,
    support::eventually,
};

/// Each is measured as often, and the median counts.
const ROUNDS: usize = 15;
/// Connections that are begun at most, each by a client of its own.
const MOST_CLIENTS: u32 = 20_000;
/// Runs of the program per round and request of the size.
const REPEAT: u32 = 5;

/// The datapath's object, attached nowhere.
struct Kernel {
    bpf: Ebpf,
}

impl Kernel {
    fn load() -> Self {
        let features = Features::probe().expect("the kernel tells of itself");
        let mut bpf = loader(&features, PacketLog::Off).load(OBJECT).expect("the object's maps are created");
        for name in ["tc_ingress", "tc_egress"] {
            // A child of another benchmark that ends interrupts the verifier.
            eventually("the verifier accepts the program", || match program(&mut bpf, name).load() {
                Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock => None,
                result => {
                    result.expect("the verifier accepts the program");
                    Some(())
                }
            });
        }
        Self { bpf }
    }

    fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.bpf.map_mut(name).expect("the object has the map")).expect("a hash of these elements")
    }

    /// Nanoseconds of a run on this frame.
    fn time(&mut self, name: &str, frame: &[u8], repeat: u32) -> Sorted {
        let rounds = (0..ROUNDS).map(|_| {
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.repeat = repeat;
            let result = program(&mut self.bpf, name).test_run(options).expect("the kernel runs the program");
            result.duration.as_secs_f64() * 1e9
        });
        Sorted::new(rounds.collect())
    }

    /// Connections that have begun.
    fn begun(&self) -> u64 {
        let map = self.bpf.map(maps::COUNTERS).expect("the object has the map");
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("an array of numbers");
        counters.get(&Counter::Flows.index(), 0).expect("the counter is there").iter().sum()
    }

    /// Nanoseconds of one run on each of these frames.
    fn times(&mut self, name: &str, frames: impl Iterator<Item = Vec<u8>>) -> Sorted {
        let program = program(&mut self.bpf, name);
        let times = frames.map(|frame| {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            let result = program.test_run(options).expect("the kernel runs the program");
            result.duration.as_secs_f64() * 1e9
        });
        Sorted::new(times.collect())
    }
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    bpf.program_mut(name).expect("the object has the program").try_into().expect("it is a TC program")
}

/// One family's addresses.
trait Cast: Family<Address: PlainAddress> {
    fn address(kind: u8, number: u32) -> Self::Address;
    fn socket(end: (Self::Address, Port)) -> SocketAddr;
}

impl Cast for V4 {
    fn address(kind: u8, number: u32) -> [u8; 4] {
        let [_, a, b, c] = number.to_be_bytes();
        [kind, a, b, c]
    }

    fn socket((address, port): ([u8; 4], Port)) -> SocketAddr {
        (address, port.get()).into()
    }
}

impl Cast for V6 {
    fn address(kind: u8, number: u32) -> [u8; 16] {
        let mut address = [0; 16];
        (address[0], address[1]) = (0xfd, kind);
        address[12..].copy_from_slice(&number.to_be_bytes());
        address
    }

    fn socket((address, port): ([u8; 16], Port)) -> SocketAddr {
        (address, port.get()).into()
    }
}

/// Lets the programs look for flows with these keys.
fn mark_flows<F: Cast>(kernel: &mut Kernel, keys: &[FlowKey<F::Address>]) {
    mark(&mut kernel.bpf, maps::FLOW_FILTER, keys.iter().map(FlowFilterPlace::of::<F>));
}

/// Lets the programs look for these frontends.
fn mark_frontends<F: Cast>(kernel: &mut Kernel, keys: &[ServiceKey<F::Address>]) {
    mark(&mut kernel.bpf, maps::FRONTEND_FILTER, keys.iter().map(FrontendFilterPlace::of::<F>));
}

fn fill<F: Cast>(kernel: &mut Kernel, size: Size) {
    let now = uptime();
    let none = ServiceEntry::new(ServiceId::new(7), ServiceFlags::NONE, SlotRange::EMPTY, SlotRange::EMPTY);
    let frontend = |number| ServiceKey::new(F::address(96, number), Port::new(80), Protocol::Tcp);
    let frontends: Vec<_> = (0..size.services).map(frontend).collect();
    mark_frontends::<F>(kernel, &frontends);
    let mut services = kernel.hash(maps::SERVICES.name::<F>());
    for key in frontends {
        services.insert(key, none, 0).expect("there is room");
    }
    let mut flows = kernel.hash(maps::FLOWS.name::<F>());
    let mut keys = Vec::new();
    for number in 0..size.services * 5 {
        let (client, vip) = ((F::address(12, number), Port::new(3333)), (F::address(96, number), Port::new(80)));
        let backend = (F::address(10, number), Port::new(8080));
        let flow = |to| Flow::new(to, FlowFlags::NONE, BackendId::new(3), ServiceId::new(7), now);
        let key = |from, to, direction| FlowKey::new(from, to, Protocol::Tcp, direction);
        let both = [(key(client, vip, Direction::Original), backend), (key(backend, client, Direction::Reply), vip)];
        for (key, to) in both {
            flows.insert(key, flow(to), 0).expect("there is room");
            keys.push(key);
        }
    }
    mark_flows::<F>(kernel, &keys);
}

/// A frontend with a backend.
fn serve<F: Cast>(kernel: &mut Kernel, frontend: (F::Address, Port), backend: (F::Address, Port)) {
    let (service, number) = (ServiceId::new(9), BackendId::new(5));
    let range = SlotRange::new(11, 1);
    let entry = ServiceEntry::new(service, ServiceFlags::NONE, range, SlotRange::EMPTY);
    let key = ServiceKey::new(frontend.0, frontend.1, Protocol::Tcp);
    mark_frontends::<F>(kernel, &[key]);
    kernel.hash(maps::SERVICES.name::<F>()).insert(key, entry, 0).expect("there is room");
    let map = kernel.bpf.map_mut(maps::BACKENDS.name::<F>()).expect("the object has the map");
    let mut backends: Array<_, Backend<F::Address>> = Array::try_from(map).expect("an array of backends");
    let entry = Backend::new(backend.0, backend.1, Backend::<F::Address>::IN_CLUSTER_LIST, service);
    backends.set(number.get(), entry, 0).expect("the backend is written");
    let map = kernel.bpf.map_mut(maps::SLOTS.name::<F>()).expect("the object has the map");
    let mut slots: Array<_, BackendId> = Array::try_from(map).expect("an array of slots");
    slots.set(range.offset(), number, 0).expect("the slot is written");
}

fn uptime() -> u32 {
    let text = fs::read_to_string("/proc/uptime").expect("procfs is mounted");
    let seconds = text.split('.').next().expect("a number");
    seconds.parse().expect("a number")
}

/// Two flows that make a packet of each what the other is of.
fn pair<F: Cast>(kernel: &mut Kernel, direction: Direction, same: (F::Address, Port), ends: [(F::Address, Port); 2]) {
    // It does not become idle for a second while it is measured.
    let later = uptime() + 3600;
    let key = |from| match direction {
        Direction::Original => FlowKey::new(same, from, Protocol::Tcp, direction),
        Direction::Reply => FlowKey::new(from, same, Protocol::Tcp, direction),
    };
    mark_flows::<F>(kernel, &ends.map(key));
    let mut flows = kernel.hash(maps::FLOWS.name::<F>());
    for [from, to] in [ends, [ends[1], ends[0]]] {
        let key = key(from);
        let mut flow = Flow::new(to, FlowFlags::NONE, BackendId::new(3), ServiceId::new(7), later);
        flow.note(later, TcpState::DATA);
        flows.insert(key, flow, 0).expect("there is room");
    }
}

fn family<F: Cast>(kernel: &mut Kernel, size: Size, names: [&'static str; 6]) -> Vec<Figure> {
    fill::<F>(kernel, size);
    let client = (F::address(12, 1 << 20), Port::new(4444));
    let vip = (F::address(96, 1), Port::new(80));
    let backend = (F::address(10, 1), Port::new(8080));
    let other = (F::address(10, 1 << 20), Port::new(9));
    pair::<F>(kernel, Direction::Original, client, [vip, backend]);
    pair::<F>(kernel, Direction::Reply, client, [vip, backend]);
    let data = |from, to| frames::tcp(F::socket(from), F::socket(to), Segment::Ack, b"payload");
    let opening = frames::tcp(F::socket(client), F::socket(other), Segment::Syn, b"");
    let repeat = u32::try_from(size.requests).expect("not so many") * REPEAT;
    let runs = [
        ("tc_ingress", data(client, vip), 120.0),
        ("tc_egress", data(backend, client), 120.0),
        ("tc_ingress", data(client, other), 40.0),
        ("tc_egress", data(other, client), 40.0),
        ("tc_ingress", opening, 40.0),
    ];
    let [names @ .., of_first] = names;
    let figures = names.into_iter().zip(runs).map(|(what, (name, frame, target))| {
        let times = kernel.time(name, &frame, repeat);
        Figure::range(what, "ns", &times, target)
    });
    let mut figures: Vec<Figure> = figures.collect();
    let frontend = (F::address(97, 1), Port::new(80));
    serve::<F>(kernel, frontend, backend);
    let first = (0..repeat.min(MOST_CLIENTS)).map(|number| {
        let client = (F::address(13, number), Port::new(4444));
        frames::tcp(F::socket(client), F::socket(frontend), Segment::Syn, b"")
    });
    let before = kernel.begun();
    let times = kernel.times("tc_ingress", first);
    assert_eq!(kernel.begun() - before, u64::from(repeat.min(MOST_CLIENTS)), "each packet begins a connection");
    figures.push(Figure::range(of_first, "ns", &times, 600.0));
    figures
}

pub fn run(size: Size) -> Vec<Figure> {
    let mut kernel = Kernel::load();
    let settings = fixtures::all().first().expect("there are cases").world.v4.settings;
    let table = kernel.bpf.map_mut(maps::SETTINGS).expect("the object has the map");
    let mut table: Array<_, Settings> = Array::try_from(table).expect("an array of settings");
    table.set(0, settings, 0).expect("settings are written");
    let mut arp = vec![0_u8; 60];
    (arp[12], arp[13]) = (0x08, 0x06);
    let floor = kernel.time("tc_ingress", &arp, u32::try_from(size.requests).expect("not so many") * REPEAT);
    let mut figures = vec![Figure::single("a run that does nothing", "ns", floor.at(0.5), None)];
    let single = kernel.times("tc_ingress", std::iter::repeat_n(arp, size.requests));
    figures.push(Figure::single("the same, a single run", "ns", single.at(0.5), None));
    figures.extend(family::<V4>(
        &mut kernel,
        size,
        [
            "IPv4 request of an established connection",
            "IPv4 answer of an established connection",
            "IPv4 packet into the node that is no Service's",
            "IPv4 packet out of the node that is no Service's",
            "IPv4 packet that opens what is no Service's",
            "IPv4 packet that begins a connection to a Service",
        ],
    ));
    figures.extend(family::<V6>(
        &mut kernel,
        size,
        [
            "IPv6 request of an established connection",
            "IPv6 answer of an established connection",
            "IPv6 packet into the node that is no Service's",
            "IPv6 packet out of the node that is no Service's",
            "IPv6 packet that opens what is no Service's",
            "IPv6 packet that begins a connection to a Service",
        ],
    ));
    figures
}
