//! `loadBalancerSourceRanges`: which frontends are guarded, who may use them, and what this node's own
//! processes may.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::ServiceFlags;

use super::support::{Served, TestNode, served};
use crate::{
    model::{
        NodeFacts, Service, TrafficPolicy, Update,
        testing::{facts, service, slice, without_service},
    },
    plan::{Capacities, Changes},
};

const HTTP: &str = "default/web:http/TCP";
const VIP: &str = "192.0.2.1";
const NODE_ADDRESS: &str = "203.0.113.1";
/// A range with the node's address in it, and one without.
const WITH_NODE: &str = "203.0.113.0/24";
const CLIENTS: &str = "198.51.100.0/24";

const EXTERNAL: ServiceFlags = ServiceFlags::EXTERNAL;
const GUARDED: ServiceFlags = EXTERNAL.with(ServiceFlags::SOURCE_RANGES);
const OPEN_TO_NODE: ServiceFlags = GUARDED.with(ServiceFlags::NODE_ALLOWED);

fn web() -> Service {
    service("web", &["10.0.0.1"]).with_port("http", 80).balanced_at(&[VIP])
}

/// This node, whose packets to the load balancer's address have this source.
fn routed(source: Option<&str>) -> NodeFacts {
    facts(&[NODE_ADDRESS, "2001:db8:5::1"], &[(VIP, source), ("2001:db8:1::1", source)])
}

fn node_with(service: Service) -> TestNode {
    TestNode::having([service.into(), routed(Some(NODE_ADDRESS)).into()])
}

fn flags(node: &TestNode) -> BTreeMap<String, ServiceFlags> {
    node.view().services.into_iter().map(|(frontend, served)| (frontend, served.flags)).collect()
}

/// The flags at the load balancer's address, and who may use it.
fn guard(node: &TestNode) -> (ServiceFlags, Vec<String>) {
    node.assert_nothing_leaks();
    let view = node.view();
    let ranges = view.source_ranges.get(HTTP).cloned().unwrap_or_default();
    (view.services[&format!("{VIP}:80/TCP")].flags, ranges.into_iter().collect())
}

fn ranges(ranges: &[&str]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect::<BTreeSet<_>>().into_iter().collect()
}

/// How many ranges a change inserts and removes, and how many frontends it writes, of IPv4.
fn counts(changes: &Changes) -> [usize; 3] {
    [changes.v4.source_ranges.len(), changes.v4.removed_source_ranges.len(), changes.v4.services.len()]
}

#[test]
fn only_the_load_balancers_addresses_are_guarded() {
    let service = web().at_node_port(30_080).with_external_ips(&["192.0.2.9"]).open_to(&[CLIENTS]);
    let expected = [
        ("10.0.0.1:80/TCP", ServiceFlags::NONE),
        ("192.0.2.1:80/TCP", GUARDED),
        ("192.0.2.9:80/TCP", EXTERNAL),
        ("0.0.0.0:30080/TCP", EXTERNAL.with(ServiceFlags::NODE_PORT)),
    ];
    let expected = expected.map(|(frontend, flags)| (frontend.to_owned(), flags));
    let node = node_with(service);
    assert_eq!(flags(&node), BTreeMap::from(expected));
    assert_eq!(guard(&node), (GUARDED, ranges(&[CLIENTS])));
}

#[test]
fn an_address_that_is_both_is_guarded() {
    let node = node_with(web().with_external_ips(&[VIP]).open_to(&[CLIENTS]));
    assert_eq!(guard(&node), (GUARDED, ranges(&[CLIENTS])));
}

#[test]
fn a_range_of_everything_or_none_of_the_family_is_no_guard() {
    for open in [&[][..], &[CLIENTS, "0.0.0.0/0"], &["2001:db8::/32"], &["::/0"]] {
        assert_eq!(guard(&node_with(web().open_to(open))), (EXTERNAL, Vec::new()), "{open:?}");
    }
}

