//! What sockets meet on kernels that lack something: really, where the running kernel lacks it, and with the feature
//! left out of what the agent may use, where it does not. Needs root.
//!
//! The other fallbacks have their tests beside what they replace: TCX and clsact in `root_hooks`, links of cgroups in
//! `root_dataplane`, batches in `root_tables`, the limit on locked memory and type information in `root_node`.

mod support;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
};

use libtest_mimic::Arguments;
use proxy_agent::{
    dataplane::{
        features::{Feature, Features},
        pins::SocketHook,
        status,
        tables::{HashTable, Writes},
    },
    plan::Changes,
};
use proxy_common::{
    Backend, BackendId, Port, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange, SocketEntry,
    SocketKey, V4, V6, maps,
};
use support::{Node, features, needs, patience};

fn main() -> ExitCode {
    let trials = vec![
        needs(&[Feature::SetRetval], "a_service_without_endpoints_refuses_the_connection", || {
            assert_eq!(errors_without_endpoints(&features()), [libc::ECONNREFUSED; 4]);
        }),
        needs(&[], "without_set_retval_a_service_without_endpoints_does_not_permit_the_connection", || {
            assert_eq!(errors_without_endpoints(&features().except(Feature::SetRetval)), [libc::EPERM; 4]);
        }),
        needs(&[Feature::PeerNameHooks], "the_peers_name_is_the_services", || {
            assert_eq!(peers(&features()), [SERVICES[0], SERVICES[0], SERVICES[1], SERVICES[1]].map(address));
        }),
        needs(&[], "without_peer_name_hooks_the_peers_name_is_the_backends", || {
            let expected = [BACKENDS[0], BACKENDS[0], BACKENDS[1], BACKENDS[1]].map(address);
            assert_eq!(peers(&features().except(Feature::PeerNameHooks)), expected);
        }),
        needs(&[Feature::ReleaseHook], "nothing_is_known_of_sockets_that_are_closed", || {
            assert_eq!(known_of_closed_sockets(&features()), 0);
        }),
        needs(&[], "without_a_release_hook_closed_sockets_are_known", || {
            assert_eq!(known_of_closed_sockets(&features().except(Feature::ReleaseHook)), 5);
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

const SERVICE: ServiceId = ServiceId::new(1);
const SERVICES: [&str; 2] = ["10.96.0.1:80", "[fd96::1]:80"];
const BACKENDS: [&str; 2] = ["10.0.0.2:8080", "[fd00::2]:8080"];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The Service over TCP and UDP, with its one endpoint or without, on a node whose processes are the clients.
fn changes(endpoint: bool) -> Changes {
    let mut changes = Changes::default();
    let range = if endpoint { SlotRange::new(1, 1) } else { SlotRange::EMPTY };
    let entry = ServiceEntry::new(SERVICE, ServiceFlags::NONE, range, SlotRange::EMPTY);
    let v6 = |first, last| [0xfd, first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        changes.v4.services.push((ServiceKey::new([10, 96, 0, 1], Port::new(80), protocol), entry));
        changes.v6.services.push((ServiceKey::new(v6(0x96, 1), Port::new(80), protocol), entry));
    }
    if endpoint {
        let id = BackendId::new(1);
        changes.v4.backends.push((id, Backend::new([10, 0, 0, 2], Port::new(8080), 0, SERVICE)));
        changes.v4.slots.push((1, vec![id]));
        changes.v6.backends.push((id, Backend::new(v6(0, 2), Port::new(8080), 0, SERVICE)));
        changes.v6.slots.push((1, vec![id]));
    }
    changes
}

/// A node with the endpoint's addresses and a way to the Service's.
fn node() -> Node {
    let node = Node::default();
    node.netns.ip("addr add 10.0.0.2/32 dev lo");
    node.netns.ip("route add 10.96.0.0/16 dev lo");
    node.netns.ip("addr add fd00::2/128 dev lo nodad");
    node.netns.ip("route add fd96::/64 dev lo");
    node
}

fn on<T: Send>(node: &Node, function: impl Fn() -> T + Send + Sync) -> T {
    node.netns.enter(|| node.cgroup.enter(&function))
}

fn connected_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    Ok(socket)
}

/// The errors of connecting by TCP and UDP, over IPv4 and IPv6.
fn errors_without_endpoints(features: &Features) -> [i32; 4] {
    let node = node();
    let _running = node.start_with(features, &changes(false));
    let [v4, v6] = SERVICES.map(address);
    let tcp = |to: SocketAddr| TcpStream::connect_timeout(&to, patience()).map(drop);
    let udp = |to: SocketAddr| connected_udp(to).map(drop);
    on(&node, || [tcp(v4), udp(v4), tcp(v6), udp(v6)])
        .map(|result| result.expect_err("nobody is there").raw_os_error().expect("the kernel says it"))
}

/// The peers' names of sockets connected by TCP and UDP, over IPv4 and IPv6.
fn peers(features: &Features) -> [SocketAddr; 4] {
    let node = node();
    let _running = node.start_with(features, &changes(true));
    let hooks = status::at_cgroup(node.cgroup.path()).expect("readable");
    let expected = SocketHook::ALL.into_iter().filter(|hook| features.has(hook.feature()));
    assert!(hooks.iter().map(|(hook, _)| *hook).eq(expected), "{hooks:?}");
    let _listeners = node.netns.enter(|| BACKENDS.map(|at| TcpListener::bind(at).expect("binds")));
    let [v4, v6] = SERVICES.map(address);
    let tcp = |to: SocketAddr| TcpStream::connect_timeout(&to, patience())?.peer_addr();
    let udp = |to: SocketAddr| connected_udp(to)?.peer_addr();
    on(&node, || [tcp(v4), udp(v4), tcp(v6), udp(v6)]).map(|peer| peer.expect("is served"))
}

/// How many entries the tables of sockets hold after five sockets were connected to the Service and closed, one of them of IPv6 and
/// connected over IPv4.
fn known_of_closed_sockets(features: &Features) -> usize {
    let node = node();
    let _running = node.start_with(features, &changes(true));
    let _listeners = node.netns.enter(|| BACKENDS.map(|at| TcpListener::bind(at).expect("binds")));
    let known = || {
        let v4: HashTable<SocketKey<[u8; 4]>, SocketEntry<[u8; 4]>> =
            HashTable::open(&node.pins.path().join(maps::SOCKETS.name::<V4>()), Writes::Single).expect("pinned");
        let v6: HashTable<SocketKey<[u8; 16]>, SocketEntry<[u8; 16]>> =
            HashTable::open(&node.pins.path().join(maps::SOCKETS.name::<V6>()), Writes::Single).expect("pinned");
        v4.all().expect("readable").len() + v6.all().expect("readable").len()
    };
    let [v4, v6] = SERVICES.map(address);
    on(&node, || {
        let tcp = [v4, v6, address("[::ffff:10.96.0.1]:80")]
            .map(|to| TcpStream::connect_timeout(&to, patience()).expect("is served"));
        let udp = [v4, v6].map(|to| connected_udp(to).expect("is served"));
        assert_eq!(known(), tcp.len() + udp.len());
    });
    known()
}
