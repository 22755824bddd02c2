//! The index: what it knows after each update, and whom the update affects.

use std::{collections::BTreeSet, time::SystemTime};

use crate::model::{
    Affected, Change, EndpointSlice, Index, LoadBalancerIpMode, Node, ObjectName, Service, ServiceType, Update,
    testing::{NODE, ZONE, endpoint, facts, ip, name, node, service, slice, without_service, without_slice},
};

fn index(updates: impl IntoIterator<Item = Update>) -> Index {
    let mut index = Index::new(NODE.into());
    for update in updates {
        let _ = index.update(update);
    }
    index
}

fn services(names: &[&str]) -> Affected {
    Affected::Services(names.iter().map(|text| name(text)).collect::<BTreeSet<_>>())
}

fn web() -> Service {
    service("web", &["10.0.0.1"]).with_port("http", 80)
}

fn web_a() -> EndpointSlice {
    slice("web-a", "web", &["10.1.0.1"]).with_port("http", 8080)
}

fn slice_names(index: &Index, service: &str) -> Vec<String> {
    index.slices(&name(service)).iter().map(|slice| slice.name.to_string()).collect()
}

#[test]
fn a_service_and_its_slices_are_joined_whichever_comes_first() {
    let mut index = Index::new(NODE.into());
    assert_eq!(index.update(web_a().into()), services(&["web"]));
    assert_eq!(index.service(&name("web")), None);
    assert_eq!(index.update(web().into()), services(&["web"]));
    assert_eq!(index.service(&name("web")), Some(&web()));
    assert_eq!(*index.slices(&name("web")), [web_a()]);
}

#[test]
fn slices_of_a_service_are_sorted_by_name() {
    let other = |name: &str| slice(name, "web", &["10.1.0.9"]).into();
    let index = index([other("web-c"), other("web-a"), other("web-b")]);
    assert_eq!(slice_names(&index, "web"), ["default/web-a", "default/web-b", "default/web-c"]);
}

#[test]
fn an_object_that_says_what_is_known_affects_nobody() {
    let mut index = index([web().into(), web_a().into(), node(Some(ZONE)).into()]);
    for update in [Update::from(web()), web_a().into(), node(Some(ZONE)).into()] {
        assert_eq!(index.update(update), Affected::none());
    }
}

#[test]
fn a_new_trigger_time_is_kept_and_affects_nobody() {
    let mut index = index([web().into(), web_a().into()]);
    let later = EndpointSlice { last_change_trigger: Some(SystemTime::UNIX_EPOCH), ..web_a() };
    assert_eq!(index.update(later.clone().into()), Affected::none());
    assert_eq!(*index.slices(&name("web")), [later]);
}

#[test]
fn a_changed_object_replaces_the_known_one() {
    let mut index = index([web().into(), web_a().into()]);
    let changed = web_a().with(endpoint("10.1.0.2"));
    assert_eq!(index.update(changed.clone().into()), services(&["web"]));
    assert_eq!(*index.slices(&name("web")), [changed]);
    let changed = web().with_port("admin", 81);
    assert_eq!(index.update(changed.clone().into()), services(&["web"]));
    assert_eq!(index.service(&name("web")), Some(&changed));
}

#[test]
fn a_slice_that_moves_to_another_service_affects_both() {
    let mut index = index([web().into(), web_a().into()]);
    let moved = EndpointSlice { service: name("shop"), ..web_a() };
    assert_eq!(index.update(moved.clone().into()), services(&["shop", "web"]));
    assert_eq!(*index.slices(&name("web")), []);
    assert_eq!(*index.slices(&name("shop")), [moved]);
}

#[test]
fn what_is_deleted_is_gone_and_what_is_unknown_affects_nobody() {
    let mut index = index([web().into(), web_a().into()]);
    assert_eq!(index.update(without_service("shop")), Affected::none());
    assert_eq!(index.update(without_slice("shop-a")), Affected::none());
    assert_eq!(index.update(without_service("web")), services(&["web"]));
    assert_eq!(index.update(without_service("web")), Affected::none());
    assert_eq!(index.service(&name("web")), None);
    assert_eq!(slice_names(&index, "web"), ["default/web-a"], "slices outlive their Service");
    assert_eq!(index.update(without_slice("web-a")), services(&["web"]));
    assert_eq!(slice_names(&index, "web"), [""; 0]);
}

#[test]
fn a_reset_of_services_deletes_what_is_not_listed() {
    let shop = service("shop", &["10.0.0.2"]);
    let docs = service("docs", &["10.0.0.3"]);
    let mut index = index([web().into(), shop.clone().into(), web_a().into()]);
    let affected = index.update(Update::Service(Change::Reset(vec![shop.clone(), docs.clone()])));
    assert_eq!(affected, services(&["docs", "web"]), "shop has not changed");
    assert_eq!(index.services().collect::<Vec<_>>(), [&docs, &shop]);
}

#[test]
fn a_reset_of_slices_deletes_what_is_not_listed() {
    let shop_a = slice("shop-a", "shop", &["10.1.0.3"]);
    let mut index = index([web_a().into(), shop_a.clone().into(), slice("web-b", "web", &["10.1.0.4"]).into()]);
    let changed = web_a().with(endpoint("10.1.0.5"));
    let affected = index.update(Update::Slice(Change::Reset(vec![shop_a, changed.clone()])));
    assert_eq!(affected, services(&["web"]));
    assert_eq!(*index.slices(&name("web")), [changed]);
    assert_eq!(slice_names(&index, "shop"), ["default/shop-a"]);
}

