//! Who fills the tables of flows with invented clients takes nothing from those who are connected. Needs root.
//!
//! Packets go through the TC programs in the kernel (`BPF_PROG_TEST_RUN`), with tables of a few thousand entries; how full
//! tables are emptied is the kernel's LRU algorithm at any size.

mod marks;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use marks::mark;
use proxy_agent::dataplane::object::OBJECT;
use proxy_common::{
    Backend, BackendId, Counter, Family, FamilyFlows, FamilySettings, FlowTable, FrontendFilterPlace, PlainAddress,
    Port, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, Settings, SettingsFlags, SlotRange, V4, V6,
    maps,
};
use proxy_ebpf::fixtures::frames::{self, SEQUENCE, Segment};

const TC_ACT_UNSPEC: u32 = u32::MAX;

/// Entries of either table; a connection has two.
const CONFIRMED: u32 = 4096;
const YOUNG: u32 = 2048;
/// Connections that are there before a flood.
const CONNECTED: u16 = 200;
/// Invented clients: four times as many as there is room for.
const INVENTED: u32 = YOUNG * 2;

#[test]
fn connections_survive_a_flood_of_syns() {
    for mut node in [Node::v4(), Node::v6()] {
        let frontend = node.frontend();
        for number in 0..CONNECTED {
            let client = node.friend(number);
            node.shake_hands(client);
            // Half of them have said nothing yet.
            if number % 2 == 0 {
                node.asked(&frames::tcp(client, frontend, Segment::Ack, b"question"));
                node.answered(client, |from| frames::tcp(from, client, Segment::Ack, b"answer"));
            }
        }
        let opening = node.stranger(u32::MAX);
        node.asked(&frames::tcp(opening, frontend, Segment::Syn, b""));

        for number in 0..INVENTED {
            let client = node.stranger(number);
            node.asked(&frames::tcp(client, frontend, Segment::Syn, b""));
            node.answered(client, |from| frames::tcp(from, client, Segment::SynAck, b""));
            // Whoever invents clients does not see the answers, and has to guess what they acknowledge.
            node.asked(&frames::acknowledgment(client, frontend, number));
        }

        for number in 0..CONNECTED {
            let client = node.friend(number);
            node.asked(&frames::tcp(client, frontend, Segment::Ack, b"question"));
            node.answered(client, |from| frames::tcp(from, client, Segment::Ack, b"answer"));
        }
        assert!(!node.translates(&frames::tcp(opening, frontend, Segment::Ack, b"")), "the flood was one");
        // What the kernel gave up can be told: programs count what they add, and nothing was removed.
        // One stranger guesses right: its number is the lower half of what is awaited.
        assert_eq!(node.added(FlowTable::Confirmed), (u64::from(CONNECTED) + 1) * 2);
        assert_eq!(node.added(FlowTable::Young), (u64::from(CONNECTED) + 1 + u64::from(INVENTED)) * 2);
    }
}

#[test]
fn flows_of_datagrams_survive_a_flood_of_datagrams() {
    for mut node in [Node::v4(), Node::v6()] {
        let frontend = node.frontend();
        let datagram = |client| frames::udp(client, frontend, b"question");
        for number in 0..CONNECTED {
            let client = node.friend(number);
            node.asked(&datagram(client));
            node.answered(client, |from| frames::udp(from, client, b"answer"));
            node.asked(&datagram(client));
        }
        for number in 0..INVENTED {
            let client = node.stranger(number);
            node.asked(&datagram(client));
            node.answered(client, |from| frames::udp(from, client, b"answer"));
        }
        for number in 0..CONNECTED {
            let client = node.friend(number);
            node.answered(client, |from| frames::udp(from, client, b"more"));
            node.asked(&datagram(client));
        }
        let lost = node.stranger(0);
        assert!(!node.replies(&frames::udp(node.backend(), lost, b"late")), "the flood was one");
    }
}

/// The TC programs with small tables of flows, one Service for either protocol, and its backend.
struct Node {
    programs: Ebpf,
    is_v6: bool,
}

impl Node {
    fn v4() -> Self {
        let mut node = Self::load(false);
        node.serve::<V4>(octets4);
        node
    }

    fn v6() -> Self {
        let mut node = Self::load(true);
        node.serve::<V6>(octets6);
        node
    }

    fn load(is_v6: bool) -> Self {
        let mut loader = EbpfLoader::new();
        for (map, entries) in [(maps::FLOWS, CONFIRMED), (maps::YOUNG_FLOWS, YOUNG)] {
            loader.map_max_entries(map.name::<V4>(), entries).map_max_entries(map.name::<V6>(), entries);
        }
        let mut programs = loader.load(OBJECT).expect("the object's maps are created");
        for name in ["tc_ingress", "tc_egress"] {
            program(&mut programs, name).load().expect("the verifier accepts the program");
        }
        let mut settings: Array<_, Settings> =
            Array::try_from(programs.map_mut(maps::SETTINGS).expect("settings")).expect("an array");
        let none =
            Settings::new(SettingsFlags::NONE, 0x4000, 120, FamilySettings::default(), FamilySettings::default());
        settings.set(0, none, 0).expect("settings are written");
        Self { programs, is_v6 }
    }

