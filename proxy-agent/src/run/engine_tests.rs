//! What an engine waits for, and what it reports however often writing fails in between.

use std::net::SocketAddr;

use proxy_common::{Port, Protocol};

use super::{Engine, Need, Synced};
use crate::{
    model::{
        Change, EndpointSlice, Service, TrafficPolicy, Update,
        testing::{NODE, endpoint, facts, node, service, slice, without_service},
    },
    plan::{Capacities, HealthCheck, HealthCheckChange, Tables as _, memory::MemoryTables},
};

/// Answers over UDP, and is asked by a load balancer whether it has endpoints here.
fn dns() -> Service {
    Service {
        external_traffic_policy: TrafficPolicy::Local,
        health_check_node_port: Some(Port::new(32_000)),
        ..service("dns", &["10.0.0.10"]).with_protocol_port("", 53, Protocol::Udp).balanced_at(&["192.0.2.1"])
    }
}

fn pods(hosts: &[u8]) -> EndpointSlice {
    let slice = slice("dns-1", "dns", &[]).with_protocol_port("", 53, Protocol::Udp);
    hosts.iter().fold(slice, |slice, host| slice.with(endpoint(&format!("10.1.0.{host}")).on(NODE)))
}

/// An engine that has everything but what `dns` follows from.
fn engine() -> Engine<MemoryTables> {
    let mut engine = Engine::new(MemoryTables::new(100), NODE.into(), Capacities::default());
    engine.take(Update::Node(Change::Reset(vec![node(None)])));
    engine.take(Update::Slice(Change::Reset(vec![pods(&[1, 2, 3])])));
    engine.take(Update::Service(Change::Reset(vec![dns()])));
    engine
}

fn synced(engine: &mut Engine<MemoryTables>) -> Synced {
    engine.sync().expect("nothing fails")
}

fn gone(synced: &Synced) -> Vec<SocketAddr> {
    synced.gone_backends.iter().map(|gone| gone.address).collect()
}

fn local_endpoints(synced: &Synced) -> Vec<Option<usize>> {
    let check = |change: &HealthCheckChange| change.check.map(|HealthCheck { local_endpoints, .. }| local_endpoints);
    synced.health_checks.iter().map(check).collect()
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, host], 53))
}

#[test]
fn facts_are_waited_for_where_a_service_follows_from_them() {
    let mut engine = engine();
    assert_eq!(engine.need(), Need::Sync, "no address is guarded");
    engine.take(dns().open_to(&["198.51.100.0/24"]).into());
    assert_eq!(engine.need(), Need::Node);
    engine.take(facts(&["203.0.113.1"], &[("192.0.2.9", None)]).into());
    assert_eq!(engine.need(), Need::Node, "facts about another address");
    engine.take(facts(&["203.0.113.1"], &[("192.0.2.1", None)]).into());
    assert_eq!(engine.need(), Need::Sync);
    synced(&mut engine);
    engine.take(facts(&["203.0.113.1"], &[]).into());
    assert_eq!(engine.need(), Need::Change, "once the tables are in step, they follow what is known");
    assert!(engine.take(facts(&["203.0.113.2"], &[]).into()));
    assert_eq!(engine.need(), Need::Sync);
}

fn named(hosts: &[(u8, Option<&str>)]) -> EndpointSlice {
    let mut slice = pods(&hosts.iter().map(|(host, _)| *host).collect::<Vec<_>>());
    for (endpoint, (_, pod)) in slice.endpoints.iter_mut().zip(hosts) {
        endpoint.pod = pod.map(Box::from);
    }
    slice
}

/// The names of pods in the tables, by the addresses of their backends.
fn pod_names(engine: &Engine<MemoryTables>) -> Vec<(u8, String)> {
    let snapshot = engine.tables.snapshot().expect("memory can be read");
    let mut names: Vec<(u8, String)> = engine
        .tables
        .pods()
        .iter()
        .map(|(number, pod)| (snapshot.v4.backends[&number.id].address()[3], pod.to_string()))
        .collect();
    names.sort();
    names
}

#[test]
fn backends_have_the_names_of_their_pods() {
    let mut engine = engine();
    let is = |engine: &Engine<MemoryTables>, expected: &[(u8, &str)]| {
        let expected: Vec<(u8, String)> = expected.iter().map(|(host, pod)| (*host, (*pod).to_owned())).collect();
        assert_eq!(pod_names(engine), expected);
    };
    engine.take(named(&[(1, Some("dns-1")), (2, None)]).into());
    synced(&mut engine);
    is(&engine, &[(1, "dns-1")]);
    // Another pod has the address: nothing that packets follow changes.
    engine.take(named(&[(1, None), (2, Some("dns-2")), (3, Some("dns-3"))]).into());
    synced(&mut engine);
    is(&engine, &[(2, "dns-2"), (3, "dns-3")]);
    engine.take(named(&[(3, Some("dns-4"))]).into());
    assert_eq!(synced(&mut engine).kind, crate::server::SyncKind::Partial);
    is(&engine, &[(3, "dns-4")]);
    // What another Service gains when one goes has names, too.
    let mut other = dns();
    other.name = crate::model::testing::name("other");
    let mut slice = named(&[(9, Some("other-1"))]);
    slice.name = crate::model::testing::name("other-1");
    slice.service = other.name.clone();
    engine.take(other.into());
    engine.take(slice.into());
    synced(&mut engine);
    is(&engine, &[(3, "dns-4")]);
    engine.take(without_service("dns"));
    synced(&mut engine);
    is(&engine, &[(9, "other-1")]);
    engine.tables.fail_after(0);
    engine.take(without_service("other"));
    assert!(engine.sync().is_err());
    synced(&mut engine);
    is(&engine, &[]);
}

#[test]
fn each_sync_tells_what_is_new_for_load_balancers() {
    let mut engine = engine();
    assert_eq!(local_endpoints(&synced(&mut engine)), [Some(3)]);
    engine.take(pods(&[1, 2]).into());
    assert_eq!(local_endpoints(&synced(&mut engine)), [Some(2)]);
    engine.take(dns().with_protocol_port("tcp", 53, Protocol::Tcp).into());
    assert_eq!(local_endpoints(&synced(&mut engine)), []);
    engine.take(without_service("dns"));
    assert_eq!(local_endpoints(&synced(&mut engine)), [None]);
}

/// Lets each write of a sync fail once, and asserts what the syncs tell together.
fn assert_told_once(change: &Update, expected: &[SocketAddr]) {
    for writes in 0.. {
        let mut engine = engine();
        synced(&mut engine);
        engine.take(change.clone());
        engine.tables.fail_after(writes);
        if engine.sync().is_ok() {
            assert!(writes > 3, "there is something to fail");
            return;
        }
        assert_eq!(gone(&synced(&mut engine)), expected, "after {writes} writes");
        assert_eq!(gone(&synced(&mut engine)), [], "after {writes} writes: told once");
    }
}

#[test]
fn endpoints_that_are_gone_are_told_once_whichever_write_fails() {
    assert_told_once(&pods(&[2]).into(), &[address(1), address(3)]);
    assert_told_once(&without_service("dns"), &[address(1), address(2), address(3)]);
}
