//! The scenarios: given these objects, when this client does this, then it sees that.

mod change;
mod external;
mod rows;
mod shared;
mod stranded;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
};

use libtest_mimic::Trial;
use serde_json::json;

use self::shared::Shared::{ClusterCidr, MasqueradeAll, NodePortAddresses, Plain};
pub use self::shared::end;
use super::{
    client::Place,
    manifests,
    peer::{Sight, Task},
    stage::{Family, NODE, Pod, Stage},
};

/// Port of every Service.
const PORT: u16 = 80;

/// All scenarios.
pub fn all() -> Vec<Trial> {
    let trial = |name: &str, scenario: fn()| {
        Trial::test(name, move || {
            scenario();
            Ok(())
        })
    };
    vec![
        Plain.trial("every_client_reaches_every_backend_and_sees_the_service", rows::every_client),
        MasqueradeAll.trial("masquerade_all_hides_those_whom_tc_serves", rows::masquerade_all),
        ClusterCidr.trial("a_source_outside_the_cluster_cidr_is_masqueraded", rows::cluster_cidr),
        trial("a_source_outside_the_nodes_pod_cidrs_is_masqueraded", rows::node_cidr),
        trial("what_comes_from_no_pods_device_is_masqueraded", rows::interface_name_prefix),
        trial("what_comes_from_no_port_of_the_pods_bridge_is_masqueraded", rows::bridge_interface),
        ClusterCidr.trial("a_pod_reaches_itself_through_its_service", rows::hairpin),
        Plain.trial("no_endpoint_refuses_at_once", rows::refusal),
        Plain.trial("internal_traffic_policy_local_stays_on_the_node", rows::local_policy),
        Plain.trial("node_ports_are_served_on_all_addresses_of_the_node", external::node_ports),
        NodePortAddresses
            .trial("node_ports_are_served_on_no_other_than_the_configured_addresses", external::node_port_addresses),
        NodePortAddresses.trial("health_check_ports_are_open_where_node_ports_are_served", external::health_check_port),
        ClusterCidr.trial(
            "external_traffic_policy_local_keeps_the_client_and_stays_on_the_node",
            external::external_policy_local,
        ),
        Plain.trial("load_balancers_serve_their_source_ranges_only", external::source_ranges),
        Plain.trial("a_client_keeps_its_backend", external::affinity),
        Plain.trial("large_transfers_through_tc_arrive_whole", rows::bulk),
        MasqueradeAll.trial("what_is_no_service_is_left_alone", rows::bystanders),
        trial("a_removed_endpoint_gets_no_new_connections", change::removed_endpoint),
        trial("connected_udp_sockets_learn_that_their_endpoint_is_gone", stranded::connected_sockets),
        trial("manifests_come_and_go", change::manifests_come_and_go),
        trial("a_broken_manifest_is_named_and_the_rest_is_served", change::broken_manifest),
        trial("stopping_killing_and_restarting_breaks_nothing", change::restart),
        trial("two_agents_side_by_side", change::two_agents),
        trial("cleanup_leaves_nothing", change::cleanup),
        trial("a_device_that_appears_later_is_served", change::late_device),
    ]
}

fn cluster_ip(family: Family, number: u8) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::from([10, 96, 0, number]),
        Family::V6 => format!("fd96::{number:x}").parse().expect("a well-formed address"),
    };
    SocketAddr::new(ip, PORT)
}

/// Writes a dual-stack Service with its endpoints on this node.
fn write_service(stage: &Stage, name: &str, number: u8, pods: &[&Pod]) {
    write_service_with(stage, name, number, pods, NODE, &json!({}));
}

fn write_service_with(stage: &Stage, name: &str, number: u8, pods: &[&Pod], node: &str, spec: &serde_json::Value) {
    let ips = Family::ALL.map(|family| cluster_ip(family, number).ip());
    let mut objects = vec![manifests::service(name, &ips, PORT, spec)];
    for family in Family::ALL {
        let endpoints: Vec<_> = pods.iter().map(|pod| (pod.endpoint(family), node)).collect();
        objects.push(manifests::slice(name, &endpoints));
    }
    stage.write(name, &objects);
}

fn backends(stage: &Stage) -> Vec<&Pod> {
    stage.backends.iter().collect()
}

/// Asserts that nothing comes back to these clients, neither an answer nor a refusal. They wait at the same time.
#[track_caller]
fn assert_dropped(clients: &[(Place<'_>, SocketAddr)], what: &str) {
    let sights = thread::scope(|scope| {
        let waiting: Vec<_> =
            clients.iter().map(|&(place, to)| scope.spawn(move || place.run(&Task::Tcp { to, count: 1 }))).collect();
        waiting.into_iter().flat_map(|client| client.join().expect("the client ends")).collect::<Vec<_>>()
    });
    assert_eq!(sights, vec![Sight::Failed("TimedOut".to_owned()); clients.len()], "{what}");
}

/// The names of the servers that answered; every sight must be an answer.
#[track_caller]
fn servers(sights: &[Sight]) -> BTreeSet<String> {
    sights
        .iter()
        .map(|sight| match sight {
            Sight::Answer { server, .. } => server.clone(),
            Sight::Failed(error) => panic!("a client failed: {error}"),
        })
        .collect()
}

/// Asserts that all were answered, that the client was told the Service's address, and that the backends saw
/// the client as `source`.
#[track_caller]
fn assert_answers(sights: &[Sight], service: SocketAddr, source: IpAddr, what: &str) {
    assert!(!sights.is_empty(), "{what}");
    for sight in sights {
        let Sight::Answer { seen, from, peer, .. } = sight else { panic!("{what}: {sight:?}") };
        assert_eq!(*from, service, "{what}: the sender that the client is told");
        assert!(peer.is_none_or(|peer| peer == service), "{what}: the peer's name is {peer:?}");
        assert_eq!(seen.ip(), source, "{what}: the client's address that the backend sees");
    }
}
