//! One frontend, several Services: the oldest has it, the others are told and take over.

use proxy_common::{Protocol, ServiceFlags};

use super::support::{Served, TestNode, served};
use crate::model::{
    EndpointSlice, Service, ServiceType,
    testing::{service, slice, without_service},
};

const FRONTEND: &str = "10.0.0.1:80/TCP";

/// A Service that claims the frontend.
fn claimant(name: &str, created: i64) -> Service {
    service(name, &["10.0.0.1"]).with_port("http", 80).created_at(created)
}

fn endpoints(service: &str, address: &str) -> EndpointSlice {
    slice(&format!("{service}-a"), service, &[address]).with_port("http", 8080)
}

fn old() -> Served {
    served("default/old:http/TCP", &["10.1.0.1:8080"])
}

fn new() -> Served {
    served("default/new:http/TCP", &["10.1.0.2:8080"])
}

fn two_claimants() -> TestNode {
    TestNode::having([
        claimant("new", 2).into(),
        claimant("old", 1).into(),
        endpoints("new", "10.1.0.2").into(),
        endpoints("old", "10.1.0.1").into(),
    ])
}

fn problems(node: &TestNode) -> Vec<String> {
    node.state.problems().iter().map(ToString::to_string).collect()
}

fn assert_has_frontend(node: &mut TestNode, expected: &Served) {
    assert_eq!(node.view().services.get(FRONTEND), Some(expected));
    node.assert_nothing_leaks();
    assert!(node.restart().is_empty(), "a new agent decides the same");
}

const NEW_LOSES: &str = "Service default/new: 10.0.0.1:80/TCP belongs to the older Service default/old";

#[test]
fn the_oldest_service_has_the_frontend() {
    let mut node = two_claimants();
    assert_has_frontend(&mut node, &old());
    assert_eq!(problems(&node), [NEW_LOSES]);
}

#[test]
fn an_older_service_that_comes_later_takes_the_frontend() {
    let mut node = TestNode::having([claimant("new", 2).into(), endpoints("new", "10.1.0.2").into()]);
    assert_has_frontend(&mut node, &new());
    assert_eq!(problems(&node), [""; 0]);
    node.apply([claimant("old", 1).into(), endpoints("old", "10.1.0.1").into()]);
    assert_has_frontend(&mut node, &old());
    assert_eq!(problems(&node), [NEW_LOSES]);
}

#[test]
fn the_loser_takes_over_when_the_winner_goes() {
    let mut node = two_claimants();
    let changes = node.apply([without_service("old")]);
    assert!(changes.v4.removed_services.is_empty(), "the frontend flips and is never absent");
    assert_has_frontend(&mut node, &new());
    assert_eq!(problems(&node), [""; 0]);
}

#[test]
fn the_loser_takes_over_when_the_winner_moves() {
    let mut node = two_claimants();
    node.apply([service("old", &["10.0.0.2"]).with_port("http", 80).created_at(1).into()]);
    assert_has_frontend(&mut node, &new());
    assert_eq!(node.view().services["10.0.0.2:80/TCP"], old());
}

#[test]
fn two_services_that_swap_their_frontends_in_one_update_never_lose_them() {
    let at = |name, address, created| service(name, &[address]).with_port("http", 80).created_at(created);
    let mut node = TestNode::having([at("old", "10.0.0.1", 1).into(), at("new", "10.0.0.2", 2).into()]);
    let changes = node.apply([at("old", "10.0.0.2", 1).into(), at("new", "10.0.0.1", 2).into()]);
    assert!(changes.v4.removed_services.is_empty());
    assert_eq!(node.view().services["10.0.0.1:80/TCP"], served("default/new:http/TCP", &[]));
    assert_eq!(node.view().services["10.0.0.2:80/TCP"], served("default/old:http/TCP", &[]));
}

#[test]
fn of_equally_old_services_the_name_decides() {
    let mut node = TestNode::having([claimant("b", 1).into(), claimant("a", 1).into(), claimant("c", 1).into()]);
    assert_has_frontend(&mut node, &served("default/a:http/TCP", &[]));
    let line = |loser| format!("Service default/{loser}: 10.0.0.1:80/TCP belongs to the older Service default/a");
    assert_eq!(problems(&node), [line("b"), line("c")]);
    node.apply([without_service("a")]);
    assert_has_frontend(&mut node, &served("default/b:http/TCP", &[]));
}

#[test]
fn a_service_that_is_made_anew_is_the_youngest() {
    let mut node = two_claimants();
    node.apply([without_service("old"), claimant("old", 3).into()]);
    assert_has_frontend(&mut node, &new());
    assert_eq!(problems(&node), ["Service default/old: 10.0.0.1:80/TCP belongs to the older Service default/new"]);
}