    fn serve<F: Family<Address: PlainAddress>>(&mut self, octets: fn(IpAddr) -> F::Address) {
        let (frontend, backend) = (self.frontend(), self.backend());
        for (number, protocol) in [(1, Protocol::Tcp), (2, Protocol::Udp)] {
            let id = ServiceId::new(number);
            let entry = ServiceEntry::new(id, ServiceFlags::NONE, SlotRange::new(number, 1), SlotRange::EMPTY);
            let key = ServiceKey::new(octets(frontend.ip()), Port::new(frontend.port()), protocol);
            mark(&mut self.programs, maps::FRONTEND_FILTER, [FrontendFilterPlace::of::<F>(&key)].into_iter());
            let map = self.programs.map_mut(maps::SERVICES.name::<F>()).expect("services");
            let mut services: HashMap<_, ServiceKey<F::Address>, ServiceEntry> =
                HashMap::try_from(map).expect("a hash");
            services.insert(key, entry, 0).expect("it is written");
            let map = self.programs.map_mut(maps::SLOTS.name::<F>()).expect("slots");
            let mut slots: Array<_, BackendId> = Array::try_from(map).expect("an array");
            slots.set(number, BackendId::new(number), 0).expect("it is written");
            let map = self.programs.map_mut(maps::BACKENDS.name::<F>()).expect("backends");
            let mut backends: Array<_, Backend<F::Address>> = Array::try_from(map).expect("an array");
            let backend = Backend::new(octets(backend.ip()), Port::new(backend.port()), 0, id);
            backends.set(number, backend, 0).expect("it is written");
        }
    }

    fn address(&self, number: u32, port: u16) -> SocketAddr {
        let ip = if self.is_v6 {
            Ipv6Addr::from_bits(0xfd00_0000 << 96 | u128::from(number)).into()
        } else {
            IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | number))
        };
        SocketAddr::new(ip, port)
    }

    fn frontend(&self) -> SocketAddr {
        self.address(0x60_0001, 80)
    }

    fn backend(&self) -> SocketAddr {
        self.address(0x01_0001, 8080)
    }

    /// A client that is there.
    fn friend(&self, number: u16) -> SocketAddr {
        self.address(0x02_0001, 20_000 + number)
    }

    /// A client that somebody invented.
    fn stranger(&self, number: u32) -> SocketAddr {
        self.address(0x80_0000 | number & 0xffff, 1000)
    }

    fn shake_hands(&mut self, client: SocketAddr) {
        let frontend = self.frontend();
        self.asked(&frames::tcp(client, frontend, Segment::Syn, b""));
        self.answered(client, |from| frames::tcp(from, client, Segment::SynAck, b""));
        self.asked(&frames::acknowledgment(client, frontend, SEQUENCE + 1));
    }

    /// The packet enters the node and is translated.
    #[track_caller]
    fn asked(&mut self, frame: &[u8]) {
        assert!(self.translates(frame), "a request is translated");
    }

    /// What the backend sends leaves the node as if the frontend had sent it.
    #[track_caller]
    fn answered(&mut self, client: SocketAddr, packet: impl Fn(SocketAddr) -> Vec<u8>) {
        let (backend, frontend) = (self.backend(), self.frontend());
        assert_eq!(self.run("tc_egress", &packet(backend)), packet(frontend), "an answer to {client} is translated");
    }

    /// Entries that the programs added to a table of the family.
    fn added(&self, table: FlowTable) -> u64 {
        let flows = if self.is_v6 { FamilyFlows::of::<V6>(table) } else { FamilyFlows::of::<V4>(table) };
        let map = self.programs.map(maps::COUNTERS).expect("counters");
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("an array");
        counters.get(&Counter::FlowsAdded(flows).index(), 0).expect("the counter is read").iter().sum()
    }

    fn translates(&mut self, frame: &[u8]) -> bool {
        self.run("tc_ingress", frame) != frame
    }

    fn replies(&mut self, frame: &[u8]) -> bool {
        self.run("tc_egress", frame) != frame
    }

    fn run(&mut self, name: &str, frame: &[u8]) -> Vec<u8> {
        let mut after = vec![0; 1024];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut after);
        let result = program(&mut self.programs, name).test_run(options).expect("the kernel runs the program");
        assert_eq!(result.return_value, TC_ACT_UNSPEC, "it goes on");
        after.truncate(usize::try_from(result.data_size_out).expect("a short frame"));
        after
    }
}

fn octets4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => panic!("{address} is no IPv6 address"),
    }
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = programs.program_mut(name).unwrap_or_else(|| panic!("the object has a program {name}"));
    program.try_into().expect("it is a TC program")
}
