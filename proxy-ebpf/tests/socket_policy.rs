//! What the socket hooks serve, and what they leave to the TC programs.

use std::net::SocketAddr;

use proxy_common::{Backend, Counter, DropReason, NodeAddress, Port, Protocol, SettingsFlags, V4};
use proxy_ebpf::{
    fixtures::{Frontend, World},
    host::HostTables,
    socket::{self, Call, Verdict},
};

const NODE: u64 = 77;
const POD: u64 = 78;

const VIP: ([u8; 4], Port) = ([203, 0, 113, 5], Port::new(80));
const NODE_PORT: ([u8; 4], Port) = ([172, 16, 0, 1], Port::new(30080));
const ELSEWHERE: ([u8; 4], Port) = ([10, 1, 1, 9], Port::new(8080));
const HERE: ([u8; 4], Port) = ([10, 1, 0, 7], Port::new(8080));

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn address((ip, port): ([u8; 4], Port)) -> SocketAddr {
    (ip, port.get()).into()
}

/// The tables, on a node whose network namespace is known.
fn tables(world: World) -> HostTables<V4> {
    let mut tables = world.node_address([172, 16, 0, 1].into(), NodeAddress::NODE_PORTS).v4;
    tables.settings = tables.settings.with_node_netns_cookie(NODE);
    tables
}

fn call(namespace: impl Into<Option<u64>>, protocol: Protocol, peer: ([u8; 4], Port)) -> Call<[u8; 4]> {
    Call { cookie: 1, namespace: namespace.into(), protocol, peer }
}

/// What becomes of a `connect`; and of a `sendmsg` too, which must be treated the same.
#[track_caller]
fn outcome(tables: &HostTables<V4>, call: &Call<[u8; 4]>) -> Verdict<[u8; 4]> {
    let connected = socket::connect(&mut tables.clone(), call);
    if call.protocol == Protocol::Udp {
        assert_eq!(socket::sendmsg(&mut tables.clone(), call), connected);
    }
    connected
}

#[test]
fn node_ports_are_served_to_the_node_and_to_pods() {
    for protocol in BOTH {
        let service = Frontend::node_port(address(NODE_PORT), protocol).cluster(&[address(ELSEWHERE)]);
        let mut tables = tables(World::default().serve(service));
        for namespace in [Some(NODE), Some(POD), None] {
            assert_eq!(outcome(&tables, &call(namespace, protocol, NODE_PORT)), Verdict::Rewrite(ELSEWHERE));
        }
        let elsewhere = ([172, 16, 0, 2], NODE_PORT.1);
        assert_eq!(outcome(&tables, &call(NODE, protocol, elsewhere)), Verdict::Pass);
        tables.node_addresses.insert(elsewhere.0, NodeAddress::PLAIN);
        assert_eq!(outcome(&tables, &call(NODE, protocol, elsewhere)), Verdict::Pass);

        let connected = call(POD, protocol, NODE_PORT);
        socket::connect(&mut tables, &connected);
        let peer = socket::peer_name(&mut tables, &Call { peer: ELSEWHERE, ..connected });
        assert_eq!(peer, Verdict::Rewrite(NODE_PORT), "the application sees what it asked for");
    }
}

#[test]
fn loopback_node_ports_are_the_nodes_own() {
    let at = |ip| (ip, NODE_PORT.1);
    let loopback = [at([127, 0, 0, 1]), at([127, 4, 5, 6]), at([0, 0, 0, 0])];
    for protocol in BOTH {
        let service = Frontend::node_port(address(NODE_PORT), protocol).cluster(&[address(ELSEWHERE)]);
        let without = tables(World::default().serve(service));
        let mut with = without.clone();
        with.node_addresses.insert([127, 0, 0, 1], NodeAddress::NODE_PORTS);
        let mut unknown = with.clone();
        unknown.settings = unknown.settings.with_node_netns_cookie(0);
        for peer in loopback {
            assert_eq!(outcome(&with, &call(NODE, protocol, peer)), Verdict::Rewrite(ELSEWHERE), "{peer:?}");
            assert_eq!(outcome(&without, &call(NODE, protocol, peer)), Verdict::Pass, "switched off: {peer:?}");
            assert_eq!(outcome(&with, &call(POD, protocol, peer)), Verdict::Pass, "the pod's own: {peer:?}");
            for namespace in [Some(NODE), None] {
                let outcome = outcome(&unknown, &call(namespace, protocol, peer));
                assert_eq!(outcome, Verdict::Pass, "nobody knows whose: {peer:?}");
            }
        }
        assert_eq!(outcome(&with, &call(NODE, protocol, ([127, 0, 0, 1], Port::new(30081)))), Verdict::Pass);
    }
}

