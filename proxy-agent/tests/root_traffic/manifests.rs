//! Manifests, written as a user writes them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

/// A dual-stack or single-stack Service with the port `main` over TCP and UDP.
pub fn service(name: &str, cluster_ips: &[IpAddr], port: u16, spec: &Value) -> Value {
    let families: Vec<&str> = cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "creationTimestamp": "2024-01-01T00:00:00Z" },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilies": families,
            "ports": [
                { "name": "main", "port": port, "protocol": "TCP" },
                { "name": "main-udp", "port": port, "protocol": "UDP" },
            ],
        },
    });
    let target = object["spec"].as_object_mut().expect("it was written above");
    target.extend(spec.as_object().cloned().unwrap_or_default());
    object
}

/// The endpoints of a Service in one family: address, target port and node of each.
pub fn slice(service: &str, endpoints: &[(SocketAddr, &str)]) -> Value {
    let Some(((first, _), _)) = endpoints.split_first() else { return Value::Null };
    let family = if first.is_ipv4() { "IPv4" } else { "IPv6" };
    let items: Vec<Value> = endpoints
        .iter()
        .map(
            |(address, node)| json!({ "addresses": [address.ip()], "conditions": { "ready": true }, "nodeName": node }),
        )
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": family,
        "endpoints": items,
        "ports": [
            { "name": "main", "port": first.port(), "protocol": "TCP" },
            { "name": "main-udp", "port": first.port(), "protocol": "UDP" },
        ],
    })
}
