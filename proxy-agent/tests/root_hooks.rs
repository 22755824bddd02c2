//! The programs on devices that come and go, beside the programs of others, by TCX and by clsact. Needs
//! root. What needs TCX is ignored on kernels before 6.6.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    maps::MapInfo,
    programs::{LinkOrder, SchedClassifier, TcAttachType, loaded_programs, tc::TcAttachOptions},
};
use libtest_mimic::Arguments;
use proxy_agent::{
    dataplane::{
        AttachedHooks, Config, Dataplane, cleanup,
        devices::{Peers, PodDevices, Selection},
        features::{Feature, Features},
        object::OBJECT,
        pins::{Direction, Pins},
        read_tables,
        status::{self, DeviceMechanism},
    },
    plan::Changes,
};
use proxy_common::{
    Backend, BackendId, Port, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange, maps,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use support::{Netns, Node, eventually, features, needs, patience, prompt, run, settings, slowness};

fn main() -> ExitCode {
    let tcx = [Feature::Tcx];
    let trials = vec![
        needs(&tcx, "devices_come_and_go_with_tcx", || devices_come_and_go(DeviceMechanism::Tcx)),
        needs(&[], "devices_come_and_go_with_clsact", || devices_come_and_go(DeviceMechanism::Clsact)),
        needs(
            &[],
            "programs_for_devices_without_ethernet_are_loaded_when_one_comes",
            programs_for_devices_without_ethernet_are_loaded_when_one_comes,
        ),
        needs(
            &tcx,
            "links_of_devices_that_went_while_no_agent_ran_are_removed",
            links_of_devices_that_went_while_no_agent_ran_are_removed,
        ),
        needs(&tcx, "programs_of_others_stay_and_run_after_ours", programs_of_others_stay_and_run_after_ours),
        needs(
            &[],
            "clsact_filters_are_replaced_in_place_and_foreign_ones_stay",
            clsact_filters_are_replaced_in_place_and_foreign_ones_stay,
        ),
        needs(&[], "a_device_with_an_ingress_qdisc_gets_no_filters", a_device_with_an_ingress_qdisc_gets_no_filters),
        needs(&tcx, "a_connection_through_the_node_is_served_with_tcx", || {
            a_connection_through_the_node_is_served(DeviceMechanism::Tcx);
        }),
        needs(&[], "a_connection_through_the_node_is_served_with_clsact", || {
            a_connection_through_the_node_is_served(DeviceMechanism::Clsact);
        }),
        needs(&[], "a_named_device_that_does_not_exist_is_an_error", a_named_device_that_does_not_exist_is_an_error),
        needs(
            &[],
            "an_nftables_table_that_somebody_flushed_is_made_again",
            an_nftables_table_that_somebody_flushed_is_made_again,
        ),
        needs(
            &[],
            "an_nftables_table_that_could_not_be_made_is_made_later",
            an_nftables_table_that_could_not_be_made_is_made_later,
        ),
        needs(&[], "of_five_hundred_devices_at_once_none_is_overlooked", five_hundred_devices),
        needs(
            &tcx,
            "devices_that_come_together_get_filters_and_keep_them",
            devices_that_come_together_get_filters_and_keep_them,
        ),
        needs(&[], "how_long_devices_wait", how_long_devices_wait),
        needs(&[], "pod_devices_follow_the_bridge", pod_devices_follow_the_bridge),
        needs(&[], "peer_devices_follow_their_other_ends", peer_devices_follow_their_other_ends),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The kernel's features, of which programs are attached to devices by `mechanism`.
fn features_for(mechanism: DeviceMechanism) -> Features {
    match mechanism {
        DeviceMechanism::Tcx => features(),
        DeviceMechanism::Clsact => features().except(Feature::Tcx),
    }
}

/// The mechanism that the agent uses on the running kernel.
fn mechanism_here() -> DeviceMechanism {
    if features().has(Feature::Tcx) { DeviceMechanism::Tcx } else { DeviceMechanism::Clsact }
}

async fn attach(config: &Config, mechanism: DeviceMechanism) -> AttachedHooks {
    let dataplane = Dataplane::open_with(config, features_for(mechanism)).unwrap_or_else(|error| panic!("{error}"));
    dataplane.hooks.attach(&settings()).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The devices with both programs, by name, as the kernel tells it.
fn served(node: &Node, hooks: &AttachedHooks) -> BTreeSet<String> {
    let attached = status::devices(&Pins::new(node.pins.path())).expect("readable");
    let both = |index: u32| {
        Direction::ALL.iter().all(|way| attached.iter().any(|at| (at.index, at.direction) == (index, *way)))
    };
    let names = hooks.devices().iter().filter(|&(&index, _)| both(index)).map(|(_, device)| device.name.clone());
    names.collect()
}

/// Follows the devices until those with programs are as wanted, and returns how long that took.
async fn until(node: &Node, hooks: &mut AttachedHooks, wanted: &[&str]) -> Duration {
    let start = Instant::now();
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    while served(node, hooks) != wanted {
        let followed = tokio::time::timeout(patience(), hooks.follow()).await;
        followed.unwrap_or_else(|_| panic!("{:?} and not {wanted:?}", served(node, hooks))).expect("follows");
    }
    start.elapsed()
}

fn devices_come_and_go(mechanism: DeviceMechanism) {
    let (node, other) = (Node::default(), Netns::new());
    node.netns.veth("eth0", &other, "peer0");
    let times = node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), mechanism).await;
        assert_eq!(served(&node, &hooks), ["eth0".to_owned()].into());
        let attached = status::devices(&Pins::new(node.pins.path())).expect("readable");
        assert!(attached.iter().all(|device| device.mechanism == mechanism), "{attached:?}");

        let mut times = Vec::new();
        node.netns.veth("veth1", &other, "peer1");
        times.push(until(&node, &mut hooks, &["eth0", "veth1"]).await);
        node.netns.ip("link set veth1 down");
        node.netns.ip("link set veth1 name cali1");
        times.push(until(&node, &mut hooks, &["cali1", "eth0"]).await);
        // The first device without Ethernet has to wait until its programs are loaded.
        node.netns.ip("tuntap add dev tun0 mode tun");
        until(&node, &mut hooks, &["cali1", "eth0", "tun0"]).await;
        node.netns.ip("tuntap add dev tun1 mode tun");
        times.push(until(&node, &mut hooks, &["cali1", "eth0", "tun0", "tun1"]).await);
        node.netns.ip("link del tun1");
        times.push(until(&node, &mut hooks, &["cali1", "eth0", "tun0"]).await);

        // As the port of a bridge it still has them, and the bridge has none.
        node.netns.ip("link add br0 type bridge");
        node.netns.ip("link set cali1 master br0");
        times.push(until(&node, &mut hooks, &["cali1", "eth0", "tun0"]).await);

        node.netns.ip(&format!("link set cali1 netns {}", other.name()));
        times.push(until(&node, &mut hooks, &["eth0", "tun0"]).await);
        node.netns.ip("link del eth0");
        times.push(until(&node, &mut hooks, &["tun0"]).await);
        times
    });
    assert!(times.iter().all(|time| *time < prompt()), "{times:?}");
    // The device that moved away takes no program of ours along, as far as links can be taken back.
    if mechanism == DeviceMechanism::Tcx {
        assert!(!run(other.command("bpftool").args(["net", "show"])).contains("tc_"), "left behind");
    }
}

