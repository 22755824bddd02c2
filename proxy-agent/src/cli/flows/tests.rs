//! Which connections are listed, and how.

use std::collections::BTreeMap;

use proxy_common::{
    BackendId, Direction, Flow, FlowFlags, FlowKey, Port, PortName, Protocol, ServiceId, SocketEntry, SocketKey,
    TcpState, V4,
};
use serde_json::{Value, json};

use super::*;
use crate::cli::print::{Detail, View, assert_documented, plain};

const WEB: ServiceId = ServiceId::new(1);
const DNS: ServiceId = ServiceId::new(2);
const CLIENT: ([u8; 4], Port) = ([192, 0, 2, 9], Port::new(40_000));
const FRONTEND: ([u8; 4], Port) = ([10, 96, 0, 1], Port::new(80));
const POD: ([u8; 4], Port) = ([10, 0, 0, 2], Port::new(8080));

/// Tables in memory.
#[derive(Default)]
struct Contents {
    flows: BTreeMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>>,
    sockets: BTreeMap<SocketKey<[u8; 4]>, SocketEntry<[u8; 4]>>,
}

impl record::Source<V4> for Contents {
    fn visit_flows(&self, mut visit: impl FnMut(FlowKey<[u8; 4]>, Flow<[u8; 4]>)) -> Result<(), TableError> {
        self.flows.iter().for_each(|(key, flow)| visit(*key, *flow));
        Ok(())
    }

    fn flow(&self, key: &FlowKey<[u8; 4]>) -> Result<Option<Flow<[u8; 4]>>, TableError> {
        Ok(self.flows.get(key).copied())
    }

    fn visit_sockets(&self, mut visit: impl FnMut(SocketKey<[u8; 4]>, SocketEntry<[u8; 4]>)) -> Result<(), TableError> {
        self.sockets.iter().for_each(|(key, entry)| visit(*key, *entry));
        Ok(())
    }

    fn socket(&self, key: &SocketKey<[u8; 4]>) -> Result<Option<SocketEntry<[u8; 4]>>, TableError> {
        Ok(self.sockets.get(key).copied())
    }
}

impl Contents {
    fn filtered(&self, filter: &Filter, now: u32) -> FlowsView<BTreeMap<u32, &'static str>> {
        let selection = filter.resolve(&names()).expect("the names exist");
        let mut records = vec![];
        record::read(self, &|record| selection.passes(record), &mut records).expect("memory can be read");
        FlowsView::new(records, names(), BTreeMap::from([(1, "web-0")]), now)
    }

    fn view(&self, now: u32) -> FlowsView<BTreeMap<u32, &'static str>> {
        self.filtered(&Filter::default(), now)
    }

    fn states(&self) -> Vec<Value> {
        let json = serde_json::to_value(self.view(110)).expect("serializes");
        json.as_array().expect("a list").iter().map(|row| row["state"].clone()).collect()
    }
}

fn names() -> Names {
    let name = |namespace, name, port, protocol| PortName::new(namespace, name, port, protocol).expect("short names");
    BTreeMap::from([
        (WEB, name("shop", "web", "http", Protocol::Tcp)),
        (DNS, name("kube-system", "dns", "", Protocol::Udp)),
    ])
}

fn text(view: &impl View) -> String {
    plain(view, Detail::Usual)
}

/// A TCP connection of which this was seen from client and server.
fn connection(client: TcpState, server: Option<TcpState>) -> Contents {
    let mut contents = Contents::default();
    let id = BackendId::new(1);
    let mut original = Flow::new(POD, FlowFlags::NONE, id, WEB, 100);
    original.note(100, client);
    contents.flows.insert(FlowKey::new(CLIENT, FRONTEND, Protocol::Tcp, Direction::Original), original);
    if let Some(state) = server {
        let mut reply = Flow::new(FRONTEND, FlowFlags::NONE, id, WEB, 100);
        reply.note(107, state);
        contents.flows.insert(FlowKey::new(POD, CLIENT, Protocol::Tcp, Direction::Reply), reply);
    }
    contents
}

#[test]
fn a_connection_is_one_row_with_the_newest_of_both_sides() {
    let contents = connection(TcpState::SYN.with(TcpState::DATA), Some(TcpState::SYN));
    let expected = "\
SERVICE        PROTOCOL  CLIENT           FRONTEND      BACKEND        POD    STATE        IDLE
shop/web:http  TCP       192.0.2.9:40000  10.96.0.1:80  10.0.0.2:8080  web-0  established  3s
";
    assert_eq!(text(&contents.view(110)), expected);
}

#[test]
fn answers_to_the_nodes_own_datagrams_are_no_flow() {
    let mut contents = Contents::default();
    let own = Flow::new(POD, FlowFlags::OWN, BackendId::new(0), DNS, 100);
    contents.flows.insert(FlowKey::new(CLIENT, POD, Protocol::Udp, Direction::Original), own);
    assert_eq!(contents.states(), Vec::<Value>::new());
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
        assert_eq!(connection(client, server).states(), [expected], "{client:?} {server:?}");
    }
}

