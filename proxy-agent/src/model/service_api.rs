//! From the API's Service to [`Service`].

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{self as api, ServiceSpec};
use proxy_common::Port;

use super::{
    Affinity, CreationTime, Kind, LoadBalancerAddress, LoadBalancerIpMode, Parsed, Reason, Service, ServicePort,
    ServiceType, TrafficPolicy, address,
    parse::{Problems, SERVED_BY_ANOTHER, has_label, namespaced, table_name},
    problem::quoted,
};

/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` if it is not set.
const DEFAULT_AFFINITY_TIMEOUT: u32 = 10_800;
/// The greatest the API server admits: one day.
const LONGEST_AFFINITY_TIMEOUT: i32 = 86_400;

impl Service {
    /// Reads the API's object.
    ///
    /// Without an object and without a problem: a Service that nodes do not serve (type
    /// `ExternalName`, headless, or with a label that says so).
    #[must_use]
    pub fn from_api(service: &api::Service) -> Parsed<Self> {
        let api::Service { metadata, spec, status } = service;
        let mut problems = Problems::new(Kind::Service, namespaced(metadata));
        let Some(spec) = spec.as_ref().filter(|spec| is_served(spec)) else { return problems.finish(None) };
        if has_label(metadata, SERVED_BY_ANOTHER) {
            return problems.finish(None);
        }
        let name = namespaced(metadata);
        let named = if name.name().is_empty() { Err(Reason::Missing) } else { table_name(name.name()) };
        let named = problems.keep(named, || "metadata.name".into()).is_some();
        let namespaced = problems.keep(table_name(name.namespace()), || "metadata.namespace".into()).is_some();
        // What is said about a field begins with the name.
        if !named || !namespaced {
            return problems.finish(None);
        }
        let cluster_ips = cluster_ips(spec, &mut problems);
        if cluster_ips.is_empty() {
            return problems.finish(None);
        }
        let service_type = service_type(spec, &mut problems);
        let ports = ports(spec, &mut problems);
        let internal_traffic_policy =
            policy(spec.internal_traffic_policy.as_deref(), "spec.internalTrafficPolicy", &mut problems);
        let external_traffic_policy =
            policy(spec.external_traffic_policy.as_deref(), "spec.externalTrafficPolicy", &mut problems);
        let affinity = affinity(spec, &mut problems);
        let external_ips = external_ips(spec, &cluster_ips, &mut problems);
        let source_ranges = spec.load_balancer_source_ranges.iter().flatten().enumerate();
        let source_ranges = source_ranges
            .filter(|(_, range)| !range.trim().is_empty())
            .filter_map(|(index, range)| {
                problems.keep(address::prefix(range), || format!("spec.loadBalancerSourceRanges[{index}]"))
            })
            .collect();
        let health_check_node_port =
            optional_port(spec.health_check_node_port, || "spec.healthCheckNodePort".into(), &mut problems);
        let load_balancer_addresses = load_balancer_addresses(status.as_ref(), &cluster_ips, &mut problems);
        problems.finish(Some(Self {
            name,
            created: CreationTime::from_api(metadata.creation_timestamp.as_ref()),
            service_type,
            cluster_ips,
            ports,
            internal_traffic_policy,
            external_traffic_policy,
            affinity,
            external_ips,
            load_balancer_addresses,
            source_ranges,
            health_check_node_port,
        }))
    }
}

/// Neither `ExternalName` nor headless.
fn is_served(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName")
        && texts(spec).next().is_some_and(|(_, first)| !first.is_empty() && first != "None")
}

/// The clusterIPs as written, each with its field.
fn texts(spec: &ServiceSpec) -> impl Iterator<Item = (String, &str)> {
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_ref().filter(|_| several.is_empty());
    let single = single.map(|text| ("spec.clusterIP".to_owned(), text.as_str()));
    let several = several.iter().enumerate().map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text.as_str()));
    single.into_iter().chain(several)
}

fn cluster_ips(spec: &ServiceSpec, problems: &mut Problems) -> Box<[IpAddr]> {
    if let (Some(single), Some(first)) = (&spec.cluster_ip, spec.cluster_ips.iter().flatten().next())
        && !single.is_empty()
        && single != first
    {
        problems.push("spec.clusterIP", Reason::Differs { value: quoted(single), other: "spec.clusterIPs[0]" });
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(2);
    for (field, text) in texts(spec) {
        let Some(address) = problems.keep(address::frontend_address(text), || field.clone()) else { continue };
        if serves(&addresses, address) {
            problems.push(field, Reason::SecondAddress(address));
        } else {
            addresses.push(address);
        }
    }
    addresses.into()
}

/// Whether a Service with these clusterIPs serves the family of `address`.
fn serves(cluster_ips: &[IpAddr], address: IpAddr) -> bool {
    cluster_ips.iter().any(|cluster_ip| cluster_ip.is_ipv4() == address.is_ipv4())
}

fn service_type(spec: &ServiceSpec, problems: &mut Problems) -> ServiceType {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some(other) => {
            let expected = "ClusterIP, NodePort, LoadBalancer or ExternalName";
            problems.push("spec.type", Reason::UnknownValue { value: quoted(other), expected });
            ServiceType::ClusterIp
        }
    }
}

fn ports(spec: &ServiceSpec, problems: &mut Problems) -> Box<[ServicePort]> {
    // The index in the API's list goes along, to name the port that a later one repeats.
    let mut kept: Vec<(usize, ServicePort)> = Vec::new();
    for (index, api) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let name = problems.keep(table_name(api.name.as_deref().unwrap_or_default()), || field("name"));
        let protocol = problems.keep(address::protocol(api.protocol.as_deref()), || field("protocol"));
        let port = problems.keep(address::port(api.port), || field("port"));
        let (Some(name), Some(protocol), Some(port)) = (name, protocol, port) else { continue };
        let mut node_port = optional_port(api.node_port, || field("nodePort"), problems);
        let earlier = |same: &dyn Fn(&ServicePort) -> bool| {
            kept.iter().find(|(_, other)| other.protocol == protocol && same(other)).map(|&(earlier, _)| earlier)
        };
        if let Some(earlier) = earlier(&|other| *other.name == *name) {
            problems.push(field("name"), Reason::Repeats(format!("spec.ports[{earlier}].name")));
            continue;
        }
        if let Some(earlier) = earlier(&|other| other.port == port) {
            problems.push(field("port"), Reason::Repeats(format!("spec.ports[{earlier}].port")));
            continue;
        }
        if node_port.is_some()
            && let Some(earlier) = earlier(&|other| other.node_port == node_port)
        {
            problems.push(field("nodePort"), Reason::Repeats(format!("spec.ports[{earlier}].nodePort")));
            node_port = None;
        }
        kept.push((index, ServicePort { name: name.into(), protocol, port, node_port }));
    }
    kept.into_iter().map(|(_, port)| port).collect()
}

/// A port that is optional: absent and 0 mean none.
fn optional_port(number: Option<i32>, field: impl FnOnce() -> String, problems: &mut Problems) -> Option<Port> {
    problems.keep(address::port(number.filter(|&number| number != 0)?), field)
}

fn policy(value: Option<&str>, field: &str, problems: &mut Problems) -> TrafficPolicy {
    match value {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            problems.push(field, Reason::UnknownValue { value: quoted(other), expected: "Cluster or Local" });
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &ServiceSpec, problems: &mut Problems) -> Affinity {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Affinity::None,
        Some("ClientIP") => Affinity::ClientIp { timeout: affinity_timeout(spec, problems) },
        Some(other) => {
            let reason = Reason::UnknownValue { value: quoted(other), expected: "None or ClientIP" };
            problems.push("spec.sessionAffinity", reason);
            Affinity::None
        }
    }
}

fn affinity_timeout(spec: &ServiceSpec, problems: &mut Problems) -> u32 {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(value) = config.and_then(|config| config.timeout_seconds) else { return DEFAULT_AFFINITY_TIMEOUT };
    match u32::try_from(value) {
        Ok(timeout) if (1..=LONGEST_AFFINITY_TIMEOUT).contains(&value) => timeout,
        _ => {
            let reason = Reason::OutOfBounds { value, least: 1, most: LONGEST_AFFINITY_TIMEOUT };
            problems.push("spec.sessionAffinityConfig.clientIP.timeoutSeconds", reason);
            DEFAULT_AFFINITY_TIMEOUT
        }
    }
}

fn external_ips(spec: &ServiceSpec, cluster_ips: &[IpAddr], problems: &mut Problems) -> Box<[IpAddr]> {
    let mut addresses = Vec::new();
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let parsed = address::frontend_address(text);
        let Some(address) = problems.keep(parsed, || format!("spec.externalIPs[{index}]")) else { continue };
        if serves(cluster_ips, address) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.into()
}

fn load_balancer_addresses(
    status: Option<&api::ServiceStatus>,
    cluster_ips: &[IpAddr],
    problems: &mut Problems,
) -> Box<[LoadBalancerAddress]> {
    let ingress =
        status.and_then(|status| status.load_balancer.as_ref()).and_then(|balancer| balancer.ingress.as_ref());
    let mut addresses: Vec<LoadBalancerAddress> = Vec::new();
    for (index, entry) in ingress.into_iter().flatten().enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{index}].{name}");
        // An entry with a host name only is for DNS, not for nodes.
        let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        let Some(address) = problems.keep(address::frontend_address(text), || field("ip")) else { continue };
        let mode = match entry.ip_mode.as_deref() {
            None | Some("" | "VIP") => LoadBalancerIpMode::Vip,
            Some("Proxy") => LoadBalancerIpMode::Proxy,
            Some(other) => {
                problems.push(field("ipMode"), Reason::UnknownValue { value: quoted(other), expected: "VIP or Proxy" });
                continue;
            }
        };
        if serves(cluster_ips, address) && addresses.iter().all(|other| other.address != address) {
            addresses.push(LoadBalancerAddress { address, mode });
        }
    }
    addresses.into()
}
