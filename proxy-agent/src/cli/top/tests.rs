//! Rates, their order, and what is on the screen.

use std::collections::BTreeMap;

use proxy_common::{BackendId, Direction, PortName, Protocol, Traffic};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

use super::{backends::BackendRates, rates::short, *};
use crate::{
    cli::{
        flows::record::{Client, Record, State},
        print::{assert_documented, plain},
    },
    dataplane::tables::Counted,
};

const WEB: ServiceId = ServiceId::new(1);
const DNS: ServiceId = ServiceId::new(2);
const IDLE: ServiceId = ServiceId::new(3);

fn names() -> Names {
    let name = |name| PortName::new("shop", name, "", Protocol::Tcp).expect("short names");
    BTreeMap::from([(WEB, name("web")), (DNS, name("dns")), (IDLE, name("idle"))])
}

fn traffic(connections: u32, packets: u32, replies: u32) -> Traffic {
    let mut traffic = Traffic::default();
    (0..connections).for_each(|_| traffic.add_connection());
    (0..packets).for_each(|_| traffic.add_packet(Direction::Original, 100));
    (0..replies).for_each(|_| traffic.add_packet(Direction::Reply, 1000));
    traffic
}

fn sample(seconds: u64, services: &[(ServiceId, Traffic)], others: Traffic, drops: &[(ServiceId, u64)]) -> Sample {
    Sample {
        at: Duration::from_secs(seconds),
        counted: Counted { services: services.iter().copied().collect(), others },
        drops: drops.iter().copied().collect(),
    }
}

/// In the four seconds between two looks: web had 8 connections, 40 packets and 80 answers; dns 80 packets; idle nothing, but two
/// drops; the others together 4 connections.
fn rows() -> Vec<Rates> {
    let before = sample(10, &[(WEB, traffic(2, 10, 20)), (IDLE, traffic(0, 0, 0))], traffic(1, 0, 0), &[(IDLE, 5)]);
    let services = [(WEB, traffic(10, 50, 100)), (DNS, traffic(0, 80, 0)), (IDLE, traffic(0, 0, 0))];
    let now = sample(14, &services, traffic(5, 0, 0), &[(IDLE, 7)]);
    rates(&before, &now, &names())
}

fn row<'a>(rows: &'a [Rates], service: &str) -> &'a Rates {
    rows.iter().find(|row| row.service == service).unwrap_or_else(|| panic!("{service} is among {rows:?}"))
}

#[test]
#[expect(clippy::float_cmp, reason = "quotients of small numbers")]
fn rates_are_differences_by_time() {
    let rows = rows();
    let web = row(&rows, "shop/web");
    assert_eq!(
        [web.connections, web.packets, web.bytes, web.reply_packets, web.reply_bytes, web.drops],
        [2.0, 10.0, 1_000.0, 20.0, 20_000.0, 0.0]
    );
    assert_eq!(row(&rows, "shop/dns").packets, 20.0, "what was not there before began with nothing");
    assert_eq!(row(&rows, "shop/idle").drops, 0.5);
    assert_eq!(row(&rows, "(others)").connections, 1.0);
    assert_eq!(rows.len(), 4);
}

#[test]
fn no_time_and_numbers_that_begin_anew_are_no_rate() {
    let now = sample(10, &[(WEB, traffic(1, 1, 1))], Traffic::default(), &[]);
    assert!(rates(&now, &now, &names()).iter().all(|row| row.connections == 0.0));
    let before = sample(9, &[(WEB, traffic(9, 9, 9))], Traffic::default(), &[(WEB, 9)]);
    let anew = rates(&before, &now, &names());
    assert!(anew.iter().all(|row| row.packets == 0.0 && row.drops == 0.0), "{anew:?}");
}

fn order(by: Order) -> Vec<String> {
    let mut rows = rows();
    sort(&mut rows, by);
    rows.into_iter().map(|row| row.service).collect()
}

#[test]
fn rows_are_ordered_by_what_is_asked_for() {
    assert_eq!(order(Order::Connections), ["shop/web", "(others)", "shop/dns", "shop/idle"]);
    assert_eq!(order(Order::Packets)[..2], ["shop/web", "shop/dns"]);
    assert_eq!(order(Order::Drops)[0], "shop/idle");
    assert_eq!(order(Order::Name), ["(others)", "shop/dns", "shop/idle", "shop/web"]);
}

#[test]
fn rates_are_short() {
    let cases = [
        (0.0, "0"),
        (0.04, "0.0"),
        (0.5, "0.5"),
        (9.94, "9.9"),
        (12.4, "12"),
        (999.4, "999"),
        (999.9, "1.0k"),
        (4_500.0, "4.5k"),
        (12_000_000.0, "12.0M"),
        (3.2e12, "3.2T"),
    ];
    for (rate, text) in cases {
        assert_eq!(short(rate), text, "{rate}");
    }
}

#[test]
fn one_list_is_printed() {
    let list = List(rows());
    assert_documented(&list);
    let text = plain(&list, Detail::Usual);
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("shop/web") && line.contains("20.0k")), "{text}");
    let json = serde_json::to_value(&list).expect("serializes");
    assert_eq!((&json[0]["service"], &json[0]["reply_bytes"]), (&"shop/web".into(), &20_000.0.into()));
}

