//! The dataplane's life: tables that are kept, links that are replaced in place, and what is left when
//! it is taken down. Needs root.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use proxy_agent::{
    dataplane::{
        Adoption, Config, Dataplane, PacketLog, cleanup,
        features::Feature,
        pins::{Pins, SocketHook},
        read_tables, status,
    },
    plan::{Changes, Tables as _},
};
use proxy_common::{
    Backend, BackendId, LAYOUT_VERSION, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey,
    SlotRange,
};
use support::{Cgroup, Node, eventually, features, run, settings};

const SERVICE: ServiceId = ServiceId::new(7);

/// A Service 10.96.0.1:80 with the backend 10.0.0.2:8080, and the same for IPv6.
fn changes() -> Changes {
    let mut changes = Changes::default();
    changes.names.push((SERVICE, PortName::new("shop", "web", "http", Protocol::Tcp).expect("short names")));
    let range = SlotRange::new(16, 1);
    let entry = ServiceEntry::new(SERVICE, ServiceFlags::NONE, range, SlotRange::EMPTY);
    let (backend, port) = (BackendId::new(5), Port::new(8080));
    changes.v4.backends.push((backend, Backend::new([10, 0, 0, 2], port, Backend::<[u8; 4]>::LOCAL, SERVICE)));
    changes.v4.slots.push((16, vec![backend]));
    changes.v4.services.push((ServiceKey::new([10, 96, 0, 1], Port::new(80), Protocol::Tcp), entry));
    let v6 = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    changes.v6.backends.push((backend, Backend::new(v6(2), port, 0, SERVICE)));
    changes.v6.slots.push((16, vec![backend]));
    changes.v6.services.push((ServiceKey::new(v6(1), Port::new(80), Protocol::Tcp), entry));
    changes
}

/// The link and the program at each hook.
fn links(node: &Node) -> BTreeMap<String, (u64, u64)> {
    let entries = fs::read_dir(Pins::new(node.pins.path()).links()).expect("links are pinned");
    let link = |path: &Path| {
        let json = bpftool(&["link", "show", "pinned"], path);
        (json["id"].as_u64().expect("an id"), json["prog_id"].as_u64().expect("a program"))
    };
    entries
        .map(|entry| entry.expect("readable"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), link(&entry.path())))
        .collect()
}

/// The hooks with a program, a hook for each program.
fn hooks_at(cgroup: &Cgroup) -> Vec<SocketHook> {
    let attached = status::at_cgroup(cgroup.path()).expect("readable");
    attached.into_iter().map(|(hook, _)| hook).collect()
}

#[test]
fn what_is_written_is_read_back_also_without_an_agent() {
    let node = Node::default();
    let (tables, hooks) = node.start(&changes());
    let snapshot = tables.snapshot().expect("readable");
    assert_eq!(snapshot.names, changes().names.into_iter().collect());
    assert_eq!(snapshot.v4.services, changes().v4.services.into_iter().collect());
    assert_eq!(snapshot.v4.slots, BTreeMap::from([(16, BackendId::new(5))]));
    assert_eq!(snapshot.v4.backends, changes().v4.backends.into_iter().collect());
    assert_eq!(snapshot.v6.services, changes().v6.services.into_iter().collect());
    assert_eq!(snapshot.v6.backends, changes().v6.backends.into_iter().collect());
    drop((tables, hooks));
    assert_eq!(read_tables(node.pins.path()).and_then(|tables| tables.snapshot()).expect("pinned"), snapshot);
}

