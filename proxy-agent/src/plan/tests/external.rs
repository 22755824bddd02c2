//! What clients outside the cluster use: nodePorts, external addresses, addresses of load balancers.

use proxy_common::{Protocol, ServiceFlags};

use super::support::{Served, TestNode, served};
use crate::{
    model::{
        Affinity, LoadBalancerIpMode, Service, ServiceType, TrafficPolicy, Update,
        testing::{NODE, NOT_READY, TERMINATING, endpoint, service, slice, without_service},
    },
    plan::Changes,
};

const HTTP: &str = "default/web:http/TCP";
const EXTERNAL: ServiceFlags = ServiceFlags::EXTERNAL;
const LOCAL: ServiceFlags = ServiceFlags::LOCAL;
const NODE_PORT: ServiceFlags = ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT);

/// Everything that a Service can be reached at, in both families.
fn web() -> Service {
    service("web", &["10.0.0.1", "fd00::1"])
        .with_port("http", 80)
        .at_node_port(30_080)
        .with_external_ips(&["198.51.100.1", "2001:db8::1"])
        .balanced_at(&["192.0.2.1", "2001:db8:1::1"])
}

/// One endpoint here, one elsewhere, for each family.
fn endpoints() -> [Update; 2] {
    let pods = |name, here, elsewhere| {
        let slice = slice(name, "web", &[]).with(endpoint(here).on(NODE)).with(endpoint(elsewhere).on("node-2"));
        Update::from(slice.with_port("http", 8080))
    };
    [pods("web-v4", "10.1.0.1", "10.1.0.2"), pods("web-v6", "fd01::1", "fd01::2")]
}

const V4: [&str; 2] = ["10.1.0.1:8080*", "10.1.0.2:8080"];
const V6: [&str; 2] = ["[fd01::1]:8080*", "[fd01::2]:8080"];

fn node_with(service: Service) -> TestNode {
    TestNode::having([Update::from(service)].into_iter().chain(endpoints()))
}

/// A frontend for clients outside, of a Service of which no policy is `Local`.
fn reached(flags: ServiceFlags, backends: &[&str]) -> Served {
    Served { flags, ..served(HTTP, backends) }
}

/// The same if one is.
fn reached_locally(flags: ServiceFlags, backends: [&str; 2]) -> Served {
    Served { local: vec![backends[0].into()], ..reached(flags, &backends) }
}

fn assert_services(node: &TestNode, expected: &[(&str, Served)]) {
    let expected = expected.iter().map(|(frontend, served)| ((*frontend).to_owned(), served.clone())).collect();
    assert_eq!(node.view().services, expected);
    node.assert_nothing_leaks();
}

