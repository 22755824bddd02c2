//! What the tables should hold for one Service, before ids and slots are given out.

use proxy_common::{Backend, Port, Protocol, ServiceFlags, ServiceId, ServiceKey, V4, V6};

use super::{
    endpoints::{Candidate, Choice, Place},
    family::PlanFamily,
};
use crate::model::{Affinity, EndpointSlice, Service, ServicePort, ServiceType, TrafficPolicy};

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

/// What a node at `place` should hold for a Service with these slices. No two of its ports have
/// the same frontend: the first one has it.
#[must_use]
pub fn desired(service: &Service, slices: &[EndpointSlice], place: Place<'_>) -> Vec<DesiredPort> {
    let mut ports: Vec<DesiredPort> = Vec::with_capacity(service.ports.len());
    for port in &service.ports {
        let v4 = family::<V4>(service, port, slices, place, &ports);
        let v6 = family::<V6>(service, port, slices, place, &ports);
        ports.push(DesiredPort { name: port.name.clone(), protocol: port.protocol, v4, v6 });
    }
    ports
}

fn family<F: PlanFamily>(
    service: &Service,
    port: &ServicePort,
    slices: &[EndpointSlice],
    place: Place<'_>,
    earlier: &[DesiredPort],
) -> DesiredFamily<F::Address> {
    let taken = |key| earlier.iter().flat_map(|port| &F::of_desired(port).frontends).any(|other| other.key == key);
    let mut frontends = frontends::<F>(service, port);
    frontends.retain(|frontend| !taken(frontend.key));
    if frontends.is_empty() {
        return DesiredFamily { frontends, targets: Vec::new() };
    }
    let members = members::<F>(port, slices, place);
    let choice = Choice::among(members.iter().map(|member| member.candidate), place);
    let uses_local_list = uses_local_list(service);
    let target = |member: &Member<'_, F::Address>| Target {
        address: member.address,
        port: member.port,
        on_this_node: member.candidate.local,
        in_cluster_list: choice.is_in_cluster_list(member.candidate),
        in_local_list: uses_local_list && choice.is_in_local_list(member.candidate),
    };
    DesiredFamily { frontends, targets: members.iter().map(target).collect() }
}

fn frontends<F: PlanFamily>(service: &Service, port: &ServicePort) -> Vec<Frontend<F::Address>> {
    let flags = match service.internal_traffic_policy {
        TrafficPolicy::Cluster => ServiceFlags::NONE,
        TrafficPolicy::Local => ServiceFlags::LOCAL,
    };
    let (flags, affinity_timeout) = match service.affinity {
        Affinity::None => (flags, 0),
        Affinity::ClientIp { timeout } => (flags.with(ServiceFlags::AFFINITY), timeout),
    };
    let frontend = |address| {
        let key = ServiceKey::new(F::from_ip(address)?, port.port, port.protocol);
        Some(Frontend { key, flags, affinity_timeout })
    };
    service.cluster_ips.iter().copied().filter_map(frontend).collect()
}

/// Whether a traffic policy that applies to one of the Service's frontends is `Local`.
fn uses_local_list(service: &Service) -> bool {
    let is_external = service.service_type != ServiceType::ClusterIp || !service.external_ips.is_empty();
    service.internal_traffic_policy == TrafficPolicy::Local
        || (is_external && service.external_traffic_policy == TrafficPolicy::Local)
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
