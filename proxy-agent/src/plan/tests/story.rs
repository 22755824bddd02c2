//! From objects to tables: what a node holds after each step of a Service's life.

use super::support::{TestNode, served};
use crate::model::testing::{endpoint, name, service, slice};

#[test]
fn a_service_and_its_slice_become_a_frontend_with_backends() {
    let node = TestNode::having([
        service("web", &["10.0.0.1"]).with_port("http", 80).into(),
        slice("web-a", "web", &["10.1.0.2", "10.1.0.1"]).with_port("http", 8080).into(),
    ]);
    let view = node.view();
    let expected = served("default/web:http/TCP", &["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(view.services.into_iter().collect::<Vec<_>>(), [("10.0.0.1:80/TCP".into(), expected)]);
    node.assert_nothing_leaks();
}

#[test]
fn a_restart_with_the_same_objects_writes_nothing() {
    let mut node = TestNode::having([
        service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80).with_port("admin", 81).into(),
        slice("web-a", "web", &["10.1.0.2", "10.1.0.1"]).with_port("http", 8080).with_port("admin", 81).into(),
        slice("web-b", "web", &["fd01::1"]).with_port("http", 8080).into(),
    ]);
    let _ = (endpoint("10.0.0.1"), name("x"));
    assert!(node.restart().is_empty());
    node.assert_nothing_leaks();
}
