//! Objects that no API server should let pass, beside one Service that is as it should be: whatever they say, that one is served,
//! and nothing leaks.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::support::{Served, TestNode, served};
use crate::model::{EndpointSlice, Node, Service, Update, testing::NODE};

/// What stands where an address, a prefix or a name belongs.
const TEXTS: [&str; 30] = [
    "",
    " ",
    "None",
    "10.0.0.1",
    "10.0.0.2",
    " 10.0.0.3",
    "010.0.0.4",
    "10.0.0.256",
    "10.0.0.1/24",
    "0.0.0.0",
    "127.0.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "ff02::1",
    "fd00::1",
    "2001:db8::/32",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "localhost",
    "İstanbul\u{0}\u{202e}",
    "a/b:c\nd",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "web",
];
const NUMBERS: [i64; 10] = [0, -1, 1, 80, 443, 65_535, 65_536, 2_147_483_647, -2_147_483_648, 30_080];
const PROTOCOLS: [&str; 6] = ["TCP", "UDP", "SCTP", "tcp", "ICMP", ""];
/// Beyond what any API server takes.
const LONG: usize = 150;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(&TEXTS[..]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => Just("x".repeat(4096)),
    ]
}

fn texts() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => vec(text(), 0..4).prop_map(|texts| json!(texts)),
        1 => Just(Value::Null),
        1 => text().prop_map(|text| json!(vec![text; LONG])),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    select(&NUMBERS[..])
}

/// One of the names that a slice may mean, often.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => select(vec!["one", "two"]).prop_map(str::to_owned), 1 => text()]
}

fn maybe(strategy: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![3 => strategy, 1 => Just(Value::Null)].boxed()
}

fn metadata() -> impl Strategy<Value = Value> {
    (name(), name(), maybe(text().prop_map(Value::from))).prop_map(|(name, service, label)| {
        json!({
            "namespace": "hostile", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "kubernetes.io/service-name": service,
                "service.kubernetes.io/service-proxy-name": label,
            },
        })
    })
}

fn ports() -> impl Strategy<Value = Value> {
    let port = (number(), number(), select(&PROTOCOLS[..]), text())
        .prop_map(|(port, node_port, protocol, name)| json!({"port": port, "nodePort": node_port, "protocol": protocol, "name": name}))
        .boxed();
    prop_oneof![
        4 => vec(port.clone(), 0..4).prop_map(Value::from),
        1 => port.prop_map(|port| json!(vec![port; LONG])),
    ]
}

fn service() -> impl Strategy<Value = Value> {
    let policy = || maybe(select(vec!["Local", "Cluster", "local", ""]).prop_map(Value::from));
    let kind = maybe(select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "?"]).prop_map(Value::from));
    let addresses = (texts(), texts(), texts(), texts());
    let numbers = (number(), number());
    (metadata(), ports(), kind, policy(), policy(), addresses, numbers, text()).prop_map(
        |(metadata, ports, kind, internal, external, (cluster, externals, ranges, ingress), (health, seconds), text)| {
            let first = cluster.get(0).cloned().unwrap_or_default();
            let ingress: Vec<Value> =
                ingress.as_array().into_iter().flatten().map(|ip| json!({"ip": ip, "ipMode": text})).collect();
            without_nulls(json!({
                "metadata": metadata,
                "spec": {
                    "type": kind, "clusterIP": first, "clusterIPs": cluster, "ports": ports, "externalIPs": externals,
                    "loadBalancerSourceRanges": ranges, "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                    "healthCheckNodePort": health, "sessionAffinity": "ClientIP", "ipFamilies": [text],
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
                },
                "status": {"loadBalancer": {"ingress": ingress}},
            }))
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let hints = maybe(
        (text(), text()).prop_map(|(zone, node)| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]})),
    );
    let condition = || maybe(any::<bool>().prop_map(Value::from));
    let endpoint = (texts(), hints, (condition(), condition(), condition()), name())
        .prop_map(|(addresses, hints, (ready, serving, terminating), node)| {
            json!({
                "addresses": addresses.as_array().cloned().unwrap_or_default(), "hints": hints, "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            })
        })
        .boxed();
    let endpoints = prop_oneof![
        4 => vec(endpoint.clone(), 0..4).prop_map(Value::from),
        1 => endpoint.prop_map(|endpoint| json!(vec![endpoint; LONG])),
    ];
    (metadata(), ports(), endpoints, select(vec!["IPv4", "IPv6", "FQDN", "ipv4", ""])).prop_map(
        |(metadata, ports, endpoints, kind)| {
            without_nulls(json!({"metadata": metadata, "ports": ports, "endpoints": endpoints, "addressType": kind}))
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    (texts(), texts(), text()).prop_map(|(prefixes, addresses, zone)| {
        let first = prefixes.get(0).cloned().unwrap_or_default();
        let addresses: Vec<Value> = addresses
            .as_array()
            .into_iter()
            .flatten()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        without_nulls(json!({
            "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": zone}},
            "spec": {"podCIDR": first, "podCIDRs": prefixes},
            "status": {"addresses": addresses},
        }))
    })
}

/// Fields that are not there, rather than there and null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        value => value,
    }
}