/// What is on a screen of 80 columns and 10 lines.
fn drawn(screen: &Screen) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(80, 10)).expect("memory");
    terminal.draw(|frame| screen.draw(frame)).expect("memory");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..10).map(line).collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> Wish {
    screen.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn the_screen_shows_services_in_the_order_that_a_key_asks_for() {
    let mut screen = Screen::new(Order::default(), None);
    screen.set_rates(rows());
    let lines = drawn(&screen);
    assert_eq!(lines[0], "Services, by connections in a second");
    assert!(lines[1].starts_with("SERVICE") && lines[1].ends_with("DROP/S"), "{lines:?}");
    assert!(lines[2].starts_with("shop/web"), "{lines:?}");
    let cells: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(cells, ["shop/web", "2.0", "10", "1.0k", "20", "20.0k", "0"]);
    assert!(lines[9].contains("q end"), "{lines:?}");
    assert_eq!(press(&mut screen, KeyCode::Char('d')), Wish::None);
    let lines = drawn(&screen);
    assert!(lines[0].contains("by drops") && lines[2].starts_with("shop/idle"), "{lines:?}");
    assert_eq!(press(&mut screen, KeyCode::Char('x')), Wish::None, "a key without a meaning does nothing");
    assert_eq!(drawn(&screen), lines);
}

#[test]
fn a_marked_service_stays_marked_and_shows_its_backends() {
    let mut screen = Screen::new(Order::Name, None);
    screen.set_rates(rows());
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.opened(), None, "all others together have no backends of their own");
    press(&mut screen, KeyCode::End);
    press(&mut screen, KeyCode::Char('c'));
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.opened(), Some(WEB), "the last by name is the first by connections");
    let backend = "10.0.0.2:8080".parse().expect("an address");
    let other = "10.0.0.1:8080".parse().expect("an address");
    screen.set_backends(vec![
        BackendRates { backend: other, pod: None, connections: 3, new: 2.5 },
        BackendRates { backend, pod: Some("web-0".to_owned()), connections: 7, new: 1.5 },
    ]);
    let lines = drawn(&screen);
    assert_eq!(lines[0], "Backends of shop/web, by connections");
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(&lines[2]), ["10.0.0.2:8080", "web-0", "7", "1.5"]);
    assert_eq!(cells(&lines[3]), ["10.0.0.1:8080", "-", "3", "2.5"]);
    for (key, first) in [('n', "10.0.0.1:8080"), ('c', "10.0.0.2:8080"), ('a', "10.0.0.1:8080")] {
        press(&mut screen, KeyCode::Char(key));
        assert!(drawn(&screen)[2].starts_with(first), "{key}: {:?}", drawn(&screen));
    }
    press(&mut screen, KeyCode::Esc);
    assert_eq!(screen.opened(), None);
    press(&mut screen, KeyCode::Down);
    press(&mut screen, KeyCode::Down);
    press(&mut screen, KeyCode::Up);
    press(&mut screen, KeyCode::Char('n'));
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.opened(), None, "the second by connections is all others together");
}

#[test]
fn services_are_there_before_anything_is_counted_and_may_go() {
    let nothing = sample(10, &[(WEB, traffic(0, 0, 0)), (IDLE, traffic(0, 0, 0))], Traffic::default(), &[]);
    let rows = rates(&nothing, &nothing, &names());
    assert_eq!(rows.iter().map(|row| row.service.as_str()).collect::<Vec<_>>(), ["shop/web", "shop/idle"]);
    let mut screen = Screen::new(Order::default(), Some("web".to_owned()));
    screen.set_rates(rows);
    assert!(drawn(&screen)[2].starts_with("shop/idle"), "{:?}", drawn(&screen));
    screen.set_rates(Vec::new());
    assert_eq!(drawn(&screen)[1], "This node serves no Service web at present.");
}

#[test]
fn who_has_seen_enough_leaves() {
    let mut screen = Screen::new(Order::default(), None);
    assert_eq!(press(&mut screen, KeyCode::Down), Wish::None, "nothing to mark");
    assert_eq!(press(&mut screen, KeyCode::Enter), Wish::None, "nothing to open");
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Wish::End);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.key(interrupt), Wish::End);
}

fn record(port: u16, backend: &str, state: State) -> Record {
    Record {
        service: WEB,
        protocol: Some(Protocol::Tcp),
        client: Client::Packets(([192, 0, 2, 9], port).into()),
        frontend: ([10, 96, 0, 1], 80).into(),
        backend: backend.parse().expect("an address"),
        backend_id: BackendId::new(backend.len().try_into().expect("short")),
        state,
        last_seen: Some(0),
        flags: proxy_common::FlowFlags::NONE,
        client_port: None,
    }
}

#[test]
fn backends_have_connections_and_new_ones() {
    let (one, other) = ("10.0.0.2:8080", "10.0.0.3:8080");
    let at = |seconds, records: &[Record]| Connections::new(Duration::from_secs(seconds), records);
    let before = at(10, &[record(1, one, State::Established), record(2, one, State::Established)]);
    let pods = BTreeMap::from([(13_u32, "web-0")]);
    let first: Vec<_> = before.rates(None, &pods).into_iter().map(|rates| (rates.connections, rates.new)).collect();
    assert_eq!(first, [(2, 0.0)], "of what was there before, nobody knows when it began");
    let now = at(
        14,
        &[
            record(1, one, State::Established),
            record(2, one, State::Closed),
            record(3, other, State::Opening),
            record(4, other, State::Active),
        ],
    );
    let rates = now.rates(Some(&before), &pods);
    assert!(rates.iter().all(|rates| rates.pod.as_deref() == Some("web-0")), "{rates:?}");
    let mut rates: Vec<_> = rates.into_iter().map(|rates| (rates.connections, rates.new)).collect();
    rates.sort_by_key(|(connections, _)| std::cmp::Reverse(*connections));
    assert_eq!(rates, [(2, 0.5), (1, 0.0)], "those that have ended do not count");
}