#[test]
fn sockets_are_shown_once_with_what_their_application_asked_for() {
    let mut contents = Contents::default();
    let id = BackendId::new(1);
    let reply = |cookie, protocol| SocketKey::new(cookie, POD, protocol, Direction::Reply);
    contents.sockets.insert(reply(7, Protocol::Tcp), SocketEntry::new(FRONTEND, id, WEB, 50));
    contents.sockets.insert(reply(8, Protocol::Udp), SocketEntry::new(FRONTEND, id, DNS, 50));
    let original = SocketKey::new(8, FRONTEND, Protocol::Udp, Direction::Original);
    contents.sockets.insert(original, SocketEntry::new(POD, id, DNS, 96));
    let expected = "\
SERVICE          PROTOCOL  CLIENT    FRONTEND      BACKEND        POD    STATE   IDLE
kube-system/dns  UDP       socket 8  10.96.0.1:80  10.0.0.2:8080  web-0  active  4s
shop/web:http    TCP       socket 7  10.96.0.1:80  10.0.0.2:8080  web-0  active  -
";
    assert_eq!(text(&contents.view(100)), expected);
    let json = serde_json::to_value(contents.view(100)).expect("serializes");
    assert_eq!((&json[0]["kind"], json[1].get("idle_seconds")), (&json!("socket"), None));
}

/// A flow and two sockets, of two Services.
fn mixture() -> Contents {
    let mut contents = connection(TcpState::SYN.with(TcpState::DATA), Some(TcpState::SYN));
    let id = BackendId::new(1);
    let reply = |cookie, protocol| SocketKey::new(cookie, POD, protocol, Direction::Reply);
    contents.sockets.insert(reply(7, Protocol::Tcp), SocketEntry::new(FRONTEND, id, WEB, 50));
    let elsewhere = ([10, 96, 0, 10], Port::new(53));
    contents.sockets.insert(reply(8, Protocol::Udp), SocketEntry::new(elsewhere, id, DNS, 50));
    contents
}

#[test]
fn filters_leave_what_meets_all_of_them() {
    let listed = |filter: Filter| {
        let json = serde_json::to_value(mixture().filtered(&filter, 110)).expect("serializes");
        let rows = json.as_array().expect("a list").iter();
        rows.map(|row| row["client"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    let all = ["socket 8", "192.0.2.9:40000", "socket 7"];
    assert_eq!(listed(Filter::default()), all);
    let service = |name: &str| Some(name.parse().expect("a name"));
    assert_eq!(listed(Filter { service: service("shop/web"), ..Filter::default() }), all[1..]);
    assert_eq!(listed(Filter { namespace: Some("kube-system".to_owned()), ..Filter::default() }), all[..1]);
    let neither = Filter { service: service("web"), namespace: Some("kube-system".to_owned()), ..Filter::default() };
    assert_eq!(listed(neither), Vec::<String>::new());
    let address = |text: &str| Filter { address: Some(text.parse().expect("an address")), ..Filter::default() };
    assert_eq!(listed(address("192.0.2.9")), all[1..2], "a client");
    assert_eq!(listed(address("10.96.0.10")), all[..1], "a frontend");
    assert_eq!(listed(address("10.0.0.2")), all, "a backend");
    assert_eq!(listed(Filter { protocol: Some(Protocol::Udp), ..Filter::default() }), all[..1]);
    let state = vec![record::State::Established, record::State::Closed];
    assert_eq!(listed(Filter { state, ..Filter::default() }), all[1..2]);
}

#[test]
fn a_namespace_that_nobody_has_leads_to_those_near() {
    let filter = Filter { namespace: Some("kube-sytem".to_owned()), ..Filter::default() };
    let error = filter.resolve(&names()).expect_err("nobody has it").to_string();
    assert_eq!(error, "this node serves no Service of a namespace \"kube-sytem\"; did you mean kube-system?");
}

#[test]
fn wide_tells_where_it_happens_and_what_is_changed_besides() {
    let mut contents = Contents::default();
    let port = Port::new(50_000);
    let flow = Flow::new(POD, FlowFlags::MASQUERADE, BackendId::new(1), WEB, 100).with_client_port(port);
    contents.flows.insert(FlowKey::new(CLIENT, FRONTEND, Protocol::Tcp, Direction::Original), flow);
    let mut reply = Flow::new(FRONTEND, FlowFlags::MASQUERADE, BackendId::new(1), WEB, 109);
    reply.note(109, TcpState::RST);
    let key = FlowKey::new(POD, (CLIENT.0, port), Protocol::Tcp, Direction::Reply);
    contents.flows.insert(key, reply.with_client_port(CLIENT.1));
    let expected = "\
SERVICE        PROTOCOL  CLIENT           FRONTEND      BACKEND        POD    STATE   IDLE  AT      MASQUERADED  CLIENT PORT
shop/web:http  TCP       192.0.2.9:40000  10.96.0.1:80  10.0.0.2:8080  web-0  closed  1s    device  yes          50000
";
    assert_eq!(plain(&contents.view(110), Detail::Wide), expected);
    let json = serde_json::to_value(contents.view(110)).expect("serializes");
    assert_eq!((&json[0]["masqueraded"], &json[0]["client_port"]), (&json!(true), &json!(50_000)));
    assert_eq!(json[0]["pod"], "web-0");
}

/// 256 Ki entries are half as many connections of packets, and as many sockets.
#[test]
fn a_full_table_costs_a_bounded_amount_of_memory() {
    const CONNECTIONS: usize = proxy_common::maps::FLOWS_CAPACITY / 2 + proxy_common::maps::SOCKETS_CAPACITY;
    const FAMILIES: usize = 2;
    assert!(size_of::<Record>() * CONNECTIONS * FAMILIES < 96 << 20, "{} bytes each", size_of::<Record>());
}

#[test]
fn fields_are_documented() {
    assert_documented(&mixture().view(110));
}
