//! From objects to tables: what a node holds after each step of a Service's life, and what was
//! written to get there.

use proxy_common::{BackendId, ServiceFlags};

use super::support::{Served, TestNode, entry_v4, served};
use crate::{
    model::{
        Affinity, Change, EndpointSlice, Service, TrafficPolicy, Update,
        testing::{
            NODE, NOT_READY, TERMINATING, ZONE, endpoint, name, node, service, slice, without_service, without_slice,
        },
    },
    plan::{Changes, FamilyChanges},
};

const HTTP: &str = "default/web:http/TCP";

fn web() -> Service {
    service("web", &["10.0.0.1"]).with_port("http", 80)
}

fn web_a(addresses: &[&str]) -> EndpointSlice {
    slice("web-a", "web", addresses).with_port("http", 8080)
}

/// A node with Service `web`, of which these addresses are endpoints.
fn node_with(addresses: &[&str]) -> TestNode {
    TestNode::having([web().into(), web_a(addresses).into()])
}

/// Asserts that the only frontends are these.
fn assert_services(node: &TestNode, expected: &[(&str, Served)]) {
    let expected = expected.iter().map(|(frontend, served)| ((*frontend).to_owned(), served.clone())).collect();
    assert_eq!(node.view().services, expected);
    node.assert_nothing_leaks();
}

/// How many backends, slots, services, removals and retirements there are of IPv4.
fn counts(changes: &Changes) -> [usize; 5] {
    let FamilyChanges { backends, slots, services, removed_services, retired_backends, .. } = &changes.v4;
    let slots = slots.iter().map(|(_, ids)| ids.len()).sum();
    [backends.len(), slots, services.len(), removed_services.len(), retired_backends.len()]
}

#[test]
fn a_service_and_its_slice_become_a_frontend_with_backends() {
    let node = node_with(&["10.1.0.2", "10.1.0.1"]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080", "10.1.0.2:8080"]))]);
}

#[test]
fn a_service_without_endpoints_is_a_frontend_that_refuses() {
    let node = TestNode::having([web().into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &[]))]);
}

#[test]
fn slices_without_a_service_are_nothing() {
    let mut node = TestNode::having([web_a(&["10.1.0.1"]).into()]);
    assert_services(&node, &[]);
    node.apply([web().into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080"]))]);
}

#[test]
fn families_share_the_id_of_their_port() {
    let node = TestNode::having([
        service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80).into(),
        web_a(&["10.1.0.1"]).into(),
        slice("web-b", "web", &["fd01::1"]).with_port("http", 8080).into(),
    ]);
    let (v4, v6) = (served(HTTP, &["10.1.0.1:8080"]), served(HTTP, &["[fd01::1]:8080"]));
    assert_services(&node, &[("10.0.0.1:80/TCP", v4), ("[fd00::1]:80/TCP", v6)]);
    assert_eq!(node.snapshot().names.len(), 1);
}

#[test]
fn a_new_endpoint_costs_one_backend_and_one_new_range() {
    let mut node = node_with(&["10.1.0.1", "10.1.0.3"]);
    let changes = node.apply([web_a(&["10.1.0.1", "10.1.0.2", "10.1.0.3"]).into()]);
    assert_eq!(counts(&changes), [1, 3, 1, 0, 0]);
    assert!(changes.names.is_empty() && changes.v6.is_empty() && changes.retired_names.is_empty());
    let backends = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"];
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &backends))]);
}