#[derive(Clone, Debug)]
enum Object {
    Service(Value),
    Slice(Value),
    Node(Value),
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        3 => service().prop_map(Object::Service),
        3 => slice().prop_map(Object::Slice),
        1 => node().prop_map(Object::Node),
    ]
}

/// The update, and how long it takes to tell what is wrong with it; `None` if not even its types are right.
fn update(object: &Object) -> Option<(Update, usize)> {
    fn told(problems: &[crate::model::Problem]) -> usize {
        problems.iter().map(|problem| problem.to_string().len()).sum()
    }
    Some(match object {
        Object::Service(object) => {
            let service: core::Service = serde_json::from_value(object.clone()).ok()?;
            let (change, problems) = Service::from_api(&service).into_change();
            (Update::Service(change), told(&problems))
        }
        Object::Slice(object) => {
            let slice: discovery::EndpointSlice = serde_json::from_value(object.clone()).ok()?;
            let (change, problems) = EndpointSlice::from_api(&slice).into_change();
            (Update::Slice(change), told(&problems))
        }
        Object::Node(object) => {
            let node: core::Node = serde_json::from_value(object.clone()).ok()?;
            let (change, problems) = Node::from_api(&node).into_change();
            (Update::Node(change), told(&problems))
        }
    })
}

fn good() -> [Object; 2] {
    [
        Object::Service(json!({
            "metadata": {"namespace": "default", "name": "good", "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        })),
        Object::Slice(json!({
            "metadata": {"namespace": "default", "name": "good-1", "labels": {"kubernetes.io/service-name": "good"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.1.0.1"]}],
        })),
    ]
}

fn assert_good_is_served(node: &TestNode) {
    let served_now: Served = node.view().services["10.0.0.1:80/TCP"].clone();
    assert_eq!(served_now, served("default/good:http/TCP", &["10.1.0.1:8080"]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn hostile_objects_cost_nobody_else_anything(objects in vec(object(), 1..8)) {
        let mut node = TestNode::having(good().iter().filter_map(update).map(|(update, _)| update));
        for object in &objects {
            let Some((update, told)) = update(object) else { continue };
            // What is said about an object is no more than the object, times a line for each part.
            let size = serde_json::to_string(match object {
                Object::Service(object) | Object::Slice(object) | Object::Node(object) => object,
            }).expect("it was JSON").len();
            prop_assert!(told <= 40 * size, "{told} bytes about {size}");
            node.apply([update]);
            node.assert_nothing_leaks();
            assert_good_is_served(&node);
        }
        // A new agent makes the same of them.
        prop_assert!(node.restart().is_empty());
    }
}