/// Verifying them takes as long as verifying all others.
fn programs_for_devices_without_ethernet_are_loaded_when_one_comes() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    let at = |hooks: &AttachedHooks, name: &str| -> BTreeMap<Direction, (u32, String)> {
        let index = *hooks.devices().iter().find(|(_, device)| device.name == name).expect("is listed").0;
        let attached = status::devices(&Pins::new(node.pins.path())).expect("readable");
        let here = attached.into_iter().filter(|device| device.index == index);
        let programs = loaded(&node);
        here.map(|device| (device.direction, (device.program, programs[&device.program].clone()))).collect()
    };
    let names = |programs: &BTreeMap<Direction, (u32, String)>| -> Vec<String> {
        Direction::ALL.iter().map(|direction| programs[direction].1.clone()).collect()
    };
    let without_ethernet = || loaded(&node).into_values().filter(|name| name.ends_with("_l3")).count();
    node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), mechanism_here()).await;
        assert_eq!(without_ethernet(), 0, "no device needs them");
        node.netns.ip("tuntap add dev tun0 mode tun");
        until(&node, &mut hooks, &["veth1", "veth2", "tun0"]).await;
        let first = at(&hooks, "tun0");
        let expected = Direction::ALL.map(|direction| format!("tc_{}_l3", direction.name()));
        assert_eq!(names(&first), expected);
        node.netns.ip("tuntap add dev tun1 mode tun");
        until(&node, &mut hooks, &["veth1", "veth2", "tun0", "tun1"]).await;
        assert_eq!(at(&hooks, "tun1"), first, "one program for all of them");
        drop(hooks);

        // The next agent finds the devices there.
        node.pins.forget_programs();
        let hooks = attach(&node.config(), mechanism_here()).await;
        let second = at(&hooks, "tun0");
        assert_eq!(names(&second), expected);
        assert_ne!(second, first, "its own programs");
        // The kernel frees them a little later.
        eventually("the former ones are gone", || (without_ethernet() == 2).then_some(()));
    });
}

