//! Frontends for the outside, policies and affinity with real packets and sockets, from the tables alone. Needs root, and
//! `bpf_get_netns_cookie` (5.7).

mod support;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use proxy_agent::{
    dataplane::{
        AttachedHooks,
        tables::{HashTable, SourceRanges, Tables, Writes},
    },
    plan::Changes,
};
use proxy_common::{
    Backend, BackendId, DropKey, DropReason, NodeAddress, Port, PortName, Protocol, ServiceEntry, ServiceFlags,
    ServiceId, ServiceKey, SlotRange, SourceRangeKey, V4, maps,
};
use support::{Netns, Node, patience};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30080;

/// A node between a client outside and a pod with the backend of every Service.
struct Stage {
    node: Node,
    client: Netns,
    pod: Netns,
    _hooks: AttachedHooks,
}

impl Stage {
    fn new(services: &[Service]) -> Self {
        let (node, client, pod) = (Node::default(), Netns::new(), Netns::new());
        client.veth("eth0", &node.netns, "outside");
        pod.veth("eth0", &node.netns, "inside");
        node.netns.sysctl("net/ipv4/ip_forward", "1");
        for (namespace, device, address) in [
            (&client, "eth0", CLIENT),
            (&node.netns, "outside", NODE),
            (&node.netns, "inside", BRIDGE),
            (&pod, "eth0", BACKEND),
        ] {
            namespace.ip(&format!("addr add {address}/24 dev {device}"));
        }
        pod.ip(&format!("route add default via {BRIDGE}"));
        node.netns.ip(&format!("route add default via {CLIENT}"));

        let mut changes = Changes::default();
        for (number, service) in (1..).zip(services) {
            service.add(&mut changes, number);
        }
        let (_, hooks) = node.start(&changes);
        let stage = Self { node, client, pod, _hooks: hooks };
        let path = stage.node.pins.path().join(maps::NODE_ADDRESSES.name::<V4>());
        let mut addresses: HashTable<[u8; 4], NodeAddress> = HashTable::open(&path, Writes::Single).expect("pinned");
        let serving = |address: Ipv4Addr| (address.octets(), NodeAddress::NODE_PORTS);
        let mine = [serving(NODE), serving(Ipv4Addr::LOCALHOST), (BRIDGE.octets(), NodeAddress::PLAIN)];
        assert_eq!(addresses.insert(&mine).expect("writes"), Vec::<[u8; 4]>::new());
        stage
    }

    /// The namespaces that have an affinity, and the backend they got.
    fn namespaces(&self) -> BTreeMap<u64, BackendId> {
        let all = self.tables().v4.socket_affinity.all().expect("readable");
        all.into_iter().map(|(key, entry)| (key.namespace(), entry.backend())).collect()
    }

    fn tables(&self) -> Tables {
        proxy_agent::dataplane::read_tables(self.node.pins.path()).expect("pinned")
    }

    /// Runs a function as a process of the node that the hooks serve.
    fn on_node<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let Node { netns, cgroup, .. } = &self.node;
        cgroup.enter(|| netns.enter(function))
    }

    /// Runs a function as a process of the pod that the hooks serve.
    fn in_pod<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let pod = &self.pod;
        self.node.cgroup.enter(|| pod.enter(function))
    }
}

/// A frontend with the pod as its only endpoint, elsewhere or on the node.
#[derive(Clone, Copy)]
struct Service {
    frontend: (Ipv4Addr, u16),
    protocol: Protocol,
    flags: ServiceFlags,
    endpoint: Endpoint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Here,
    Elsewhere,
}

impl Service {
    fn add(self, changes: &mut Changes, number: u32) {
        let (id, backend) = (ServiceId::new(number), BackendId::new(number));
        let (address, port) = (self.frontend.0.octets(), Port::new(self.frontend.1));
        let name = PortName::new("test", &number.to_string(), "", self.protocol).expect("short names");
        changes.names.push((id, name));
        let lists = Backend::<[u8; 4]>::IN_CLUSTER_LIST | Backend::<[u8; 4]>::IN_LOCAL_LIST;
        changes.v4.backends.push((backend, Backend::new(BACKEND.octets(), Port::new(TARGET), lists, id)));
        changes.v4.slots.push((number, vec![backend]));
        let list = SlotRange::new(number, 1);
        let local = if self.endpoint == Endpoint::Here { list } else { SlotRange::EMPTY };
        let entry = ServiceEntry::new(id, self.flags, list, local).with_affinity_timeout(100);
        changes.v4.services.push((ServiceKey::new(address, port, self.protocol), entry));
    }
}

