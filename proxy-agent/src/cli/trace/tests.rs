//! How decisions are printed.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use proxy_common::{Decided, DecidedAt, DropReason, Port, PortName};
use serde_json::{Value, json};

use super::{view::LeftOut, *};
use crate::cli::print::{Detail, assert_documented, plain};

const WEB: ServiceId = ServiceId::new(7);
const FRONTEND: ([u8; 4], Port) = ([10, 96, 0, 1], Port::new(80));
const CLIENT: ([u8; 4], Port) = ([192, 0, 2, 9], Port::new(4000));

fn names() -> Names {
    BTreeMap::from([(WEB, PortName::new("shop", "web", "http", Protocol::Tcp).expect("short names"))])
}

/// What the programs' clock showed zero nanoseconds of: half past five.
fn clock() -> MonotonicClock {
    let now: Timestamp = "2026-11-21T17:30:10Z".parse().expect("a time");
    MonotonicClock::at(now, Duration::from_secs(10))
}

fn view(decision: &Decision) -> DecisionView {
    DecisionView::new(decision, &names(), &clock())
}

fn packet(decided: Decided) -> Decision {
    let tcp = Protocol::Tcp.number();
    let mut decision = Decision::new::<V4>(DecidedAt::Ingress, decided, WEB, tcp, &FRONTEND);
    // A device with this index is unlikely to be there.
    decision.set_packet::<V4>(&CLIENT, 4_000_000, 0x4000);
    decision.set_time(1_500_250_000);
    decision
}

#[test]
fn a_flow_that_begins_is_a_line_and_an_object() {
    let mut begins = packet(Decided::Begins);
    begins.set_backend::<V4>(&([10, 0, 0, 2], Port::new(8080)));
    begins.set_masqueraded();
    begins.set_client_port(Port::new(40_001));
    let view = view(&begins);
    let json: Value = serde_json::to_value(&view).expect("serializes");
    assert_eq!(
        json,
        json!({
            "time": "2026-11-21T17:30:01.500250Z", "at": "ingress", "device": "4000000", "protocol": "TCP",
            "client": "192.0.2.9:4000", "destination": "10.96.0.1:80", "service": "shop/web:http", "decision": "begins",
            "backend": "10.0.0.2:8080", "masqueraded": true, "mark": "0x4000", "client_port": 40001,
        })
    );
    assert_documented(&view);
    let text = plain(&view, Detail::Usual);
    assert!(text.starts_with("17:30:01.500250  ingress  TCP "), "{text}");
    assert!(text.ends_with("to 10.0.0.2:8080, from port 40001, masqueraded\n"), "{text}");
    assert!(plain(&view, Detail::Wide).contains("4000000"), "{text}");
    assert!(plain(&view, Detail::Wide).ends_with("masqueraded, mark 0x4000\n"), "{text}");
}

#[test]
fn what_goes_nowhere_says_why() {
    let dropped = view(&packet(Decided::Dropped(DropReason::SourceNotAllowed)));
    let json: Value = serde_json::to_value(&dropped).expect("serializes");
    assert_eq!((&json["decision"], &json["reason"]), (&"dropped".into(), &"source_not_allowed".into()));
    assert_eq!(json.get("backend"), None);
    assert!(
        plain(&dropped, Detail::Usual).ends_with("dropped: the source is in none of the loadBalancerSourceRanges\n")
    );

    let udp = Protocol::Udp.number();
    let mut refused =
        Decision::new::<V6>(DecidedAt::SendMsg, Decided::Refused, ServiceId::new(9), udp, &([1; 16], Port::new(53)));
    refused.set_socket(77);
    let json: Value = serde_json::to_value(view(&refused)).expect("serializes");
    assert_eq!(
        (&json["client"], &json["service"], &json["at"]),
        (&"socket 77".into(), &"#9".into(), &"sendmsg".into())
    );
    assert_eq!((&json["decision"], &json["reason"]), (&"refused".into(), &"no_endpoint".into()));
    assert_eq!(json["destination"], "[101:101:101:101:101:101:101:101]:53");
    assert_eq!(json.get("device"), None);
    assert_documented(&view(&refused));
}

#[test]
fn what_has_no_ports_is_shown_without() {
    let nobody = ([192, 0, 2, 9], Port::new(0));
    let mut icmp = Decision::new::<V4>(DecidedAt::Ingress, Decided::Dropped(DropReason::Malformed), WEB, 1, &nobody);
    icmp.set_packet::<V4>(&nobody, 0, 0);
    let json: Value = serde_json::to_value(view(&icmp)).expect("serializes");
    assert_eq!((&json["protocol"], &json["client"]), (&"ICMP".into(), &"192.0.2.9".into()));
}

#[test]
fn columns_are_under_their_headings() {
    for detail in [Detail::Usual, Detail::Wide] {
        let headings = plain(&Header, detail);
        let line = plain(&view(&packet(Decided::Refused)), detail);
        for (heading, cell) in
            [("AT", "ingress"), ("CLIENT", "192.0.2.9"), ("SERVICE", "shop/web"), ("DECISION", "refused")]
        {
            assert_eq!(headings.find(heading), line.find(cell), "{headings}{line}");
        }
    }
}

#[test]
fn a_second_shows_so_many_and_the_next_says_how_many_more_there_were() {
    let mut limit = Limit::new(NonZeroU32::new(2).expect("not 0"));
    let mut shown = |second| {
        let admission = limit.admit(second);
        (admission.is_shown, admission.left_out)
    };
    let first: Vec<_> = (0..5).map(|_| shown(1)).collect();
    assert_eq!(first, [(true, 0), (true, 0), (false, 0), (false, 0), (false, 0)]);
    assert_eq!([shown(3), shown(3)], [(true, 3), (true, 0)]);
    let view = LeftOut { not_shown: 3 };
    assert_documented(&view);
    assert_eq!(serde_json::to_string(&view).expect("serializes"), "{\"not_shown\":3}");
}
