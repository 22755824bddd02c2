//! Services: what is read, what is skipped, what is reported.

use k8s_openapi::api::core::v1 as api_v1;
use proxy_common::{Port, Protocol};
use serde_json::{Value, json};

use super::{api, lines, with};
use crate::model::{
    Affinity, CreationTime, LoadBalancerAddress, LoadBalancerIpMode, Parsed, Service, ServicePort, ServiceType,
    TrafficPolicy,
    testing::{ip, name},
};

fn web() -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": "web", "creationTimestamp": "2024-05-01T10:00:00Z" },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1"],
            "ports": [{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }],
        },
    })
}

fn parse(json: Value) -> Parsed<Service> {
    Service::from_api(&api::<api_v1::Service>(json))
}

/// The Service that is read, which has no problems.
fn read(json: Value) -> Service {
    let Parsed { name: _, object, problems } = parse(json);
    assert_eq!(lines(&problems), [""; 0]);
    object.expect("the Service is served")
}

/// The Service that is read in spite of one problem, and that.
fn read_with_problem(json: Value) -> (Service, String) {
    let Parsed { name: _, object, problems } = parse(json);
    let [line] = lines(&problems).try_into().expect("one problem");
    (object.expect("the rest is served"), line)
}

#[test]
fn a_service_with_everything() {
    let json = json!({
        "metadata": { "namespace": "shop", "name": "web", "creationTimestamp": "1970-01-01T00:16:40Z" },
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                { "name": "http", "port": 80, "nodePort": 30080 },
                { "name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053, "appProtocol": "dns" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
                { "name": "signal", "port": 2905, "protocol": "SCTP", "nodePort": 0 },
            ],
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
            "externalIPs": ["192.0.2.1", "2001:db8::1", "192.0.2.1"],
            "loadBalancerSourceRanges": ["203.0.113.7/24", " 2001:db8::/32"],
        },
        "status": { "loadBalancer": { "ingress": [
            { "ip": "198.51.100.1" },
            { "hostname": "lb.example" },
            { "ip": "198.51.100.2", "ipMode": "Proxy" },
            { "ip": "2001:db8::2", "ipMode": "VIP" },
        ] } },
    });
    let port = |name: &str, protocol, port, node_port: Option<u16>| ServicePort {
        name: name.into(),
        protocol,
        port: Port::new(port),
        node_port: node_port.map(Port::new),
    };
    let address = |text, mode| LoadBalancerAddress { address: ip(text), mode };
    let expected = Service {
        name: name("shop/web"),
        created: CreationTime::from_seconds(1_000),
        service_type: ServiceType::LoadBalancer,
        cluster_ips: [ip("10.0.0.1"), ip("fd00::1")].into(),
        ports: [
            port("http", Protocol::Tcp, 80, Some(30_080)),
            port("dns", Protocol::Udp, 53, Some(30_053)),
            port("dns-tcp", Protocol::Tcp, 53, None),
            port("signal", Protocol::Sctp, 2905, None),
        ]
        .into(),
        internal_traffic_policy: TrafficPolicy::Local,
        external_traffic_policy: TrafficPolicy::Local,
        affinity: Affinity::ClientIp { timeout: 60 },
        external_ips: [ip("192.0.2.1"), ip("2001:db8::1")].into(),
        load_balancer_addresses: [
            address("198.51.100.1", LoadBalancerIpMode::Vip),
            address("198.51.100.2", LoadBalancerIpMode::Proxy),
            address("2001:db8::2", LoadBalancerIpMode::Vip),
        ]
        .into(),
        source_ranges: ["203.0.113.0/24", "2001:db8::/32"].map(|text| text.parse().expect("a prefix")).into(),
        health_check_node_port: Some(Port::new(31_000)),
    };
    assert_eq!(read(json), expected);
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_api() {
    let json = json!({
        "metadata": { "name": "web" },
        "spec": { "clusterIP": "10.0.0.1", "ports": [{ "port": 80 }], "sessionAffinity": "ClientIP" },
    });
    let service = read(json);
    assert_eq!(service.name, name("default/web"));
    assert_eq!(service.created, CreationTime::UNKNOWN);
    assert_eq!(service.service_type, ServiceType::ClusterIp);
    assert_eq!(*service.cluster_ips, [ip("10.0.0.1")]);
    let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: Port::new(80), node_port: None };
    assert_eq!(*service.ports, [port]);
    assert_eq!(service.internal_traffic_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_traffic_policy, TrafficPolicy::Cluster);
    assert_eq!(service.affinity, Affinity::ClientIp { timeout: 10_800 });
}

