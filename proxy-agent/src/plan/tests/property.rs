//! Whatever happens to the objects, the tables end up as if nothing else had ever been.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use proxy_common::{Port, Protocol};

use super::support::TestNode;
use crate::{
    model::{
        Affected, Affinity, Change, Conditions, EndpointSlice, LoadBalancerAddress, LoadBalancerIpMode, Node,
        NodeFacts, ObjectName, Service, ServicePort, ServiceType, TrafficPolicy, Update,
        testing::{NODE, NOT_READY, TERMINATING, endpoint, facts, ip, name, node, service, slice},
    },
    plan::{Capacities, Changes, FamilySnapshot, GoneBackend, Snapshot, Tables, family::PlanFamily},
};

const SERVICES: [&str; 5] = ["a", "b", "c", "other/a", "other/d"];
const PORTS: [&str; 3] = ["", "http", "admin"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// Addresses of load balancers; the first is an external address too.
const VIPS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8:1::1"];

/// Everything a Service can ask for, from so few addresses and ports that Services are in each other's way.
fn arbitrary_service() -> impl Strategy<Value = Service> {
    let cluster_ips = select(vec![
        &["10.0.0.1"][..],
        &["10.0.0.2"],
        &["fd00::1"],
        &["10.0.0.1", "fd00::1"],
        &["fd00::2", "10.0.0.2"],
    ]);
    let identity = (select(&SERVICES[..]), cluster_ips, 0_i64..4);
    (identity, arbitrary_ports(), arbitrary_policies(), arbitrary_exposure()).prop_map(
        |((name, cluster_ips, created), ports, [internal, external], exposure)| {
            let Exposure { service_type, affinity, external_ips, load_balancer_addresses, source_ranges } = exposure;
            let external_ips: Vec<&str> = external_ips.into_iter().filter(|text| serves(cluster_ips, text)).collect();
            let balanced = load_balancer_addresses.into_iter().filter(|(text, _)| serves(cluster_ips, text));
            Service {
                ports,
                internal_traffic_policy: internal,
                external_traffic_policy: external,
                affinity,
                service_type,
                load_balancer_addresses: balanced
                    .map(|(text, mode)| LoadBalancerAddress { address: ip(text), mode })
                    .collect(),
                ..service(name, cluster_ips)
                    .created_at(created)
                    .with_external_ips(&external_ips)
                    .open_to(&source_ranges)
            }
        },
    )
}

/// Whether a Service with these clusterIPs serves the family of an address.
fn serves(cluster_ips: &[&str], address: &str) -> bool {
    cluster_ips.iter().any(|cluster_ip| cluster_ip.contains(':') == address.contains(':'))
}

/// As the model has them: no name, number or nodePort twice over one protocol.
fn arbitrary_ports() -> impl Strategy<Value = Box<[ServicePort]>> {
    let port = (select(&PORTS[..]), select(&PROTOCOLS[..]), 80_u16..83, option::of(30_080_u16..30_082));
    vec(port, 0..4).prop_map(|ports| {
        let mut kept: Vec<ServicePort> = Vec::new();
        for (name, protocol, port, node_port) in ports {
            let (port, node_port) = (Port::new(port), node_port.map(Port::new));
            let port = ServicePort { name: name.into(), protocol, port, node_port };
            let clashes = |other: &ServicePort| {
                other.protocol == protocol
                    && (other.name == port.name
                        || other.port == port.port
                        || (node_port.is_some() && other.node_port == node_port))
            };
            if !kept.iter().any(clashes) {
                kept.push(port);
            }
        }
        kept.into()
    })
}

fn arbitrary_policies() -> impl Strategy<Value = [TrafficPolicy; 2]> {
    let policy = || select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    [policy(), policy()]
}

/// How clients outside get at a Service.
#[derive(Clone, Debug)]
struct Exposure {
    service_type: ServiceType,
    affinity: Affinity,
    external_ips: Vec<&'static str>,
    load_balancer_addresses: Vec<(&'static str, LoadBalancerIpMode)>,
    source_ranges: Vec<&'static str>,
}

fn arbitrary_exposure() -> impl Strategy<Value = Exposure> {
    let service_type = select(vec![ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer]);
    let affinity = select(vec![Affinity::None, Affinity::ClientIp { timeout: 60 }]);
    let external_ips = subsequence(vec!["192.0.2.1", "10.0.0.1", "2001:db8::1"], 0..3);
    let mode = || select(vec![LoadBalancerIpMode::Vip, LoadBalancerIpMode::Vip, LoadBalancerIpMode::Proxy]);
    let addresses = (subsequence(VIPS.to_vec(), 0..=3), vec(mode(), 3));
    let source_ranges =
        subsequence(vec!["198.51.100.0/24", "203.0.113.0/24", "203.0.113.1/32", "0.0.0.0/0", "2001:db8:5::/48"], 0..4);
    (service_type, affinity, external_ips, addresses, source_ranges).prop_map(
        |(service_type, affinity, external_ips, (addresses, modes), source_ranges)| Exposure {
            service_type,
            affinity,
            external_ips,
            load_balancer_addresses: addresses.into_iter().zip(modes).collect(),
            source_ranges,
        },
    )
}

fn arbitrary_facts() -> impl Strategy<Value = NodeFacts> {
    let addresses = subsequence(vec!["203.0.113.1", "10.5.5.5", "2001:db8:5::1"], 0..=3);
    let source = || select(vec![None, Some("203.0.113.1"), Some("192.0.2.1"), Some("2001:db8:5::1")]);
    (addresses, vec(source(), VIPS.len())).prop_map(|(addresses, sources)| {
        let routes: Vec<(&str, Option<&str>)> = VIPS.into_iter().zip(sources).collect();
        facts(&addresses, &routes)
    })
}

fn arbitrary_slice() -> impl Strategy<Value = EndpointSlice> {
    let conditions = select(vec![Conditions::READY, Conditions::READY, TERMINATING, NOT_READY]);
    let zones = select(vec![None, Some("zone-a"), Some("zone-b")]);
    let row = (1_u8..7, conditions, any::<bool>(), zones);
    let ports = (subsequence(PORTS.to_vec(), 0..=3), subsequence(PROTOCOLS.to_vec(), 1..=3));
    let number = select(vec![8080, 9090]);
    (select(&SERVICES[..]), 0..2, select(&SERVICES[..]), any::<bool>(), vec(row, 0..5), ports, number).prop_map(
        |(owner, suffix, service, is_v6, endpoints, (ports, protocols), number)| {
            let mut slice = slice(&format!("{owner}-{suffix}"), service, &[]);
            // A slice is in the namespace of its Service.
            slice.name = ObjectName::new(name(service).namespace(), &format!("{}-{suffix}", name(owner).name()));
            for (host, conditions, is_local, zone) in endpoints {
                let address = if is_v6 { format!("fd01::{host}") } else { format!("10.1.0.{host}") };
                let mut endpoint = endpoint(&address).that_is(conditions);
                endpoint = if is_local { endpoint.on(NODE) } else { endpoint };
                slice = slice.with(zone.map_or(endpoint.clone(), |zone| endpoint.for_zones(&[zone])));
            }
            let ports = ports.iter().flat_map(|port| protocols.iter().map(move |protocol| (port, *protocol)));
            ports.fold(slice, |slice, (port, protocol)| slice.with_protocol_port(port, number, protocol))
        },
    )
}

fn arbitrary_node() -> impl Strategy<Value = Node> {
    select(vec![None, Some("zone-a"), Some("zone-b"), Some("zone-c")]).prop_map(node)
}

fn arbitrary_update() -> impl Strategy<Value = Update> {
    let deleted_service = select(&SERVICES[..]).prop_map(|text| Update::Service(Change::Delete(name(text))));
    let deleted_slice = (select(&SERVICES[..]), 0..2)
        .prop_map(|(owner, suffix)| Update::Slice(Change::Delete(name(&format!("{owner}-{suffix}")))));
    prop_oneof![
        8 => arbitrary_service().prop_map(Update::from),
        12 => arbitrary_slice().prop_map(Update::from),
        1 => arbitrary_node().prop_map(Update::from),
        2 => arbitrary_facts().prop_map(Update::from),
        3 => deleted_service,
        3 => deleted_slice,
        1 => vec(arbitrary_service(), 0..4).prop_map(|services| Update::Service(Change::Reset(services))),
        1 => vec(arbitrary_slice(), 0..4).prop_map(|slices| Update::Slice(Change::Reset(slices))),
    ]
}

/// What happens to a node.
#[derive(Clone, Debug)]
enum Event {
    /// Updates that arrive together.
    Updates(Vec<Update>),
    /// The agent starts anew.
    Restart,
    /// This write of the next change fails, and the agent recovers.
    Failure(usize, Vec<Update>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => vec(arbitrary_update(), 1..4).prop_map(Event::Updates),
        1 => Just(Event::Restart),
        1 => (0_usize..30, vec(arbitrary_update(), 1..4)).prop_map(|(writes, updates)| Event::Failure(writes, updates)),
    ]
}

fn play(node: &mut TestNode, event: Event) {
    let before = node.snapshot();
    match event {
        Event::Updates(updates) => {
            let changes = node.apply(updates);
            assert_gone_ones_are_told(&before, &changes, &node.snapshot());
        }
        Event::Restart => {
            let changes = node.restart();
            assert_gone_ones_are_told(&before, &changes, &node.snapshot());
        }
        Event::Failure(writes, updates) => {
            let mut affected = Affected::none();
            for update in updates {
                affected.merge(node.index.update(update));
            }
            let changes = node.state.reconcile(&node.index, &affected);
            node.tables.fail_after(writes);
            if let Ok(refused) = Tables::apply(&mut node.tables, &changes) {
                node.state.applied(&refused);
                node.tables.fail_after(usize::MAX);
            } else {
                node.restart();
            }
        }
    }
}

/// Asserts that of the endpoints that the tables held, the changes name exactly those of UDP ports that
/// they do not hold any more.
fn assert_gone_ones_are_told(before: &Snapshot, changes: &Changes, after: &Snapshot) {
    let (before, after) = (udp_backends(before), udp_backends(after));
    let told: BTreeSet<GoneBackend> = changes.gone_backends.iter().copied().collect();
    assert_eq!(told.len(), changes.gone_backends.len(), "each is told once");
    assert_eq!(told, before.difference(&after).copied().collect());
}

fn udp_backends(snapshot: &Snapshot) -> BTreeSet<GoneBackend> {
    fn of_family<'a, F: PlanFamily>(
        snapshot: &'a Snapshot,
        family: &'a FamilySnapshot<F>,
    ) -> impl Iterator<Item = GoneBackend> + 'a {
        let is_udp = |service| snapshot.names[&service].protocol() == Some(Protocol::Udp);
        let backends = family.backends.iter().filter(move |(_, backend)| is_udp(backend.service()));
        backends.map(|(&backend, entry)| GoneBackend {
            service: entry.service(),
            backend,
            address: (F::to_ip(entry.address()), entry.port().get()).into(),
        })
    }
    of_family(snapshot, &snapshot.v4).chain(of_family(snapshot, &snapshot.v6)).collect()
}

