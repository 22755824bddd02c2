//! What the commands show of given tables.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{
    Backend, BackendId, DropKey, DropReason, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId,
    ServiceKey, SlotRange, SourceRangeKey,
};
use serde_json::json;

use super::{
    backends,
    print::{Detail, Output, View, assert_documented, plain},
    services,
};
use crate::plan::Snapshot;

const WEB: ServiceId = ServiceId::new(1);
const DNS: ServiceId = ServiceId::new(2);
const FRONTEND: ([u8; 4], Port) = ([10, 96, 0, 1], Port::new(80));
const POD: ([u8; 4], Port) = ([10, 0, 0, 2], Port::new(8080));

fn names() -> BTreeMap<ServiceId, PortName> {
    let name = |namespace, name, port, protocol| PortName::new(namespace, name, port, protocol).expect("short names");
    BTreeMap::from([
        (WEB, name("shop", "web", "http", Protocol::Tcp)),
        (DNS, name("kube-system", "dns", "", Protocol::Udp)),
    ])
}

/// The Service shop/web with two endpoints, one of them here, a nodePort under policy Local, and a load
/// balancer for four ranges; a Service without name and endpoints on IPv6; a backend that nobody chooses any more.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot { names: names(), ..Snapshot::default() };
    let (cluster, local) = (SlotRange::new(8, 2), SlotRange::new(10, 1));
    let entry = ServiceEntry::new(WEB, ServiceFlags::AFFINITY, cluster, local).with_affinity_timeout(10_800);
    snapshot.v4.services.insert(ServiceKey::new(FRONTEND.0, FRONTEND.1, Protocol::Tcp), entry);
    let external = ServiceFlags::EXTERNAL.with(ServiceFlags::LOCAL);
    let entry = ServiceEntry::new(WEB, external.with(ServiceFlags::NODE_PORT), cluster, local);
    snapshot.v4.services.insert(ServiceKey::new([0; 4], Port::new(30_080), Protocol::Tcp), entry);
    let guarded = external.with(ServiceFlags::SOURCE_RANGES).with(ServiceFlags::NODE_ALLOWED);
    let entry = ServiceEntry::new(WEB, guarded, cluster, local);
    snapshot.v4.services.insert(ServiceKey::new([192, 0, 2, 1], FRONTEND.1, Protocol::Tcp), entry);
    let range = |third, bits| SourceRangeKey::new(WEB, [198, 51, third, 0], bits);
    snapshot.v4.source_ranges.extend([range(100, 24), range(101, 25), range(102, 26), range(103, 27)]);
    let ids = [1, 2, 3].map(BackendId::new);
    snapshot.v4.slots.extend([(8, ids[0]), (9, ids[1]), (10, ids[0])]);
    snapshot.v4.backends.insert(ids[0], Backend::new(POD.0, POD.1, 7, WEB));
    snapshot.v4.backends.insert(ids[1], Backend::new([10, 0, 1, 2], POD.1, 2, WEB));
    snapshot.v4.backends.insert(ids[2], Backend::new([10, 0, 1, 3], POD.1, 0, WEB));
    let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let entry = ServiceEntry::new(ServiceId::new(9), ServiceFlags::NONE, SlotRange::EMPTY, SlotRange::EMPTY);
    snapshot.v6.services.insert(ServiceKey::new(address, Port::new(53), Protocol::Udp), entry);
    snapshot
}

/// Of one endpoint it is known which pod it is.
fn pods() -> BTreeMap<u32, &'static str> {
    BTreeMap::from([(1, "web-0")])
}

fn drops() -> BTreeMap<DropKey, u64> {
    let (refused, shut_out) = (DropReason::NoEndpoint, DropReason::SourceNotAllowed);
    [(DropKey::new(WEB, refused), 5), (DropKey::new(WEB, shut_out), 7), (DropKey::new(DNS, refused), 3)].into()
}

fn text(view: &impl View) -> String {
    plain(view, Detail::Usual)
}