#[test]
fn services_that_nodes_do_not_serve_are_skipped_in_silence() {
    for (what, parts) in [
        ("ExternalName", vec![("/spec/type", json!("ExternalName"))]),
        ("headless", vec![("/spec/clusterIP", json!("None")), ("/spec/clusterIPs", json!(["None"]))]),
        ("headless, old client", vec![("/spec/clusterIP", json!("None")), ("/spec/clusterIPs", json!(null))]),
        ("no clusterIP yet", vec![("/spec/clusterIP", json!("")), ("/spec/clusterIPs", json!([]))]),
        ("no clusterIP at all", vec![("/spec/clusterIP", json!(null)), ("/spec/clusterIPs", json!(null))]),
        ("another proxy's", vec![("/metadata/labels", json!({ "service.kubernetes.io/service-proxy-name": "other" }))]),
        ("nobody's", vec![("/metadata/labels", json!({ "service.kubernetes.io/service-proxy-name": "" }))]),
        ("no spec", vec![("/spec", json!(null))]),
    ] {
        let Parsed { name: parsed, object, problems } = parse(with(web(), &parts));
        assert_eq!((parsed, object, problems), (name("shop/web"), None, Vec::new()), "{what}");
    }
}

#[test]
fn the_label_of_headless_slices_means_nothing_on_a_service() {
    let labels = json!({ "service.kubernetes.io/headless": "" });
    let Parsed { object, problems, .. } = parse(with(web(), &[("/metadata/labels", labels)]));
    assert!(object.is_some() && problems.is_empty(), "{problems:?}");
}

#[test]
fn an_external_name_with_broken_fields_is_skipped_in_silence() {
    let json = with(web(), &[("/spec/type", json!("ExternalName")), ("/spec/ports/0/port", json!(0))]);
    assert_eq!(parse(json).problems, []);
}

#[test]
fn a_service_without_a_usable_address_or_name_is_reported_and_not_served() {
    for (parts, expected) in [
        (
            vec![("/spec/clusterIPs", json!(["10.0.0"]))],
            vec![
                "Service shop/web: spec.clusterIP: \"10.0.0.1\" differs from spec.clusterIPs[0], which is used",
                "Service shop/web: spec.clusterIPs[0]: \"10.0.0\" is not an IP address",
            ],
        ),
        (
            vec![("/spec/clusterIP", json!("0.0.0.0")), ("/spec/clusterIPs", json!(null))],
            vec!["Service shop/web: spec.clusterIP: 0.0.0.0 is the unspecified address"],
        ),
        (vec![("/metadata/name", json!(null))], vec!["Service shop/: metadata.name: is missing"]),
        (
            vec![("/metadata/name", json!("we\0b"))],
            vec!["Service shop/we\0b: metadata.name: \"we\\0b\" holds a character that is not allowed"],
        ),
    ] {
        let Parsed { name: _, object, problems } = parse(with(web(), &parts));
        assert_eq!(object, None);
        assert_eq!(lines(&problems), expected);
    }
    let long = "w".repeat(65);
    let Parsed { name: _, object, problems } = parse(with(web(), &[("/metadata/namespace", json!(long))]));
    assert_eq!(object, None);
    assert_eq!(lines(&problems), [format!("Service {long}/web: metadata.namespace: has more than 64 bytes")]);
}

#[test]
fn a_bad_address_of_one_family_leaves_the_other() {
    let (service, problem) = read_with_problem(with(web(), &[("/spec/clusterIPs", json!(["10.0.0.1", "fd00:::1"]))]));
    assert_eq!(*service.cluster_ips, [ip("10.0.0.1")]);
    assert_eq!(problem, "Service shop/web: spec.clusterIPs[1]: \"fd00:::1\" is not an IP address");
}

#[test]
fn a_second_address_of_a_family_is_left_out() {
    let (service, problem) = read_with_problem(with(web(), &[("/spec/clusterIPs", json!(["10.0.0.1", "10.0.0.2"]))]));
    assert_eq!(*service.cluster_ips, [ip("10.0.0.1")]);
    assert_eq!(problem, "Service shop/web: spec.clusterIPs[1]: 10.0.0.2 is a second address of its family");
}

#[test]
fn a_port_that_cannot_be_used_leaves_the_others() {
    let long = "p".repeat(65);
    for (port, expected) in [
        (json!({ "name": "b", "port": 0 }), "spec.ports[1].port: 0 is not between 1 and 65535"),
        (json!({ "name": "b", "port": 65536 }), "spec.ports[1].port: 65536 is not between 1 and 65535"),
        (json!({ "name": "b", "port": -80 }), "spec.ports[1].port: -80 is not between 1 and 65535"),
        (
            json!({ "name": "b", "port": 81, "protocol": "ICMP" }),
            "spec.ports[1].protocol: \"ICMP\" is not TCP, UDP or SCTP",
        ),
        (json!({ "name": "http", "port": 81 }), "spec.ports[1].name: repeats spec.ports[0].name"),
        (json!({ "name": "b", "port": 80 }), "spec.ports[1].port: repeats spec.ports[0].port"),
        (json!({ "name": long, "port": 81 }), "spec.ports[1].name: has more than 64 bytes"),
    ] {
        let ports = json!([{ "name": "http", "port": 80 }, port, { "name": "dns", "port": 80, "protocol": "UDP" }]);
        let (service, problem) = read_with_problem(with(web(), &[("/spec/ports", ports)]));
        let names: Vec<&str> = service.ports.iter().map(|port| &*port.name).collect();
        assert_eq!(names, ["http", "dns"], "{expected}");
        assert_eq!(problem, format!("Service shop/web: {expected}"));
    }
}

