//! Objects of the size that a node has to bear: 10,000 Services of two families with 100,000 endpoints, every tenth of them
//! a load balancer with a nodePort and source ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::{
    api::{
        core::v1::{self as core, ObjectReference},
        discovery::v1::{self as discovery, EndpointConditions},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// How many Services there are.
pub const SERVICES: u32 = 10_000;
/// How many endpoints each has.
pub const ENDPOINTS: u32 = 10;
/// The node, one of 500.
pub const NODE: &str = "node-17";

fn metadata(name: String) -> ObjectMeta {
    let namespace = Some("shop-production".into());
    ObjectMeta { namespace, name: Some(name), ..ObjectMeta::default() }
}

/// How many frontends a Service has.
pub fn frontends(number: u32) -> usize {
    if is_balanced(number) { 3 } else { 1 }
}

/// Every tenth Service is a load balancer. Both families have some.
fn is_balanced(number: u32) -> bool {
    number % 20 < 2
}

/// Every other Service is IPv6.
fn is_v6(number: u32) -> bool {
    number % 2 == 1
}

fn address(number: u32, net: u8) -> String {
    if is_v6(number) {
        IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(net) << 64 | u128::from(number))).to_string()
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::from(net) << 24 | number)).to_string()
    }
}

/// A Service.
pub fn service(number: u32) -> core::Service {
    let cluster_ip = address(number, 10);
    let node_port = is_balanced(number).then(|| 30_000 + i32::try_from(number / 5).expect("few Services"));
    let port = core::ServicePort { name: Some("http".into()), port: 80, node_port, ..core::ServicePort::default() };
    let bits = if is_v6(number) { 64 } else { 24 };
    let ranges = [12, 13].map(|net| format!("{}/{bits}", address(number << 8 | (number & 1), net))).to_vec();
    let ingress = core::LoadBalancerIngress { ip: Some(address(number, 11)), ..core::LoadBalancerIngress::default() };
    let load_balancer = core::LoadBalancerStatus { ingress: Some(vec![ingress]) };
    core::Service {
        metadata: metadata(format!("checkout-{number}")),
        spec: Some(core::ServiceSpec {
            type_: Some(if is_balanced(number) { "LoadBalancer" } else { "ClusterIP" }.into()),
            cluster_ip: Some(cluster_ip.clone()),
            cluster_ips: Some(vec![cluster_ip]),
            ports: Some(vec![port]),
            load_balancer_source_ranges: is_balanced(number).then_some(ranges),
            ..core::ServiceSpec::default()
        }),
        status: is_balanced(number)
            .then(|| core::ServiceStatus { load_balancer: Some(load_balancer), ..core::ServiceStatus::default() }),
    }
}

/// The slice of a Service; in each round another first endpoint.
pub fn slice(number: u32, round: u32) -> discovery::EndpointSlice {
    let mut metadata = metadata(format!("checkout-{number}-x7k2p"));
    metadata.labels = Some([("kubernetes.io/service-name".into(), format!("checkout-{number}"))].into());
    let endpoint = |endpoint: u32| {
        let host = if endpoint == 0 { round * 2 + SERVICES * ENDPOINTS * 2 } else { number * ENDPOINTS + endpoint };
        // The family follows from the number's parity.
        let host = (host << 1) | (number & 1);
        discovery::Endpoint {
            addresses: vec![address(host, 100)],
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            node_name: Some(format!("node-{}", host % 500)),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("shop-production".into()),
                name: Some(format!("checkout-{number}-5f7d8c9b64-{:05x}", host & 0xf_ffff)),
                ..ObjectReference::default()
            }),
            zone: Some("zone-a".into()),
            ..discovery::Endpoint::default()
        }
    };
    discovery::EndpointSlice {
        metadata,
        address_type: if is_v6(number) { "IPv6" } else { "IPv4" }.into(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        ports: Some(vec![discovery::EndpointPort {
            name: Some("http".into()),
            port: Some(8080),
            ..discovery::EndpointPort::default()
        }]),
    }
}
