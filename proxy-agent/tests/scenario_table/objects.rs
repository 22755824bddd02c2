//! The Kubernetes objects of the rows, written down in a few words each.

use std::collections::BTreeMap;

use proxy_common::Protocol;
use serde_json::{Value, json};

use super::cast::{
    Family, NODE, NodeAddress, PROTOCOLS, Pod, ZONE, balancer_ip, cluster_ip, external_ip, node_port_of,
};

/// The port on which pods serve, unless a row says otherwise.
pub const TARGET: u16 = 8080;
/// Another one on which they serve.
pub const OTHER_TARGET: u16 = 8081;

/// All objects of a row, by kind and name.
pub type Objects = BTreeMap<(Kind, String), Value>;

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Service,
    Slice,
}

/// An object of a row.
#[derive(Clone, Debug)]
pub enum Object {
    Service(Service),
    Slice(Slice),
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        Self::Service(service)
    }
}

impl From<Slice> for Object {
    fn from(slice: Slice) -> Self {
        Self::Slice(slice)
    }
}

impl Object {
    /// Adds or replaces the object; a slice for each family.
    pub fn add(&self, row: u16, objects: &mut Objects) {
        match self {
            Self::Service(service) => {
                objects.insert((Kind::Service, service.name.into()), service.render(row));
            }
            Self::Slice(slice) => {
                for family in &slice.families {
                    objects.insert((Kind::Slice, slice.name_of(*family)), slice.render(row, *family));
                }
            }
        }
    }

    /// Removes the object.
    pub fn remove(&self, objects: &mut Objects) {
        match self {
            Self::Service(service) => drop(objects.remove(&(Kind::Service, service.name.into()))),
            Self::Slice(slice) => {
                for family in Family::ALL {
                    objects.remove(&(Kind::Slice, slice.name_of(family)));
                }
            }
        }
    }
}

/// The namespace of a row's objects.
pub fn namespace(row: u16) -> String {
    format!("row-{row}")
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// Whether a load balancer has nodePorts, `allocateLoadBalancerNodePorts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodePorts {
    Allocated,
    NotAllocated,
}

/// A Service. All addresses and nodePorts follow from its row and number.
#[derive(Clone, Debug)]
pub struct Service {
    name: &'static str,
    number: u8,
    kind: Type,
    node_ports: NodePorts,
    external_ips: Vec<u8>,
    balancers: Vec<(u8, Option<&'static str>)>,
    ports: Vec<Port>,
    families: Vec<Family>,
    patches: Vec<Value>,
}

/// A port of a Service or slice, for several protocols.
#[derive(Clone, Debug)]
pub struct Port {
    name: &'static str,
    number: u16,
    protocols: Vec<Protocol>,
}

/// A port, once for each protocol, with names that begin with `name`.
pub fn port(name: &'static str, number: u16) -> Port {
    Port { name, number, protocols: PROTOCOLS.to_vec() }
}

impl Port {
    /// The same for one protocol.
    pub fn only(mut self, protocol: Protocol) -> Self {
        self.protocols = vec![protocol];
        self
    }

    fn each(&self) -> impl Iterator<Item = (String, u16, &'static str)> {
        let name = |protocol: Protocol| format!("{}-{}", self.name, protocol.name().to_lowercase());
        self.protocols.iter().map(move |&protocol| (name(protocol), self.number, protocol.name()))
    }
}

/// The row's first Service: `web`, a dual-stack clusterIP with port 80.
pub fn web() -> Service {
    service("web", 0)
}

/// The row's second Service.
pub fn other() -> Service {
    service("other", 1)
}

/// A Service of a row.
pub fn service(name: &'static str, number: u8) -> Service {
    Service {
        name,
        number,
        kind: Type::ClusterIp,
        node_ports: NodePorts::Allocated,
        external_ips: vec![],
        balancers: vec![],
        ports: vec![port("main", 80)],
        families: Family::ALL.to_vec(),
        patches: vec![],
    }
}

impl Service {
    /// Of type `NodePort`.
    pub fn node_port(mut self) -> Self {
        self.kind = Type::NodePort;
        self
    }

    /// Of type `LoadBalancer`, with the Service's own balancer address.
    pub fn balancer(mut self) -> Self {
        self.kind = Type::LoadBalancer;
        self.balancers.push((self.number, None));
        self
    }

    /// Of type `LoadBalancer`, with the balancer address of another Service of the row and this `ipMode`.
    pub fn balancer_of(mut self, number: u8, ip_mode: &'static str) -> Self {
        self.kind = Type::LoadBalancer;
        self.balancers.push((number, Some(ip_mode)));
        self
    }

    /// `allocateLoadBalancerNodePorts: false`.
    pub fn without_node_ports(mut self) -> Self {
        self.node_ports = NodePorts::NotAllocated;
        self
    }

