//! The size that a node has to bear: 10,000 Services of two families with 100,000 endpoints, every tenth of them a
//! load balancer with a nodePort and source ranges.
//!
//! Prints what it measures (`cargo test --release --test scale -- --nocapture`); what it asserts
//! leaves room for a debug build on a busy machine.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        core::v1 as core,
        discovery::v1::{self as discovery, EndpointConditions},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use proxy_agent::{
    model::{Affected, Change, EndpointSlice, Index, Service, Update},
    plan::{Capacities, Changes, Refused, State, Tables, memory::MemoryTables},
};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const NODE: &str = "node-17";

/// What the index and the plan may take together, in bytes.
const MEMORY_BUDGET: u64 = 40 << 20;

#[test]
fn ten_thousand_services_with_ten_endpoints_each() {
    let before = resident();
    let mut index = Index::new(NODE.into());
    for number in 0..SERVICES {
        let parsed = Service::from_api(&service(number));
        assert_eq!(parsed.problems, []);
        let _ = index.update(Update::Service(parsed.into_change().0));
        let parsed = EndpointSlice::from_api(&slice(number, 0));
        assert_eq!(parsed.problems, []);
        let _ = index.update(Update::Slice(parsed.into_change().0));
    }
    let indexed = resident();

    let mut state = State::new(Capacities::default());
    let (changes, scratch) = timed(|| state.complete(&index));
    state.applied(&Refused::default());
    let all: usize = (0..SERVICES).map(frontends).sum();
    assert_eq!(changes.v4.services.len() + changes.v6.services.len(), all);
    assert_eq!(changes.v4.source_ranges.len() + changes.v6.source_ranges.len(), all - SERVICES as usize);
    assert_eq!(changes.v4.backends.len() + changes.v6.backends.len(), (SERVICES * ENDPOINTS) as usize);
    drop(changes);
    let planned = resident();

    let (changes, unchanged) = timed(|| state.reconcile(&index, &Affected::All));
    assert!(changes.is_empty());

    let mut updates = Vec::new();
    for round in 1..=1_000 {
        let number = round * 7 % SERVICES;
        let change = Change::Apply(EndpointSlice::from_api(&slice(number, round)).object.expect("a sound slice"));
        let (changes, took) = timed(|| {
            let affected = index.update(Update::Slice(change));
            let changes = state.reconcile(&index, &affected);
            state.applied(&Refused::default());
            changes
        });
        assert_eq!(written(&changes), 1 + ENDPOINTS as usize + frontends(number), "one backend, one range, the flips");
        updates.push(took);
    }
    updates.sort_unstable();
    let (median, slowest) = (updates[updates.len() / 2], updates[updates.len() - 1]);

    let (adopted, completed) = restart(&index);

    let mib = |from: u64, to: u64| to.saturating_sub(from) >> 20;
    println!("index {} MiB, plan {} MiB", mib(before, indexed), mib(indexed, planned));
    println!("from scratch {scratch:?}, all unchanged {unchanged:?}");
    println!("restart: adopting {adopted:?}, complete {completed:?}");
    println!("one slice: median {median:?}, slowest {slowest:?}");
    assert!(planned - before < MEMORY_BUDGET, "{} MiB", mib(before, planned));
    assert!(scratch < Duration::from_secs(10), "from scratch {scratch:?}");
    assert!(median < Duration::from_millis(2), "one slice {median:?}");
}

/// A restart with nothing changed: how long it takes to adopt the tables, and to plan everything.
fn restart(index: &Index) -> (Duration, Duration) {
    let capacities = Capacities::default();
    let mut tables = MemoryTables::new(capacities.services);
    let changes = State::new(capacities).complete(index);
    assert_eq!(tables.apply(&changes), Ok(Refused::default()));
    let snapshot = tables.snapshot().expect("memory can be read");
    let mut state = State::new(capacities);
    let ((), adopted) = timed(|| state.adopt(&snapshot));
    let (changes, completed) = timed(|| state.complete(index));
    assert!(changes.is_empty(), "nothing has changed");
    (adopted, completed)
}

