//! Whatever happens to the objects, the tables end up as if nothing else had ever been.

use proptest::{collection::vec, prelude::*, sample::select};

use super::support::TestNode;
use crate::{
    model::{
        Affinity, Change, Conditions, EndpointSlice, Node, ObjectName, Service, ServiceType, TrafficPolicy, Update,
        testing::{NODE, NOT_READY, TERMINATING, endpoint, name, node, service, slice},
    },
    plan::Capacities,
};

const SERVICES: [&str; 5] = ["a", "b", "c", "other/a", "other/d"];
const PORTS: [&str; 3] = ["", "http", "admin"];

fn arbitrary_service() -> impl Strategy<Value = Service> {
    let addresses = select(vec![
        &["10.0.0.1"][..],
        &["10.0.0.2"],
        &["fd00::1"],
        &["10.0.0.1", "fd00::1"],
        &["fd00::2", "10.0.0.2"],
    ]);
    let ports =
        prop::sample::subsequence(vec![("", 80), ("http", 80), ("http", 81), ("admin", 81), ("admin", 82)], 0..3);
    let policy = || select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let affinity = select(vec![Affinity::None, Affinity::ClientIp { timeout: 60 }]);
    let service_type = select(vec![ServiceType::ClusterIp, ServiceType::LoadBalancer]);
    (select(&SERVICES[..]), addresses, ports, 0_i64..4, policy(), policy(), affinity, service_type).prop_map(
        |(name, addresses, ports, created, internal, external, affinity, service_type)| {
            let mut service = service(name, addresses).created_at(created);
            for (name, port) in ports {
                if service.ports.iter().all(|known| *known.name != *name && known.port.get() != port) {
                    service = service.with_port(name, port);
                }
            }
            Service {
                internal_traffic_policy: internal,
                external_traffic_policy: external,
                affinity,
                service_type,
                ..service
            }
        },
    )
}

fn arbitrary_slice() -> impl Strategy<Value = EndpointSlice> {
    let conditions = select(vec![Conditions::READY, Conditions::READY, TERMINATING, NOT_READY]);
    let zones = select(vec![None, Some("zone-a"), Some("zone-b")]);
    let row = (1_u8..7, conditions, any::<bool>(), zones);
    let ports = prop::sample::subsequence(PORTS.to_vec(), 0..=3);
    let number = select(vec![8080, 9090]);
    (select(&SERVICES[..]), 0..2, select(&SERVICES[..]), any::<bool>(), vec(row, 0..5), ports, number).prop_map(
        |(owner, suffix, service, is_v6, endpoints, ports, number)| {
            let mut slice = slice(&format!("{owner}-{suffix}"), service, &[]);
            // A slice is in the namespace of its Service.
            slice.name = ObjectName::new(name(service).namespace(), &format!("{}-{suffix}", name(owner).name()));
            for (host, conditions, is_local, zone) in endpoints {
                let address = if is_v6 { format!("fd01::{host}") } else { format!("10.1.0.{host}") };
                let mut endpoint = endpoint(&address).that_is(conditions);
                endpoint = if is_local { endpoint.on(NODE) } else { endpoint };
                slice = slice.with(zone.map_or(endpoint.clone(), |zone| endpoint.for_zones(&[zone])));
            }
            ports.into_iter().fold(slice, |slice, port| slice.with_port(port, number))
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
    match event {
        Event::Updates(updates) => {
            node.apply(updates);
        }
        Event::Restart => {
            node.restart();
        }
        Event::Failure(writes, updates) => {
            let mut affected = crate::model::Affected::none();
            for update in updates {
                affected.merge(node.index.update(update));
            }
            let changes = node.state.reconcile(&node.index, &affected);
            node.tables.fail_after(writes);
            if let Ok(refused) = crate::plan::Tables::apply(&mut node.tables, &changes) {
                node.state.applied(&refused);
                node.tables.fail_after(usize::MAX);
            } else {
                node.restart();
            }
        }
    }
}

/// A node that hears of the final objects all at once.
fn fresh(node: &TestNode) -> TestNode {
    let mut fresh = TestNode::new();
    let services: Vec<Service> = node.index.services().cloned().collect();
    let slices = services.iter().flat_map(|service| node.index.slices(&service.name)).cloned().collect();
    let nodes = node.index.node().cloned().into_iter().collect();
    fresh.apply([
        Update::Node(Change::Reset(nodes)),
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
        names in 1_usize..6,
    ) {
        let mut node = TestNode::with_capacities(Capacities { services, slots, backends, names });
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