    /// With an external IP of its own.
    pub fn external_ip(self) -> Self {
        let number = self.number;
        self.external_ip_of(number)
    }

    /// With the external IP that is set apart for another Service of the row.
    pub fn external_ip_of(mut self, number: u8) -> Self {
        self.external_ips.push(number);
        self
    }

    /// With these ports instead of port 80.
    pub fn ports(mut self, ports: impl Into<Vec<Port>>) -> Self {
        self.ports = ports.into();
        self
    }

    /// For one family only.
    pub fn single_stack(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// `internalTrafficPolicy: Local`.
    pub fn internal_local(self) -> Self {
        self.spec(json!({ "internalTrafficPolicy": "Local" }))
    }

    /// `externalTrafficPolicy: Local`.
    pub fn external_local(self) -> Self {
        self.spec(json!({ "externalTrafficPolicy": "Local" }))
    }

    /// `sessionAffinity: ClientIP` with the default timeout.
    pub fn affinity(self) -> Self {
        self.spec(json!({ "sessionAffinity": "ClientIP" }))
    }

    /// The same with this timeout in seconds.
    pub fn affinity_for(self, seconds: u32) -> Self {
        let config = json!({ "clientIP": { "timeoutSeconds": seconds } });
        self.affinity().spec(json!({ "sessionAffinityConfig": config }))
    }

    /// `loadBalancerSourceRanges`.
    pub fn ranges(self, ranges: &[&str]) -> Self {
        self.spec(json!({ "loadBalancerSourceRanges": ranges }))
    }

    /// Older or younger than the others, which are from 2024.
    pub fn created(self, year: u16) -> Self {
        self.patch(json!({ "metadata": { "creationTimestamp": format!("{year}-01-01T00:00:00Z") } }))
    }

    /// With this merged into `spec`.
    pub fn spec(self, spec: Value) -> Self {
        self.patch(json!({ "spec": spec }))
    }

    /// With this label.
    pub fn label(self, name: &str, value: &str) -> Self {
        self.patch(json!({ "metadata": { "labels": { name: value } } }))
    }

    /// With this merged into the object (RFC 7386).
    pub fn patch(mut self, patch: Value) -> Self {
        self.patches.push(patch);
        self
    }

    fn render(&self, row: u16) -> Value {
        let cluster_ips: Vec<_> =
            self.families.iter().map(|&family| cluster_ip(row, self.number, family).to_string()).collect();
        let families: Vec<_> = self
            .families
            .iter()
            .map(|family| {
                format!(
                    "IP{}",
                    match family {
                        Family::V4 => "v4",
                        Family::V6 => "v6",
                    }
                )
            })
            .collect();
        let has_node_ports = match self.kind {
            Type::ClusterIp => false,
            Type::NodePort => true,
            Type::LoadBalancer => self.node_ports == NodePorts::Allocated,
        };
        let mut ports = vec![];
        for port in &self.ports {
            for (name, number, protocol) in port.each() {
                let mut rendered = json!({ "name": name, "port": number, "protocol": protocol, "targetPort": TARGET });
                if has_node_ports {
                    rendered["nodePort"] = node_port_of(row, self.number, number).into();
                }
                ports.push(rendered);
            }
        }
        let mut spec = json!({
            "type": match self.kind {
                Type::ClusterIp => "ClusterIP",
                Type::NodePort => "NodePort",
                Type::LoadBalancer => "LoadBalancer",
            },
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilies": families,
            "ports": ports,
        });
        let both = |ip: &dyn Fn(Family) -> std::net::IpAddr| Family::ALL.map(|family| ip(family).to_string());
        let external: Vec<String> =
            self.external_ips.iter().flat_map(|&number| both(&|family| external_ip(row, number, family))).collect();
        if !external.is_empty() {
            spec["externalIPs"] = json!(external);
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": namespace(row),
                "creationTimestamp": "2024-01-01T00:00:00Z",
            },
            "spec": spec,
        });
        let mut ingress = vec![];
        for &(number, ip_mode) in &self.balancers {
            for ip in both(&|family| balancer_ip(row, number, family)) {
                ingress.push(match ip_mode {
                    None => json!({ "ip": ip }),
                    Some(ip_mode) => json!({ "ip": ip, "ipMode": ip_mode }),
                });
            }
        }
        if !ingress.is_empty() {
            object["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        self.patches.iter().for_each(|patch| merge(&mut object, patch));
        object
    }
}

/// An EndpointSlice of each family.
#[derive(Clone, Debug)]
pub struct Slice {
    name: &'static str,
    service: &'static str,
    endpoints: Vec<Endpoint>,
    ports: Vec<Port>,
    families: Vec<Family>,
    patches: Vec<Value>,
}

/// The slices of the Service `web` with these endpoints.
pub fn slice<E: Into<Endpoint>>(endpoints: impl IntoIterator<Item = E>) -> Slice {
    Slice {
        name: "web-1",
        service: "web",
        endpoints: endpoints.into_iter().map(Into::into).collect(),
        ports: vec![port("main", TARGET)],
        families: Family::ALL.to_vec(),
        patches: vec![],
    }
}

/// The slices of the Service `web`, without any endpoint.
pub fn empty_slice() -> Slice {
    slice::<Endpoint>([])
}

impl Slice {
    /// The slices of the Service `other`.
    pub fn of_other(mut self) -> Self {
        (self.name, self.service) = ("other-1", "other");
        self
    }