#[test]
fn external_policy_local_is_for_the_outside_only() {
    for protocol in BOTH {
        for (peer, frontend) in [
            (VIP, Frontend::external(address(VIP), protocol)),
            (NODE_PORT, Frontend::node_port(address(NODE_PORT), protocol)),
        ] {
            let service = frontend.local_policy().cluster(&[address(ELSEWHERE)]);
            let both_lists = service.clone().local(&[address(HERE)]);
            let detected = tables(World::default().pods_by_prefix().serve(both_lists.clone()));
            let undetected = tables(World::default().serve(both_lists));
            let nothing_here = tables(World::default().serve(service));
            assert_eq!(outcome(&detected, &call(NODE, protocol, peer)), Verdict::Rewrite(ELSEWHERE));
            assert_eq!(outcome(&detected, &call(POD, protocol, peer)), Verdict::Rewrite(ELSEWHERE));
            assert_eq!(outcome(&undetected, &call(NODE, protocol, peer)), Verdict::Rewrite(ELSEWHERE));
            let outside = outcome(&undetected, &call(POD, protocol, peer));
            assert_eq!(outside, Verdict::Rewrite(HERE), "without a detector pods count as outside");
            let outside = outcome(&nothing_here, &call(POD, protocol, peer));
            assert_eq!(outside, Verdict::Pass, "TC drops it");
            assert_eq!(outcome(&nothing_here, &call(NODE, protocol, peer)), Verdict::Rewrite(ELSEWHERE));
            assert_eq!(outcome(&detected, &call(None, protocol, peer)), Verdict::Pass, "TC knows where it comes from");
        }
    }
}

#[test]
fn source_ranges_are_for_tc_but_for_the_node_that_is_allowed() {
    for protocol in BOTH {
        let guarded = Frontend::external(address(VIP), protocol).allowing(&[([0, 0, 0, 0].into(), 1)]);
        let guarded = guarded.cluster(&[address(ELSEWHERE)]);
        let closed = tables(World::default().serve(guarded.clone()));
        let open = tables(World::default().serve(guarded.clone().allowing_the_node()));
        assert_eq!(outcome(&closed, &call(NODE, protocol, VIP)), Verdict::Pass);
        assert_eq!(outcome(&open, &call(NODE, protocol, VIP)), Verdict::Rewrite(ELSEWHERE));
        for tables in [&closed, &open] {
            assert_eq!(outcome(tables, &call(POD, protocol, VIP)), Verdict::Pass);
            assert_eq!(outcome(tables, &call(None, protocol, VIP)), Verdict::Pass);
        }
        // Ranges come before endpoints: who is refused is decided where the source is known.
        let empty = Frontend::external(address(VIP), protocol).allowing(&[]);
        let empty = tables(World::default().serve(empty));
        assert_eq!(outcome(&empty, &call(POD, protocol, VIP)), Verdict::Pass);
        assert_eq!(outcome(&empty, &call(NODE, protocol, VIP)), Verdict::Pass);
    }
}

#[test]
fn under_host_namespace_only_pods_are_left_to_tc() {
    for protocol in BOTH {
        let service = Frontend::external(address(VIP), protocol).cluster(&[address(ELSEWHERE)]);
        let mut tables = tables(World::default().serve(service.clone()));
        // The switch alone; everything else as in `tables`.
        let v4 = *tables.settings.v4();
        let v6 = *tables.settings.v6();
        let only = proxy_common::Settings::new(SettingsFlags::HOST_NAMESPACE_ONLY, 0x4000, 8, v4, v6);
        tables.settings = only.with_node_netns_cookie(NODE);
        assert_eq!(outcome(&tables, &call(NODE, protocol, VIP)), Verdict::Rewrite(ELSEWHERE));
        assert_eq!(outcome(&tables, &call(POD, protocol, VIP)), Verdict::Pass);
        tables.settings = only;
        let unknown = outcome(&tables, &call(POD, protocol, VIP));
        assert_eq!(unknown, Verdict::Rewrite(ELSEWHERE), "where nobody knows the node's namespace the switch is off");
    }
}

#[test]
fn refusals_are_counted_by_service() {
    let world = World::default().serve(Frontend::node_port(address(NODE_PORT), Protocol::Tcp));
    let id = world.newest();
    let mut tables = tables(world);
    assert_eq!(socket::connect(&mut tables, &call(POD, Protocol::Tcp, NODE_PORT)), Verdict::Refuse);
    assert_eq!(tables.drops(id, DropReason::NoEndpoint), 1);
    assert_eq!(tables.counter(Counter::Drop(DropReason::NoEndpoint)), 1);
}