#[test]
fn a_new_zone_affects_services_with_zone_hints_only() {
    let hinted = slice("docs-a", "docs", &[]).with(endpoint("10.1.0.6").for_zones(&[ZONE]));
    let mut index = index([web().into(), web_a().into(), service("docs", &["10.0.0.3"]).into(), hinted.into()]);
    assert_eq!(index.update(node(Some(ZONE)).into()), services(&["docs"]));
    assert_eq!(index.zone(), Some(ZONE));
    assert_eq!(index.update(node(Some("zone-b")).into()), services(&["docs"]));
    let gone = Update::Node(Change::Delete(ObjectName::new("", NODE)));
    assert_eq!(index.update(gone), services(&["docs"]));
    assert_eq!((index.zone(), index.node()), (None, None));
}

#[test]
fn what_else_changes_of_the_node_affects_nobody() {
    let mut index = index([web().into(), web_a().into(), node(Some(ZONE)).into()]);
    let leaving = Node { leaving: true, ..node(Some(ZONE)) };
    assert_eq!(index.update(leaving.clone().into()), Affected::none());
    assert_eq!(index.node(), Some(&leaving));
}

#[test]
fn other_nodes_do_not_count() {
    let hinted = slice("web-b", "web", &[]).with(endpoint("10.1.0.6").for_zones(&[ZONE]));
    let mut index = index([web().into(), hinted.into(), node(Some(ZONE)).into()]);
    let other = Node { name: ObjectName::new("", "node-2"), ..node(Some("zone-b")) };
    assert_eq!(index.update(other.clone().into()), Affected::none());
    assert_eq!(index.update(Update::Node(Change::Delete(other.name.clone()))), Affected::none());
    let list = vec![other.clone(), node(Some(ZONE))];
    assert_eq!(index.update(Update::Node(Change::Reset(list))), Affected::none());
    assert_eq!(index.node(), Some(&node(Some(ZONE))));
    assert_eq!(index.update(Update::Node(Change::Reset(vec![other]))), services(&["web"]), "the own one is not listed");
}

#[test]
fn affected_services_add_up() {
    let mut affected = services(&["web"]);
    affected.merge(services(&["docs"]));
    assert_eq!(affected, services(&["docs", "web"]));
    assert!(!affected.is_empty());
    affected.merge(Affected::All);
    affected.merge(services(&["shop"]));
    assert_eq!(affected, Affected::All);
    assert!(Affected::none().is_empty() && !affected.is_empty());
}

#[test]
fn names_are_ordered_by_namespace_first() {
    let mut names = [name("a-b/web"), name("a/web"), name("a/docs"), ObjectName::new("", "zzz")];
    names.sort();
    assert_eq!(names.map(|name| name.to_string()), ["zzz", "a/docs", "a/web", "a-b/web"]);
}

const VIP: &str = "192.0.2.1";

/// A Service whose load balancer may be used from some addresses.
fn guarded(name: &str, vip: &str) -> Service {
    service(name, &["10.0.0.1"]).with_port("http", 80).balanced_at(&[vip]).open_to(&["198.51.100.0/24"])
}

fn guarded_addresses(index: &Index) -> Vec<String> {
    index.guarded_addresses().map(|address| address.to_string()).collect()
}

#[test]
fn addresses_are_guarded_while_a_service_says_so() {
    let objects = [guarded("web", VIP).into(), guarded("shop", VIP).into(), guarded("docs", "192.0.2.9").into()];
    let mut index = index(objects);
    assert_eq!(guarded_addresses(&index), [VIP, "192.0.2.9"]);
    for (update, expected) in [
        (guarded("docs", "192.0.2.8").into(), &[VIP, "192.0.2.8"][..]),
        (without_service("docs"), &[VIP]),
        (guarded("web", VIP).open_to(&[]).into(), &[VIP]),
        (guarded("shop", VIP).open_to(&["198.51.100.0/24", "0.0.0.0/0"]).into(), &[]),
        (guarded("shop", VIP).open_to(&["2001:db8::/32"]).into(), &[]),
        (guarded("shop", VIP).into(), &[VIP]),
        (Service { service_type: ServiceType::NodePort, ..guarded("shop", VIP) }.into(), &[]),
    ] {
        let _ = index.update(update);
        assert_eq!(guarded_addresses(&index), expected);
    }
}

#[test]
fn an_address_that_the_load_balancer_rewrites_is_nobodys_to_guard() {
    let mut proxy = guarded("web", VIP);
    proxy.load_balancer_addresses[0].mode = LoadBalancerIpMode::Proxy;
    assert_eq!(guarded_addresses(&index([proxy.into()])), [""; 0]);
}

#[test]
fn facts_affect_the_services_they_matter_to() {
    let mut index =
        index([guarded("web", VIP).into(), guarded("docs", "192.0.2.9").into(), service("dns", &["10.0.0.2"]).into()]);
    assert!(index.lacks_facts());
    let known = facts(&["203.0.113.1"], &[(VIP, Some("203.0.113.1")), ("192.0.2.9", None)]);
    assert_eq!(index.update(known.clone().into()), services(&["docs", "web"]), "the node has addresses");
    assert!(!index.lacks_facts());
    assert_eq!(index.facts().source_to(ip(VIP)), Some(ip("203.0.113.1")));
    assert_eq!(index.update(known.into()), Affected::none());
    let routed = facts(&["203.0.113.1"], &[(VIP, Some(VIP)), ("192.0.2.9", None)]);
    assert_eq!(index.update(routed.into()), services(&["web"]));
    let of_nobody = facts(&["203.0.113.1"], &[(VIP, Some(VIP)), ("10.9.9.9", Some("203.0.113.1"))]);
    assert_eq!(index.update(of_nobody.into()), Affected::none(), "no route, or not looked up, is the same");
    assert!(index.lacks_facts());
    assert_eq!(index.update(facts(&[], &[]).into()), services(&["docs", "web"]));
}