#[test]
fn families_are_guarded_each_by_its_own_ranges() {
    let service = service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80);
    let service = service.balanced_at(&[VIP, "2001:db8:1::1"]);
    let v6 = "[2001:db8:1::1]:80/TCP";
    let node = node_with(service.clone().open_to(&[CLIENTS, "::/0"]));
    assert_eq!(guard(&node), (GUARDED, ranges(&[CLIENTS])));
    assert_eq!(flags(&node)[v6], EXTERNAL);
    let node = node_with(service.open_to(&["0.0.0.0/0", "2001:db8:7::/48"]));
    assert_eq!(guard(&node), (EXTERNAL, ranges(&["2001:db8:7::/48"])));
    assert_eq!(flags(&node)[v6], GUARDED);
}

#[test]
fn each_port_has_ranges_of_its_own() {
    let node = node_with(web().with_port("admin", 81).open_to(&[CLIENTS, "198.51.100.7/32"]));
    let both: BTreeSet<String> = ranges(&[CLIENTS, "198.51.100.7/32"]).into_iter().collect();
    let expected = [(HTTP.to_owned(), both.clone()), ("default/web:admin/TCP".to_owned(), both)];
    assert_eq!(node.view().source_ranges, expected.into());
}

#[test]
fn the_load_balancers_address_itself_may_if_the_node_may() {
    let node = node_with(web().open_to(&[CLIENTS, WITH_NODE]));
    assert_eq!(guard(&node), (OPEN_TO_NODE, ranges(&[CLIENTS, WITH_NODE, "192.0.2.1/32"])));
}

#[test]
fn the_node_may_if_the_source_that_the_kernel_chooses_may() {
    let mut node = TestNode::having([web().open_to(&[CLIENTS, WITH_NODE]).into()]);
    assert_eq!(guard(&node), (GUARDED, ranges(&[CLIENTS, WITH_NODE])), "nothing is known of the node's network");
    let (with_vip, without) = (ranges(&[CLIENTS, WITH_NODE, "192.0.2.1/32"]), ranges(&[CLIENTS, WITH_NODE]));
    for (source, expected) in [
        (Some(NODE_ADDRESS), OPEN_TO_NODE),
        (Some("10.5.5.5"), GUARDED),
        (Some("198.51.100.9"), OPEN_TO_NODE),
        (None, GUARDED),
        // The load balancer's address is one of the node's own.
        (Some(VIP), OPEN_TO_NODE),
    ] {
        node.apply([routed(source).into()]);
        assert_eq!(guard(&node), (expected, with_vip.clone()), "{source:?}");
    }
    node.apply([facts(&["10.5.5.5"], &[(VIP, Some(VIP))]).into()]);
    assert_eq!(guard(&node), (GUARDED, without), "the node has moved out of the ranges");
}

#[test]
fn facts_change_only_what_follows_from_them() {
    let other = service("other", &["10.0.0.2"]).with_port("http", 80).balanced_at(&["192.0.2.2"]);
    let mut node = TestNode::having([
        web().open_to(&[WITH_NODE]).into(),
        other.into(),
        slice("web-a", "web", &["10.1.0.1"]).with_port("http", 8080).into(),
        routed(Some(NODE_ADDRESS)).into(),
    ]);
    assert!(node.apply([routed(Some(NODE_ADDRESS)).into()]).is_empty());
    let changes = node.apply([routed(None).into()]);
    assert_eq!(counts(&changes), [0, 0, 1], "one frontend's flags");
    assert!(changes.v4.backends.is_empty() && changes.v4.slots.is_empty() && changes.v6.is_empty());
    let changes = node.apply([facts(&["10.5.5.5"], &[(VIP, None)]).into()]);
    assert_eq!(counts(&changes), [0, 1, 0], "one range: the load balancer's address");
}

#[test]
fn ranges_that_change_leave_frontends_and_other_ranges_alone() {
    let mut node = node_with(web().open_to(&[CLIENTS, "10.0.0.0/8"]));
    let changes = node.apply([web().open_to(&[CLIENTS, "172.16.0.0/12", "192.168.0.0/16"]).into()]);
    assert_eq!(counts(&changes), [2, 1, 0]);
    assert_eq!(guard(&node), (GUARDED, ranges(&[CLIENTS, "172.16.0.0/12", "192.168.0.0/16"])));
    let changes = node.apply([web().into()]);
    assert_eq!(counts(&changes), [0, 3, 1]);
    assert_eq!(guard(&node), (EXTERNAL, Vec::new()));
    let changes = node.apply([web().open_to(&[CLIENTS]).into()]);
    assert_eq!(counts(&changes), [1, 0, 1]);
}