    /// Under another name.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// With these ports.
    pub fn ports(mut self, ports: impl Into<Vec<Port>>) -> Self {
        self.ports = ports.into();
        self
    }

    /// With its one port at another number.
    pub fn at(self, number: u16) -> Self {
        self.ports([port("main", number)])
    }

    /// For one family only.
    pub fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// With this label.
    pub fn label(self, name: &str, value: &str) -> Self {
        self.patch(json!({ "metadata": { "labels": { name: value } } }))
    }

    /// With this merged into the object (RFC 7386).
    pub fn patch(mut self, patch: Value) -> Self {
        self.patches.push(patch);
        self
    }

    fn name_of(&self, family: Family) -> String {
        match family {
            Family::V4 => format!("{}-v4", self.name),
            Family::V6 => format!("{}-v6", self.name),
        }
    }

    fn render(&self, row: u16, family: Family) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .flat_map(Port::each)
            .map(|(name, port, protocol)| json!({ "name": name, "port": port, "protocol": protocol }))
            .collect();
        let endpoints: Vec<Value> = self.endpoints.iter().map(|endpoint| endpoint.render(family)).collect();
        let mut object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.name_of(family),
                "namespace": namespace(row),
                "labels": { "kubernetes.io/service-name": self.service },
            },
            "addressType": match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            },
            "endpoints": endpoints,
            "ports": ports,
        });
        self.patches.iter().for_each(|patch| merge(&mut object, patch));
        object
    }
}

/// An endpoint: a pod in a state.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pod: Pod,
    patches: Vec<Value>,
}

/// An endpoint that is ready.
pub fn ready(pod: Pod) -> Endpoint {
    endpoint(pod, json!({ "ready": true, "serving": true, "terminating": false }))
}

/// An endpoint that is about to end and still serves.
pub fn terminating(pod: Pod) -> Endpoint {
    endpoint(pod, json!({ "ready": false, "serving": true, "terminating": true }))
}

/// An endpoint that is about to end and serves no more.
pub fn ending(pod: Pod) -> Endpoint {
    endpoint(pod, json!({ "ready": false, "serving": false, "terminating": true }))
}

/// An endpoint that is not ready, though it serves.
pub fn unready(pod: Pod) -> Endpoint {
    endpoint(pod, json!({ "ready": false, "serving": true, "terminating": false }))
}

/// An endpoint with these conditions.
pub fn endpoint(pod: Pod, conditions: Value) -> Endpoint {
    Endpoint { pod, patches: vec![json!({ "conditions": conditions })] }
}

impl From<Pod> for Endpoint {
    fn from(pod: Pod) -> Self {
        ready(pod)
    }
}

impl Endpoint {
    /// With hints for these zones.
    pub fn for_zones(self, zones: &[&str]) -> Self {
        let zones: Vec<Value> = zones.iter().map(|zone| json!({ "name": zone })).collect();
        self.with(json!({ "hints": { "forZones": zones } }))
    }

    /// With hints for these nodes.
    pub fn for_nodes(self, nodes: &[&str]) -> Self {
        let nodes: Vec<Value> = nodes.iter().map(|node| json!({ "name": node })).collect();
        self.with(json!({ "hints": { "forNodes": nodes } }))
    }

    /// With this merged into it (RFC 7386).
    pub fn with(mut self, patch: Value) -> Self {
        self.patches.push(patch);
        self
    }

    fn render(&self, family: Family) -> Value {
        let mut object = json!({ "addresses": [self.pod.ip(family).to_string()], "nodeName": self.pod.node() });
        self.patches.iter().for_each(|patch| merge(&mut object, patch));
        object
    }
}

/// The Node of the agent, in a zone.
pub fn node(zone: &str) -> Value {
    let addresses: Vec<Value> = Family::ALL
        .map(|family| json!({ "type": "InternalIP", "address": NodeAddress::Primary.ip(family).to_string() }))
        .to_vec();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": NODE, "labels": { "topology.kubernetes.io/zone": zone } },
        "spec": { "podCIDR": "10.1.0.0/20", "podCIDRs": ["10.1.0.0/20", "fd01::/27"] },
        "status": { "addresses": addresses },
    })
}

/// The Node as it is at the beginning of each row.
pub fn usual_node() -> Value {
    node(ZONE)
}

/// JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("it is one now");
    for (key, value) in members {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
