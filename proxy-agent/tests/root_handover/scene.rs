//! A client outside the node, the node with its agents, and endpoints behind it.

use std::{
    cell::Cell,
    fs::File,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use aya::{
    maps::MapInfo,
    programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, SchedClassifier, TcAttachType, links::FdLink},
};
use proxy_agent::{
    dataplane::{
        Config, Dataplane, HandoverStep, PacketLog,
        features::{Feature, Features},
        flow_tables::FlowTableSize,
        loader,
        object::OBJECT,
        pins::{Direction, Pins, SocketHook},
        status::DeviceMechanism,
    },
    plan::{Changes, Tables as _},
};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange, V4, V6,
    maps,
};
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use super::{
    flows::{Connection, Datagrams},
    support::{Netns, Node, eventually, features, patience, run, settings},
};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SERVICE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(VIP, 80));
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const NODE_PORT: u16 = 30053;

/// A client outside the node and the endpoints behind it. What the client sends enters the node on another device than the one on which
/// answers leave it.
pub struct Scene {
    pub node: Node,
    pub client: Netns,
    _backend: Netns,
    features: Features,
    tcp: Vec<TcpListener>,
    pub udp: Vec<UdpSocket>,
    /// A socket of the node itself, at the nodePort.
    pub own: UdpSocket,
}

const TCP_PORTS: [u16; 2] = [8080, 8081];
/// Of the clusterIP and of the nodePort.
const UDP_PORTS: [u16; 4] = [5301, 5302, 5303, 5304];

impl Scene {
    pub fn new(mechanism: DeviceMechanism) -> Self {
        let (node, client, backend) = (Node::default(), Netns::new(), Netns::new());
        client.veth("eth0", &node.netns, "outside");
        client.veth("eth1", &node.netns, "back");
        backend.veth("eth0", &node.netns, "inside");
        node.netns.sysctl("net/ipv4/ip_forward", "1");
        for namespace in [&node.netns, &client] {
            for name in ["all", "default", "eth0", "eth1", "outside", "back"] {
                let path = format!("net/ipv4/conf/{name}/rp_filter");
                if namespace.enter(|| std::path::Path::new("/proc/sys").join(&path).exists()) {
                    namespace.sysctl(&path, "0");
                }
            }
        }
        for (namespace, device, address) in [
            (&client, "eth0", CLIENT),
            (&client, "eth1", Ipv4Addr::new(192, 0, 3, 2)),
            (&node.netns, "outside", NODE),
            (&node.netns, "back", Ipv4Addr::new(192, 0, 3, 1)),
            (&node.netns, "inside", Ipv4Addr::new(10, 0, 0, 1)),
            (&backend, "eth0", BACKEND),
        ] {
            namespace.ip(&format!("addr add {address}/24 dev {device}"));
        }
        client.ip(&format!("route add default via {NODE}"));
        backend.ip("route add default via 10.0.0.1");
        node.netns.ip(&format!("route add {CLIENT}/32 dev back"));
        let tcp = TCP_PORTS.map(|port| {
            let listener = backend.enter(|| TcpListener::bind((BACKEND, port)).expect("binds"));
            listener.set_nonblocking(true).expect("may be set");
            listener
        });
        let udp = UDP_PORTS.map(|port| {
            let socket = backend.enter(|| UdpSocket::bind((BACKEND, port)).expect("binds"));
            socket.set_nonblocking(true).expect("may be set");
            socket
        });
        let own = node.netns.enter(|| UdpSocket::bind((NODE, NODE_PORT)).expect("binds"));
        own.set_read_timeout(Some(patience())).expect("may be set");
        let features = match mechanism {
            DeviceMechanism::Tcx => features(),
            DeviceMechanism::Clsact => features().except(Feature::Tcx),
        };
        Self { node, client, _backend: backend, features, tcp: tcp.into(), udp: udp.into(), own }
    }

