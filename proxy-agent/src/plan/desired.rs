//! What the tables should hold for one Service, before ids and slots are given out.

use proxy_common::{Backend, Port, Protocol, ServiceFlags, ServiceId, ServiceKey, V4, V6};

use super::{
    endpoints::{Candidate, Choice, Place},
    family::PlanFamily,
    guard::Guard,
};
use crate::model::{Affinity, EndpointSlice, IpFamily, NodeFacts, Service, ServicePort, ServiceType, TrafficPolicy};

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// Name; empty for an unnamed port.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// IPv4's part.
    pub v4: DesiredFamily<[u8; 4]>,
    /// IPv6's part.
    pub v6: DesiredFamily<[u8; 16]>,
}

/// One family's part of a Service port; empty if the Service does not serve the family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFamily<A> {
    /// What clients connect to.
    pub frontends: Vec<Frontend<A>>,
    /// Every endpoint in a slice, also those that take no new connections: what established flows
    /// go to stays known as long as a slice has it. Sorted by address and port, each once.
    pub targets: Vec<Target<A>>,
    /// Who may use the frontends with [`ServiceFlags::SOURCE_RANGES`]. Sorted, each once; none if there
    /// is no such frontend.
    pub source_ranges: Vec<Prefix<A>>,
}

/// A frontend and its properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend<A> {
    /// Address, port and protocol.
    pub key: ServiceKey<A>,
    /// Properties.
    pub flags: ServiceFlags,
    /// Timeout of the session affinity in seconds; 0 without affinity.
    pub affinity_timeout: u32,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix<A> {
    /// The first address, in network order.
    pub address: A,
    /// How many bits are the same.
    pub bits: u8,
}

/// An endpoint of a Service port, and the lists it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<A> {
    /// Address in network order.
    pub address: A,
    /// Port.
    pub port: Port,
    /// Whether it is on this node.
    pub on_this_node: bool,
    /// Whether new connections under policy `Cluster` may get it.
    pub in_cluster_list: bool,
    /// Whether new connections under policy `Local` may get it. No target is in this list if no
    /// traffic policy of the Service is `Local`.
    pub in_local_list: bool,
}

impl<A: Copy> Target<A> {
    /// The endpoint as the `backends` table has it.
    #[must_use]
    pub const fn backend(&self, service: ServiceId) -> Backend<A> {
        Backend::new(self.address, self.port, self.flags(), service)
    }

    /// Flags of the endpoint in the `backends` table.
    const fn flags(&self) -> u16 {
        (if self.on_this_node { Backend::<A>::LOCAL } else { 0 })
            | (if self.in_cluster_list { Backend::<A>::IN_CLUSTER_LIST } else { 0 })
            | (if self.in_local_list { Backend::<A>::IN_LOCAL_LIST } else { 0 })
    }
}

/// What a node at `place` of which these facts are known should hold for a Service with these slices.
/// No two frontends of the Service are the same: the first port has it.
#[must_use]
pub fn desired(service: &Service, slices: &[EndpointSlice], place: Place<'_>, facts: &NodeFacts) -> Vec<DesiredPort> {
    let guard = |family| Guard::new(service, family, facts);
    let (guard_v4, guard_v6) = (guard(IpFamily::V4), guard(IpFamily::V6));
    let mut ports: Vec<DesiredPort> = Vec::with_capacity(service.ports.len());
    for port in &service.ports {
        let v4 = frontends::<V4>(service, port, &guard_v4, facts, &ports);
        let v6 = frontends::<V6>(service, port, &guard_v6, facts, &ports);
        let v4 = family::<V4>(port, slices, place, v4, &guard_v4);
        let v6 = family::<V6>(port, slices, place, v6, &guard_v6);
        ports.push(DesiredPort { name: port.name.clone(), protocol: port.protocol, v4, v6 });
    }
    ports
}

fn family<F: PlanFamily>(
    port: &ServicePort,
    slices: &[EndpointSlice],
    place: Place<'_>,
    frontends: Vec<Frontend<F::Address>>,
    guard: &Guard,
) -> DesiredFamily<F::Address> {
    if frontends.is_empty() {
        return DesiredFamily { frontends, targets: Vec::new(), source_ranges: Vec::new() };
    }
    let members = members::<F>(port, slices, place);
    let choice = Choice::among(members.iter().map(|member| member.candidate), place);
    let has = |flag| frontends.iter().any(|frontend| frontend.flags.contains(flag));
    let uses_local_list = has(ServiceFlags::LOCAL);
    let target = |member: &Member<'_, F::Address>| Target {
        address: member.address,
        port: member.port,
        on_this_node: member.candidate.local,
        in_cluster_list: choice.is_in_cluster_list(member.candidate),
        in_local_list: uses_local_list && choice.is_in_local_list(member.candidate),
    };
    let targets = members.iter().map(target).collect();
    let source_ranges = if has(ServiceFlags::SOURCE_RANGES) { guard.prefixes::<F>() } else { Vec::new() };
    DesiredFamily { frontends, targets, source_ranges }
}

