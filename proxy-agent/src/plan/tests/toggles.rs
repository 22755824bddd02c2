//! API objects that start and stop to be for nodes, field by field as the API server sends them.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_common::ServiceFlags;
use serde_json::{Value, json};

use super::support::{Served, TestNode, served};
use crate::model::{EndpointSlice, Service, Update, testing::NODE};

const HTTP: &str = "default/web:http/TCP";

/// A Service of type `LoadBalancer` with everything set, as an API server would send it.
fn web() -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30080}],
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 32000,
            "sessionAffinity": "None", "externalIPs": ["198.51.100.1"],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}},
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("the test wrote a pointer");
    object.pointer_mut(parent).expect("the test names what is there")[field] = value;
    object
}

fn service(object: Value) -> Update {
    let service: core::Service = serde_json::from_value(object).expect("a Service");
    let (change, problems) = Service::from_api(&service).into_change();
    assert_eq!(problems, []);
    Update::Service(change)
}

fn slice(object: Value) -> Update {
    let slice: discovery::EndpointSlice = serde_json::from_value(object).expect("a slice");
    let (change, problems) = EndpointSlice::from_api(&slice).into_change();
    assert_eq!(problems, []);
    Update::Slice(change)
}

/// One pod here, one elsewhere, in these conditions.
fn pods(here: &Value, elsewhere: &Value) -> Value {
    json!({
        "metadata": {
            "namespace": "default", "name": "web-x7k2p", "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": NODE, "conditions": here},
            {"addresses": ["10.1.0.2"], "nodeName": "node-2", "conditions": elsewhere},
        ],
    })
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

fn node_with(object: Value) -> TestNode {
    TestNode::having([service(object), slice(pods(&ready(), &ready()))])
}

fn frontends(node: &TestNode) -> Vec<String> {
    node.assert_nothing_leaks();
    node.view().services.into_keys().collect()
}

const ALL: [&str; 4] = ["0.0.0.0:30080/TCP", "10.0.0.1:80/TCP", "192.0.2.1:80/TCP", "198.51.100.1:80/TCP"];

#[test]
fn everything_in_one_object() {
    let node = node_with(web());
    let both = served(HTTP, &["10.1.0.1:8080*", "10.1.0.2:8080"]);
    let with_flags = |flags| Served { flags, local: vec!["10.1.0.1:8080*".into()], ..both.clone() };
    let external = ServiceFlags::EXTERNAL.with(ServiceFlags::LOCAL);
    let expected = [
        ("10.0.0.1:80/TCP".to_owned(), with_flags(ServiceFlags::NONE)),
        ("198.51.100.1:80/TCP".to_owned(), with_flags(external)),
        ("192.0.2.1:80/TCP".to_owned(), with_flags(external)),
        ("0.0.0.0:30080/TCP".to_owned(), with_flags(external.with(ServiceFlags::NODE_PORT))),
    ];
    assert_eq!(node.view().services, expected.into());
}

#[test]
fn what_makes_a_service_somebody_elses_removes_it_and_what_makes_it_ours_brings_it_back() {
    let external_name = json!({
        "metadata": web()["metadata"],
        "spec": {"type": "ExternalName", "externalName": "example.org", "sessionAffinity": "None"},
    });
    let headless = with(with(web(), "/spec/clusterIP", "None".into()), "/spec/clusterIPs", json!(["None"]));
    let empty = with(with(web(), "/spec/clusterIP", "".into()), "/spec/clusterIPs", json!([]));
    let labels = json!({"service.kubernetes.io/service-proxy-name": "another"});
    let of_another_proxy = with(web(), "/metadata/labels", labels);
    // The value of the label does not matter.
    let of_nobody = with(web(), "/metadata/labels", json!({"service.kubernetes.io/service-proxy-name": ""}));
    for object in [external_name, headless, empty, of_another_proxy, of_nobody] {
        let mut node = node_with(web());
        node.apply([service(object.clone())]);
        assert_eq!(node.snapshot(), TestNode::new().snapshot(), "{object}");
        node.apply([service(web())]);
        assert_eq!(frontends(&node), ALL, "{object}");
    }
}

