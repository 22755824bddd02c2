//! Objects as nobody would write them: nothing panics, and what is sound beside them is served.

use k8s_openapi::{
    api::{
        core::v1 as core,
        discovery::v1::{self as discovery, EndpointConditions, EndpointHints, ForNode, ForZone},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use proptest::{collection::vec, option, prelude::*};

use super::support::{TestNode, served};
use crate::model::{
    EndpointSlice, IpFamily, Node, Service, Update,
    testing::{NODE, service, slice},
};

/// Texts that are almost right, and texts that are not at all.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "10.0.0.1",
            "fd00::1",
            "0.0.0.0",
            "::",
            "None",
            "10.0.0.0/8",
            "::/0",
            "web",
            "http",
            "TCP",
            "UDP",
            "tcp",
            "Local",
            "Cluster",
            "ClientIP",
            "ExternalName",
            "LoadBalancer",
            "IPv4",
            "IPv6",
            "FQDN",
            NODE,
            "a/b",
            "a\0b",
            "255.255.255.255",
            "010.0.0.1",
            "1e9",
            "日本語",
            "🦀",
        ])
        .prop_map(String::from),
        any::<String>(),
        "[a-z]{60,70}",
        Just("x".repeat(100_000)),
    ]
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![any::<i32>(), 0..70_000, Just(80)]
}

fn metadata() -> impl Strategy<Value = ObjectMeta> {
    let label = prop_oneof![
        Just("kubernetes.io/service-name".to_owned()),
        Just("topology.kubernetes.io/zone".to_owned()),
        text()
    ];
    let labels = prop::collection::btree_map(label, text(), 0..4);
    let annotations = text().prop_map(|text| [("endpoints.kubernetes.io/last-change-trigger-time".to_owned(), text)]);
    (option::of(text()), option::of(text()), option::of(labels), option::of(annotations)).prop_map(
        |(namespace, name, labels, annotations)| ObjectMeta {
            namespace,
            name,
            labels,
            annotations: annotations.map(Into::into),
            ..ObjectMeta::default()
        },
    )
}

fn api_service() -> impl Strategy<Value = core::Service> {
    let port = (option::of(text()), number(), option::of(number()), option::of(text())).prop_map(
        |(name, port, node_port, protocol)| core::ServicePort {
            name,
            port,
            node_port,
            protocol,
            ..core::ServicePort::default()
        },
    );
    let texts = || option::of(vec(text(), 0..4));
    let policies = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    let spec = (option::of(text()), texts(), option::of(vec(port, 0..5)), policies, texts(), texts(), number());
    let spec = spec.prop_map(|(cluster_ip, cluster_ips, ports, policies, external_ips, ranges, number)| {
        let (type_, internal_traffic_policy, external_traffic_policy, session_affinity) = policies;
        let client_ip = Some(core::ClientIPConfig { timeout_seconds: Some(number) });
        core::ServiceSpec {
            cluster_ip,
            cluster_ips,
            ports,
            type_,
            internal_traffic_policy,
            external_traffic_policy,
            session_affinity,
            session_affinity_config: Some(core::SessionAffinityConfig { client_ip }),
            external_ips,
            load_balancer_source_ranges: ranges,
            health_check_node_port: Some(number),
            ..core::ServiceSpec::default()
        }
    });
    let ingress = (option::of(text()), option::of(text())).prop_map(|(ip, ip_mode)| core::LoadBalancerIngress {
        ip,
        ip_mode,
        ..core::LoadBalancerIngress::default()
    });
    let status = vec(ingress, 0..3).prop_map(|ingress| core::ServiceStatus {
        load_balancer: Some(core::LoadBalancerStatus { ingress: Some(ingress) }),
        ..core::ServiceStatus::default()
    });
    (metadata(), option::of(spec), option::of(status)).prop_map(|(metadata, spec, status)| core::Service {
        metadata,
        spec,
        status,
    })
}

fn api_slice() -> impl Strategy<Value = discovery::EndpointSlice> {
    let port = (option::of(text()), option::of(number()), option::of(text()))
        .prop_map(|(name, port, protocol)| discovery::EndpointPort { name, port, protocol, app_protocol: None });
    let flag = || option::of(any::<bool>());
    let conditions = (flag(), flag(), flag()).prop_map(|(ready, serving, terminating)| EndpointConditions {
        ready,
        serving,
        terminating,
    });
    let hints = (option::of(vec(text(), 0..3)), option::of(vec(text(), 0..3))).prop_map(|(nodes, zones)| {
        let for_nodes = nodes.map(|names| names.into_iter().map(|name| ForNode { name }).collect());
        let for_zones = zones.map(|names| names.into_iter().map(|name| ForZone { name }).collect());
        EndpointHints { for_nodes, for_zones }
    });
    let endpoint = (vec(text(), 0..3), option::of(conditions), option::of(text()), option::of(hints)).prop_map(
        |(addresses, conditions, node_name, hints)| discovery::Endpoint {
            addresses,
            conditions,
            node_name,
            hints,
            ..discovery::Endpoint::default()
        },
    );
    (metadata(), text(), vec(endpoint, 0..6), option::of(vec(port, 0..4))).prop_map(
        |(metadata, address_type, endpoints, ports)| discovery::EndpointSlice {
            metadata,
            address_type,
            endpoints,
            ports,
        },
    )
}

fn api_node() -> impl Strategy<Value = core::Node> {
    let address = (text(), text()).prop_map(|(address, type_)| core::NodeAddress { address, type_ });
    let spec =
        option::of(vec(text(), 0..3)).prop_map(|pod_cidrs| core::NodeSpec { pod_cidrs, ..core::NodeSpec::default() });
    (metadata(), spec, vec(address, 0..4)).prop_map(|(metadata, spec, addresses)| core::Node {
        metadata,
        spec: Some(spec),
        status: Some(core::NodeStatus { addresses: Some(addresses), ..core::NodeStatus::default() }),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_harms_nobody(
        services in vec(api_service(), 0..8),
        slices in vec(api_slice(), 0..8),
        nodes in vec(api_node(), 0..3),
    ) {
        let mut node = TestNode::having([
            service("sound", &["10.9.9.9"]).with_port("http", 80).created_at(0).into(),
            slice("sound-a", "sound", &["10.8.8.8"]).with_port("http", 8080).into(),
        ]);
        for parsed in services.iter().map(Service::from_api) {
            for problem in &parsed.problems {
                prop_assert!(problem.to_string().starts_with("Service "));
            }
            if let Some(service) = &parsed.object {
                prop_assert!(!service.cluster_ips.is_empty() && service.cluster_ips.len() <= 2);
                prop_assert!(service.ports.iter().all(|port| port.port.get() != 0));
            }
            node.apply([Update::Service(parsed.into_change().0)]);
        }
        for parsed in slices.iter().map(EndpointSlice::from_api) {
            if let Some(slice) = &parsed.object {
                let mut endpoints = slice.endpoints.iter();
                prop_assert!(endpoints.all(|endpoint| IpFamily::of(endpoint.address) == slice.family));
            }
            node.apply([Update::Slice(parsed.into_change().0)]);
        }
        for parsed in nodes.iter().map(Node::from_api) {
            node.apply([Update::Node(parsed.into_change().0)]);
        }
        let sound = served("default/sound:http/TCP", &["10.8.8.8:8080"]);
        prop_assert_eq!(node.view().services.remove("10.9.9.9:80/TCP"), Some(sound));
        node.assert_nothing_leaks();
        prop_assert!(node.restart().is_empty());
    }
}