/// The programs that use the node's tables, by number, with their names.
fn loaded(node: &Node) -> BTreeMap<u32, String> {
    let table = MapInfo::from_pin(node.pins.path().join("settings")).expect("pinned").id();
    // A program of another test may go while it is being asked.
    let programs = loaded_programs().filter_map(Result::ok);
    let ours = programs.filter(|program| program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&table)));
    ours.map(|program| (program.id(), program.name_as_str().expect("a name").to_owned())).collect()
}

fn links_of_devices_that_went_while_no_agent_ran_are_removed() {
    let (node, other) = (Node::default(), Netns::new());
    node.netns.veth("veth1", &other, "peer1");
    node.netns.veth("veth2", &other, "peer2");
    node.netns.block_on(async || {
        drop(attach(&node.config(), DeviceMechanism::Tcx).await);
        // The index of veth1 is taken by another device, while its link goes with it to the other namespace.
        let index = status::devices(&Pins::new(node.pins.path())).expect("readable")[0].index;
        node.netns.ip(&format!("link set veth1 netns {}", other.name()));
        node.netns.ip(&format!("link add veth3 index {index} type veth peer name veth4"));
        node.netns.ip("link del veth2");
        let hooks = attach(&node.config(), DeviceMechanism::Tcx).await;
        assert_eq!(served(&node, &hooks), ["veth3".to_owned(), "veth4".to_owned()].into());
        assert_eq!(Pins::new(node.pins.path()).device_links().expect("readable").len(), 4);
    });
}

fn programs_of_others_stay_and_run_after_ours() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    let mut foreign = EbpfLoader::new().load(OBJECT).expect("loads");
    let program: &mut SchedClassifier =
        foreign.program_mut("tc_ingress").expect("exists").try_into().expect("a classifier");
    program.load().expect("loads");
    let id = program.info().expect("told").id();
    node.netns.enter(|| {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        program.attach_with_options("veth1", TcAttachType::Ingress, order).expect("attaches");
    });
    let order = || {
        let (_, programs) =
            node.netns.enter(|| SchedClassifier::query_tcx("veth1", TcAttachType::Ingress)).expect("told");
        programs.iter().map(aya::programs::ProgramInfo::id).collect::<Vec<u32>>()
    };
    drop(node.start(&Changes::default()));
    let first = order();
    assert_eq!((first.len(), first.last()), (2, Some(&id)), "ours, then the other: {first:?}");
    drop(node.start(&Changes::default()));
    assert_eq!(order(), first);
    node.pins.forget_programs();
    drop(node.start(&Changes::default()));
    let second = order();
    assert!(second.len() == 2 && second[0] != first[0] && second[1] == id, "{first:?} {second:?}");
    node.netns.enter(|| cleanup(node.pins.path(), None).expect("removes"));
    assert_eq!(order(), [id]);
}

