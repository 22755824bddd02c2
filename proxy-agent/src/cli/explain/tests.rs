//! What is printed of explanations of given tables.

use std::collections::BTreeMap;

use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, DEFAULT_MASQUERADE_MARK, Detector, FamilySettings, Port, PortName,
    ServiceEntry, ServiceFlags, ServiceId, ServiceKey, Settings, SettingsFlags, SlotRange, SourceRangeKey,
};
use proxy_ebpf::host::HostTables;

use super::{origin::Who, *};
use crate::{
    cli::print::{Detail, assert_documented, plain},
    explain::Hooks,
};

const WEB: ServiceId = ServiceId::new(1);
const NODE_NAMESPACE: u64 = 7;

fn settings() -> Settings {
    let v4 = FamilySettings::new(Detector::Prefix, [10, 1, 0, 0], [255, 255, 0, 0]);
    let v6 = FamilySettings::new(Detector::None, [0; 16], [0; 16]);
    Settings::new(SettingsFlags::NONE, DEFAULT_MASQUERADE_MARK, 30, v4, v6).with_node_netns_cookie(NODE_NAMESPACE)
}

/// The Service shop/web: two endpoints, one of them here; a clusterIP, a guarded address under policy Local, and an address for
/// which there is no endpoint here.
fn tables() -> HostTables<V4> {
    let mut tables = HostTables { settings: settings(), now: 5_000, ..HostTables::default() };
    let (cluster, local) = (SlotRange::new(8, 2), SlotRange::new(10, 1));
    let external = ServiceFlags::EXTERNAL.with(ServiceFlags::LOCAL);
    let mut serve = |address, flags, local| {
        let entry = ServiceEntry::new(WEB, flags, cluster, local).with_affinity_timeout(3600);
        tables.services.insert(ServiceKey::new(address, Port::new(80), Protocol::Tcp), entry);
    };
    serve([10, 96, 0, 1], ServiceFlags::NONE, local);
    serve([10, 96, 0, 2], ServiceFlags::AFFINITY, local);
    serve([192, 0, 2, 1], external.with(ServiceFlags::SOURCE_RANGES), local);
    serve([192, 0, 2, 2], external, SlotRange::EMPTY);
    let entry = ServiceEntry::new(WEB, ServiceFlags::NONE, SlotRange::EMPTY, SlotRange::EMPTY);
    tables.services.insert(ServiceKey::new([10, 96, 0, 3], Port::new(80), Protocol::Tcp), entry);
    let [near, far] = [1, 2].map(BackendId::new);
    tables.slots.extend([(8, near), (9, far), (10, near)]);
    tables.backends.insert(near, Backend::new([10, 1, 0, 2], Port::new(8080), 7, WEB));
    tables.backends.insert(far, Backend::new([10, 1, 1, 2], Port::new(8080), 2, WEB));
    tables.source_ranges.insert(SourceRangeKey::new(WEB, [198, 51, 100, 0], 24));
    tables.affinity.insert(AffinityKey::new([10, 1, 0, 9], WEB), AffinityEntry::new(far, 4_900));
    tables
}

fn view(source: &str, destination: &str, origin: Origin) -> ExplainView {
    let question = Question {
        source: source.parse().expect("an address"),
        source_port: None,
        destination: destination.parse().expect("an address and a port"),
        protocol: Protocol::Tcp,
        origin,
        hooks: Hooks::Attached,
    };
    let tables = tables();
    let explanation = explain::explain(&question, || tables.clone()).expect("both are IPv4");
    let who = Who { origin, text: "somebody".to_owned(), notes: vec![], is_unattached: false };
    let name = PortName::new("shop", "web", "http", Protocol::Tcp).expect("short names");
    let pods = BTreeMap::from([("10.1.1.2:8080".parse().expect("an address"), "web-0".to_owned())]);
    ExplainView::new(&question, &who, &explanation, &BTreeMap::from([(WEB, name)]), &pods, &settings())
}

fn text(source: &str, destination: &str, origin: Origin) -> String {
    plain(&view(source, destination, origin), Detail::Usual)
}

const OUTSIDE: Origin = Origin::Packets { device: 0 };

