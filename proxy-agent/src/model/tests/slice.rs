//! Slices: what is read, what is skipped, what is reported.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::discovery::v1 as discovery;
use proxy_common::{Port, Protocol};
use serde_json::{Value, json};

use super::{api, lines, with};
use crate::model::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, IpFamily, Parsed,
    testing::{endpoint, hints, ip, name},
};

fn web_a() -> Value {
    json!({
        "metadata": {
            "namespace": "shop",
            "name": "web-a",
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": ["10.1.0.1"] }, { "addresses": ["10.1.0.2"] }],
    })
}

fn parse(json: Value) -> Parsed<EndpointSlice> {
    EndpointSlice::from_api(&api::<discovery::EndpointSlice>(json))
}

fn read(json: Value) -> EndpointSlice {
    let Parsed { name: _, object, problems } = parse(json);
    assert_eq!(lines(&problems), [""; 0]);
    object.expect("the slice is used")
}

fn read_with_problem(json: Value) -> (EndpointSlice, String) {
    let Parsed { name: _, object, problems } = parse(json);
    let [line] = lines(&problems).try_into().expect("one problem");
    (object.expect("the rest is used"), line)
}

#[test]
fn a_slice_with_everything() {
    let json = json!({
        "metadata": {
            "namespace": "shop",
            "name": "web-a",
            "labels": { "kubernetes.io/service-name": "web" },
            "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:00:01.5Z" },
        },
        "addressType": "IPv6",
        "ports": [
            { "name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c" },
            { "name": null, "port": 53, "protocol": "UDP" },
        ],
        "endpoints": [
            {
                "addresses": ["fd01::1", "fd01::2"],
                "conditions": { "ready": false, "serving": true, "terminating": true },
                "nodeName": "node-1",
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": "web-7d9f-x2" },
                "zone": "zone-a",
                "hints": { "forZones": [{ "name": "zone-a" }, { "name": "zone-b" }], "forNodes": [{ "name": "node-1" }] },
            },
            { "addresses": ["fd01::3"], "conditions": {}, "hints": {} },
        ],
    });
    let port = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port: Port::new(port) };
    let expected = EndpointSlice {
        name: name("shop/web-a"),
        service: name("shop/web"),
        family: IpFamily::V6,
        ports: [port("http", Protocol::Tcp, 8080), port("", Protocol::Udp, 53)].into(),
        endpoints: [
            Endpoint {
                address: ip("fd01::1"),
                conditions: Conditions { ready: false, serving: true, terminating: true },
                node: Some("node-1".into()),
                pod: Some("web-7d9f-x2".into()),
                hints: Some(Arc::new(hints(&["zone-a", "zone-b"], &["node-1"]))),
            },
            endpoint("fd01::3"),
        ]
        .into(),
        last_change_trigger: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
    };
    assert_eq!(read(json), expected);
}

#[test]
fn only_pods_of_the_same_namespace_have_names() {
    for (target, expected) in [
        (json!({ "kind": "Pod", "name": "web-1" }), Some("web-1")),
        (json!({ "kind": "Pod", "name": "web-1", "namespace": "blog" }), None),
        (json!({ "kind": "Node", "name": "node-1", "namespace": "shop" }), None),
        (json!({ "kind": "Pod" }), None),
        (json!(null), None),
    ] {
        let slice = read(with(web_a(), &[("/endpoints/0/targetRef", target.clone())]));
        assert_eq!(slice.endpoints[0].pod.as_deref(), expected, "{target}");
    }
}

#[test]
fn conditions_that_are_not_set_have_the_defaults_of_the_api() {
    let conditions = |ready, serving, terminating| Conditions { ready, serving, terminating };
    for (json, expected) in [
        (json!(null), conditions(true, true, false)),
        (json!({}), conditions(true, true, false)),
        (json!({ "ready": false }), conditions(false, true, false)),
        (json!({ "serving": false }), conditions(true, false, false)),
        (json!({ "terminating": true }), conditions(true, true, true)),
        (json!({ "ready": null, "serving": null, "terminating": null }), conditions(true, true, false)),
    ] {
        let slice = read(with(web_a(), &[("/endpoints/0/conditions", json.clone())]));
        assert_eq!(slice.endpoints[0].conditions, expected, "{json}");
    }
}

#[test]
fn endpoints_share_the_names_of_nodes_and_equal_hints() {
    let endpoint = |address: &str| json!({ "addresses": [address], "nodeName": "node-1", "hints": { "forZones": [{ "name": "zone-a" }] } });
    let json = with(web_a(), &[("/endpoints", json!([endpoint("10.1.0.1"), endpoint("10.1.0.2")]))]);
    let [one, other] = &*read(json).endpoints else { panic!("two endpoints") };
    let (Some(node), Some(other_node)) = (&one.node, &other.node) else { panic!("both have a node") };
    assert!(Arc::ptr_eq(node, other_node));
    let (Some(hints), Some(other_hints)) = (&one.hints, &other.hints) else { panic!("both have hints") };
    assert!(Arc::ptr_eq(hints, other_hints));
}