fn clsact_filters_are_replaced_in_place_and_foreign_ones_stay() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    let tc = |arguments: &str| run(node.netns.command("tc").args(arguments.split(' ')));
    tc("qdisc add dev veth1 clsact");
    // A classic BPF program that matches nothing.
    let foreign = "filter add dev veth1 ingress prio 1 handle 1 bpf bytecode".split(' ').chain(["1,6 0 0 0"]);
    run(node.netns.command("tc").args(foreign));
    let features = features_for(DeviceMechanism::Clsact);
    let programs = || -> Vec<(u32, u32)> {
        let pins = Pins::new(node.pins.path());
        let devices = node.netns.enter(|| status::devices(&pins)).expect("readable");
        devices.iter().map(|device| (device.index, device.program)).collect()
    };
    drop(node.start_with(&features, &Changes::default()));
    let first = programs();
    drop(node.start_with(&features, &Changes::default()));
    assert_eq!(programs(), first);
    node.pins.forget_programs();
    drop(node.start_with(&features, &Changes::default()));
    let second = programs();
    assert_eq!((first.len(), second.len()), (4, 4), "two devices, two directions: {first:?} {second:?}");
    assert!(first.iter().zip(&second).all(|(first, second)| first.0 == second.0 && first.1 != second.1));
    let shown = tc("filter show dev veth1 ingress");
    assert_eq!(shown.matches("proxy-agent:tc_ingress").count(), 1, "{shown}");
    assert!(shown.contains("pref 2 bpf") && shown.contains("pref 1 bpf"), "{shown}");

    node.netns.enter(|| cleanup(node.pins.path(), Some(node.cgroup.path())).expect("removes"));
    let shown = tc("filter show dev veth1 ingress");
    assert!(!shown.contains("proxy-agent") && shown.contains("pref 1 bpf"), "{shown}");
    assert!(tc("qdisc show dev veth1").contains("clsact"), "somebody else uses it");
    assert!(!tc("qdisc show dev veth2").contains("clsact"), "nobody uses it any more");
}

/// It would take the filters of both directions for its own.
fn a_device_with_an_ingress_qdisc_gets_no_filters() {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    let tc = |arguments: &str| run(node.netns.command("tc").args(arguments.split(' ')));
    tc("qdisc add dev veth1 ingress");
    node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), DeviceMechanism::Clsact).await;
        assert_eq!(served(&node, &hooks), ["veth2".to_owned()].into());
        assert_eq!(tc("filter show dev veth1 ingress"), "");
        tc("qdisc del dev veth1 ingress");
        // Tried again with every change of the devices, and every half minute.
        node.netns.ip("link add br0 type bridge");
        until(&node, &mut hooks, &["veth1", "veth2"]).await;
    });
}

/// A connection from outside the node, through it, to a backend behind it.
fn a_connection_through_the_node_is_served(mechanism: DeviceMechanism) {
    let (node, client, backend) = (Node::default(), Netns::new(), Netns::new());
    client.veth("eth0", &node.netns, "outside");
    backend.veth("eth0", &node.netns, "inside");
    node.netns.sysctl("net/ipv4/ip_forward", "1");
    for (namespace, device, address) in [
        (&client, "eth0", "192.0.2.2/24"),
        (&node.netns, "outside", "192.0.2.1/24"),
        (&node.netns, "inside", "10.0.0.1/24"),
        (&backend, "eth0", "10.0.0.2/24"),
    ] {
        namespace.ip(&format!("addr add {address} dev {device}"));
    }
    client.ip("route add default via 192.0.2.1");
    backend.ip("route add default via 10.0.0.1");

    let id = ServiceId::new(1);
    let mut changes = Changes::default();
    changes.v4.backends.push((BackendId::new(1), Backend::new([10, 0, 0, 2], Port::new(8080), 0, id)));
    changes.v4.slots.push((1, vec![BackendId::new(1)]));
    let entry = ServiceEntry::new(id, ServiceFlags::NONE, SlotRange::new(1, 1), SlotRange::EMPTY);
    changes.v4.services.push((ServiceKey::new([10, 96, 0, 1], Port::new(80), Protocol::Tcp), entry));
    let _running = node.start_with(&features_for(mechanism), &changes);

    let listener = backend.enter(|| TcpListener::bind("10.0.0.2:8080").expect("binds"));
    let service = SocketAddr::from(([10, 96, 0, 1], 80));
    let connection = client.enter(|| TcpStream::connect_timeout(&service, patience()));
    assert_eq!(connection.expect("is served").peer_addr().expect("connected"), service);
    let (_, source) = listener.accept().expect("came here");
    assert_eq!(source.ip(), IpAddr::from([192, 0, 2, 2]), "a clusterIP keeps its client's address");
    let mut flows = Vec::new();
    let tables = read_tables(node.pins.path()).expect("pinned").v4;
    tables.visit_flows(|key, flow| flows.push((key, flow))).expect("readable");
    assert_eq!(flows.len(), 2, "one for each direction: {flows:?}");
}