/// Backends, slots and services that are written.
fn written(changes: &Changes) -> usize {
    let slots = |slots: &[(u32, Vec<proxy_common::BackendId>)]| slots.iter().map(|(_, ids)| ids.len()).sum::<usize>();
    let v4 = changes.v4.backends.len() + slots(&changes.v4.slots) + changes.v4.services.len();
    v4 + changes.v6.backends.len() + slots(&changes.v6.slots) + changes.v6.services.len()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says how much is resident");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kibibytes");
    kibibytes << 10
}

fn metadata(name: String) -> ObjectMeta {
    let namespace = Some("shop-production".into());
    ObjectMeta { namespace, name: Some(name), ..ObjectMeta::default() }
}

/// How many frontends a Service has.
fn frontends(number: u32) -> usize {
    if is_balanced(number) { 3 } else { 1 }
}

/// Every tenth Service is a load balancer. Both families have some.
fn is_balanced(number: u32) -> bool {
    number % 20 < 2
}

/// Every other Service is IPv6.
fn is_v6(number: u32) -> bool {
    number % 2 == 1
}

fn address(number: u32, net: u8) -> String {
    if is_v6(number) {
        IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(net) << 64 | u128::from(number))).to_string()
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::from(net) << 24 | number)).to_string()
    }
}

fn service(number: u32) -> core::Service {
    let cluster_ip = address(number, 10);
    let node_port = is_balanced(number).then(|| 30_000 + i32::try_from(number / 5).expect("few Services"));
    let port = core::ServicePort { name: Some("http".into()), port: 80, node_port, ..core::ServicePort::default() };
    let bits = if is_v6(number) { 64 } else { 24 };
    let ranges = [12, 13].map(|net| format!("{}/{bits}", address(number << 8 | (number & 1), net))).to_vec();
    let ingress = core::LoadBalancerIngress { ip: Some(address(number, 11)), ..core::LoadBalancerIngress::default() };
    let load_balancer = core::LoadBalancerStatus { ingress: Some(vec![ingress]) };
    core::Service {
        metadata: metadata(format!("checkout-{number}")),
        spec: Some(core::ServiceSpec {
            type_: Some(if is_balanced(number) { "LoadBalancer" } else { "ClusterIP" }.into()),
            cluster_ip: Some(cluster_ip.clone()),
            cluster_ips: Some(vec![cluster_ip]),
            ports: Some(vec![port]),
            load_balancer_source_ranges: is_balanced(number).then_some(ranges),
            ..core::ServiceSpec::default()
        }),
        status: is_balanced(number)
            .then(|| core::ServiceStatus { load_balancer: Some(load_balancer), ..core::ServiceStatus::default() }),
    }
}

/// The slice of a Service; in each round another first endpoint.
fn slice(number: u32, round: u32) -> discovery::EndpointSlice {
    let mut metadata = metadata(format!("checkout-{number}-x7k2p"));
    metadata.labels = Some([("kubernetes.io/service-name".into(), format!("checkout-{number}"))].into());
    let endpoint = |endpoint: u32| {
        let host = if endpoint == 0 { round * 2 + SERVICES * ENDPOINTS * 2 } else { number * ENDPOINTS + endpoint };
        // The family follows from the number's parity.
        let host = (host << 1) | (number & 1);
        discovery::Endpoint {
            addresses: vec![address(host, 100)],
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            node_name: Some(format!("node-{}", host % 500)),
            zone: Some("zone-a".into()),
            ..discovery::Endpoint::default()
        }
    };
    discovery::EndpointSlice {
        metadata,
        address_type: if is_v6(number) { "IPv6" } else { "IPv4" }.into(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        ports: Some(vec![discovery::EndpointPort {
            name: Some("http".into()),
            port: Some(8080),
            ..discovery::EndpointPort::default()
        }]),
    }
}
