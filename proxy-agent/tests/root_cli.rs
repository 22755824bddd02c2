//! The commands that look at the tables, against tables in the kernel that no agent serves any more.
//! Needs root.

mod support;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use clap::Parser;
use proxy_agent::{
    cli::TableCommand,
    dataplane::{Dataplane, features::Feature, pins::Pins, read_tables, tables::SettingsTable},
    model::IpFamily,
    plan::{BackendNumber, Changes, Pods, Tables as _},
};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, Settings,
    SlotRange,
};
use serde_json::Value;
use support::{Netns, Node, features, run};

const IN_CLUSTER_LIST: u16 = Backend::<[u8; 4]>::IN_CLUSTER_LIST;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: TableCommand,
}

/// Runs a command in a namespace and returns what it prints, or its error.
fn agent(netns: &Netns, command: &str, root: &Path, rest: &[&str]) -> Result<String, String> {
    let arguments = ["proxy-agent", command, "--bpffs-root", root.to_str().expect("UTF-8")].into_iter();
    let command = Arguments::try_parse_from(arguments.chain(rest.iter().copied())).expect("valid").command;
    let mut out = Vec::new();
    netns.enter(|| command.run(&mut out)).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

fn json(node: &Node, command: &str) -> Value {
    let output = agent(&node.netns, command, node.pins.path(), &["-o", "json"]).expect("succeeds");
    serde_json::from_str(&output).expect("JSON")
}

/// A node with one Service and a device, whose agent has stopped.
fn node() -> Node {
    let node = Node::default();
    node.netns.ip("link add eth0 type veth peer name eth1");
    let id = ServiceId::new(7);
    let mut changes = Changes::default();
    changes.names.push((id, PortName::new("shop", "web", "http", Protocol::Tcp).expect("short names")));
    let entry = ServiceEntry::new(id, ServiceFlags::NONE, SlotRange::new(16, 1), SlotRange::EMPTY);
    changes.v4.backends.push((BackendId::new(5), Backend::new([10, 0, 0, 2], Port::new(8080), IN_CLUSTER_LIST, id)));
    changes.v4.slots.push((16, vec![BackendId::new(5)]));
    changes.v4.services.push((ServiceKey::new([10, 96, 0, 1], Port::new(80), Protocol::Tcp), entry));
    drop(node.start(&changes));
    node
}

#[test]
fn tables_are_shown_while_no_agent_runs() {
    let node = node();
    let services = json(&node, "services");
    assert_eq!((&services[0]["name"], &services[0]["frontend"]), (&"web".into(), &"10.96.0.1:80".into()));
    let backends = json(&node, "backends");
    assert_eq!(backends[0]["endpoint"], "10.0.0.2:8080");
    let lists = Value::from(vec!["cluster"]);
    assert_eq!((&backends[0]["lists"], backends.as_array().map(Vec::len)), (&lists, Some(1)));
    assert_eq!(json(&node, "flows"), Value::Array(Vec::new()));

    let status = json(&node, "status");
    assert_eq!((&status["agent"], &status["masquerading"]), (&Value::Null, &"installed".into()));
    assert_eq!(status["socket_hooks"].as_array().map(Vec::len), Some(9));
    let devices: Vec<&Value> = status["devices"].as_array().expect("a list").iter().map(|at| &at["device"]).collect();
    assert_eq!(devices.len(), 2, "{devices:?}");
    assert!(devices.contains(&&"eth0".into()) && devices.contains(&&"eth1".into()), "{devices:?}");
    let services = status["tables"].as_array().expect("a list").iter().find(|table| table["table"] == "services_v4");
    assert_eq!(services.expect("listed")["entries"], 1);
}

#[test]
fn connections_of_sockets_are_listed_and_counted() {
    let node = node();
    // A process of the node listens where the Service's only endpoint is, and another connects to the Service.
    node.netns.ip("addr add 10.0.0.2/32 dev lo");
    node.netns.ip("route add 10.96.0.0/16 dev lo");
    let listener = node.netns.enter(|| std::net::TcpListener::bind("10.0.0.2:8080").expect("binds"));
    let connect = "exec 3<>/dev/tcp/10.96.0.1/80; read -r line <&3; echo $line; sleep 5 & wait -n";
    let mut client = node.netns.command_in(&node.cgroup, "bash").args(["-c", connect]).spawn().expect("starts");
    let (mut connection, _) = listener.accept().expect("the client comes");
    std::io::Write::write_all(&mut connection, b"hello\n").expect("writes");

    let flows = json(&node, "flows");
    client.kill().expect("is still there");
    client.wait().expect("ends");
    assert_eq!(flows.as_array().map(Vec::len), Some(1), "{flows}");
    let flow = &flows[0];
    assert_eq!((&flow["kind"], &flow["service"]), (&"socket".into(), &"shop/web:http".into()));
    assert_eq!((&flow["frontend"], &flow["backend"]), (&"10.96.0.1:80".into(), &"10.0.0.2:8080".into()));
    assert_eq!(json(&node, "status")["counters"]["socket_connections"], 1);
}

#[test]
fn what_happens_in_a_second_is_printed_once() {
    let node = node();
    node.netns.ip("addr add 10.0.0.2/32 dev lo");
    node.netns.ip("route add 10.96.0.0/16 dev lo");
    let listener = node.netns.enter(|| std::net::TcpListener::bind("10.0.0.2:8080").expect("binds"));
    std::thread::spawn(move || listener.incoming().for_each(drop));
    // Connections come for as long as somebody looks.
    let connect = "while true; do (exec 3<>/dev/tcp/10.96.0.1/80); sleep 0.05; done";
    let mut client = node.netns.command_in(&node.cgroup, "bash").args(["-c", connect]).spawn().expect("starts");
    let top = |rest: &[&str]| agent(&node.netns, "top", node.pins.path(), rest);
    let list = |name: &[&str]| -> Vec<Value> {
        let output = top(&[&["--once", "--interval", "1", "-o", "json"], name].concat()).expect("succeeds");
        serde_json::from_str(&output).expect("a list in JSON")
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    let row = loop {
        if let Some(row) = list(&["shop/web"]).into_iter().find(|row| row["connections"].as_f64() > Some(0.0)) {
            break row;
        }
        assert!(Instant::now() < deadline, "no connection is counted: {:?}", list(&[]));
    };
    client.kill().expect("is still there");
    client.wait().expect("ends");
    assert_eq!((&row["service"], row["packets"].as_f64()), (&"shop/web:http".into(), Some(0.0)), "nobody sees packets");

    let error = top(&["--once", "wed"]).expect_err("no such Service");
    assert!(error.contains("web"), "{error}");
    // Lists for programs are no screen, on whatever terminal.
    let error = top(&["-o", "json"]).expect_err("draws nothing");
    assert!(error.contains("--once"), "{error}");
}

#[test]
fn pods_are_named_while_no_agent_runs() {
    let node = node();
    let number = |id| BackendNumber { family: IpFamily::V4, id: BackendId::new(id) };
    let mut tables = Dataplane::open(&node.config()).expect("opens").tables;
    let explain = || {
        let arguments = ["192.0.2.9", "10.96.0.1:80", "--from=outside", "-ojson"];
        let said = agent(&node.netns, "explain", node.pins.path(), &arguments).expect("explains");
        serde_json::from_str::<Value>(&said).expect("JSON")["outcomes"][0].clone()
    };
    tables.name_pods(&Pods::Some(vec![(number(5), Some("web-0")), (number(6), Some("gone-0"))]));
    assert_eq!(json(&node, "backends")[0]["pod"], "web-0");
    assert_eq!(explain()["pod"], "web-0", "{}", explain());
    tables.name_pods(&Pods::All(vec![(number(5), "web-1")]));
    assert_eq!(json(&node, "backends")[0]["pod"], "web-1");
    let pods = read_tables(node.pins.path()).expect("pinned").pods.expect("it is there");
    assert_eq!(pods.get(number(6)).expect("readable"), None, "names of nobody go");

    // With a backend goes its name. After an agent without the table, nothing has a name and all else is shown.
    let mut retired = Changes::default();
    retired.v4.retired_backends.push(BackendId::new(5));
    tables.apply(&retired).expect("writes");
    assert_eq!(pods.get(number(5)).expect("readable"), None);
    fs::remove_file(node.pins.path().join("pods")).expect("pinned");
    assert_eq!(json(&node, "services")[0]["name"], "web");
    assert_eq!(explain().get("pod"), None);
}

#[test]
fn the_error_without_tables_says_what_to_do() {
    let node = Node::default();
    for command in ["status", "services", "backends", "flows"] {
        let error = agent(&node.netns, command, node.pins.path(), &[]).expect_err("nothing is pinned");
        let expected = format!("no tables at {}: is the agent running on this node?", node.pins.path().display());
        assert!(error.starts_with(&expected) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn tables_that_cannot_be_used_are_told_from_none() {
    let fails = |node: &Node| agent(&node.netns, "services", node.pins.path(), &[]).expect_err("no tables to use");
    let node = node();
    let path = node.pins.path().display().to_string();
    let pin = |name: &str| node.pins.path().join(name);
    let settings = read_tables(node.pins.path()).expect("pinned").settings.read().expect("readable");
    let mut table = SettingsTable::open(&Pins::new(node.pins.path())).expect("pinned");
    table.write(&Settings::UNSET).expect("can be written");
    assert!(fails(&node).starts_with(&format!("the tables at {path} are empty")), "{}", fails(&node));
    table.write(&settings).expect("can be written");
    fails_not(&node);

    // Somebody else's map where a table should be, and a program.
    for (foreign, said) in [
        (
            "counters",
            format!("what is pinned as {path}/services_v4 is another program's, or an agent's of another version"),
        ),
        ("links/connect4", format!("{path}/services_v4 is a pinned link, and no table of the agent's")),
    ] {
        fs::rename(pin("services_v4"), pin("aside")).expect("pins can be renamed");
        fs::rename(pin(foreign), pin("services_v4")).expect("pins can be renamed");
        assert!(fails(&node).starts_with(&said), "{}", fails(&node));
        fs::rename(pin("services_v4"), pin(foreign)).expect("pins can be renamed");
        fs::rename(pin("aside"), pin("services_v4")).expect("pins can be renamed");
    }
    fails_not(&node);

    for name in ["services_v4", "drops"] {
        fs::remove_file(pin(name)).expect("pinned");
    }
    let said = fails(&node);
    assert!(said.starts_with(&format!("{path} is broken: services_v4, drops are not pinned there")), "{said}");
    let folder = tempfile::tempdir().expect("a folder");
    let said = agent(&node.netns, "services", folder.path(), &[]).expect_err("no tables");
    assert!(said.ends_with("with --bpffs-root") && said.contains("is not on a bpf file system"), "{said}");
}

/// Also where the other version has not all tables that this one knows.
#[test]
fn tables_of_another_version_are_told_from_broken_ones() {
    const SETTINGS: usize = size_of::<Settings>();
    let node = node();
    let pin = |name: &str| node.pins.path().join(name);
    let map = Map::from_map_data(MapData::from_pin(pin("settings")).expect("pinned")).expect("a map");
    let mut settings: Array<_, [u8; SETTINGS]> = map.try_into().expect("an array");
    let mut bytes = settings.get(&0, 0).expect("readable");
    bytes[..4].copy_from_slice(&1_u32.to_ne_bytes());
    settings.set(0, bytes, 0).expect("is written");
    for missing in [None, Some("flow_filter"), Some("services_v4")] {
        if let Some(name) = missing {
            fs::remove_file(pin(name)).expect("pinned");
        }
        let said = agent(&node.netns, "services", node.pins.path(), &[]).expect_err("another version's");
        assert!(said.contains("have layout 1, and this proxy-agent knows layout"), "{missing:?}: {said}");
    }
}

fn fails_not(node: &Node) {
    agent(&node.netns, "services", node.pins.path(), &[]).expect("the tables are as they were");
}

#[test]
fn a_service_is_asked_for_by_name() {
    let node = node();
    let ask = |command, name| agent(&node.netns, command, node.pins.path(), &["-o", "yaml", name]);
    let services = ask("services", "shop/web").expect("known");
    assert!(services.contains("frontend: 10.96.0.1:80"), "{services}");
    assert!(ask("backends", "web").expect("known").contains("endpoint: 10.0.0.2:8080"));
    for command in ["services", "backends", "flows"] {
        let error = ask(command, "shop/wep").expect_err("nobody has the name");
        assert_eq!(error, "this node serves no Service \"shop/wep\"; did you mean shop/web?");
    }
}

#[test]
fn what_becomes_of_a_connection_is_explained() {
    let node = node();
    let ask = |arguments: &[&str]| agent(&node.netns, "explain", node.pins.path(), &[arguments, &["-ojson"]].concat());
    let explain = |arguments: &[&str]| -> Value {
        serde_json::from_str(&ask(arguments).unwrap_or_else(|error| panic!("{error}"))).expect("JSON")
    };
    for (arguments, at) in [
        (["127.0.0.1", "10.96.0.1:80", "--from=node"], "socket"),
        (["192.0.2.9:4000", "shop/web:http", "--from=outside"], "packets"),
        (["192.0.2.9", "web:80", "--from=eth0"], "packets"),
    ] {
        let said = explain(&arguments);
        assert_eq!(said["service"], "shop/web:http", "{said}");
        let outcome = &said["outcomes"][0];
        assert_eq!(
            (&outcome["outcome"], &outcome["backend"]),
            (&"translated".into(), &"10.0.0.2:8080".into()),
            "{said}"
        );
        assert_eq!((&outcome["at"], &outcome["probability"]), (&at.into(), &1.0.into()), "{said}");
    }
    assert_eq!(explain(&["192.0.2.9", "10.96.0.1:81"])["outcomes"][0]["outcome"], "passes");
    assert_eq!(json(&node, "flows"), Value::Array(Vec::new()), "explaining begins nothing");
    assert_eq!(json(&node, "status")["counters"]["flows"], 0, "and counts nothing");

    // Loopback has no program, so nobody looks at what enters by it.
    let unseen = explain(&["192.0.2.9", "10.96.0.1:80", "--from", "lo"]);
    assert_eq!((&unseen["outcomes"][0]["outcome"], &unseen["steps"]), (&"passes".into(), &Value::Array(vec![])));
    assert!(unseen["notes"][0].as_str().is_some_and(|note| note.starts_with("lo has no program")), "{unseen}");

    let fails = |arguments: &[&str]| ask(arguments).expect_err("nobody has the name");
    assert!(fails(&["192.0.2.9", "shop/wep:http"]).ends_with("did you mean shop/web:http?"));
    let device = fails(&["192.0.2.9", "10.96.0.1:80", "--from", "eht0"]);
    assert!(device.starts_with("--from eht0: there is no such device") && device.contains("eth0"), "{device}");
    let mixed = fails(&["192.0.2.9", "[fd00::1]:80"]);
    assert_eq!(mixed, "source and destination are not of the same IP version");
}

#[test]
fn a_running_agent_is_told_and_not_cleaned_away() {
    let node = Node::default();
    let _running = node.start(&Changes::default());
    assert_eq!(json(&node, "status")["agent"], std::process::id());
    let error = agent(&node.netns, "cleanup", node.pins.path(), &[]).expect_err("an agent is running");
    assert!(error.starts_with("an agent is running"), "{error}");
}

#[test]
fn cleanup_says_what_it_removed() {
    let node = node();
    let devices: BTreeSet<u64> = json(&node, "status")["devices"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|at| at["index"].as_u64())
        .collect();
    assert_eq!(devices.len(), 2);
    let removed = agent(&node.netns, "cleanup", node.pins.path(), &[]).expect("removes");
    let root = node.pins.path().display();
    let pinned = ["links pinned", "programs kept", "tables pinned"].map(|what| format!("removed {what} at {root}\n"));
    let mut expected = pinned.concat();
    // Filters are removed one by one; TCX links are links.
    if !features().has(Feature::Tcx) {
        for index in devices {
            writeln!(expected, "removed filters of the device with index {index}").expect("a string");
        }
    }
    expected.push_str("removed nftables table inet proxy-agent\n");
    assert_eq!(removed, expected);
    assert_eq!(agent(&node.netns, "cleanup", node.pins.path(), &[]).expect("removes"), "nothing to remove\n");
    assert_eq!(run(node.netns.command("nft").args(["list", "tables"])), "");
}