fn a_named_device_that_does_not_exist_is_an_error() {
    let node = Node::default();
    let config = Config { devices: Selection::parse(&["eth7"]).expect("valid"), ..node.config() };
    let error = node.netns.enter(|| Dataplane::open(&config).err().expect("there is no eth7").to_string());
    assert!(error.starts_with("--devices eth7: there is no such device"), "{error}");
    let attached = status::at_cgroup(node.cgroup.path()).expect("readable");
    assert_eq!(attached, [], "nothing was attached before the error");
}

fn an_nftables_table_that_somebody_flushed_is_made_again() {
    let node = Node::default();
    let tables = || run(node.netns.command("nft").args(["list", "tables"]));
    node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), mechanism_here()).await;
        assert!(tables().contains("proxy-agent"));
        run(node.netns.command("nft").args(["flush", "ruleset"]));
        assert_eq!(tables(), "");
        // Looked for with every change of the devices, and every half minute.
        node.netns.ip("link add br0 type bridge");
        tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
        assert!(tables().contains("proxy-agent"));
    });
}

/// As when a node starts with all of its pods: none of the devices is overlooked, and none stays behind.
fn five_hundred_devices() {
    let node = Node::default();
    node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), mechanism_here()).await;
        assert_eq!(hooks.attached_devices().count(), 0);
        let pair = |number| format!("link add va{number} type veth peer name vb{number}");
        node.netns.ip_batch(&(0..250).map(pair).collect::<Vec<_>>());
        let until = async |hooks: &mut AttachedHooks, count: usize| {
            while hooks.attached_devices().count() != count {
                tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
            }
        };
        until(&mut hooks, 500).await;
        assert_eq!(hooks.devices().len(), 501, "and lo");
        assert_eq!(served(&node, &hooks).len(), 500, "as the kernel tells it");
        node.netns.ip_batch(&(0..250).map(|number| format!("link del va{number}")).collect::<Vec<_>>());
        until(&mut hooks, 0).await;
        assert_eq!(hooks.devices().len(), 1);
        assert_eq!(Pins::new(node.pins.path()).device_links().expect("readable"), []);
    });
}

/// How the devices that come together are served, by direction.
fn mechanisms(node: &Node) -> Vec<DeviceMechanism> {
    let pins = Pins::new(node.pins.path());
    node.netns.enter(|| status::devices(&pins)).expect("readable").iter().map(|device| device.mechanism).collect()
}