#[test]
fn each_endpoint_has_its_probability() {
    let pod = Origin::Pod { namespace: Some(9), device: 3 };
    let expected = "\
10.1.0.9 to 10.96.0.1:80 TCP, from somebody

  1. connect(2) in a pod's network namespace: the socket hook
  2. 10.96.0.1:80 is a clusterIP frontend of shop/web:http: policy Cluster, 2 endpoints in the cluster, 1 endpoint for policy Local
  3. one of 2 endpoints in the cluster is chosen at random

PROBABILITY  THEN                                            SOURCE  MARK
50.0%        sent to 10.1.0.2:8080 at the socket             kept    -
50.0%        sent to 10.1.1.2:8080 at the socket, pod web-0  kept    -
";
    let said = text("10.1.0.9", "10.96.0.1:80", pod);
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&said), squeeze(expected), "{said}");
}

#[test]
fn session_affinity_leaves_one_endpoint() {
    let json = serde_json::to_value(view("10.1.0.9", "10.96.0.2:80", OUTSIDE)).expect("serializes");
    let outcomes = json["outcomes"].as_array().expect("a list");
    assert_eq!(outcomes.len(), 1, "{json}");
    assert_eq!((&outcomes[0]["backend"], &outcomes[0]["probability"]), (&"10.1.1.2:8080".into(), &1.0.into()));
    let steps = json["steps"].to_string();
    assert!(steps.contains("session affinity: the client has a backend, last used 100 s ago"), "{steps}");
}

#[test]
fn what_is_not_known_is_said_where_it_matters() {
    let pod = Origin::Pod { namespace: None, device: 3 };
    let with_affinity = text("10.1.0.9", "10.96.0.2:80", pod);
    assert!(
        with_affinity.contains("Note: the network namespace with the client's address was not found"),
        "{with_affinity}"
    );
    let without = text("10.1.0.9", "10.96.0.1:80", pod);
    assert!(!without.contains("Note:"), "{without}");
}

#[test]
fn a_client_outside_is_masqueraded_and_marked() {
    let json = serde_json::to_value(view("203.0.113.5", "10.96.0.1:80", OUTSIDE)).expect("serializes");
    for outcome in json["outcomes"].as_array().expect("a list") {
        assert_eq!((&outcome["masqueraded"], &outcome["mark"]), (&true.into(), &"0x4000".into()), "{json}");
        assert_eq!((&outcome["outcome"], &outcome["at"]), (&"translated".into(), &"packets".into()));
    }
    assert_eq!((&json["service"], &json["from"]), (&"shop/web:http".into(), &"packets".into()));
}

#[test]
fn why_something_is_dropped_or_refused() {
    let guarded = text("203.0.113.5", "192.0.2.1:80", OUTSIDE);
    assert!(guarded.contains("203.0.113.5 is in none of the loadBalancerSourceRanges"), "{guarded}");
    assert!(guarded.contains("100.0%       dropped for shop/web:http: the source is in none"), "{guarded}");
    let let_in = text("198.51.100.5", "192.0.2.1:80", OUTSIDE);
    assert!(let_in.contains("198.51.100.5 is in one of the loadBalancerSourceRanges"), "{let_in}");
    assert!(let_in.contains("100.0%       sent to 10.1.0.2:8080 packet by packet"), "{let_in}");
    let elsewhere = text("203.0.113.5", "192.0.2.2:80", OUTSIDE);
    assert!(elsewhere.contains("dropped for shop/web:http: the traffic policy is Local"), "{elsewhere}");
    let refused = text("192.0.2.7", "10.96.0.3:80", Origin::Node);
    assert!(refused.contains("refused at the socket: shop/web:http has no endpoint"), "{refused}");
}

#[test]
fn what_is_no_services_passes() {
    let said = text("203.0.113.5", "192.0.2.9:443", OUTSIDE);
    assert!(said.contains("The destination is not a Service's."), "{said}");
    for part in ["192.0.2.9:443 TCP is no frontend", "port 443 is no nodePort of TCP", "100.0%       passes unchanged"]
    {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

#[test]
fn explaining_writes_nothing() {
    let tables = tables();
    let question = Question {
        source: [203, 0, 113, 5].into(),
        source_port: Some(Port::new(4000)),
        destination: ([10, 96, 0, 2], 80).into(),
        protocol: Protocol::Tcp,
        origin: OUTSIDE,
        hooks: Hooks::Attached,
    };
    let first = explain::explain(&question, || tables.clone()).expect("both are IPv4");
    assert_eq!(first.chances.len(), 2);
    assert_eq!(explain::explain(&question, || tables.clone()).expect("both are IPv4"), first);
    assert!(tables.flows.is_empty() && tables.affinity.len() == 1);
}

#[test]
fn fields_are_documented() {
    for destination in ["10.96.0.1:80", "192.0.2.1:80", "192.0.2.9:443"] {
        assert_documented(&view("203.0.113.5", destination, OUTSIDE));
    }
}
