//! What `status` prints of a given state.

use proxy_common::{DEFAULT_MASQUERADE_MARK, Protocol};
use serde_json::json;

use super::*;
use crate::cli::print::{assert_documented, plain};
use crate::dataplane::{features::Feature, pins::SocketHook, status::DeviceMechanism};
use crate::freshness::{KindTimes, Times};

fn settings() -> Settings {
    let prefix = FamilySettings::new(Detector::Prefix, [10, 244, 0, 0], [255, 255, 0, 0]);
    let device = FamilySettings::new(Detector::Device, [0; 16], [0; 16]);
    Settings::new(SettingsFlags::MASQUERADE_ALL, DEFAULT_MASQUERADE_MARK, 250, prefix, device)
}

/// Slices are not watched any more; of the Node nothing was ever heard.
fn times() -> Times {
    let kinds = [(9_990, 0), (2_000, 2_800), (0, 0)].map(|(heard, failing)| KindTimes { heard, failing });
    Times { synced: 9_991, kinds }
}

fn view() -> StatusView {
    let at = |index, direction, program, mechanism| AttachedDevice { index, direction, program, mechanism };
    let attached = [
        at(2, Direction::Ingress, 31, DeviceMechanism::Tcx),
        at(2, Direction::Egress, 32, DeviceMechanism::Tcx),
        at(9, Direction::Ingress, 33, DeviceMechanism::Clsact),
    ];
    let counts = BTreeMap::from([
        (Counter::SocketConnections, 5),
        (Counter::Flows, 2),
        (Counter::Drop(DropReason::NoEndpoint), 1),
    ]);
    let (counters, drops) = split(&counts);
    let (web, nameless) = (ServiceId::new(1), ServiceId::new(9));
    let names = BTreeMap::from([(web, PortName::new("shop", "web", "http", Protocol::Tcp).expect("short names"))]);
    let service_drops = BTreeMap::from([
        (DropKey::new(web, DropReason::NoEndpoint), 1),
        (DropKey::new(web, DropReason::SourceNotAllowed), 70),
        (DropKey::new(nameless, DropReason::NoLocalEndpoint), 70),
    ]);
    StatusView {
        version: "1.2.3",
        agent: None,
        kernel: KernelView::Known(Features::new("6.6.1".to_owned(), Feature::ALL.into())),
        layout_version: 1,
        ages: Some(AgesView::new(&times(), 10_000)),
        settings: settings_view(&settings()),
        masquerading: Some(Presence::Installed),
        dropped_by_mark: Some(4),
        socket_hooks: vec![socket_hook_view(AttachedSocketHook {
            hook: SocketHook::Connect4,
            program: 21,
            cgroup: Some(1),
        })],
        devices: devices_view(&attached, |index| (index == 2).then(|| "eth0".to_owned())),
        tables: vec![
            TableView { table: "services_v4", entries: 3, capacity: 100, evicted: None, eviction: Eviction::None },
            TableView { table: "flows_v4", entries: 7, capacity: 50, evicted: Some(2), eviction: Eviction::Oldest },
        ],
        counters,
        drops,
        service_drops: service_drops_view(&service_drops, &names),
        warnings: vec!["no agent is running".to_owned()],
    }
}

fn text(view: &StatusView) -> String {
    plain(view, Detail::Usual)
}

#[test]
fn everything_on_one_page() {
    let expected = "\
proxy-agent 1.2.3, table layout 1
WARNING: no agent is running
agent: not running
tables last in step: 9s ago
Services: last event 10s ago
EndpointSlices: last event 8000s ago, NOT WATCHED for 7200s
Nodes: last event never
kernel 6.6.1: socket_hooks, btf, receive_hooks, bounded_loops, mappable_arrays, batch_update, cgroup_link, \
netns_cookie, peer_name_hooks, ring_buffer, release_hook, cgroup_memory, coarse_clock, host_routing, set_retval, tcx
masquerading: mark 0x4000, every clusterIP, nftables table present
drop mark 0x8000: 4 packets dropped
sockets served: all below the cgroup
UDP timeout: 250s
pods: IPv4 10.244.0.0/16, IPv6 by device

SOCKET HOOK  PROGRAM  CGROUP
connect4     21       1

DEVICE  INDEX  INGRESS  EGRESS  BY
eth0    2      31       32      tcx
#9      9      33       -       clsact

TABLE        ENTRIES  CAPACITY  EVICTED
services_v4  3        100       -
flows_v4     7        50        2

COUNTER             COUNT
flows               2
socket_connections  5

DROPPED      COUNT
no_endpoint  1

DROPPED FOR    REASON              COUNT
#9             no_local_endpoint   70
shop/web:http  source_not_allowed  70
shop/web:http  no_endpoint         1
";
    assert_eq!(text(&view()), expected);
}