/// A node that hears of the final objects all at once.
fn fresh(node: &TestNode) -> TestNode {
    let mut fresh = TestNode::new();
    let services: Vec<Service> = node.index.services().cloned().collect();
    let slices = services.iter().flat_map(|service| node.index.slices(&service.name)).cloned().collect();
    let nodes = node.index.node().cloned().into_iter().collect();
    fresh.apply([
        Update::Node(Change::Reset(nodes)),
        Update::Facts(node.index.facts().clone()),
        Update::Slice(Change::Reset(slices)),
        Update::Service(Change::Reset(services)),
    ]);
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn tables_depend_on_the_objects_and_not_on_their_history(events in vec(event(), 1..25)) {
        let mut node = TestNode::new();
        for event in events {
            play(&mut node, event);
            node.assert_nothing_leaks();
        }
        let fresh = fresh(&node);
        prop_assert_eq!(node.view(), fresh.view());
        prop_assert_eq!(node.state.problems(), fresh.state.problems());
        prop_assert!(node.restart().is_empty());
        prop_assert_eq!(node.view(), fresh.view());
    }

    #[test]
    fn full_tables_are_safe_and_come_to_rest(
        events in vec(event(), 1..25),
        services in 1_usize..6,
        slots in 1_usize..20,
        backends in 2_usize..12,
        source_ranges in 1_usize..8,
        names in 1_usize..6,
    ) {
        let mut node = TestNode::with_capacities(Capacities { services, slots, backends, source_ranges, names });
        for event in events {
            play(&mut node, event);
            node.settle();
            node.assert_nothing_leaks();
        }
        let gone: Vec<Update> = vec![Update::Service(Change::Reset(Vec::new()))];
        node.apply(gone);
        node.settle();
        prop_assert_eq!(node.view(), TestNode::new().view());
        prop_assert_eq!(node.state.problems(), []);
        node.assert_nothing_leaks();
    }
}
