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
use proxy_agent::{dataplane::AttachedHooks, plan::Changes};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
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
        Trial::test(name, run).with_kind("SCTP").with_ignored_flag(is_missing)
    };
    let trials = vec![
        trial("an_association_is_served_over_ipv4", || an_association_is_served(&V4)),
        trial("an_association_is_served_over_ipv6", || an_association_is_served(&V6)),
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
const TARGET: u16 = 8080;

/// A node between a client outside and a pod with the backend.
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
    fn new(addresses: &Addresses, endpoints: Endpoints) -> Self {
        let (node, client, pod) = (Node::default(), Netns::new(), Netns::new());
        client.veth("eth0", &node.netns, "outside");
        pod.veth("eth0", &node.netns, "inside");
        node.netns.sysctl("net/ipv4/ip_forward", "1");
        node.netns.sysctl("net/ipv6/conf/all/forwarding", "1");
        let Addresses { client: at_client, outside, inside, backend, prefix, .. } = addresses;
        for (namespace, device, address) in [
            (&client, "eth0", at_client),
            (&node.netns, "outside", outside),
            (&node.netns, "inside", inside),
            (&pod, "eth0", backend),
        ] {
            namespace.ip(&format!("addr add {address}/{prefix} dev {device}"));
        }
        let family = if at_client.is_ipv4() { "-4" } else { "-6" };
        client.ip(&format!("{family} route add default via {outside}"));
        pod.ip(&format!("{family} route add default via {inside}"));
        let (_, hooks) = node.start(&changes(addresses, endpoints));
        Self { client, pod, _running: (node, hooks) }
    }
}

/// A clusterIP, and an external address whose traffic is masqueraded.
fn changes(addresses: &Addresses, endpoints: Endpoints) -> Changes {
    let (id, backend) = (ServiceId::new(1), BackendId::new(1));
    let mut changes = Changes::default();
    let name = PortName::new("test", "sctp", "", Protocol::Sctp).expect("short names");
    changes.names.push((id, name));
    let list = if endpoints == Endpoints::One { SlotRange::new(1, 1) } else { SlotRange::EMPTY };
    let frontends = [(addresses.cluster_ip, ServiceFlags::NONE), (addresses.external, ServiceFlags::EXTERNAL)];
    for (frontend, flags) in frontends {
        let entry = ServiceEntry::new(id, flags, list, SlotRange::EMPTY);
        match frontend {
            IpAddr::V4(frontend) => {
                changes.v4.services.push((ServiceKey::new(frontend.octets(), Port::new(PORT), Protocol::Sctp), entry));
            }
            IpAddr::V6(frontend) => {
                changes.v6.services.push((ServiceKey::new(frontend.octets(), Port::new(PORT), Protocol::Sctp), entry));
            }
        }
    }
    match addresses.backend {
        IpAddr::V4(address) => {
            let flags = Backend::<[u8; 4]>::IN_CLUSTER_LIST;
            changes.v4.backends.push((backend, Backend::new(address.octets(), Port::new(TARGET), flags, id)));
            changes.v4.slots.push((1, vec![backend]));
        }
        IpAddr::V6(address) => {
            let flags = Backend::<[u8; 16]>::IN_CLUSTER_LIST;
            changes.v6.backends.push((backend, Backend::new(address.octets(), Port::new(TARGET), flags, id)));
            changes.v6.slots.push((1, vec![backend]));
        }
    }
    changes
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

/// To both frontends: more than a packet each way, so that packets are cut up and put together by devices.
fn an_association_is_served(addresses: &Addresses) {
    let stage = Stage::new(addresses, Endpoints::One);
    let server = stage.pod.enter(|| listen_at((addresses.backend, TARGET).into()));
    let echo = thread::spawn(move || {
        let mut sources = Vec::new();
        for _ in 0..2 {
            let (mut stream, source) = server.accept().expect("an association");
            sources.push(source.ip());
            let mut buffer = vec![0; 1 << 16];
            loop {
                match stream.read(&mut buffer).expect("the association lives") {
                    0 => break,
                    len => stream.write_all(&buffer[..len]).expect("the association lives"),
                }
            }
        }
        sources
    });
    for frontend in [addresses.cluster_ip, addresses.external] {
        let mut stream = stage.client.enter(|| connect_to((frontend, PORT).into())).expect("is served");
        let message: Vec<u8> = (0..=255).cycle().take(1001).collect();
        for _ in 0..50 {
            stream.write_all(&message).expect("the association lives");
            let mut answer = vec![0; message.len()];
            stream.read_exact(&mut answer).expect("the association lives");
            assert_eq!(answer, message);
        }
    }
    let sources = echo.join().expect("the server lives");
    assert_eq!(sources, [addresses.client, addresses.inside], "an external address is masqueraded");
}

fn a_service_without_endpoints_refuses_at_once() {
    for addresses in [V4, V6] {
        let stage = Stage::new(&addresses, Endpoints::None);
        let refused = stage.client.enter(|| connect_to((addresses.cluster_ip, PORT).into()).map(drop));
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
    }
}