#[test]
fn a_label_that_says_so_keeps_slices_from_nodes() {
    let mut node = node_with(web());
    let labels = |label: &str| json!({label: "", "kubernetes.io/service-name": "web"});
    let labelled = |label| slice(with(pods(&ready(), &ready()), "/metadata/labels", labels(label)));
    node.apply([labelled("service.kubernetes.io/headless")]);
    assert_eq!(node.view().services["10.0.0.1:80/TCP"].cluster, [""; 0]);
    // The other label is the Service's affair; its controller copies it to slices a moment later.
    node.apply([labelled("service.kubernetes.io/service-proxy-name")]);
    assert_eq!(node.view().services["10.0.0.1:80/TCP"].cluster.len(), 2);
    node.apply([slice(with(pods(&ready(), &ready()), "/metadata/labels", json!({})))]);
    assert_eq!(node.view().services["10.0.0.1:80/TCP"].cluster, [""; 0], "of no Service");
}

#[test]
fn a_slice_of_names_is_not_for_nodes() {
    let mut node = node_with(web());
    let mut names = with(pods(&ready(), &ready()), "/addressType", "FQDN".into());
    names["endpoints"][0]["addresses"][0] = "a.example.org".into();
    node.apply([slice(names)]);
    assert_eq!(node.view().services["10.0.0.1:80/TCP"].cluster, [""; 0]);
}

#[test]
fn without_node_ports_the_rest_is_served() {
    let without = with(web(), "/spec/allocateLoadBalancerNodePorts", false.into());
    let without = with(without, "/spec/ports/0/nodePort", 0.into());
    assert_eq!(frontends(&node_with(without)), ALL[1..]);
}

#[test]
fn the_load_balancers_status_comes_and_goes() {
    let mut node = node_with(with(web(), "/status", json!({"loadBalancer": {}})));
    let without: Vec<&str> = ALL.into_iter().filter(|frontend| *frontend != "192.0.2.1:80/TCP").collect();
    assert_eq!(frontends(&node), without);
    node.apply([service(web())]);
    assert_eq!(frontends(&node), ALL);
    for ingress in [json!({"ip": "192.0.2.1", "ipMode": "Proxy"}), json!({"hostname": "lb.example.org"})] {
        node.apply([service(with(web(), "/status/loadBalancer/ingress", json!([ingress])))]);
        assert_eq!(frontends(&node), without);
    }
    // An API server that knows no ipMode.
    node.apply([service(with(web(), "/status/loadBalancer/ingress", json!([{"ip": "192.0.2.1"}])))]);
    assert_eq!(frontends(&node), ALL);
}

#[test]
fn pods_that_are_not_ready_are_used_as_the_slice_says() {
    // With publishNotReadyAddresses the controller says that they are ready; there is no special case here.
    let mut node = node_with(with(web(), "/spec/publishNotReadyAddresses", true.into()));
    let lists = |node: &TestNode| {
        let Served { cluster, local, .. } = node.view().services["192.0.2.1:80/TCP"].clone();
        (cluster.len(), local.len())
    };
    let not_ready = json!({"ready": false, "serving": false, "terminating": false});
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    let gone = json!({"ready": false, "serving": false, "terminating": true});
    for (here, elsewhere, expected) in [
        (ready(), not_ready.clone(), (1, 1)),
        (not_ready.clone(), ready(), (1, 0)),
        (json!({}), json!(null), (2, 1)),
        (terminating.clone(), ready(), (1, 1)),
        (terminating.clone(), terminating, (2, 1)),
        (gone.clone(), gone, (0, 0)),
        (not_ready.clone(), not_ready, (0, 0)),
    ] {
        node.apply([slice(pods(&here, &elsewhere))]);
        assert_eq!(lists(&node), expected, "here {here}, elsewhere {elsewhere}");
    }
}

#[test]
fn hints_never_shorten_the_local_list() {
    let mut hinted = pods(&ready(), &ready());
    hinted["endpoints"][0]["hints"] = json!({"forNodes": [{"name": "node-2"}]});
    hinted["endpoints"][1]["hints"] = json!({"forNodes": [{"name": NODE}]});
    let mut node = node_with(web());
    node.apply([slice(hinted)]);
    let Served { cluster, local, .. } = node.view().services["192.0.2.1:80/TCP"].clone();
    assert_eq!((cluster, local), (vec!["10.1.0.2:8080".to_owned()], vec!["10.1.0.1:8080*".to_owned()]));
}
