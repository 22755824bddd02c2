//! SCTP sockets through the TC programs: real associations, whose checksums the programs change. Needs root and a
//! kernel with SCTP (module `sctp`); without, the tests are ignored.

mod support;

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
};

use libtest_mimic::{Arguments, Trial};
use proxy_agent::{
    dataplane::AttachedHooks,
    plan::{Changes, FamilyChanges},
};
use proxy_common::{
    Backend, BackendId, Family, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, listen, socket};
use support::{Netns, Node, patience};

fn main() -> ExitCode {
    let is_missing = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP)).is_err();
    let trial = |name, test: fn()| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_kind("needs SCTP").with_ignored_flag(is_missing)
    };
    let trials = vec![
        trial("associations_are_served_over_ipv4_and_ipv6", associations_are_served),
        trial("a_service_without_endpoints_refuses_at_once", a_service_without_endpoints_refuses_at_once),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The addresses of one family.
struct Addresses {
    client: IpAddr,
    outside: IpAddr,
    inside: IpAddr,
    backend: IpAddr,
    cluster_ip: IpAddr,
    external: IpAddr,
    prefix: u8,
}

const V4: Addresses = Addresses {
    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    outside: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    inside: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    backend: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    cluster_ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    external: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    prefix: 24,
};

const V6: Addresses = Addresses {
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    outside: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    inside: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1)),
    backend: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
    cluster_ip: IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1)),
    external: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 1)),
    prefix: 64,
};

const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;
const TARGET: u16 = 8080;

/// A node between a client outside and a pod with the backend, over both families.
struct Stage {
    client: Netns,
    pod: Netns,
    _running: (Node, AttachedHooks),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoints {
    One,
    None,
}

impl Stage {
    fn new(endpoints: Endpoints) -> Self {
        let (node, client, pod) = (Node::default(), Netns::new(), Netns::new());
        client.veth("eth0", &node.netns, "outside");
        pod.veth("eth0", &node.netns, "inside");
        node.netns.sysctl("net/ipv4/ip_forward", "1");
        node.netns.sysctl("net/ipv6/conf/all/forwarding", "1");
        let add = |address: &IpAddr, prefix: &u8, device: &str| format!("addr add {address}/{prefix} dev {device}");
        let via = |gateway: &IpAddr| format!("route add default via {gateway}");
        let (mut at_client, mut at_node, mut at_pod) = (Vec::new(), Vec::new(), Vec::new());
        for Addresses { client, outside, inside, backend, prefix, .. } in [&V4, &V6] {
            at_client.extend([add(client, prefix, "eth0"), via(outside)]);
            at_node.extend([add(outside, prefix, "outside"), add(inside, prefix, "inside")]);
            at_pod.extend([add(backend, prefix, "eth0"), via(inside)]);
        }
        for (namespace, commands) in [(&client, at_client), (&node.netns, at_node), (&pod, at_pod)] {
            namespace.ip_batch(&commands);
        }
        let mut changes = Changes::default();
        let name = PortName::new("test", "sctp", "", Protocol::Sctp).expect("short names");
        changes.names.push((SERVICE, name));
        add_frontends(&mut changes.v4, [10, 96, 0, 1], [203, 0, 113, 1], [10, 0, 0, 2], endpoints);
        let [IpAddr::V6(cluster_ip), IpAddr::V6(external), IpAddr::V6(backend)] =
            [V6.cluster_ip, V6.external, V6.backend]
        else {
            unreachable!("they are IPv6's")
        };
        let [cluster_ip, external, backend] = [cluster_ip, external, backend].map(|address| address.octets());
        add_frontends(&mut changes.v6, cluster_ip, external, backend, endpoints);
        let (_, hooks) = node.start(&changes);
        node.serve_node_ports(V4.outside);
        node.serve_node_ports(V6.outside);
        Self { client, pod, _running: (node, hooks) }
    }
}

const SERVICE: ServiceId = ServiceId::new(1);

/// A clusterIP, and an external address and a nodePort, whose traffic is masqueraded.
fn add_frontends<F: Family>(
    changes: &mut FamilyChanges<F>,
    cluster_ip: F::Address,
    external: F::Address,
    backend: F::Address,
    endpoints: Endpoints,
) {
    let number = BackendId::new(1);
    let flags = Backend::<F::Address>::IN_CLUSTER_LIST;
    changes.backends.push((number, Backend::new(backend, Port::new(TARGET), flags, SERVICE)));
    changes.slots.push((1, vec![number]));
    let list = if endpoints == Endpoints::One { SlotRange::new(1, 1) } else { SlotRange::EMPTY };
    let node_port = ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT);
    for (address, port, flags) in [
        (cluster_ip, PORT, ServiceFlags::NONE),
        (external, PORT, ServiceFlags::EXTERNAL),
        (F::UNSPECIFIED, NODE_PORT, node_port),
    ] {
        let entry = ServiceEntry::new(SERVICE, flags, list, SlotRange::EMPTY);
        changes.services.push((ServiceKey::new(address, Port::new(port), Protocol::Sctp), entry));
    }
}

