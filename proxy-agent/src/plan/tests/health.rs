//! What load balancers are told, and which Services have no endpoint here that should have one.

use proxy_common::Port;

use super::support::TestNode;
use crate::{
    model::{
        Affected, EndpointSlice, Index, Service, ServiceType, TrafficPolicy, Update,
        testing::{NODE, NOT_READY, TERMINATING, endpoint, name, service, slice, without_service, without_slice},
    },
    plan::{ByPolicy, HealthCheck, HealthCheckChange, HealthChecks, NoLocalEndpoints},
};

/// A load balancer that asks on a port of each node.
fn web() -> Service {
    Service {
        external_traffic_policy: TrafficPolicy::Local,
        health_check_node_port: Some(Port::new(32_000)),
        ..service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80).balanced_at(&["192.0.2.1"])
    }
}

fn here(name: &str, addresses: &[&str]) -> EndpointSlice {
    let slice = slice(name, "web", &[]).with_port("http", 8080).with_port("admin", 8081);
    addresses.iter().fold(slice, |slice, address| slice.with(endpoint(address).on(NODE)))
}

/// A node and what it answers.
struct Answers {
    index: Index,
    checks: HealthChecks,
}

impl Answers {
    fn new() -> Self {
        Self { index: Index::new(NODE.into()), checks: HealthChecks::default() }
    }

    /// What changes, as Service, port and number of endpoints.
    fn after(&mut self, updates: impl IntoIterator<Item = Update>) -> Vec<(String, Option<(u16, usize)>)> {
        let mut affected = Affected::none();
        for update in updates {
            affected.merge(self.index.update(update));
        }
        let told = |HealthCheckChange { service, check }| {
            let answer = check.map(|HealthCheck { port, local_endpoints }| (port.get(), local_endpoints));
            (service.to_string(), answer)
        };
        self.checks.update(&self.index, &affected).into_iter().map(told).collect()
    }
}

fn web_has(local_endpoints: usize) -> Vec<(String, Option<(u16, usize)>)> {
    vec![("default/web".into(), Some((32_000, local_endpoints)))]
}

fn nothing_new() -> Vec<(String, Option<(u16, usize)>)> {
    Vec::new()
}

#[test]
fn ready_endpoints_on_this_node_count() {
    let mut answers = Answers::new();
    assert_eq!(answers.after([web().into()]), web_has(0));
    assert_eq!(answers.after([here("web-a", &["10.1.0.1", "10.1.0.2"]).into()]), web_has(2));
    let elsewhere =
        slice("web-b", "web", &["10.1.0.8"]).with(endpoint("10.1.0.9").on("node-2")).with_port("http", 8080);
    assert_eq!(answers.after([elsewhere.into()]), nothing_new());
    for conditions in [TERMINATING, NOT_READY] {
        let slice = here("web-a", &["10.1.0.1"]).with(endpoint("10.1.0.2").that_is(conditions).on(NODE));
        assert_eq!(answers.after([slice.into()]), web_has(1), "{conditions:?}");
        assert_eq!(answers.after([here("web-a", &["10.1.0.1", "10.1.0.2"]).into()]), web_has(2));
    }
    assert_eq!(answers.after([without_slice("web-a")]), web_has(0));
}

#[test]
fn a_pod_counts_once_whatever_it_has_twice() {
    let mut answers = Answers::new();
    let updates = [
        web().into(),
        here("web-a", &["10.1.0.1", "10.1.0.2"]).into(),
        here("web-b", &["10.1.0.2"]).into(),
        here("web-v6", &["fd01::1", "fd01::2"]).into(),
    ];
    assert_eq!(answers.after(updates), web_has(2));
    assert_eq!(answers.after([here("web-v6", &["fd01::1", "fd01::2", "fd01::3"]).into()]), web_has(3));
}

#[test]
fn a_slice_without_ports_has_no_endpoints() {
    let mut answers = Answers::new();
    let updates = [web().into(), EndpointSlice { ports: Box::default(), ..here("web-a", &["10.1.0.1"]) }.into()];
    assert_eq!(answers.after(updates), web_has(0));
}

#[test]
fn only_load_balancers_with_policy_local_and_a_port_ask() {
    let gone = vec![("default/web".to_owned(), None)];
    for silent in [
        Service { external_traffic_policy: TrafficPolicy::Cluster, ..web() },
        Service { service_type: ServiceType::NodePort, ..web() },
        Service { health_check_node_port: None, ..web() },
    ] {
        let mut answers = Answers::new();
        assert_eq!(answers.after([web().into(), here("web-a", &["10.1.0.1"]).into()]), web_has(1));
        assert_eq!(answers.after([silent.clone().into()]), gone);
        assert_eq!(answers.after([silent.with_port("admin", 81).into()]), nothing_new());
        assert_eq!(answers.after([web().into()]), web_has(1));
        assert_eq!(answers.after([without_service("web")]), gone);
    }
}

#[test]
fn the_port_can_change() {
    let mut answers = Answers::new();
    answers.after([web().into()]);
    let moved = Service { health_check_node_port: Some(Port::new(32_001)), ..web() };
    assert_eq!(answers.after([moved.into()]), [("default/web".to_owned(), Some((32_001, 0)))]);
}

#[test]
fn after_a_look_at_everything_only_what_differs_is_told() {
    let mut answers = Answers::new();
    let named = |text| Service { name: name(text), ..web() };
    answers.after([named("a").into(), named("b").into()]);
    let _ = answers.index.update(without_service("a"));
    let _ = answers.index.update(named("c").into());
    let told = answers.checks.update(&answers.index, &Affected::All);
    let told: Vec<(String, bool)> =
        told.into_iter().map(|change| (change.service.to_string(), change.check.is_some())).collect();
    assert_eq!(told, [("default/a".to_owned(), false), ("default/c".to_owned(), true)]);
}

#[test]
fn ports_without_a_local_endpoint_are_counted_by_policy() {
    let no_local = |node: &TestNode| {
        let NoLocalEndpoints { v4: ByPolicy { internal, external }, v6 } = node.state.no_local_endpoints();
        assert_eq!(v6, ByPolicy::default(), "the Services here are IPv4's");
        (internal, external)
    };
    let elsewhere = || slice("web-a", "web", &["10.1.0.9"]).with_port("http", 8080).with_port("admin", 8081);
    let both = Service { internal_traffic_policy: TrafficPolicy::Local, ..web().with_port("admin", 81) };
    let mut node = TestNode::having([web().into(), elsewhere().into()]);
    assert_eq!(no_local(&node), (0, 1));
    node.apply([both.clone().into()]);
    assert_eq!(no_local(&node), (2, 2), "each port counts");
    node.restart();
    assert_eq!(no_local(&node), (2, 2), "also for a new agent");
    node.apply([elsewhere().with(endpoint("10.1.0.1").on(NODE)).into()]);
    assert_eq!(no_local(&node), (0, 0));
    node.apply([elsewhere().into()]);
    assert_eq!(no_local(&node), (2, 2));
    node.apply([without_slice("web-a")]);
    assert_eq!(no_local(&node), (0, 0), "a Service without any endpoint refuses, which is another matter");
    node.apply([elsewhere().into(), web().into()]);
    assert_eq!(no_local(&node), (0, 1));
    node.apply([without_service("web")]);
    assert_eq!(no_local(&node), (0, 0));
}