/// The frontends of a port, without those that an earlier port has. None if the Service does not serve
/// the family.
///
/// An address that is both the load balancer's and an `externalIP` is guarded: it is served as the former.
fn frontends<F: PlanFamily>(
    service: &Service,
    port: &ServicePort,
    guard: &Guard,
    facts: &NodeFacts,
    earlier: &[DesiredPort],
) -> Vec<Frontend<F::Address>> {
    if !service.cluster_ips.iter().any(|&address| IpFamily::of(address) == F::IP_FAMILY) {
        return Vec::new();
    }
    let internal = policy(service.internal_traffic_policy);
    let external = ServiceFlags::EXTERNAL.with(policy(service.external_traffic_policy));
    let internal = service.cluster_ips.iter().map(|&address| (address, internal));
    let balanced = service.virtual_addresses().map(|address| (address, external.with(guard.flags(address, facts))));
    let others = service.external_ips.iter().map(|&address| (address, external));
    let addresses = internal.chain(balanced).chain(others);
    let addresses = addresses.filter_map(|(address, flags)| Some((F::from_ip(address)?, port.port, flags)));
    let node_port = port.node_port.filter(|_| service.service_type != ServiceType::ClusterIp);
    let node_port = node_port.map(|port| (F::UNSPECIFIED, port, external.with(ServiceFlags::NODE_PORT)));

    let (affinity, affinity_timeout) = match service.affinity {
        Affinity::None => (ServiceFlags::NONE, 0),
        Affinity::ClientIp { timeout } => (ServiceFlags::AFFINITY, timeout),
    };
    let mut frontends: Vec<Frontend<F::Address>> = Vec::new();
    for (address, number, flags) in addresses.chain(node_port) {
        let key = ServiceKey::new(address, number, port.protocol);
        let others = earlier.iter().flat_map(|port| &F::of_desired(port).frontends).chain(&frontends);
        if others.into_iter().all(|other| other.key != key) {
            frontends.push(Frontend { key, flags: flags.with(affinity), affinity_timeout });
        }
    }
    frontends
}

fn policy(policy: TrafficPolicy) -> ServiceFlags {
    match policy {
        TrafficPolicy::Cluster => ServiceFlags::NONE,
        TrafficPolicy::Local => ServiceFlags::LOCAL,
    }
}

/// An endpoint of the union of all slices.
struct Member<'a, A> {
    address: A,
    port: Port,
    candidate: Candidate<'a>,
}

/// The union of the slices of a family, sorted by address and port, each endpoint once.
fn members<'a, F: PlanFamily>(
    port: &ServicePort,
    slices: &'a [EndpointSlice],
    place: Place<'_>,
) -> Vec<Member<'a, F::Address>> {
    let mut members = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == F::IP_FAMILY) {
        let mut ports = slice.ports.iter();
        let Some(port) = ports.find(|other| other.name == port.name && other.protocol == port.protocol) else {
            continue;
        };
        members.extend(slice.endpoints.iter().filter_map(|endpoint| {
            let local = endpoint.node.as_deref() == Some(place.node);
            let candidate = Candidate { conditions: endpoint.conditions, local, hints: endpoint.hints.as_deref() };
            Some(Member { address: F::from_ip(endpoint.address)?, port: port.port, candidate })
        }));
    }
    // Stable: of equals, those of the slice with the lesser name come first.
    members.sort_by_key(|member| (member.address, member.port));
    members.dedup_by(|later, earlier| {
        let same = (later.address, later.port) == (earlier.address, earlier.port);
        if same {
            earlier.candidate = merged(earlier.candidate, later.candidate);
        }
        same
    });
    members
}

/// An endpoint in two slices, as while it moves from one to the other: the more usable state counts,
/// then the first; it is local if either says so.
fn merged<'a>(first: Candidate<'a>, second: Candidate<'a>) -> Candidate<'a> {
    let usability =
        |candidate: &Candidate<'_>| (candidate.conditions.ready, candidate.conditions.is_serving_and_terminating());
    let best = if usability(&second) > usability(&first) { second } else { first };
    Candidate { local: first.local || second.local, ..best }
}
