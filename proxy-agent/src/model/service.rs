//! A Service as far as a node needs to know it.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::{Port, Protocol};

use super::{CreationTime, IpFamily, ObjectName};

/// A Service with at least one clusterIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// When it was created: the oldest Service wins a clash.
    pub created: CreationTime,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// At most one address of each family; these are the families that the Service serves.
    pub cluster_ips: Box<[IpAddr]>,
    /// Ports; no two with the same name and protocol, or the same number and protocol.
    pub ports: Box<[ServicePort]>,
    /// Which endpoints clients of the clusterIP may get.
    pub internal_traffic_policy: TrafficPolicy,
    /// Which endpoints clients of nodePort, externalIP and load balancer may get.
    pub external_traffic_policy: TrafficPolicy,
    /// Whether a client keeps its backend.
    pub affinity: Affinity,
    /// `spec.externalIPs`, only those of the families of the clusterIPs.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress` entries that have an address of one of these families.
    pub load_balancer_addresses: Box<[LoadBalancerAddress]>,
    /// `spec.loadBalancerSourceRanges`, both families, host bits cleared.
    pub source_ranges: Box<[IpNet]>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<Port>,
}

impl Service {
    /// The load balancer's addresses that nodes serve.
    pub fn virtual_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let is_balanced = self.service_type == ServiceType::LoadBalancer;
        let addresses = self.load_balancer_addresses.iter().filter(move |_| is_balanced);
        addresses.filter(|address| address.mode == LoadBalancerIpMode::Vip).map(|address| address.address)
    }

    /// The prefixes from which the load balancer's addresses of this family may be used. None: from
    /// everywhere, because there are no ranges of the family, or one of them is everything.
    pub fn guard(&self, family: IpFamily) -> impl Iterator<Item = IpNet> {
        let ranges =
            move || self.source_ranges.iter().copied().filter(move |range| IpFamily::of(range.addr()) == family);
        let is_open = ranges().any(|range| range.prefix_len() == 0);
        ranges().filter(move |_| !is_open)
    }

    /// The load balancer's addresses that nodes serve to some sources only.
    pub fn guarded_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.virtual_addresses().filter(|address| self.guard(IpFamily::of(*address)).next().is_some())
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for the one port of a Service that does not name it. At most
    /// [`NAME_LEN`](proxy_common::NAME_LEN) bytes.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What clients connect to; never 0.
    pub port: Port,
    /// Port on the addresses of each node.
    pub node_port: Option<Port>,
}

/// `spec.type` of a Service that a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIp,
    /// On a port of each node as well.
    NodePort,
    /// On the addresses of a load balancer as well.
    LoadBalancer,
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only endpoints on this node.
    Local,
}

/// `spec.sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Each connection chooses anew.
    #[default]
    None,
    /// A client address keeps its backend.
    ClientIp {
        /// Seconds without a new connection after which it is forgotten; 1 to 86400.
        timeout: u32,
    },
}

/// An address in `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadBalancerAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether nodes intercept traffic to it.
    pub mode: LoadBalancerIpMode,
}

/// `ipMode` of a load balancer's address (KEP-1860).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancerIpMode {
    /// The load balancer keeps the destination address: nodes serve it.
    #[default]
    Vip,
    /// The load balancer is a proxy of its own: nodes leave the address alone.
    Proxy,
}