#[test]
fn an_endpoint_that_goes_is_retired_after_the_flip() {
    let mut node = node_with(&["10.1.0.1", "10.1.0.2"]);
    let changes = node.apply([web_a(&["10.1.0.2"]).into()]);
    assert_eq!(counts(&changes), [0, 1, 1, 0, 1]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.2:8080"]))]);
    assert_eq!(node.view().backends[HTTP], ["10.1.0.2:8080".to_owned()].into());
}

#[test]
fn an_update_that_changes_nothing_here_writes_nothing() {
    let mut node = node_with(&["10.1.0.1", "10.1.0.2"]);
    // The same endpoints in another order, on nodes that are not this one, with another port beside.
    let elsewhere = slice("web-a", "web", &[])
        .with(endpoint("10.1.0.2").on("node-2"))
        .with(endpoint("10.1.0.1").on("node-3"))
        .with_port("http", 8080)
        .with_port("metrics", 9090);
    assert!(node.apply([elsewhere.into()]).is_empty());
}

#[test]
fn an_endpoint_keeps_its_backend_while_it_is_in_a_slice() {
    let mut node = node_with(&["10.1.0.1", "10.1.0.2"]);
    let of = |node: &TestNode| node.snapshot().v4.backends.keys().copied().collect::<Vec<BackendId>>();
    let before = of(&node);
    for state in [TERMINATING, NOT_READY] {
        let slice =
            slice("web-a", "web", &["10.1.0.1"]).with(endpoint("10.1.0.2").that_is(state)).with_port("http", 8080);
        let changes = node.apply([slice.into()]);
        assert!(changes.v4.retired_backends.is_empty());
        assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080"]))]);
    }
    assert_eq!(of(&node), before, "flows to the endpoint go on");
}

#[test]
fn terminating_endpoints_serve_when_no_other_does() {
    let ending = |address| endpoint(address).that_is(TERMINATING);
    let all = slice("web-a", "web", &[]).with(ending("10.1.0.1")).with(ending("10.1.0.2")).with_port("http", 8080);
    let mut node = TestNode::having([web().into(), all.clone().into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080", "10.1.0.2:8080"]))]);
    node.apply([all.with(endpoint("10.1.0.3")).into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.3:8080"]))]);
}

#[test]
fn an_endpoint_that_turns_out_to_be_on_this_node_keeps_its_backend() {
    let mut node = node_with(&["10.1.0.1"]);
    let here = slice("web-a", "web", &[]).with(endpoint("10.1.0.1").on(NODE)).with_port("http", 8080);
    let changes = node.apply([here.into()]);
    assert_eq!(counts(&changes), [1, 0, 0, 0, 0], "a flag changes in place");
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080*"]))]);
}

#[test]
fn internal_policy_local_adds_the_local_list() {
    let endpoints = slice("web-a", "web", &["10.1.0.2"]).with(endpoint("10.1.0.1").on(NODE)).with_port("http", 8080);
    let mut node = TestNode::having([web().into(), endpoints.into()]);
    let local = Service { internal_traffic_policy: TrafficPolicy::Local, ..web() };
    let changes = node.apply([local.into()]);
    assert_eq!(counts(&changes), [1, 1, 1, 0, 0], "a flag, and the local list; the cluster list stays where it is");
    let expected = Served {
        flags: ServiceFlags::LOCAL,
        local: vec!["10.1.0.1:8080*".into()],
        ..served(HTTP, &["10.1.0.1:8080*", "10.1.0.2:8080"])
    };
    assert_services(&node, &[("10.0.0.1:80/TCP", expected)]);
    node.apply([web().into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080*", "10.1.0.2:8080"]))]);
}

#[test]
fn affinity_is_a_property_of_the_frontend_alone() {
    let mut node = node_with(&["10.1.0.1"]);
    let sticky = Service { affinity: Affinity::ClientIp { timeout: 60 }, ..web() };
    assert_eq!(counts(&node.apply([sticky.into()])), [0, 0, 1, 0, 0]);
    let expected = Served { flags: ServiceFlags::AFFINITY, affinity_timeout: 60, ..served(HTTP, &["10.1.0.1:8080"]) };
    assert_services(&node, &[("10.0.0.1:80/TCP", expected)]);
}

#[test]
fn the_zone_of_the_node_chooses_among_hinted_endpoints() {
    let hinted = slice("web-a", "web", &[])
        .with(endpoint("10.1.0.1").for_zones(&[ZONE]))
        .with(endpoint("10.1.0.2").for_zones(&["zone-b"]))
        .with_port("http", 8080);
    let mut node_1 = TestNode::having([web().into(), hinted.into()]);
    for (zone, expected) in [
        (None, &["10.1.0.1:8080", "10.1.0.2:8080"][..]),
        (Some(ZONE), &["10.1.0.1:8080"]),
        (Some("zone-b"), &["10.1.0.2:8080"]),
        (Some("zone-c"), &["10.1.0.1:8080", "10.1.0.2:8080"]),
    ] {
        node_1.apply([node(zone).into()]);
        assert_services(&node_1, &[("10.0.0.1:80/TCP", served(HTTP, expected))]);
    }
}

#[test]
fn a_change_to_one_port_leaves_the_other_alone() {
    let mut node =
        TestNode::having([web().with_port("admin", 81).into(), web_a(&["10.1.0.1"]).with_port("admin", 8081).into()]);
    let http = entry_v4(&node.snapshot(), [10, 0, 0, 1]);
    let changes = node.apply([web().with_port("admin", 82).into()]);
    assert_eq!(counts(&changes), [0, 0, 1, 1, 0], "the frontend moves, what is behind it stays");
    assert_eq!(entry_v4(&node.snapshot(), [10, 0, 0, 1]), http);
}

#[test]
fn a_renamed_port_is_a_new_port_on_the_same_frontend() {
    let mut node = node_with(&["10.1.0.1"]);
    let renamed = service("web", &["10.0.0.1"]).with_port("www", 80);
    let changes = node.apply([renamed.into(), slice("web-a", "web", &["10.1.0.1"]).with_port("www", 8080).into()]);
    assert_eq!(counts(&changes), [1, 1, 1, 0, 1], "the frontend flips and is never absent");
    assert_eq!((changes.names.len(), changes.retired_names.len()), (1, 1));
    assert_services(&node, &[("10.0.0.1:80/TCP", served("default/web:www/TCP", &["10.1.0.1:8080"]))]);
}

#[test]
fn the_port_of_the_endpoints_can_change() {
    let mut node = node_with(&["10.1.0.1"]);
    node.apply([slice("web-a", "web", &["10.1.0.1"]).with_port("http", 9090).into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:9090"]))]);
}

#[test]
fn families_come_and_go() {
    let both = service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80);
    let mut node = TestNode::having([
        both.clone().into(),
        web_a(&["10.1.0.1"]).into(),
        slice("web-b", "web", &["fd01::1"]).with_port("http", 8080).into(),
    ]);
    let (v4, v6) = (served(HTTP, &["10.1.0.1:8080"]), served(HTTP, &["[fd01::1]:8080"]));
    let changes = node.apply([web().into()]);
    assert!(changes.v4.is_empty(), "IPv4 is not touched");
    assert_services(&node, &[("10.0.0.1:80/TCP", v4.clone())]);
    node.apply([service("web", &["fd00::1"]).with_port("http", 80).into()]);
    assert_services(&node, &[("[fd00::1]:80/TCP", v6.clone())]);
    node.apply([both.into()]);
    assert_services(&node, &[("10.0.0.1:80/TCP", v4), ("[fd00::1]:80/TCP", v6)]);
}

#[test]
fn a_service_that_is_no_longer_served_leaves_nothing() {
    let mut node = node_with(&["10.1.0.1"]);
    let empty = TestNode::new().snapshot();
    let changes = node.apply([without_service("web")]);
    assert_eq!(counts(&changes), [0, 0, 0, 1, 1]);
    assert_eq!(node.snapshot(), empty);
    node.assert_nothing_leaks();
}

#[test]
fn a_service_that_is_deleted_and_made_anew_in_one_update_is_only_changed() {
    let mut node = node_with(&["10.1.0.1"]);
    let changes = node.apply([without_service("web"), web().created_at(9_000).into()]);
    assert!(changes.is_empty());
}

#[test]
fn a_slice_that_moves_changes_both_services() {
    let mut node = TestNode::having([
        web().into(),
        service("shop", &["10.0.0.2"]).with_port("http", 80).into(),
        web_a(&["10.1.0.1"]).into(),
    ]);
    node.apply([EndpointSlice { service: name("shop"), ..web_a(&["10.1.0.1"]) }.into()]);
    let expected = [
        ("10.0.0.1:80/TCP", served(HTTP, &[])),
        ("10.0.0.2:80/TCP", served("default/shop:http/TCP", &["10.1.0.1:8080"])),
    ];
    assert_services(&node, &expected);
}

#[test]
fn two_services_do_not_share_the_backend_of_one_endpoint() {
    let mut node = TestNode::having([
        web().into(),
        service("shop", &["10.0.0.2"]).with_port("http", 80).into(),
        web_a(&["10.1.0.1"]).into(),
        slice("shop-a", "shop", &["10.1.0.1"]).with_port("http", 8080).into(),
    ]);
    assert_eq!(node.snapshot().v4.backends.len(), 2);
    node.apply([without_slice("shop-a")]);
    assert_eq!(node.view().backends[HTTP], ["10.1.0.1:8080".to_owned()].into());
}

#[test]
fn a_reset_makes_the_tables_what_the_lists_say() {
    let mut node = node_with(&["10.1.0.1"]);
    let docs = service("docs", &["10.0.0.9"]).with_port("http", 80);
    node.apply([Update::Service(Change::Reset(vec![docs]))]);
    assert_services(&node, &[("10.0.0.9:80/TCP", served("default/docs:http/TCP", &[]))]);
}

#[test]
fn what_a_change_retires_is_not_given_out_before_it_is_applied() {
    let mut node = node_with(&["10.1.0.1", "10.1.0.2"]);
    let update = |node: &mut TestNode, addresses: &[&str]| {
        let affected = node.index.update(web_a(addresses).into());
        node.state.reconcile(&node.index, &affected)
    };
    // Three changes are made before the first is written; each is safe in its place.
    let changes = [
        update(&mut node, &["10.1.0.3"]),
        update(&mut node, &["10.1.0.4", "10.1.0.5"]),
        update(&mut node, &["10.1.0.1"]),
    ];
    for changes in changes {
        node.write(&changes);
    }
    assert_services(&node, &[("10.0.0.1:80/TCP", served(HTTP, &["10.1.0.1:8080"]))]);
}

#[test]
fn nothing_is_planned_before_the_lists_are_complete() {
    let mut node = node_with(&["10.1.0.1"]);
    node.state.adopt(&node.snapshot());
    let affected = node.index.update(without_service("web"));
    assert!(node.state.reconcile(&node.index, &affected).is_empty());
    let changes = node.state.complete(&node.index);
    assert_eq!(counts(&changes), [0, 0, 0, 1, 1]);
}