/// An external address.
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

const fn node_port(protocol: Protocol) -> Service {
    let flags = ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT);
    Service { frontend: (Ipv4Addr::UNSPECIFIED, NODE_PORT), protocol, flags, endpoint: Endpoint::Elsewhere }
}

const fn vip(flags: ServiceFlags) -> Service {
    let flags = ServiceFlags::EXTERNAL.with(flags);
    Service { frontend: (VIP, 80), protocol: Protocol::Tcp, flags, endpoint: Endpoint::Elsewhere }
}

/// Connects, and returns what the socket says its peer is.
fn connect(to: (Ipv4Addr, u16)) -> io::Result<SocketAddr> {
    TcpStream::connect_timeout(&to.into(), patience())?.peer_addr()
}

fn tcp_server(stage: &Stage) -> TcpListener {
    stage.pod.enter(|| TcpListener::bind((BACKEND, TARGET)).expect("binds"))
}

/// The source of the newest connection.
fn came_from(server: &TcpListener) -> IpAddr {
    server.accept().expect("a connection").1.ip()
}

fn udp(namespace: &Netns, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((address, port)).expect("binds"));
    socket.set_read_timeout(Some(patience())).expect("sets");
    socket
}

/// The next datagram and its source.
fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 64];
    let (len, source) = socket.recv_from(&mut buffer)?;
    Ok((buffer[..len].to_vec(), source))
}

#[test]
fn a_node_port_is_served_to_the_outside_with_the_nodes_address() {
    let stage = Stage::new(&[node_port(Protocol::Tcp), node_port(Protocol::Udp)]);
    let server = tcp_server(&stage);
    let peer = stage.client.enter(|| connect((NODE, NODE_PORT))).expect("is served");
    assert_eq!(peer, (NODE, NODE_PORT).into());
    assert_eq!(came_from(&server), BRIDGE, "masqueraded by policy Cluster");
    let other = stage.client.enter(|| connect((BRIDGE, NODE_PORT)));
    assert!(other.is_err(), "nodePorts are not served at this address");

    let (server, client) = (udp(&stage.pod, BACKEND, TARGET), udp(&stage.client, CLIENT, 4000));
    for _ in 0..3 {
        client.send_to(b"question", (NODE, NODE_PORT)).expect("sends");
        let (question, source) = receive(&server).expect("arrives");
        assert_eq!((question.as_slice(), source.ip()), (b"question".as_slice(), BRIDGE.into()));
        server.send_to(b"answer", source).expect("sends");
        assert_eq!(receive(&client).expect("arrives"), (b"answer".to_vec(), (NODE, NODE_PORT).into()));
    }
}

#[test]
fn external_policy_local_keeps_the_clients_address() {
    let service = Service { endpoint: Endpoint::Here, ..vip(ServiceFlags::LOCAL) };
    let stage = Stage::new(&[service]);
    stage.client.ip(&format!("route add {VIP}/32 via {NODE}"));
    let server = tcp_server(&stage);
    assert_eq!(stage.client.enter(|| connect((VIP, 80))).expect("is served"), (VIP, 80).into());
    assert_eq!(came_from(&server), CLIENT);
}

#[test]
fn node_ports_on_loopback_are_served_to_the_nodes_processes_only() {
    let stage = Stage::new(&[node_port(Protocol::Tcp), vip(ServiceFlags::AFFINITY)]);
    let server = tcp_server(&stage);
    stage.on_node(|| connect((VIP, 80))).expect("is served");
    came_from(&server);
    let known = stage.tables().settings.read().expect("readable").node_netns_cookie();
    assert!(stage.namespaces().into_keys().eq(known), "the agent knows the cookie that a hook notes: {known:?}");

    let loopback = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9), Ipv4Addr::UNSPECIFIED];
    for address in loopback {
        let peer = stage.on_node(|| connect((address, NODE_PORT))).expect("is served");
        assert_eq!(peer, (address, NODE_PORT).into());
        assert_eq!(came_from(&server), BRIDGE, "nothing is masqueraded at a socket");
        let own = stage.in_pod(|| connect((address, NODE_PORT)));
        assert_eq!(own.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused), "the pod's own {address}");
    }
    stage.in_pod(|| connect((NODE, NODE_PORT))).expect("the node's address is served to pods");
}

