//! Nodes: what is read and what is reported.

use k8s_openapi::api::core::v1 as api_v1;
use serde_json::{Value, json};

use super::{api, lines, with};
use crate::model::{Node, ObjectName, Parsed, testing::ip};

fn node_1() -> Value {
    json!({
        "metadata": { "name": "node-1", "labels": { "topology.kubernetes.io/zone": "zone-a" } },
        "spec": { "podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24", "fd01:1::/64"] },
        "status": { "addresses": [
            { "type": "Hostname", "address": "node-1" },
            { "type": "ExternalIP", "address": "198.51.100.1" },
            { "type": "InternalIP", "address": "192.0.2.1" },
            { "type": "InternalIP", "address": "2001:db8::1" },
        ] },
    })
}

fn parse(json: Value) -> Parsed<Node> {
    Node::from_api(&api::<api_v1::Node>(json))
}

fn expected() -> Node {
    Node {
        name: ObjectName::new("", "node-1"),
        zone: Some("zone-a".into()),
        pod_cidrs: ["10.1.1.0/24", "fd01:1::/64"].map(|text| text.parse().expect("a prefix")).into(),
        addresses: [ip("192.0.2.1"), ip("2001:db8::1"), ip("198.51.100.1")].into(),
        leaving: false,
    }
}

#[test]
fn a_node_with_everything() {
    let Parsed { name, object, problems } = parse(node_1());
    assert_eq!((name.to_string(), object, problems), ("node-1".into(), Some(expected()), Vec::new()));
}

#[test]
fn a_node_leaves_when_it_is_deleted_or_the_autoscaler_says_so() {
    let taint = |key: &str| json!([{ "key": key, "effect": "NoSchedule", "value": "1700000000" }]);
    for (path, value, leaving) in [
        ("/metadata/deletionTimestamp", json!("2024-05-01T10:00:00Z"), true),
        ("/spec/taints", taint("ToBeDeletedByClusterAutoscaler"), true),
        ("/spec/taints", taint("node.kubernetes.io/not-ready"), false),
    ] {
        let node = parse(with(node_1(), &[(path, value)])).object;
        assert_eq!(node, Some(Node { leaving, ..expected() }));
    }
}

#[test]
fn a_node_without_labels_spec_and_status_is_one() {
    let node = parse(json!({ "metadata": { "name": "node-1" } })).object.expect("a name is enough");
    assert_eq!((node.zone, node.pod_cidrs.len(), node.addresses.len()), (None, 0, 0));
}

#[test]
fn an_empty_zone_is_none() {
    let json = with(node_1(), &[("/metadata/labels", json!({ "topology.kubernetes.io/zone": "" }))]);
    assert_eq!(parse(json).object, Some(Node { zone: None, ..expected() }));
}

#[test]
fn the_single_pod_prefix_counts_if_there_is_no_list() {
    let json = with(node_1(), &[("/spec/podCIDRs", json!(null))]);
    let prefixes = parse(json).object.expect("a node").pod_cidrs;
    assert_eq!(*prefixes, ["10.1.1.0/24".parse().expect("a prefix")]);
}

#[test]
fn bad_prefixes_and_addresses_leave_the_others() {
    let json =
        with(node_1(), &[("/spec/podCIDRs/0", json!("10.1.1.0")), ("/status/addresses/2/address", json!("192.0.2"))]);
    let Parsed { name: _, object, problems } = parse(json);
    let node = object.expect("the rest is used");
    assert_eq!((node.pod_cidrs.len(), node.addresses.len()), (1, 2));
    assert_eq!(
        lines(&problems),
        [
            "Node node-1: spec.podCIDRs[0]: \"10.1.1.0\" is not an address prefix such as 10.0.0.0/8",
            "Node node-1: status.addresses[2].address: \"192.0.2\" is not an IP address",
        ]
    );
}

#[test]
fn a_node_without_a_name_is_reported_and_not_used() {
    let Parsed { name: _, object, problems } = parse(with(node_1(), &[("/metadata/name", json!(null))]));
    assert_eq!(object, None);
    assert_eq!(lines(&problems), ["Node : metadata.name: is missing"]);
}
