//! Builders of objects for tests. Everything is in namespace `default` unless a name has a slash.

use std::{net::IpAddr, sync::Arc};

use proxy_common::{Port, Protocol};

use super::{
    Affinity, Change, Conditions, CreationTime, Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily,
    LoadBalancerAddress, LoadBalancerIpMode, Node, NodeFacts, ObjectName, Service, ServicePort, ServiceType,
    TrafficPolicy, Update,
};

/// The node that tests run on.
pub(crate) const NODE: &str = "node-1";
/// Its zone.
pub(crate) const ZONE: &str = "zone-a";

/// A serving and terminating endpoint.
pub(crate) const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
/// An endpoint that is neither ready nor serving.
pub(crate) const NOT_READY: Conditions = Conditions { ready: false, serving: false, terminating: false };

pub(crate) fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ObjectName::new(namespace, name)
}

/// A `ClusterIP` Service with no ports.
pub(crate) fn service(name: &str, cluster_ips: &[&str]) -> Service {
    Service {
        name: self::name(name),
        created: CreationTime::from_seconds(1_000),
        service_type: ServiceType::ClusterIp,
        cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
        ports: Box::default(),
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        external_ips: Box::default(),
        load_balancer_addresses: Box::default(),
        source_ranges: Box::default(),
        health_check_node_port: None,
    }
}

impl Service {
    pub(crate) fn with_port(mut self, name: &str, port: u16) -> Self {
        self = self.with_protocol_port(name, port, Protocol::Tcp);
        self
    }

    pub(crate) fn with_protocol_port(mut self, name: &str, port: u16, protocol: Protocol) -> Self {
        let port = ServicePort { name: name.into(), protocol, port: Port::new(port), node_port: None };
        self.ports = self.ports.into_iter().chain([port]).collect();
        self
    }

    pub(crate) fn of_type(mut self, service_type: ServiceType) -> Self {
        self.service_type = service_type;
        self
    }

    /// The last port is at this port of each node.
    pub(crate) fn at_node_port(mut self, port: u16) -> Self {
        self.ports.last_mut().expect("the test wrote a port").node_port = Some(Port::new(port));
        self
    }

    pub(crate) fn with_external_ips(mut self, addresses: &[&str]) -> Self {
        self.external_ips = addresses.iter().map(|text| ip(text)).collect();
        self
    }

    /// A Service of type `LoadBalancer` with these addresses, which the load balancer leaves in packets.
    pub(crate) fn balanced_at(self, addresses: &[&str]) -> Self {
        let address = |text: &&str| LoadBalancerAddress { address: ip(text), mode: LoadBalancerIpMode::Vip };
        Self { load_balancer_addresses: addresses.iter().map(address).collect(), ..self }
            .of_type(ServiceType::LoadBalancer)
    }

    pub(crate) fn open_to(mut self, ranges: &[&str]) -> Self {
        self.source_ranges = ranges.iter().map(|text| text.parse().expect("the test wrote a prefix")).collect();
        self
    }

    pub(crate) fn created_at(mut self, seconds: i64) -> Self {
        self.created = CreationTime::from_seconds(seconds);
        self
    }
}

/// A slice of ready endpoints on an unknown node, of the family of the first one.
pub(crate) fn slice(name: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoints: Box<[Endpoint]> = addresses.iter().map(|address| endpoint(address)).collect();
    EndpointSlice {
        name: self::name(name),
        service: self::name(service),
        family: endpoints.first().map_or(IpFamily::V4, |endpoint| IpFamily::of(endpoint.address)),
        ports: Box::default(),
        endpoints,
        last_change_trigger: None,
    }
}

impl EndpointSlice {
    pub(crate) fn with_port(self, name: &str, port: u16) -> Self {
        self.with_protocol_port(name, port, Protocol::Tcp)
    }

    pub(crate) fn with_protocol_port(mut self, name: &str, port: u16, protocol: Protocol) -> Self {
        let port = EndpointPort { name: name.into(), protocol, port: Port::new(port) };
        self.ports = self.ports.into_iter().chain([port]).collect();
        self
    }

    /// The slice with another endpoint.
    pub(crate) fn with(mut self, endpoint: Endpoint) -> Self {
        self.family = IpFamily::of(endpoint.address);
        self.endpoints = self.endpoints.into_iter().chain([endpoint]).collect();
        self
    }
}

/// A ready endpoint on an unknown node.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint { address: ip(address), conditions: Conditions::READY, node: None, pod: None, hints: None }
}

impl Endpoint {
    pub(crate) fn on(mut self, node: &str) -> Self {
        self.node = Some(node.into());
        self
    }

    pub(crate) fn that_is(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }

    pub(crate) fn for_zones(mut self, zones: &[&str]) -> Self {
        self.hints = Some(Arc::new(hints(zones, &[])));
        self
    }
}

pub(crate) fn hints(zones: &[&str], nodes: &[&str]) -> Hints {
    let texts = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect();
    Hints { zones: texts(zones), nodes: texts(nodes) }
}

/// The node that tests run on.
pub(crate) fn node(zone: Option<&str>) -> Node {
    Node {
        name: ObjectName::new("", NODE),
        zone: zone.map(Box::from),
        pod_cidrs: Box::default(),
        addresses: Box::default(),
        leaving: false,
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("the test wrote an address")
}

/// Facts of a node with these addresses, and with routes to these destinations that give packets these
/// sources.
pub(crate) fn facts(addresses: &[&str], routes: &[(&str, Option<&str>)]) -> NodeFacts {
    NodeFacts {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        sources: routes.iter().map(|(to, source)| (ip(to), source.map(ip))).collect(),
    }
}

impl From<NodeFacts> for Update {
    fn from(facts: NodeFacts) -> Self {
        Self::Facts(facts)
    }
}

impl From<Service> for Update {
    fn from(service: Service) -> Self {
        Self::Service(Change::Apply(service))
    }
}

impl From<EndpointSlice> for Update {
    fn from(slice: EndpointSlice) -> Self {
        Self::Slice(Change::Apply(slice))
    }
}

impl From<Node> for Update {
    fn from(node: Node) -> Self {
        Self::Node(Change::Apply(node))
    }
}

pub(crate) fn without_service(name: &str) -> Update {
    Update::Service(Change::Delete(self::name(name)))
}

pub(crate) fn without_slice(name: &str) -> Update {
    Update::Slice(Change::Delete(self::name(name)))
}