#[test]
fn what_is_wrong_stands_out() {
    let view = StatusView {
        agent: Some(42),
        kernel: KernelView::Unknown { error: "not allowed".to_owned() },
        masquerading: Some(Presence::Unsupported),
        ..view()
    };
    let said = text(&view);
    assert!(said.contains("agent: running, process 42\n"), "{said}");
    assert!(said.contains("kernel: not allowed\n"), "{said}");
    assert_eq!(warnings(&view).iter().filter(|text| text.contains("listed or watched for 7200s")).count(), 1);
    assert!(said.contains("NO nf_tables in the kernel"), "{said}");
    let view = StatusView { masquerading: Some(Presence::Missing), ..view };
    assert!(text(&view).contains("nftables table MISSING"), "{view:?}");
}

#[test]
fn whose_sockets_are_served() {
    let settings = settings().with_flags(SettingsFlags::HOST_NAMESPACE_ONLY).with_local_node_port_mark(0x8_0000);
    let view = StatusView { settings: settings_view(&settings), ..view() };
    let said = text(&view);
    assert!(said.contains("policy Local: mark 0x80000\nsockets served: the node's own network namespace\n"), "{said}");
    let view = StatusView { socket_hooks: Vec::new(), ..view };
    assert!(text(&view).contains("sockets served: none\n"), "{view:?}");
}

#[test]
fn the_same_as_json() {
    let json = serde_json::to_value(view()).expect("serializes");
    assert_eq!(json["kernel"]["release"], "6.6.1");
    assert_eq!(json["masquerading"], "installed");
    assert_eq!(json["drops"], json!({ "no_endpoint": 1 }));
    assert_eq!(json["service_drops"][2], json!({ "service": "shop/web:http", "reason": "no_endpoint", "count": 1 }));
    assert_eq!(
        json["devices"][0],
        json!({ "device": "eth0", "index": 2, "ingress": 31, "egress": 32, "mechanism": "tcx" })
    );
    assert_eq!(json["settings"]["pods_v4"], "10.244.0.0/16");
}

#[test]
fn what_somebody_should_look_at_is_said_first() {
    let fine = StatusView { agent: Some(42), ages: None, ..view() };
    assert_eq!(warnings(&fine), Vec::<String>::new());
    let full = |entries, eviction| TableView { table: "flows_v4", entries, capacity: 100, evicted: Some(0), eviction };
    let bad = StatusView {
        agent: None,
        masquerading: Some(Presence::Missing),
        socket_hooks: vec![],
        devices: vec![],
        tables: vec![
            full(89, Eviction::None),
            full(90, Eviction::Oldest),
            full(100, Eviction::None),
            full(100, Eviction::Usual),
        ],
        ..fine
    };
    let said = warnings(&bad);
    let parts = [
        "no agent is running",
        "nftables table is missing",
        "nothing is attached to a cgroup",
        "nothing is attached to a device",
        "flows_v4 is nearly full (90 of 100): what was not used lately",
        "flows_v4 is nearly full (100 of 100): when it is full, new Services",
    ];
    assert_eq!(said.len(), parts.len(), "{said:?}");
    for (warning, part) in said.iter().zip(parts) {
        assert!(warning.contains(part), "{warning} does not contain {part}");
    }
}

#[test]
fn the_wide_text_has_every_service() {
    let drop = ServiceDropsView { service: "shop/web".to_owned(), reason: "malformed", count: 1 };
    let service_drops = (0..=SHOWN_SERVICE_DROPS).map(|_| ServiceDropsView { service: drop.service.clone(), ..drop });
    let view = StatusView { service_drops: service_drops.collect(), ..view() };
    let lines = |detail| plain(&view, detail).matches("shop/web").count();
    assert_eq!((lines(Detail::Usual), lines(Detail::Wide)), (SHOWN_SERVICE_DROPS, SHOWN_SERVICE_DROPS + 1));
}

#[test]
fn fields_are_documented() {
    assert_documented(&view());
}