/// Links take long to attach, so devices that come together get filters. Those that are there when an agent starts have links, because they
/// have packets to send, which making a qdisc would cost.
fn devices_that_come_together_get_filters_and_keep_them() {
    const DEVICES: usize = 20;
    let node = Node::default();
    let pairs = |name: &str| -> Vec<String> {
        (0..DEVICES / 2).map(|number| format!("link add {name}{number} type veth peer name {name}x{number}")).collect()
    };
    let tc = |arguments: &str| run(node.netns.command("tc").args(arguments.split(' ')));
    let count = |means: DeviceMechanism| mechanisms(&node).iter().filter(|mechanism| **mechanism == means).count();
    let counts = || (count(DeviceMechanism::Tcx), count(DeviceMechanism::Clsact));
    node.netns.ip_batch(&pairs("va"));
    node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), DeviceMechanism::Tcx).await;
        assert_eq!(counts(), (2 * DEVICES, 0), "those that were there");

        // Somebody else's are made with the devices; a filter cannot be beside the one, and stays beside the other.
        let mut others = pairs("vb");
        let [with_ingress, with_clsact] = ["vb0", "vb1"];
        node.netns.ip_batch(&others.drain(..2).collect::<Vec<_>>());
        tc(&format!("qdisc add dev {with_ingress} ingress"));
        tc(&format!("qdisc add dev {with_clsact} clsact"));
        let filter = format!("filter add dev {with_clsact} ingress prio 1 handle 1 bpf bytecode");
        run(node.netns.command("tc").args(filter.split(' ')).arg("1,6 0 0 0"));
        node.netns.ip_batch(&others);
        while hooks.attached_devices().count() != 2 * DEVICES {
            tokio::time::timeout(patience(), hooks.follow()).await.expect("is told of").expect("follows");
        }
        let at_first = counts();
        // With one processor, grace periods are over at once on some kernels, and there is time for all links.
        let is_quick =
            at_first == (4 * DEVICES, 0) && thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        let links = if is_quick { 4 * DEVICES } else { 2 * DEVICES + 2 };
        assert_eq!(at_first, (links, 4 * DEVICES - links), "links only beside the ingress qdisc");
        if !is_quick {
            // Somebody takes one away.
            tc("filter del dev vb5 egress");
        }
        drop(hooks);

        // The next agent goes on with what it finds.
        let hooks = attach(&node.config(), DeviceMechanism::Tcx).await;
        assert_eq!(served(&node, &hooks).len(), 2 * DEVICES);
        assert_eq!(counts(), at_first);
    });
    assert!(tc(&format!("filter show dev {} ingress", "vb1")).contains("pref 1 bpf"), "somebody else's");
    assert!(tc("qdisc show").contains("qdisc ingress"), "somebody else's");
}

/// How long devices wait for their programs. Prints it; asserts only that they get them.
fn how_long_devices_wait() {
    const SINGLE: usize = 21;
    const ROUNDS: usize = 3;
    let together = 500 / usize::try_from(slowness()).expect("a small number");
    let (node, other) = (Node::default(), Netns::new());
    let (tell, told) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let (node, stop_follower) = (&node, Arc::clone(&stop));
        scope.spawn(move || {
            node.netns.block_on(async || {
                let mut hooks = attach(&node.config(), mechanism_here()).await;
                while !stop_follower.load(Ordering::Relaxed) {
                    if tell.send((hooks.attached_devices().count(), Instant::now())).is_err() {
                        break;
                    }
                    tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
                }
            });
        });
        let until = |count: usize| loop {
            let (served, when) = told.recv_timeout(patience()).expect("the agent follows");
            if served == count {
                return when;
            }
        };
        until(0);
        let mut single: Vec<Duration> = (1..=SINGLE)
            .map(|number| {
                let begun = Instant::now();
                node.netns.ip(&format!("link add va{number} type veth peer name eth{number} netns {}", other.name()));
                until(number).saturating_duration_since(begun)
            })
            .collect();
        single.sort_unstable();
        println!(
            "one device, from the start of the command that makes it: median {:?}, longest {:?} of {SINGLE}",
            single[SINGLE / 2],
            single[SINGLE - 1]
        );
        let pair = |number| format!("link add va{number} type veth peer name eth{number} netns {}", other.name());
        for round in 1..=ROUNDS {
            let numbers = round * 1000..round * 1000 + together;
            let begun = Instant::now();
            node.netns.ip_batch(&numbers.clone().map(pair).collect::<Vec<_>>());
            let made = Instant::now();
            let served = until(SINGLE + together);
            println!(
                "{together} devices, made in {:?}: the last one has programs {:?} later",
                made - begun,
                served.saturating_duration_since(made)
            );
            node.netns.ip_batch(&numbers.map(|number| format!("link del va{number}")).collect::<Vec<_>>());
            until(SINGLE);
        }
        stop.store(true, Ordering::Relaxed);
        // A report lets it look.
        node.netns.ip("link add br0 type bridge");
        drop(told);
    });
}