#[test]
fn a_service_is_served_wherever_it_can_be_reached() {
    assert_services(
        &node_with(web()),
        &[
            ("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4)),
            ("[fd00::1]:80/TCP", reached(ServiceFlags::NONE, &V6)),
            ("198.51.100.1:80/TCP", reached(EXTERNAL, &V4)),
            ("[2001:db8::1]:80/TCP", reached(EXTERNAL, &V6)),
            ("192.0.2.1:80/TCP", reached(EXTERNAL, &V4)),
            ("[2001:db8:1::1]:80/TCP", reached(EXTERNAL, &V6)),
            ("0.0.0.0:30080/TCP", reached(NODE_PORT, &V4)),
            ("[::]:30080/TCP", reached(NODE_PORT, &V6)),
        ],
    );
}

#[test]
fn a_service_of_one_family_has_nothing_in_the_other() {
    let mut v4 = web();
    v4.cluster_ips = ["10.0.0.1".parse().expect("an address")].into();
    assert_services(
        &node_with(v4),
        &[
            ("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4)),
            ("198.51.100.1:80/TCP", reached(EXTERNAL, &V4)),
            ("192.0.2.1:80/TCP", reached(EXTERNAL, &V4)),
            ("0.0.0.0:30080/TCP", reached(NODE_PORT, &V4)),
        ],
    );
}

#[test]
fn each_policy_holds_for_its_own_frontends_and_both_lists_are_there_for_all() {
    let only_v4 = |internal, external| Service {
        internal_traffic_policy: internal,
        external_traffic_policy: external,
        cluster_ips: ["10.0.0.1".parse().expect("an address")].into(),
        ..web()
    };
    let expected = |internal: ServiceFlags, external: ServiceFlags| {
        [
            ("10.0.0.1:80/TCP", reached_locally(internal, V4)),
            ("198.51.100.1:80/TCP", reached_locally(EXTERNAL.with(external), V4)),
            ("192.0.2.1:80/TCP", reached_locally(EXTERNAL.with(external), V4)),
            ("0.0.0.0:30080/TCP", reached_locally(NODE_PORT.with(external), V4)),
        ]
    };
    let mut node = node_with(only_v4(TrafficPolicy::Cluster, TrafficPolicy::Local));
    assert_services(&node, &expected(ServiceFlags::NONE, LOCAL));
    node.apply([only_v4(TrafficPolicy::Local, TrafficPolicy::Local).into()]);
    assert_services(&node, &expected(LOCAL, LOCAL));
    node.apply([only_v4(TrafficPolicy::Local, TrafficPolicy::Cluster).into()]);
    assert_services(&node, &expected(LOCAL, ServiceFlags::NONE));
}

#[test]
fn the_local_list_falls_back_to_local_endpoints_that_terminate() {
    let service = Service { external_traffic_policy: TrafficPolicy::Local, ..v4_balanced() };
    let here = |conditions| endpoint("10.1.0.1").that_is(conditions).on(NODE);
    let pods = |conditions| {
        slice("web-v4", "web", &[]).with(here(conditions)).with(endpoint("10.1.0.2")).with_port("http", 8080)
    };
    let mut node = TestNode::having([service.into(), pods(TERMINATING).into()]);
    let local = |node: &TestNode| node.view().services["192.0.2.1:80/TCP"].local.clone();
    assert_eq!(local(&node), ["10.1.0.1:8080*"]);
    assert_eq!(node.view().services["192.0.2.1:80/TCP"].cluster, ["10.1.0.2:8080"]);
    node.apply([pods(NOT_READY).into()]);
    assert_eq!(local(&node), [""; 0], "an endpoint that does not answer is of no use");
}

/// Reached at its clusterIP and at its load balancer.
fn v4_balanced() -> Service {
    service("web", &["10.0.0.1"]).with_port("http", 80).balanced_at(&["192.0.2.1"])
}

#[test]
fn affinity_holds_wherever_a_service_is_reached() {
    let node = node_with(Service { affinity: Affinity::ClientIp { timeout: 60 }, ..web() });
    for (frontend, served) in node.view().services {
        assert!(served.flags.contains(ServiceFlags::AFFINITY), "{frontend}");
        assert_eq!(served.affinity_timeout, 60, "{frontend}");
    }
    let snapshot = node.snapshot();
    let ids: Vec<_> = snapshot.v4.services.values().map(proxy_common::ServiceEntry::id).collect();
    assert_eq!(ids, vec![ids[0]; 4], "all frontends of a port share what a client remembers");
}

#[test]
fn addresses_that_the_load_balancer_rewrites_are_left_alone() {
    let mut service = v4_balanced();
    service.load_balancer_addresses[0].mode = LoadBalancerIpMode::Proxy;
    assert_services(&node_with(service), &[("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4))]);
}

#[test]
fn a_load_balancer_can_do_without_node_ports() {
    assert_services(
        &node_with(v4_balanced()),
        &[("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4)), ("192.0.2.1:80/TCP", reached(EXTERNAL, &V4))],
    );
}

#[test]
fn one_port_number_can_be_used_over_several_protocols() {
    let over = |service: Service, protocol| service.with_protocol_port("dns", 53, protocol).at_node_port(30_053);
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let service = protocols.into_iter().fold(service("web", &["10.0.0.1"]), over).balanced_at(&["192.0.2.1"]);
    let node = node_with(service);
    let expected = protocols.iter().flat_map(|protocol| {
        let port = format!("default/web:dns/{protocol}");
        ["10.0.0.1:53", "192.0.2.1:53", "0.0.0.0:30053"].map(|place| (format!("{place}/{protocol}"), port.clone()))
    });
    let found = node.view().services.into_iter().map(|(frontend, served)| (frontend, served.port));
    assert_eq!(found.collect::<std::collections::BTreeMap<_, _>>(), expected.collect());
}

/// How many frontends a change writes, and how many it removes, of IPv4.
fn flips(changes: &Changes) -> (usize, usize) {
    assert!(changes.v4.slots.is_empty() && changes.v4.backends.is_empty(), "what is behind the frontends stays");
    assert!(changes.v4.retired_backends.is_empty());
    (changes.v4.services.len(), changes.v4.removed_services.len())
}

#[test]
fn a_type_change_adds_and_removes_frontends_and_leaves_what_is_behind_them() {
    let all = v4_balanced();
    let of_type = |service_type| {
        let node_port =
            if service_type == ServiceType::ClusterIp { all.clone() } else { all.clone().at_node_port(30_080) };
        Update::from(node_port.of_type(service_type))
    };
    let cluster_ip = ("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4));
    let node_port = ("0.0.0.0:30080/TCP", reached(NODE_PORT, &V4));
    let balancer = ("192.0.2.1:80/TCP", reached(EXTERNAL, &V4));
    let mut node = TestNode::having([of_type(ServiceType::ClusterIp)].into_iter().chain(endpoints()));
    assert_services(&node, std::slice::from_ref(&cluster_ip));
    for (service_type, changed, expected) in [
        (ServiceType::NodePort, (1, 0), &[cluster_ip.clone(), node_port.clone()][..]),
        (ServiceType::LoadBalancer, (1, 0), &[cluster_ip.clone(), node_port.clone(), balancer.clone()]),
        (ServiceType::ClusterIp, (0, 2), std::slice::from_ref(&cluster_ip)),
        (ServiceType::LoadBalancer, (2, 0), &[cluster_ip.clone(), node_port.clone(), balancer]),
        (ServiceType::NodePort, (0, 1), &[cluster_ip.clone(), node_port]),
    ] {
        assert_eq!(flips(&node.apply([of_type(service_type)])), changed, "to {service_type:?}");
        assert_services(&node, expected);
    }
    // ExternalName, headless, or another proxy's: the source says that there is no such Service for nodes.
    node.apply([without_service("web")]);
    assert_eq!(node.snapshot(), TestNode::new().snapshot());
}

#[test]
fn a_node_port_that_changes_moves_alone() {
    let at =
        |port| service("web", &["10.0.0.1"]).with_port("http", 80).at_node_port(port).of_type(ServiceType::NodePort);
    let mut node = node_with(at(30_080));
    assert_eq!(flips(&node.apply([at(30_081).into()])), (1, 1));
    assert_services(
        &node,
        &[("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4)), ("0.0.0.0:30081/TCP", reached(NODE_PORT, &V4))],
    );
}

#[test]
fn services_share_an_external_address_with_different_ports() {
    let mail = service("mail", &["10.0.0.2"]).with_port("smtp", 25).balanced_at(&["192.0.2.1"]);
    let node = TestNode::having([v4_balanced().into(), mail.into()]);
    let services = node.view().services;
    assert_eq!(services["192.0.2.1:80/TCP"].port, HTTP);
    assert_eq!(services["192.0.2.1:25/TCP"].port, "default/mail:smtp/TCP");
    assert_eq!(node.state.problems(), []);
}

#[test]
fn an_address_that_is_named_twice_is_served_once() {
    let service = v4_balanced().with_external_ips(&["10.0.0.1", "192.0.2.1", "198.51.100.1"]);
    assert_services(
        &node_with(service),
        &[
            ("10.0.0.1:80/TCP", reached(ServiceFlags::NONE, &V4)),
            ("192.0.2.1:80/TCP", reached(EXTERNAL, &V4)),
            ("198.51.100.1:80/TCP", reached(EXTERNAL, &V4)),
        ],
    );
}
