//! API objects for tests.

use serde_json::{Value, json};

/// A Service with one port.
pub(crate) fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

/// A slice of that Service's endpoints.
pub(crate) fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// A Node.
pub(crate) fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDRs": ["10.244.1.0/24"]}})
}