#[test]
fn slices_that_nodes_do_not_use_are_skipped_in_silence() {
    let label = |label: &str| with(web_a(), &[("/metadata/labels", json!({ label: "" }))]);
    let headless = json!({ "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "" });
    for (what, json) in [
        ("of no Service", with(web_a(), &[("/metadata/labels", json!({}))])),
        ("without labels", with(web_a(), &[("/metadata/labels", json!(null))])),
        ("of a Service without a name", label("kubernetes.io/service-name")),
        ("of a headless Service", with(web_a(), &[("/metadata/labels", headless)])),
        (
            "with host names",
            with(web_a(), &[("/addressType", json!("FQDN")), ("/endpoints/0/addresses", json!(["a.b"]))]),
        ),
    ] {
        let Parsed { name: parsed, object, problems } = parse(json);
        assert_eq!((parsed, object, problems), (name("shop/web-a"), None, Vec::new()), "{what}");
    }
}

#[test]
fn a_slice_may_have_the_longest_name_and_any_other_label() {
    let label = "service.kubernetes.io/service-proxy-name";
    let labels = json!({ "kubernetes.io/service-name": "web", label: "somebody" });
    let long = format!("{}-web-a", "imported.".repeat(27));
    assert_eq!(long.len(), 249);
    let slice = read(with(web_a(), &[("/metadata/name", json!(long)), ("/metadata/labels", labels)]));
    assert_eq!((slice.name, slice.service), (name(&format!("shop/{long}")), name("shop/web")));
}

#[test]
fn a_slice_of_unknown_family_or_without_a_name_is_reported_and_not_used() {
    for (parts, expected) in [
        (("/addressType", json!("IPX")), "shop/web-a: addressType: \"IPX\" is not IPv4, IPv6 or FQDN"),
        (("/addressType", json!("")), "shop/web-a: addressType: is missing"),
        (("/metadata/name", json!("")), "shop/: metadata.name: is missing"),
        (("/metadata/name", json!("a/b")), "shop/a/b: metadata.name: \"a/b\" holds a character that is not allowed"),
    ] {
        let Parsed { name: _, object, problems } = parse(with(web_a(), &[parts]));
        assert_eq!(object, None);
        assert_eq!(lines(&problems), [format!("EndpointSlice {expected}")]);
    }
}

#[test]
fn an_endpoint_that_cannot_be_used_leaves_the_others() {
    for (addresses, expected) in [
        (json!([]), "endpoints[0].addresses: is missing"),
        (json!(["10.1.0"]), "endpoints[0].addresses[0]: \"10.1.0\" is not an IP address"),
        (json!(["fd01::1"]), "endpoints[0].addresses[0]: fd01::1 is not an IPv4 address"),
        (json!(["0.0.0.0"]), "endpoints[0].addresses[0]: 0.0.0.0 is the unspecified address"),
        (json!(["224.0.0.1"]), "endpoints[0].addresses[0]: 224.0.0.1 is a multicast address"),
    ] {
        let (slice, problem) = read_with_problem(with(web_a(), &[("/endpoints/0/addresses", addresses)]));
        assert_eq!(*slice.endpoints, [endpoint("10.1.0.2")]);
        assert_eq!(problem, format!("EndpointSlice shop/web-a: {expected}"));
    }
}

#[test]
fn of_several_addresses_the_first_usable_one_is_used() {
    let (slice, problem) =
        read_with_problem(with(web_a(), &[("/endpoints/0/addresses", json!(["web", "10.1.0.7", "10.1.0.8"]))]));
    assert_eq!(*slice.endpoints, [endpoint("10.1.0.7"), endpoint("10.1.0.2")]);
    assert_eq!(problem, "EndpointSlice shop/web-a: endpoints[0].addresses[0]: \"web\" is not an IP address");
}

#[test]
fn a_v4_mapped_address_is_not_of_the_ipv6_family() {
    let json = with(
        web_a(),
        &[("/addressType", json!("IPv6")), ("/endpoints", json!([{ "addresses": ["::ffff:10.1.0.1"] }]))],
    );
    let (slice, problem) = read_with_problem(json);
    assert_eq!(*slice.endpoints, []);
    assert_eq!(problem, "EndpointSlice shop/web-a: endpoints[0].addresses[0]: 10.1.0.1 is not an IPv6 address");
}

#[test]
fn a_port_that_cannot_be_used_leaves_the_others() {
    for (port, expected) in [
        (json!({ "name": "b" }), "ports[1].port: is missing; all ports of an endpoint cannot be served"),
        (json!({ "name": "b", "port": 0 }), "ports[1].port: 0 is not between 1 and 65535"),
        (json!({ "name": "b", "port": 1, "protocol": "QUIC" }), "ports[1].protocol: \"QUIC\" is not TCP, UDP or SCTP"),
        (json!({ "name": "http", "port": 1 }), "ports[1].name: repeats ports[0].name"),
    ] {
        let ports = json!([
            { "name": "http", "port": 8080 }, port, { "name": "http", "port": 8080, "protocol": "UDP" },
        ]);
        let (slice, problem) = read_with_problem(with(web_a(), &[("/ports", ports)]));
        let protocols: Vec<Protocol> = slice.ports.iter().map(|port| port.protocol).collect();
        assert_eq!(protocols, [Protocol::Tcp, Protocol::Udp]);
        assert_eq!(problem, format!("EndpointSlice shop/web-a: {expected}"));
    }
}

#[test]
fn a_slice_without_ports_or_endpoints_is_one() {
    let slice = read(with(web_a(), &[("/ports", json!(null)), ("/endpoints", json!([]))]));
    assert_eq!((slice.ports.len(), slice.endpoints.len()), (0, 0));
}

#[test]
fn a_time_that_cannot_be_read_is_left_out() {
    let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
    for time in ["yesterday", "1969-12-31T23:59:59Z"] {
        let (slice, problem) =
            read_with_problem(with(web_a(), &[("/metadata/annotations", json!({ annotation: time }))]));
        assert_eq!(slice.last_change_trigger, None);
        assert_eq!(
            problem,
            format!(
                "EndpointSlice shop/web-a: metadata.annotations[{annotation}]: {time:?} is not a time such as 2006-01-02T15:04:05Z"
            )
        );
    }
}