/// An SCTP socket of the one-to-one style (RFC 6458 §4), which is used like a TCP socket.
fn sctp(family: &SocketAddr) -> rustix::fd::OwnedFd {
    let family = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket(family, SocketType::STREAM, Some(ipproto::SCTP)).expect("the kernel has SCTP")
}

fn listen_at(address: SocketAddr) -> TcpListener {
    let socket = sctp(&address);
    bind(&socket, &address).expect("binds");
    listen(&socket, 8).expect("listens");
    socket.into()
}

fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = sctp(&address);
    connect(&socket, &address)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience()))?;
    Ok(stream)
}

/// To each frontend, and from the backend to itself: more than a packet each way, so that packets are cut up and put together by
/// devices.
fn associations_are_served() {
    let stage = Stage::new(Endpoints::One);
    for addresses in [V4, V6] {
        let Addresses { client, outside, inside, backend, cluster_ip, external, .. } = addresses;
        let attempts = [
            (&stage.client, (cluster_ip, PORT), client),
            (&stage.client, (external, PORT), inside),
            (&stage.client, (outside, NODE_PORT), inside),
            (&stage.pod, (cluster_ip, PORT), inside),
        ];
        let server = stage.pod.enter(|| listen_at((backend, TARGET).into()));
        let count = attempts.len();
        let echo = thread::spawn(move || (0..count).map(|_| answer(&server)).collect::<Vec<_>>());
        for (namespace, frontend, _) in attempts {
            let mut stream = namespace.enter(|| connect_to(frontend.into())).expect("is served");
            assert_eq!(stream.peer_addr().expect("it is connected"), frontend.into());
            let message: Vec<u8> = (0..=255).cycle().take(1001).collect();
            for _ in 0..50 {
                stream.write_all(&message).expect("the association lives");
                let mut answer = vec![0; message.len()];
                stream.read_exact(&mut answer).expect("the association lives");
                assert_eq!(answer, message);
            }
        }
        let sources = echo.join().expect("the server lives");
        assert_eq!(sources, attempts.map(|(_, _, source)| source), "as whom each is seen");
    }
}

/// Echoes what comes on the next association, and returns its client.
fn answer(server: &TcpListener) -> IpAddr {
    let (mut stream, source) = server.accept().expect("an association");
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer).expect("the association lives") {
            0 => return source.ip(),
            len => stream.write_all(&buffer[..len]).expect("the association lives"),
        }
    }
}

fn a_service_without_endpoints_refuses_at_once() {
    let stage = Stage::new(Endpoints::None);
    for frontend in [V4, V6].iter().flat_map(|of| [(of.cluster_ip, PORT), (of.outside, NODE_PORT)]) {
        let refused = stage.client.enter(|| connect_to(frontend.into()).map(drop));
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused), "{frontend:?}");
    }
}