#[test]
fn a_service_that_goes_takes_its_ranges_along() {
    let mut node = node_with(web().open_to(&[CLIENTS]));
    let changes = node.apply([without_service("web")]);
    assert_eq!((changes.v4.removed_source_ranges.len(), changes.retired_names.len()), (1, 1));
    assert_eq!(node.snapshot(), TestNode::new().snapshot());
}

#[test]
fn a_renamed_port_is_guarded_all_the_time() {
    let mut node = node_with(web().open_to(&[CLIENTS]));
    let renamed = service("web", &["10.0.0.1"]).with_port("www", 80).balanced_at(&[VIP]).open_to(&[CLIENTS]);
    let changes = node.apply([renamed.into()]);
    assert_eq!(counts(&changes), [1, 1, 2]);
    let expected = Served { flags: GUARDED, ..served("default/web:www/TCP", &[]) };
    assert_eq!(node.view().services["192.0.2.1:80/TCP"], expected);
    assert_eq!(node.view().source_ranges, [("default/web:www/TCP".to_owned(), [CLIENTS.to_owned()].into())].into());
}

#[test]
fn a_port_without_any_frontend_has_no_ranges() {
    let older = service("older", &["10.0.0.1"]).with_port("http", 80).balanced_at(&[VIP]).created_at(0);
    let mut node = node_with(web().open_to(&[CLIENTS]));
    node.apply([older.into()]);
    assert_eq!(node.view().source_ranges, BTreeMap::new());
    node.assert_nothing_leaks();
    let changes = node.apply([without_service("older")]);
    assert_eq!(counts(&changes), [1, 0, 2]);
    assert_eq!(guard(&node), (GUARDED, ranges(&[CLIENTS])));
}

#[test]
fn ranges_and_policy_local_go_together() {
    let service = Service { external_traffic_policy: TrafficPolicy::Local, ..web().open_to(&[CLIENTS]) };
    assert_eq!(guard(&node_with(service)).0, GUARDED.with(ServiceFlags::LOCAL));
}

#[test]
fn a_new_agent_finds_the_ranges_as_they_should_be() {
    let mut node = node_with(web().open_to(&[CLIENTS, WITH_NODE]));
    assert!(node.restart().is_empty());
    let _ = node.index.update(web().open_to(&[WITH_NODE, "10.0.0.0/8"]).into());
    assert_eq!(counts(&node.restart()), [1, 1, 0]);
    assert_eq!(guard(&node).1, ranges(&[WITH_NODE, "10.0.0.0/8", "192.0.2.1/32"]));
    assert!(node.restart().is_empty());
}

#[test]
fn a_service_with_more_ranges_than_there_is_room_for_is_refused() {
    let numbered = |n: u8, open: &[&str]| {
        let service = service(&format!("s{n}"), &[&format!("10.0.0.{n}")]).with_port("http", 80);
        Update::from(service.balanced_at(&[&format!("192.0.2.{n}")]).open_to(open).created_at(n.into()))
    };
    let served = |node: &TestNode| {
        node.assert_nothing_leaks();
        let services = node.view().services;
        (1..=3).filter(|n| services.contains_key(&format!("192.0.2.{n}:80/TCP"))).collect::<Vec<u8>>()
    };
    let capacities = Capacities { source_ranges: 3, ..Capacities::default() };
    let mut node = TestNode::with_capacities(capacities);
    node.apply([numbered(2, &[CLIENTS, "10.0.0.0/8"]), numbered(3, &[CLIENTS, "10.0.0.0/8"])]);
    assert_eq!(served(&node), [2]);
    let no_room = "Service default/s3: no room in table source_ranges_v4";
    assert_eq!(node.state.problems().iter().map(ToString::to_string).collect::<Vec<_>>(), [no_room]);
    node.apply([numbered(1, &[CLIENTS, "10.0.0.0/8"])]);
    node.settle();
    assert_eq!(served(&node), [1], "an older one displaces a newer one");
    node.apply([numbered(2, &[CLIENTS])]);
    node.settle();
    assert_eq!(served(&node), [1, 2]);
    node.apply([without_service("s1")]);
    node.settle();
    assert_eq!(served(&node), [2, 3]);
    assert_eq!(node.state.problems(), []);
}