/// Eight endpoints: ten connections that all agree do so by chance once in 10^9.
fn sticky(protocol: Protocol) -> World {
    let endpoints: Vec<SocketAddr> = (1..=8).map(|host| ([10, 1, 0, host], 80).into()).collect();
    World::default().serve(Frontend::external(address(VIP), protocol).cluster(&endpoints).affinity(100))
}

#[track_caller]
fn chosen(tables: &mut HostTables<V4>, call: &Call<[u8; 4]>) -> ([u8; 4], Port) {
    match socket::connect(tables, call) {
        Verdict::Rewrite(backend) => backend,
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn all_sockets_of_a_namespace_share_their_affinity() {
    for protocol in BOTH {
        let mut tables = tables(sticky(protocol));
        let mut backend = |namespace, cookie| chosen(&mut tables, &Call { cookie, ..call(namespace, protocol, VIP) });
        let first: Vec<_> = (0..64).map(|pod| backend(1000 + pod, pod)).collect();
        let again: Vec<_> = (0..64).map(|pod| backend(1000 + pod, 100 + pod)).collect();
        assert_eq!(first, again);
        assert!(first.iter().any(|backend| *backend != first[0]), "each namespace chooses for itself");
    }
}

/// From now on chance finds `backend` only; the others stay in the list as far as memory is concerned.
fn only_by_chance(tables: &mut HostTables<V4>, backend: ([u8; 4], Port)) {
    let id = tables.backends.iter().find(|(_, entry)| (entry.address(), entry.port()) == backend);
    let id = *id.expect("the backend is there").0;
    tables.slots.values_mut().for_each(|slot| *slot = id);
}

#[test]
fn affinity_slides_and_ends() {
    let mut tables = tables(sticky(Protocol::Tcp));
    let first = chosen(&mut tables, &call(POD, Protocol::Tcp, VIP));
    let other = tables.backends.values().map(|backend| (backend.address(), backend.port()));
    let other = other.into_iter().find(|other| *other != first).expect("eight backends");
    only_by_chance(&mut tables, other);
    for _ in 0..10 {
        tables.now += 100;
        assert_eq!(chosen(&mut tables, &call(POD, Protocol::Tcp, VIP)), first);
    }
    tables.now += 101;
    assert_eq!(chosen(&mut tables, &call(POD, Protocol::Tcp, VIP)), other);
    only_by_chance(&mut tables, first);
    assert_eq!(chosen(&mut tables, &call(POD, Protocol::Tcp, VIP)), other, "the new choice is remembered");
}

#[test]
fn a_remembered_backend_that_takes_no_new_connections_is_replaced() {
    let mut tables = tables(sticky(Protocol::Tcp));
    let first = chosen(&mut tables, &call(POD, Protocol::Tcp, VIP));
    let terminating = tables.backends.values_mut().find(|backend| (backend.address(), backend.port()) == first);
    let terminating = terminating.expect("the backend is there");
    *terminating = Backend::new(first.0, first.1, Backend::<[u8; 4]>::LOCAL, terminating.service());
    let other = tables.backends.values().map(|backend| (backend.address(), backend.port()));
    let other = other.into_iter().find(|other| *other != first).expect("eight backends");
    only_by_chance(&mut tables, other);
    assert_eq!(chosen(&mut tables, &call(POD, Protocol::Tcp, VIP)), other);
    only_by_chance(&mut tables, first);
    assert_eq!(chosen(&mut tables, &call(POD, Protocol::Tcp, VIP)), other);
}

/// One unconnected socket speaks to two frontends of a Service: to tell their answers apart it takes two backends.
#[test]
fn a_clash_does_not_change_the_affinity() {
    let other = ([10, 96, 0, 1], Port::new(80));
    let frontend = Frontend::cluster_ip(address(other), Protocol::Udp).affinity(100);
    let mut tables = tables(sticky(Protocol::Udp).also(&frontend));
    let send = |tables: &mut HostTables<V4>, cookie, peer| match socket::sendmsg(
        tables,
        &Call { cookie, ..call(POD, Protocol::Udp, peer) },
    ) {
        Verdict::Rewrite(backend) => backend,
        verdict => panic!("{verdict:?}"),
    };
    let first = send(&mut tables, 1, VIP);
    assert_ne!(send(&mut tables, 1, other), first);
    assert_eq!(send(&mut tables, 2, other), first, "other sockets still get the remembered one");
}

#[test]
fn affinity_is_for_tc_where_namespaces_cannot_be_told_apart() {
    let tables = tables(sticky(Protocol::Tcp));
    assert_eq!(outcome(&tables, &call(None, Protocol::Tcp, VIP)), Verdict::Pass);
}