#[test]
fn bpftool_shows_named_fields() {
    let node = Node::default();
    let _running = node.start(&changes());
    let bpftool = |command: &str, name: &str, key: &[&str]| -> serde_json::Value {
        let path = node.pins.path().join(name);
        let output = run(Command::new("bpftool").args(["-j", "map", command, "pinned"]).arg(path).args(key));
        let json: serde_json::Value = serde_json::from_str(&output).expect("JSON");
        if command == "dump" { json[0]["formatted"].clone() } else { json["formatted"].clone() }
    };
    let service = bpftool("dump", "services_v4", &[]);
    assert_eq!(service["key"]["port"], 80, "{service}");
    assert_eq!(service["key"]["address"], serde_json::json!([10, 96, 0, 1]), "{service}");
    assert_eq!(service["value"]["cluster"]["offset"], 16, "{service}");
    let name = bpftool("dump", "names", &[]);
    assert_eq!(name["value"]["protocol"], 6, "{name}");
    let settings = bpftool("dump", "settings", &[]);
    assert_eq!(settings["value"]["masquerade_mark"], 0x4000, "{settings}");
    // Dumping a large array takes long.
    let backend = bpftool("lookup", "backends_v6", &["key", "5", "0", "0", "0"]);
    assert_eq!(backend["value"]["port"], 8080, "{backend}");
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused() {
    let node = Node::default();
    let running = node.start(&changes());
    let error = Dataplane::open(&node.config()).err().expect("refused").to_string();
    assert!(error.starts_with("another agent is running with --bpffs-root"), "{error}");
    drop(running);
    Dataplane::open(&node.config()).expect("nobody is running");
}

#[test]
fn a_restart_keeps_tables_links_and_programs() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    let first = node.start(&changes());
    let before = links(&node);
    let mut expected: Vec<String> = SocketHook::ALL.iter().map(|hook| hook.name().to_owned()).collect();
    // Filters have no links.
    if features().has(Feature::Tcx) {
        expected.extend(links_of(&node, &["veth1", "veth2"]));
    }
    assert!(expected.iter().all(|name| before.contains_key(name)) && before.len() == expected.len(), "{before:?}");
    drop(first);
    assert_eq!(links(&node), before, "stopping detaches nothing");

    let dataplane = Dataplane::open(&node.config()).expect("opens");
    assert_eq!(dataplane.adoption, Adoption::Adopted);
    let _second = node.netns.block_on(async || dataplane.hooks.attach(&settings()).await.expect("attaches"));
    assert_eq!(links(&node), before);
}

#[test]
fn programs_that_are_not_the_same_take_the_place_of_the_former_ones() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    let mut former = BTreeMap::new();
    for packet_log in [PacketLog::Off, PacketLog::Drops, PacketLog::Off] {
        let dataplane = Dataplane::open(&Config { packet_log, ..node.config() }).expect("opens");
        let _running = node.netns.block_on(async || dataplane.hooks.attach(&settings()).await.expect("attaches"));
        let present = links(&node);
        assert!(!present.is_empty());
        for (name, (link, program)) in &former {
            assert_eq!(present[name].0, *link, "{name} keeps its link");
            assert_ne!(present[name].1, *program, "{name} has the new program");
        }
        let kept = identities(&node);
        assert_eq!(kept.len(), usize::from(packet_log == PacketLog::Off), "{kept:?}");
        former = present;
    }
}

#[test]
fn programs_of_tables_that_are_gone_are_not_kept() {
    let node = Node::default();
    drop(node.start(&changes()));
    let (links_before, kept_before) = (links(&node), identities(&node));
    fs::remove_file(node.pins.path().join("sockets_v4")).expect("pinned");
    drop(node.start(&changes()));
    let table = bpftool(&["map", "show", "pinned"], &node.pins.path().join("sockets_v4"));
    let program = links(&node)["connect4"].1.to_string();
    let program = bpftool(&["prog", "show", "id"], program.as_ref());
    let tables = program["map_ids"].as_array().expect("it uses tables");
    assert!(tables.contains(&table["id"]), "{program} {table}");
    assert!(links(&node).iter().all(|(name, (_, program))| links_before[name].1 != *program));
    assert_eq!(identities(&node).len(), 1, "the former ones' pins are gone");
    assert_ne!(identities(&node), kept_before);
}