#[test]
fn services_in_columns() {
    let expected = "\
NAMESPACE  NAME  PORT  PROTOCOL  TYPE       FRONTEND       POLICY   CLUSTER  LOCAL  AFFINITY  SOURCES                                  DROPS
-          #9    -     UDP       ClusterIP  [fd00::1]:53   Cluster  0        0      -         -                                        0
shop       web   http  TCP       ClusterIP  10.96.0.1:80   Cluster  2        1      10800s    -                                        12
shop       web   http  TCP       External   192.0.2.1:80   Local    2        1      -         198.51.100.0/24,198.51.101.0/25,+2,node  12
shop       web   http  TCP       NodePort   0.0.0.0:30080  Local    2        1      -         -                                        12
";
    assert_eq!(text(&services::view(&snapshot(), &drops())), expected);
}

#[test]
fn services_as_json() {
    let json = serde_json::to_value(services::view(&snapshot(), &drops())).expect("serializes");
    assert_eq!(json.as_array().map(Vec::len), Some(4));
    assert_eq!(
        json[1],
        json!({
            "namespace": "shop", "name": "web", "port": "http", "protocol": "TCP", "frontend": "10.96.0.1:80",
            "type": "ClusterIP", "policy": "Cluster", "cluster_endpoints": 2, "local_endpoints": 1,
            "affinity_seconds": 10800, "drops": {"no_endpoint": 5, "source_not_allowed": 7}, "id": 1,
        })
    );
    let ranges = json!(["198.51.100.0/24", "198.51.101.0/25", "198.51.102.0/26", "198.51.103.0/27"]);
    assert_eq!(json[2]["sources"], json!({"ranges": ranges, "node": true}));
    assert_eq!((&json[3]["type"], &json[3]["policy"]), (&json!("NodePort"), &json!("Local")));
    for absent in ["affinity_seconds", "sources", "drops"] {
        assert_eq!(json[0].get(absent), None, "{absent}");
    }
}

#[test]
fn backends_tell_whether_they_are_here_and_chosen() {
    let expected = "\
SERVICE        ENDPOINT       POD    ON NODE  LISTS
shop/web:http  10.0.0.2:8080  web-0  yes      cluster,local
shop/web:http  10.0.1.2:8080  -      no       cluster
shop/web:http  10.0.1.3:8080  -      no       -
";
    assert_eq!(text(&backends::view(&snapshot(), &pods())), expected);
}

#[test]
fn no_rows_are_headings_only() {
    assert_eq!(text(&backends::view(&Snapshot::default(), &pods())), "SERVICE  ENDPOINT  POD  ON NODE  LISTS\n");
    assert_eq!(serde_json::to_string(&backends::view(&Snapshot::default(), &pods())).expect("serializes"), "[]");
}

#[test]
fn wide_is_everything() {
    let services = plain(&services::view(&snapshot(), &drops()), Detail::Wide);
    let line = services.lines().find(|line| line.contains("192.0.2.1:80")).expect("listed");
    let ranges = "198.51.100.0/24,198.51.101.0/25,198.51.102.0/26,198.51.103.0/27,node";
    assert!(line.contains(ranges) && line.ends_with("12     no_endpoint=5,source_not_allowed=7  1"), "{line}");
    let backends = plain(&backends::view(&snapshot(), &pods()), Detail::Wide);
    assert!(backends.lines().any(|line| line.ends_with("cluster        2")), "{backends}");
}

#[test]
fn yaml_is_what_json_is() {
    let view = services::view(&snapshot(), &drops());
    let print = |output: Output| {
        let mut out = Vec::new();
        output.print(&view, &mut out).expect("memory can be written");
        String::from_utf8(out).expect("text")
    };
    let json: serde_json::Value = serde_json::from_str(&print(Output::Json)).expect("JSON");
    let yaml: serde_json::Value = serde_saphyr::from_str(&print(Output::Yaml)).expect("YAML");
    assert_eq!(yaml, json);
}

#[test]
fn one_service_is_its_frontends_and_endpoints() {
    let mut snapshot = snapshot();
    services::keep(&mut snapshot, &BTreeSet::from([WEB]));
    assert_eq!(text(&services::view(&snapshot, &drops())).lines().count(), 1 + 3);
    assert_eq!(text(&backends::view(&snapshot, &pods())).lines().count(), 1 + 3);
    services::keep(&mut snapshot, &BTreeSet::from([DNS]));
    assert_eq!(text(&services::view(&snapshot, &drops())).lines().count(), 1);
}

#[test]
fn fields_are_documented() {
    assert_documented(&services::view(&snapshot(), &drops()));
    assert_documented(&backends::view(&snapshot(), &pods()));
}