#[test]
fn each_network_namespace_has_an_affinity_of_its_own() {
    let stage = Stage::new(&[vip(ServiceFlags::AFFINITY)]);
    let _server = tcp_server(&stage);
    stage.on_node(|| connect((VIP, 80))).expect("is served");
    let node = stage.namespaces();
    assert_eq!(node.len(), 1);
    stage.on_node(|| connect((VIP, 80))).expect("is served");
    assert_eq!(stage.namespaces(), node, "the same namespace, the same entry");
    stage.in_pod(|| connect((VIP, 80))).expect("is served");
    assert_eq!(stage.namespaces().len(), 2);
    assert_eq!(stage.tables().v4.affinity.all().expect("readable").len(), 0, "no packet was looked at");
}

/// The port that a node masquerades to, or that a process of it uses, may be a nodePort.
#[test]
fn answers_to_the_nodes_own_datagrams_reach_the_node() {
    let stage = Stage::new(&[node_port(Protocol::Udp)]);
    let (own, server) = (udp(&stage.node.netns, NODE, NODE_PORT), udp(&stage.pod, BACKEND, TARGET));
    let (asked, other) = (udp(&stage.client, CLIENT, 53), udp(&stage.client, CLIENT, 54));
    own.send_to(b"question", (CLIENT, 53)).expect("sends");
    assert_eq!(receive(&asked).expect("arrives"), (b"question".to_vec(), (NODE, NODE_PORT).into()));
    for _ in 0..3 {
        asked.send_to(b"answer", (NODE, NODE_PORT)).expect("sends");
        assert_eq!(receive(&own).expect("arrives"), (b"answer".to_vec(), (CLIENT, 53).into()));
        other.send_to(b"request", (NODE, NODE_PORT)).expect("sends");
        assert_eq!(receive(&server).expect("arrives").0, b"request");
    }
}

#[test]
fn what_the_node_may_not_use_does_not_leave_it() {
    let local = Service {
        frontend: (Ipv4Addr::new(10, 96, 0, 1), 80),
        protocol: Protocol::Udp,
        flags: ServiceFlags::LOCAL,
        endpoint: Endpoint::Elsewhere,
    };
    let mut guarded = vip(ServiceFlags::SOURCE_RANGES);
    guarded.protocol = Protocol::Udp;
    let stage = Stage::new(&[local, guarded]);
    stage.client.ip("addr add 10.96.0.1/32 dev lo");
    stage.client.ip(&format!("addr add {VIP}/32 dev lo"));
    let drops = |service, reason| {
        let key = DropKey::new(ServiceId::new(service), reason);
        stage.tables().drops.get(&key).expect("readable").unwrap_or(0)
    };
    let send = |to: (Ipv4Addr, u16)| {
        let outside = udp(&stage.client, to.0, to.1);
        stage.on_node(|| UdpSocket::bind((NODE, 0)).expect("binds").send_to(b"x", to)).expect("is not told");
        outside
    };
    // Sending runs the programs, so what was counted as dropped cannot arrive later.
    let outside = send(local.frontend);
    assert_eq!(drops(1, DropReason::NoLocalEndpoint), 1, "it must not leave for an address that is the Service's");
    assert_silent(&outside);
    let outside = send(guarded.frontend);
    assert_eq!(drops(2, DropReason::SourceNotAllowed), 1);
    assert_silent(&outside);
    drop(outside);

    let ranges = stage.node.pins.path().join(maps::SOURCE_RANGES.name::<V4>());
    let mut ranges = SourceRanges::open(&ranges).expect("pinned");
    let range = SourceRangeKey::new(ServiceId::new(2), NODE.octets(), 24);
    assert_eq!(ranges.insert(&[range]).expect("writes"), []);
    assert_eq!(receive(&send(guarded.frontend)).expect("what is allowed leaves").0, b"x");
    assert_eq!(drops(2, DropReason::SourceNotAllowed), 1);
}

/// Asserts that nothing is there to be received.
#[track_caller]
fn assert_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("sets");
    assert_eq!(receive(socket).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
}
