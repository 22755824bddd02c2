//! Which endpoints sockets have to be told of: those of UDP ports that are gone for good.

use proxy_common::Protocol;

use super::support::TestNode;
use crate::{
    model::{
        EndpointSlice, Service,
        testing::{NODE, NOT_READY, TERMINATING, endpoint, service, slice, without_service},
    },
    plan::{Changes, GoneBackend},
};

/// A Service that answers on one port over UDP and TCP, and on another over UDP, in both families.
fn dns() -> Service {
    service("dns", &["10.0.0.10", "fd00::10"])
        .with_protocol_port("dns", 53, Protocol::Udp)
        .with_protocol_port("dns", 53, Protocol::Tcp)
        .with_protocol_port("mdns", 5353, Protocol::Udp)
}

fn with_ports(slice: EndpointSlice) -> EndpointSlice {
    slice.with_protocol_port("dns", 53, Protocol::Udp).with_protocol_port("dns", 53, Protocol::Tcp).with_protocol_port(
        "mdns",
        5353,
        Protocol::Udp,
    )
}

fn v4(addresses: &[&str]) -> EndpointSlice {
    with_ports(slice("dns-v4", "dns", addresses))
}

fn node_with_dns() -> TestNode {
    TestNode::having([
        dns().into(),
        v4(&["10.1.0.1", "10.1.0.2"]).into(),
        with_ports(slice("dns-v6", "dns", &["fd01::1"])).into(),
    ])
}

/// What is gone, as `port address`, with the numbers that the tables had for it before.
fn gone(node: &TestNode, changes: &Changes) -> Vec<String> {
    let snapshot = node.snapshot();
    let mut gone: Vec<String> = changes
        .gone_backends
        .iter()
        .map(|GoneBackend { service, backend, address }| {
            assert!(!snapshot.v4.backends.contains_key(backend) || address.is_ipv6(), "{address} is still there");
            assert!(!snapshot.v6.backends.contains_key(backend) || address.is_ipv4(), "{address} is still there");
            let name = snapshot.names.get(service).map_or("-", |name| name.port());
            format!("{name} {address}")
        })
        .collect();
    gone.sort();
    gone
}

#[test]
fn an_endpoint_that_no_slice_has_any_more_is_gone() {
    let mut node = node_with_dns();
    let before = node.snapshot();
    let changes = node.apply([v4(&["10.1.0.2"]).into()]);
    assert_eq!(gone(&node, &changes), ["dns 10.1.0.1:53", "mdns 10.1.0.1:5353"], "TCP is left alone");
    for GoneBackend { service, backend, address } in changes.gone_backends {
        let entry = before.v4.backends[&backend];
        assert_eq!((entry.service(), entry.address(), entry.port().get()), (service, [10, 1, 0, 1], address.port()));
    }
}

#[test]
fn an_endpoint_that_is_in_another_slice_is_not_gone() {
    let mut node = node_with_dns();
    node.apply([with_ports(slice("dns-other", "dns", &["10.1.0.1"])).into()]);
    let changes = node.apply([v4(&["10.1.0.2"]).into()]);
    assert_eq!(gone(&node, &changes), [""; 0]);
}

#[test]
fn an_endpoint_that_takes_no_new_flows_is_not_gone() {
    let mut node = node_with_dns();
    for conditions in [TERMINATING, NOT_READY] {
        let slice = v4(&["10.1.0.2"]).with(endpoint("10.1.0.1").that_is(conditions).on(NODE));
        let changes = node.apply([slice.into()]);
        assert_eq!(gone(&node, &changes), [""; 0], "{conditions:?}");
        assert!(node.view().backends["default/dns:dns/UDP"].contains("10.1.0.1:53*"), "{conditions:?}");
    }
}

#[test]
fn an_endpoint_that_changes_its_port_is_gone_from_the_old_one() {
    let mut node = node_with_dns();
    let moved = slice("dns-v4", "dns", &["10.1.0.1"])
        .with_protocol_port("dns", 1053, Protocol::Udp)
        .with_protocol_port("dns", 1053, Protocol::Tcp)
        .with_protocol_port("mdns", 5353, Protocol::Udp);
    let changes = node.apply([moved.into()]);
    assert_eq!(gone(&node, &changes), ["dns 10.1.0.1:53", "dns 10.1.0.2:53", "mdns 10.1.0.2:5353"]);
}

#[test]
fn all_endpoints_of_a_port_that_goes_are_gone() {
    let mut node = node_with_dns();
    let without = service("dns", &["10.0.0.10", "fd00::10"]).with_protocol_port("dns", 53, Protocol::Udp);
    let changes = node.apply([without.into()]);
    assert_eq!(gone(&node, &changes), ["- 10.1.0.1:5353", "- 10.1.0.2:5353", "- [fd01::1]:5353"]);
}

#[test]
fn all_endpoints_of_a_family_that_goes_are_gone() {
    let mut node = node_with_dns();
    let changes =
        node.apply([Service { cluster_ips: ["10.0.0.10".parse().expect("an address")].into(), ..dns() }.into()]);
    assert_eq!(gone(&node, &changes), ["dns [fd01::1]:53", "mdns [fd01::1]:5353"]);
}

#[test]
fn what_an_agent_missed_while_it_was_down_is_gone_at_its_start() {
    let mut node = node_with_dns();
    let _ = node.index.update(without_service("dns"));
    let changes = node.restart();
    let expected =
        ["- 10.1.0.1:53", "- 10.1.0.1:5353", "- 10.1.0.2:53", "- 10.1.0.2:5353", "- [fd01::1]:53", "- [fd01::1]:5353"];
    assert_eq!(gone(&node, &changes), expected);
    assert_eq!(node.restart(), Changes::default());
}