#[test]
fn a_loser_is_served_where_nobody_else_is() {
    let two_ports = claimant("new", 2).with_port("admin", 81);
    let mut node = TestNode::having([claimant("old", 1).into(), two_ports.into()]);
    let expected = [
        (FRONTEND.to_owned(), served("default/old:http/TCP", &[])),
        ("10.0.0.1:81/TCP".to_owned(), served("default/new:admin/TCP", &[])),
    ];
    assert_eq!(node.view().services, expected.into());
    node.apply([without_service("new")]);
    assert_has_frontend(&mut node, &served("default/old:http/TCP", &[]));
    assert_eq!(problems(&node), [""; 0]);
}

#[test]
fn a_loser_has_no_backends_until_it_takes_over() {
    let mut node = two_claimants();
    assert!(!node.view().backends.contains_key("default/new:http/TCP"));
    assert!(node.apply([endpoints("new", "10.1.0.3").into()]).is_empty());
    node.apply([without_service("old")]);
    assert_has_frontend(&mut node, &served("default/new:http/TCP", &["10.1.0.3:8080"]));
}

#[test]
fn an_external_address_can_be_another_services_cluster_ip() {
    let squatter = |created| service("squatter", &["10.0.0.7"]).with_port("http", 80).created_at(created);
    let squatter = |created| squatter(created).with_external_ips(&["10.0.0.1"]);
    let mut node =
        TestNode::having([claimant("old", 5).into(), squatter(6).into(), endpoints("old", "10.1.0.1").into()]);
    assert_has_frontend(&mut node, &old());
    let lost = "Service default/squatter: 10.0.0.1:80/TCP belongs to the older Service default/old";
    assert_eq!(problems(&node), [lost]);
    assert!(node.view().services.contains_key("10.0.0.7:80/TCP"), "the rest of the Service is served");

    node.apply([squatter(4).into()]);
    let external = Served { flags: ServiceFlags::EXTERNAL, ..served("default/squatter:http/TCP", &[]) };
    assert_has_frontend(&mut node, &external);
    let lost = "Service default/old: 10.0.0.1:80/TCP belongs to the older Service default/squatter";
    assert_eq!(problems(&node), [lost]);
    assert!(!node.view().backends.contains_key("default/old:http/TCP"), "nobody reaches the loser's endpoints");
}

#[test]
fn the_address_of_a_load_balancer_can_be_anothers_external_address() {
    let service = |name, address: &str, created| service(name, &[address]).with_port("http", 80).created_at(created);
    let balanced = service("balanced", "10.0.0.2", 1).balanced_at(&["192.0.2.1"]);
    let mut node = TestNode::having([
        balanced.clone().into(),
        service("external", "10.0.0.3", 2).with_external_ips(&["192.0.2.1"]).into(),
    ]);
    assert_eq!(node.view().services["192.0.2.1:80/TCP"].port, "default/balanced:http/TCP");
    let lost = "Service default/external: 192.0.2.1:80/TCP belongs to the older Service default/balanced";
    assert_eq!(problems(&node), [lost]);
    node.apply([balanced.balanced_at(&[]).into()]);
    assert_eq!(node.view().services["192.0.2.1:80/TCP"].port, "default/external:http/TCP");
    assert_eq!(problems(&node), [""; 0]);
}

#[test]
fn a_node_port_has_one_service_for_each_protocol() {
    let at = |name, address: &str, protocol, created| {
        let service = service(name, &[address]).with_protocol_port("", 53, protocol).at_node_port(30_053);
        service.of_type(ServiceType::NodePort).created_at(created)
    };
    let mut node = TestNode::having([
        at("new", "10.0.0.3", Protocol::Tcp, 2).into(),
        at("old", "10.0.0.2", Protocol::Tcp, 1).into(),
        at("datagrams", "10.0.0.4", Protocol::Udp, 3).into(),
    ]);
    assert_eq!(node.view().services["0.0.0.0:30053/TCP"].port, "default/old:/TCP");
    assert_eq!(node.view().services["0.0.0.0:30053/UDP"].port, "default/datagrams:/UDP");
    assert_eq!(problems(&node), ["Service default/new: nodePort 30053/TCP belongs to the older Service default/old"]);
    node.apply([without_service("old")]);
    assert_eq!(node.view().services["0.0.0.0:30053/TCP"].port, "default/new:/TCP");
    assert_eq!(problems(&node), [""; 0]);
}