#[test]
fn a_port_that_cannot_be_used_does_not_stand_in_the_way_of_a_later_one() {
    let ports = json!([{ "name": "http", "port": 0 }, { "name": "http", "port": 80 }]);
    let (service, problem) = read_with_problem(with(web(), &[("/spec/ports", ports)]));
    assert_eq!(service.ports[0].port, Port::new(80));
    assert_eq!(problem, "Service shop/web: spec.ports[0].port: 0 is not between 1 and 65535");
}

#[test]
fn a_bad_node_port_leaves_the_port() {
    for (node_port, expected) in [
        (70_000, "spec.ports[1].nodePort: 70000 is not between 1 and 65535"),
        (30_080, "spec.ports[1].nodePort: repeats spec.ports[0].nodePort"),
    ] {
        let ports = json!([
            { "name": "http", "port": 80, "nodePort": 30080 },
            { "name": "admin", "port": 81, "nodePort": node_port },
            { "name": "dns", "port": 80, "protocol": "UDP", "nodePort": 30080 },
        ]);
        let (service, problem) = read_with_problem(with(web(), &[("/spec/ports", ports)]));
        let node_ports: Vec<Option<u16>> = service.ports.iter().map(|port| port.node_port.map(Port::get)).collect();
        assert_eq!(node_ports, [Some(30_080), None, Some(30_080)]);
        assert_eq!(problem, format!("Service shop/web: {expected}"));
    }
}

#[test]
fn an_unknown_value_counts_as_the_default() {
    for (path, field, expected) in [
        ("/spec/type", "spec.type", "ClusterIP, NodePort, LoadBalancer or ExternalName"),
        ("/spec/internalTrafficPolicy", "spec.internalTrafficPolicy", "Cluster or Local"),
        ("/spec/externalTrafficPolicy", "spec.externalTrafficPolicy", "Cluster or Local"),
        ("/spec/sessionAffinity", "spec.sessionAffinity", "None or ClientIP"),
    ] {
        let (service, problem) = read_with_problem(with(web(), &[(path, json!("Elsewhere"))]));
        assert_eq!(service, read(web()));
        assert_eq!(problem, format!("Service shop/web: {field}: \"Elsewhere\" is not {expected}"));
    }
}

#[test]
fn an_affinity_timeout_out_of_bounds_counts_as_the_default() {
    for timeout in [0, -1, 86_401] {
        let json = with(
            web(),
            &[
                ("/spec/sessionAffinity", json!("ClientIP")),
                ("/spec/sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": timeout } })),
            ],
        );
        let (service, problem) = read_with_problem(json);
        assert_eq!(service.affinity, Affinity::ClientIp { timeout: 10_800 });
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        assert_eq!(problem, format!("Service shop/web: {field}: {timeout} is not between 1 and 86400"));
    }
}

#[test]
fn bad_external_addresses_and_ranges_leave_the_others() {
    let json = with(
        web(),
        &[
            ("/spec/externalIPs", json!(["192.0.2.1", "127.0.0.1", "2001:db8::1"])),
            ("/spec/loadBalancerSourceRanges", json!(["10.0.0.0/8", "10.0.0.0", ""])),
            ("/spec/healthCheckNodePort", json!(-1)),
            (
                "/status",
                json!({ "loadBalancer": { "ingress": [
                    { "ip": "198.51.100.1" }, { "ip": "lb" }, { "ip": "198.51.100.2", "ipMode": "Magic" },
                ] } }),
            ),
        ],
    );
    let Parsed { name: _, object, problems } = parse(json);
    let service = object.expect("the rest is served");
    assert_eq!(*service.external_ips, [ip("192.0.2.1")], "an address of the other family is not for this Service");
    assert_eq!(service.source_ranges.len(), 1);
    let ingress: Vec<_> = service.load_balancer_addresses.iter().map(|entry| entry.address).collect();
    assert_eq!(ingress, [ip("198.51.100.1")]);
    assert_eq!(
        lines(&problems),
        [
            "Service shop/web: spec.externalIPs[1]: 127.0.0.1 is a loopback address",
            "Service shop/web: spec.loadBalancerSourceRanges[1]: \"10.0.0.0\" is not an address prefix such as 10.0.0.0/8",
            "Service shop/web: spec.healthCheckNodePort: -1 is not between 1 and 65535",
            "Service shop/web: status.loadBalancer.ingress[1].ip: \"lb\" is not an IP address",
            "Service shop/web: status.loadBalancer.ingress[2].ipMode: \"Magic\" is not VIP or Proxy",
        ]
    );
}
