//! What the commands show of given tables.

use proxy_common::{
    Backend, BackendId, DropKey, DropReason, FlowFlags, Port, ServiceEntry, ServiceFlags, ServiceKey, SlotRange,
    SourceRangeKey,
};
use serde_json::json;

use super::*;
use crate::{
    cli::{backends, print::columns, services},
    plan::Snapshot,
};

const WEB: ServiceId = ServiceId::new(1);
const DNS: ServiceId = ServiceId::new(2);
const CLIENT: ([u8; 4], Port) = ([192, 0, 2, 9], Port::new(40_000));
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

fn drops() -> BTreeMap<DropKey, u64> {
    let (refused, shut_out) = (DropReason::NoEndpoint, DropReason::SourceNotAllowed);
    [(DropKey::new(WEB, refused), 5), (DropKey::new(WEB, shut_out), 7), (DropKey::new(DNS, refused), 3)].into()
}

fn text<R: Rows>(view: &R) -> String {
    columns(R::HEADINGS, view.rows())
}

#[test]
fn services_in_columns() {
    let expected = "\
NAMESPACE  NAME  PORT  PROTOCOL  TYPE       FRONTEND       POLICY   CLUSTER  LOCAL  AFFINITY  SOURCES                                  DROPS
-          #9    -     UDP       ClusterIP  [fd00::1]:53   Cluster  0        0      -         -                                        0
shop       web   http  TCP       ClusterIP  10.96.0.1:80   Cluster  2        1      10800s    -                                        12
shop       web   http  TCP       External   192.0.2.1:80   Local    2        1      -         198.51.100.0/24,198.51.101.0/25,+2,node  12
shop       web   http  TCP       NodePort   0.0.0.0:30080  Local    2        1      -         -                                        12";
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
            "affinity_seconds": 10800, "drops": {"no_endpoint": 5, "source_not_allowed": 7},
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
SERVICE        ENDPOINT       ON NODE  LISTS
shop/web:http  10.0.0.2:8080  yes      cluster,local
shop/web:http  10.0.1.2:8080  no       cluster
shop/web:http  10.0.1.3:8080  no       -";
    assert_eq!(text(&backends::view(&snapshot())), expected);
}

#[test]
fn no_rows_are_headings_only() {
    assert_eq!(text(&backends::view(&Snapshot::default())), "SERVICE  ENDPOINT  ON NODE  LISTS");
    assert_eq!(serde_json::to_string(&backends::view(&Snapshot::default())).expect("serializes"), "[]");
}

/// A TCP connection of which this was seen from client and server.
fn connection(client: TcpState, server: Option<TcpState>) -> Contents {
    let mut contents = Contents { names: names(), ..Contents::default() };
    let id = BackendId::new(1);
    let mut original = Flow::new(POD, FlowFlags::NONE, id, WEB, 100);
    original.note(100, client);
    contents.v4.flows.insert(FlowKey::new(CLIENT, FRONTEND, Protocol::Tcp, Direction::Original), original);
    if let Some(state) = server {
        let mut reply = Flow::new(FRONTEND, FlowFlags::NONE, id, WEB, 100);
        reply.note(107, state);
        contents.v4.flows.insert(FlowKey::new(POD, CLIENT, Protocol::Tcp, Direction::Reply), reply);
    }
    contents
}

#[test]
fn a_connection_is_one_row_with_the_newest_of_both_sides() {
    let contents = connection(TcpState::SYN.with(TcpState::DATA), Some(TcpState::SYN));
    let expected = "\
SERVICE        PROTOCOL  CLIENT           FRONTEND      BACKEND        STATE        IDLE
shop/web:http  TCP       192.0.2.9:40000  10.96.0.1:80  10.0.0.2:8080  established  3s";
    assert_eq!(text(&contents.view(110)), expected);
}

#[test]
fn answers_to_the_nodes_own_datagrams_are_no_flow() {
    let mut contents = Contents { names: names(), ..Contents::default() };
    let own = Flow::new(POD, FlowFlags::OWN, BackendId::new(0), DNS, 100);
    contents.v4.flows.insert(FlowKey::new(CLIENT, POD, Protocol::Udp, Direction::Original), own);
    assert_eq!(contents.view(110).rows(), Vec::<Vec<String>>::new());
}

#[test]
fn the_state_follows_what_both_sides_sent() {
    let (syn, data) = (TcpState::SYN, TcpState::SYN.with(TcpState::DATA));
    let (fin, rst) = (data.with(TcpState::FIN), data.with(TcpState::RST));
    for (client, server, expected) in [
        (syn, None, "opening"),
        (syn, Some(TcpState::NONE), "opening"),
        (syn, Some(syn), "opening"),
        (data, Some(data), "established"),
        (fin, Some(data), "closing"),
        (data, Some(fin), "closing"),
        (fin, Some(fin), "closed"),
        (data, Some(rst), "closed"),
        (rst, Some(TcpState::NONE), "closed"),
    ] {
        let rows = connection(client, server).view(110).rows();
        assert_eq!(rows[0][5], expected, "{client:?} {server:?}");
    }
}

#[test]
fn sockets_are_shown_once_with_what_their_application_asked_for() {
    let mut contents = Contents { names: names(), ..Contents::default() };
    let id = BackendId::new(1);
    let reply = |cookie, protocol| SocketKey::new(cookie, POD, protocol, Direction::Reply);
    contents.v4.sockets.insert(reply(7, Protocol::Tcp), SocketEntry::new(FRONTEND, id, WEB, 50));
    contents.v4.sockets.insert(reply(8, Protocol::Udp), SocketEntry::new(FRONTEND, id, DNS, 50));
    let original = SocketKey::new(8, FRONTEND, Protocol::Udp, Direction::Original);
    contents.v4.sockets.insert(original, SocketEntry::new(POD, id, DNS, 96));
    let expected = "\
SERVICE          PROTOCOL  CLIENT    FRONTEND      BACKEND        STATE   IDLE
kube-system/dns  UDP       socket 8  10.96.0.1:80  10.0.0.2:8080  active  4s
shop/web:http    TCP       socket 7  10.96.0.1:80  10.0.0.2:8080  active  -";
    assert_eq!(text(&contents.view(100)), expected);
    let json = serde_json::to_value(contents.view(100)).expect("serializes");
    assert_eq!((&json[0]["kind"], json[1].get("idle_seconds")), (&json!("socket"), None));
}