    fn changes() -> Changes {
        let mut changes = Changes::default();
        let mut number = 1;
        for (id, frontend, port, protocol, flags, endpoints) in [
            (1, VIP, 80, Protocol::Tcp, ServiceFlags::NONE, &TCP_PORTS[..]),
            (2, VIP, 53, Protocol::Udp, ServiceFlags::NONE, &UDP_PORTS[..2]),
            (
                3,
                Ipv4Addr::UNSPECIFIED,
                NODE_PORT,
                Protocol::Udp,
                ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT),
                &UDP_PORTS[2..],
            ),
        ] {
            let id = ServiceId::new(id);
            changes
                .names
                .push((id, PortName::new("default", "web", &port.to_string(), protocol).expect("short names")));
            let first = number;
            let mut slots = Vec::new();
            for endpoint in endpoints {
                let lists = Backend::<[u8; 4]>::IN_CLUSTER_LIST;
                let backend = Backend::new(BACKEND.octets(), Port::new(*endpoint), lists, id);
                changes.v4.backends.push((BackendId::new(number), backend));
                slots.push(BackendId::new(number));
                number += 1;
            }
            changes.v4.slots.push((first, slots));
            let entry = ServiceEntry::new(id, flags, SlotRange::new(first, 2), SlotRange::EMPTY);
            changes.v4.services.push((ServiceKey::new(frontend.octets(), Port::new(port), protocol), entry));
        }
        changes
    }

    pub fn open(&self, entries: u32) -> Dataplane {
        let flow_table_size = FlowTableSize::new(entries).expect("a size");
        let config = Config { flow_table_size, ..self.node.config() };
        let open = || Dataplane::open_with(&config, self.features.clone()).unwrap_or_else(|error| panic!("{error}"));
        self.node.netns.enter(open)
    }

    /// The first agent.
    pub fn start(&self, entries: u32) {
        let mut dataplane = self.open(entries);
        dataplane.tables.apply(&Self::changes()).expect("the tables can be written");
        assert_eq!(self.replace(dataplane, |_| {}), [], "nothing to replace");
        self.node.serve_node_ports(NODE.into());
    }

    /// Attaches the programs, and returns the steps that this took.
    pub fn replace(&self, dataplane: Dataplane, mut at: impl FnMut(HandoverStep) + Send) -> Vec<HandoverStep> {
        let mut told = Vec::new();
        let tell = |step| {
            told.push(step);
            at(step);
        };
        self.node.netns.block_on(async || {
            drop(dataplane.hooks.attach_and_tell(&settings(), tell).await.unwrap_or_else(|error| panic!("{error}")));
        });
        told
    }

    /// The socket programs of an agent that had smaller tables.
    pub fn replace_socket_programs(&self) {
        let pins = Pins::new(self.node.pins.path());
        let mut loader = loader(&self.features, PacketLog::Off);
        let family = maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]);
        let paths: Vec<_> = family.chain(maps::SHARED_MAPS).map(|name| (name, pins.map(name))).collect();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        for table in [maps::SOCKETS.name::<V4>(), maps::SOCKETS.name::<V6>()] {
            std::fs::remove_file(pins.map(table)).expect("it is pinned");
            loader.map_max_entries(table, 8192);
        }
        // Tables of flows have the size that is there.
        for (name, path) in &paths {
            if path.exists() {
                let entries = MapInfo::from_pin(path).expect("it is pinned").max_entries();
                loader.map_max_entries(name, entries);
            }
        }
        let mut object = loader.load(OBJECT).expect("loads");
        let cgroup = File::open(self.node.cgroup.path()).expect("is there");
        for hook in SocketHook::ALL {
            let program = object.program_mut(hook.name()).expect("exists");
            let path = pins.socket_link(hook);
            if !path.exists() {
                continue;
            }
            std::fs::remove_file(&path).expect("it is pinned");
            if hook == SocketHook::Release {
                let program: &mut CgroupSock = program.try_into().expect("of that kind");
                program.load().expect("loads");
                let link = program.attach(&cgroup, CgroupAttachMode::Single).expect("attaches");
                let link: FdLink = program.take_link(link).expect("attached").try_into().expect("a link");
                drop(link.pin(&path).expect("may be pinned"));
            } else {
                let program: &mut CgroupSockAddr = program.try_into().expect("of that kind");
                program.load().expect("loads");
                let link = program.attach(&cgroup, CgroupAttachMode::Single).expect("attaches");
                let link: FdLink = program.take_link(link).expect("attached").try_into().expect("a link");
                drop(link.pin(&path).expect("may be pinned"));
            }
        }
    }

    /// Runs a function as a process of the node that the hooks serve.
    pub fn on_node<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let Node { netns, cgroup, .. } = &self.node;
        cgroup.enter(|| netns.enter(function))
    }

    /// An endpoint answers what came last.
    pub fn answer(&self) {
        let mut buffer = [0; 16];
        let ((endpoint, from), _) = eventually("it comes to an endpoint", || {
            self.udp.iter().find_map(|endpoint| Some((endpoint, endpoint.recv_from(&mut buffer).ok()?.1)))
        });
        endpoint.send_to(b"answer", from).expect("sends");
    }

    pub fn assert_nothing_is_left(&self) {
        let pins = self.node.pins.path();
        assert!(!pins.join("former").exists(), "former tables");
        assert!(!pins.join("kept").exists(), "programs for the next agent, while others were there");
        let links = std::fs::read_dir(pins.join("links")).expect("readable");
        let next = links.filter(|link| link.as_ref().expect("readable").file_name().to_string_lossy().contains("next"));
        assert_eq!(next.count(), 0, "links of next programs");
        let one = if self.features.has(Feature::Tcx) { (1, 0) } else { (0, 1) };
        assert_eq!(self.programs_at_devices(), [one; 3]);
    }

    /// How many links and filters there are, where packets of flows pass.
    pub fn programs_at_devices(&self) -> [(usize, usize); 3] {
        let places = [("outside", Direction::Ingress), ("outside", Direction::Egress), ("back", Direction::Egress)];
        places.map(|(device, direction)| {
            let attach_type = match direction {
                Direction::Ingress => TcAttachType::Ingress,
                Direction::Egress => TcAttachType::Egress,
            };
            let links = if features().has(Feature::Tcx) {
                self.node.netns.enter(|| SchedClassifier::query_tcx(device, attach_type)).expect("told").1.len()
            } else {
                0
            };
            let arguments = format!("filter show dev {device} {direction}");
            let filters = run(self.node.netns.command("tc").args(arguments.split(' ')));
            (links, filters.matches("proxy-agent:").count())
        })
    }

    /// An agent that wants tables of this size ends after a step.
    pub fn kill_after(&self, last: HandoverStep, entries: u32) {
        let killed = catch_unwind(AssertUnwindSafe(|| {
            self.replace(self.open(entries), |step| {
                if step == last {
                    resume_unwind(Box::new("killed"));
                }
            })
        }));
        assert!(killed.is_err(), "it was killed");
    }

    pub fn connect(&self) -> Connection {
        self.accept(self.client.enter(|| TcpStream::connect_timeout(&SERVICE, patience())).expect("is served"))
    }

    /// A connection from this port, which can be used again at once when both ends have been closed.
    pub fn connect_from(&self, port: u16) -> Connection {
        let connect = || {
            let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
            net::bind(&socket, &SocketAddrV4::new(CLIENT, port))?;
            net::connect(&socket, &SERVICE)?;
            rustix::io::Result::Ok(TcpStream::from(socket))
        };
        self.accept(self.client.enter(connect).expect("is served"))
    }

    fn accept(&self, asking: TcpStream) -> Connection {
        asking.set_read_timeout(Some(patience())).expect("may be set");
        let accepted = || self.tcp.iter().find_map(|listener| Some(listener.accept().ok()?.0));
        let (answering, _) = eventually("it came to an endpoint", accepted);
        answering.set_nonblocking(false).expect("may be set");
        answering.set_read_timeout(Some(patience())).expect("may be set");
        Connection { asking, answering }
    }

    /// A flow of datagrams to a frontend.
    pub fn speak_to(&self, frontend: (Ipv4Addr, u16)) -> Datagrams {
        let socket = self.client.enter(|| UdpSocket::bind((CLIENT, 0)).expect("binds"));
        socket.connect(frontend).expect("connects");
        socket.set_read_timeout(Some(patience())).expect("may be set");
        Datagrams { socket, endpoint: Cell::default() }
    }

    /// A flow of datagrams that the node itself begins, from the nodePort.
    pub fn speak_from_node_port(&self) -> UdpSocket {
        let socket = self.client.enter(|| UdpSocket::bind((CLIENT, 0)).expect("binds"));
        socket.set_read_timeout(Some(patience())).expect("may be set");
        let port = socket.local_addr().expect("bound").port();
        self.own.send_to(b"question", (CLIENT, port)).expect("sends");
        socket.recv(&mut [0; 8]).expect("arrives");
        socket.connect((NODE, NODE_PORT)).expect("connects");
        socket
    }
}