#[test]
fn of_programs_that_are_kept_only_those_are_loaded_that_are_missing() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    drop(node.start(&changes()));
    let before = links(&node);
    let [identity] = &identities(&node)[..] else { panic!("one identity") };
    let kept = node.pins.path().join("kept").join(identity);
    let names = || -> BTreeSet<String> {
        let entries = fs::read_dir(&kept).expect("programs are kept").map(|entry| entry.expect("readable").file_name());
        entries.map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let all = names();
    // One is missing, one is something else.
    fs::remove_file(kept.join("connect4")).expect("kept");
    fs::remove_file(kept.join("connect6")).expect("kept");
    let table = node.pins.path().join("settings");
    run(Command::new("bpftool").args(["map", "pin", "pinned"]).arg(table).arg(kept.join("connect6")));
    let foreign = node.pins.path().join("kept/foreign/directory");
    fs::create_dir_all(&foreign).expect("makes");
    drop(node.start(&changes()));
    for (name, (link, program)) in links(&node) {
        let (link_before, program_before) = before[&name];
        assert_eq!(link, link_before);
        assert_eq!(program != program_before, ["connect4", "connect6"].contains(&&*name), "{name}");
    }
    assert_eq!(names(), all);
    assert!(foreign.exists());
}

/// What programs are kept for the next agent.
fn identities(node: &Node) -> Vec<String> {
    let directory = fs::read_dir(node.pins.path().join("kept"));
    let entries = directory.into_iter().flatten().map(|entry| entry.expect("readable"));
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn bpftool(arguments: &[&str], last: &Path) -> serde_json::Value {
    let output = run(Command::new("bpftool").arg("-j").args(arguments).arg(last));
    serde_json::from_str(&output).expect("JSON")
}

fn links_of(node: &Node, devices: &[&str]) -> Vec<String> {
    let index = |device: &str| {
        let json: serde_json::Value =
            serde_json::from_str(&node.netns.ip(&format!("-j link show {device}"))).expect("JSON");
        json[0]["ifindex"].as_u64().expect("an index")
    };
    devices.iter().flat_map(|device| ["ingress", "egress"].map(|way| format!("{way}_{}", index(device)))).collect()
}

#[test]
fn tables_of_another_layout_are_replaced() {
    let node = Node::default();
    drop(node.start(&changes()));
    // The first field of the settings is the version of the layout.
    let settings = node.pins.path().join("settings");
    let value = run(Command::new("bpftool")
        .args(["-j", "map", "lookup", "pinned"])
        .arg(&settings)
        .args("key 0 0 0 0".split(' ')));
    let value: serde_json::Value = serde_json::from_str(&value).expect("JSON");
    let mut bytes: Vec<String> =
        value["value"].as_array().expect("bytes").iter().map(|byte| byte.as_str().expect("hex").to_owned()).collect();
    bytes[0] = "99".to_owned();
    run(Command::new("bpftool")
        .args(["map", "update", "pinned"])
        .arg(&settings)
        .args("key 0 0 0 0 value".split(' '))
        .args(bytes));

    let dataplane = Dataplane::open(&node.config()).expect("opens");
    let Adoption::Replaced { reason } = &dataplane.adoption else { panic!("{:?}", dataplane.adoption) };
    assert_eq!(*reason, format!("their layout has version 99 and not {LAYOUT_VERSION}"));
    assert_eq!(dataplane.tables.snapshot().expect("readable"), proxy_agent::plan::Snapshot::default());
}

#[test]
fn tables_of_another_shape_are_replaced() {
    let node = Node::default();
    drop(node.start(&changes()));
    let names = node.pins.path().join("names");
    fs::remove_file(&names).expect("a pin");
    run(Command::new("bpftool")
        .args(["map", "create"])
        .arg(&names)
        .args("type hash key 4 value 8 entries 16 name names".split(' ')));
    let dataplane = Dataplane::open(&node.config()).expect("opens");
    assert!(matches!(dataplane.adoption, Adoption::Replaced { .. }), "{:?}", dataplane.adoption);
}

#[test]
fn tables_that_no_agent_has_written_count_as_new() {
    let node = Node::default();
    drop(Dataplane::open(&node.config()).expect("opens"));
    assert_eq!(Dataplane::open(&node.config()).expect("opens").adoption, Adoption::New);
}

#[test]
fn cleanup_leaves_nothing_of_ours_and_everything_of_others() {
    let (node, other) = (Node::default(), Node::default());
    for node in [&node, &other] {
        node.netns.ip("link add veth1 type veth peer name veth2");
        drop(node.start(&changes()));
    }
    let before = links(&other);
    let foreign = other.pins.path().join("kept");
    fs::create_dir(foreign.join("foreign")).expect("makes");
    let removed = node.netns.enter(|| cleanup(node.pins.path(), Some(node.cgroup.path())).expect("removes"));
    let filters = if features().has(Feature::Tcx) { 0 } else { 2 };
    assert_eq!(removed.len(), 4 + filters, "links, programs, tables, filters and the nftables table: {removed:?}");
    assert!(!node.pins.path().exists());
    assert_eq!(run(node.netns.command("nft").args(["list", "tables"])), "");
    assert_eq!(hooks_at(&node.cgroup), []);
    assert!(!run(node.netns.command("bpftool").args(["net", "show"])).contains("tc_"));

    assert_eq!(links(&other), before);
    assert!(run(other.netns.command("nft").args(["list", "tables"])).contains("proxy-agent"));
    other.netns.enter(|| cleanup(other.pins.path(), None).expect("removes"));
    let left: Vec<_> =
        fs::read_dir(other.pins.path()).expect("still there").map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(left, [foreign], "a directory that somebody else uses stays");
    let again = node.netns.enter(|| cleanup(node.pins.path(), None).expect("nothing to remove"));
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn an_agent_that_is_given_another_cgroup_moves_there() {
    let (node, other) = (Node::default(), Cgroup::new());
    drop(node.start(&changes()));
    assert_eq!(hooks_at(&node.cgroup), SocketHook::ALL);
    let config = Config { cgroup_root: Some(other.path().to_owned()), ..node.config() };
    let dataplane = Dataplane::open(&config).expect("opens");
    let _running = node.netns.block_on(async || dataplane.hooks.attach(&settings()).await.expect("attaches"));
    assert_eq!(hooks_at(&other), SocketHook::ALL);
    eventually("the former links are gone", || hooks_at(&node.cgroup).is_empty().then_some(()));
}

#[test]
fn links_whose_cgroup_is_gone_are_replaced() {
    let mut node = Node::default();
    drop(node.start(&changes()));
    node.cgroup = Cgroup::new();
    let before = links(&node);
    drop(node.start(&Changes::default()));
    assert_eq!(hooks_at(&node.cgroup), SocketHook::ALL);
    assert_ne!(links(&node)["connect4"].0, before["connect4"].0);
}

#[test]
fn without_cgroup_links_programs_are_attached_by_themselves_and_replaced() {
    let node = Node::default();
    let features = features().except(Feature::CgroupLink);
    let show = || -> BTreeMap<SocketHook, u32> {
        let attached = status::at_cgroup(node.cgroup.path()).expect("readable");
        let programs: BTreeMap<_, _> = attached.iter().copied().collect();
        assert_eq!(programs.len(), attached.len(), "one program at each hook: {attached:?}");
        programs
    };
    drop(node.start_with(&features, &changes()));
    let first = show();
    assert_eq!(first.len(), SocketHook::ALL.len(), "{first:?}");
    let pins = Pins::new(node.pins.path());
    let hooks = status::socket_hooks(&pins).expect("readable");
    assert_eq!(hooks.len(), SocketHook::ALL.len());
    assert!(hooks.iter().all(|hook| hook.cgroup.is_none()));

    drop(node.start_with(&features, &Changes::default()));
    assert_eq!(show(), first);
    node.pins.forget_programs();
    drop(node.start_with(&features, &Changes::default()));
    let second = show();
    assert_eq!(second.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
    assert!(second.iter().all(|(hook, id)| first[hook] != *id), "{first:?} {second:?}");

    node.netns.enter(|| cleanup(node.pins.path(), Some(node.cgroup.path())).expect("removes"));
    assert!(show().is_empty());
}