/// The rules cannot be made for a while, here because the right is missing: that is no reason to give up.
fn an_nftables_table_that_could_not_be_made_is_made_later() {
    let node = Node::default();
    let tables = || run(node.netns.command("nft").args(["list", "tables"]));
    let rights = capabilities(None).expect("told");
    let set_effective = |effective| set_capabilities(None, CapabilitySets { effective, ..rights }).expect("a subset");
    node.netns.block_on(async || {
        let mut hooks = attach(&node.config(), mechanism_here()).await;
        run(node.netns.command("nft").args(["flush", "ruleset"]));
        for (right, bridge, expected) in [
            (rights.effective - CapabilitySet::NET_ADMIN, "br0", ""),
            (rights.effective - CapabilitySet::NET_ADMIN, "br1", ""),
            (rights.effective, "br2", "table inet proxy-agent\n"),
        ] {
            set_effective(right);
            node.netns.ip(&format!("link add {bridge} type bridge"));
            tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
            set_effective(rights.effective);
            assert_eq!(tables(), expected, "{bridge}");
        }
    });
}

/// Only what has its other end in another network namespace: the kernel drops what is handed to one in the same.
fn peer_devices_follow_their_other_ends() {
    let (node, other) = (Node::default(), Netns::new());
    let config = Config { peers: Peers::VirtualEthernet, ..node.config() };
    let peers = || indexes(&node, maps::PEER_DEVICES);
    node.netns.block_on(async || {
        let mut hooks = attach(&config, mechanism_here()).await;
        node.netns.veth("veth1", &other, "eth0");
        node.netns.ip("link add veth2 type veth peer name veth3");
        node.netns.ip("link add veth4 type veth peer name veth5");
        node.netns.ip(&format!("link set veth5 netns {}", other.name()));
        node.netns.ip("link set veth4 up");
        while peers() != BTreeSet::from(["veth1", "veth4"].map(|device| index(&node, device))) {
            tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
        }
        node.netns.ip("link del veth1");
        while peers() != BTreeSet::from([index(&node, "veth4")]) {
            tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
        }
        drop(hooks);
    });
    // An agent that hands nothing over leaves nothing behind.
    let hooks = node.netns.block_on(async || attach(&node.config(), mechanism_here()).await);
    assert_eq!(peers(), BTreeSet::new());
    drop(hooks);
}

fn pod_devices_follow_the_bridge() {
    let (node, other) = (Node::default(), Netns::new());
    let config = Config { pod_devices: PodDevices::Bridge("cni0".to_owned()), ..node.config() };
    let table = || indexes(&node, maps::POD_DEVICES);
    let index = |device: &str| index(&node, device);
    node.netns.block_on(async || {
        let mut hooks = attach(&config, mechanism_here()).await;
        assert_eq!(table(), BTreeSet::new());
        node.netns.ip("link add cni0 type bridge");
        node.netns.veth("veth1", &other, "eth0");
        node.netns.ip("link set veth1 master cni0");
        let wanted = BTreeSet::from([index("cni0"), index("veth1")]);
        while table() != wanted {
            tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
        }
        node.netns.ip("link set veth1 nomaster");
        while table() != BTreeSet::from([index("cni0")]) {
            tokio::time::timeout(patience(), hooks.follow()).await.expect("reported").expect("follows");
        }
    });
}

/// What a table of devices holds.
fn indexes(node: &Node, table: &str) -> BTreeSet<u64> {
    let json = run(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(node.pins.path().join(table)));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let keys = json.as_array().expect("a list").iter().map(|entry| entry["formatted"]["key"].as_u64().expect("a key"));
    keys.collect()
}

fn index(node: &Node, device: &str) -> u64 {
    let json: serde_json::Value =
        serde_json::from_str(&node.netns.ip(&format!("-j link show {device}"))).expect("JSON");
    json[0]["ifindex"].as_u64().expect("an index")
}
