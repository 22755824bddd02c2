//! Programs take the place of others with other tables, step by step: at no step is anything lost, neither what begins nor what is there,
//! whatever becomes of the agent. Needs root.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod flows;
mod scene;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
};

use libtest_mimic::Arguments;
use proxy_agent::{
    dataplane::{Adoption, HandoverStep, cleanup, features::Feature, status::DeviceMechanism},
    plan::{Changes, Tables as _},
};
use proxy_common::{Port, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange};

use self::{
    flows::Flows,
    scene::{Scene, VIP},
    support::{Node, features, needs, patience, slowness},
};

fn main() -> ExitCode {
    let tcx = [Feature::Tcx];
    let trials = vec![
        needs(&tcx, "nothing_is_lost_at_any_step_with_tcx", || at_every_step(DeviceMechanism::Tcx)),
        needs(&[], "nothing_is_lost_at_any_step_with_clsact", || at_every_step(DeviceMechanism::Clsact)),
        needs(&tcx, "the_next_agent_goes_on_from_any_step_with_tcx", || killed_at_any_step(DeviceMechanism::Tcx)),
        needs(&[], "the_next_agent_goes_on_from_any_step_with_clsact", || {
            killed_at_any_step(DeviceMechanism::Clsact);
        }),
        needs(&[], "ports_of_former_connections_can_be_used_again_at_any_step", used_ports),
        needs(&[Feature::CgroupLink, Feature::PeerNameHooks], "sockets_are_told_the_service_at_any_step", sockets),
        needs(&[], "cleanup_in_the_middle_leaves_nothing", cleanup_in_the_middle),
        needs(&[], "what_changes_before_programs_are_replaced_counts_for_all", changes_count_for_all),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Of the two, all tables of flows have another size, or those of confirmed flows alone.
const SIZES: [[u32; 2]; 2] = [[131_072, 262_144], [4096, 8192]];
const THIRD_SIZE: u32 = 524_288;

/// All of them; on an emulated machine, where loading programs takes a minute, this one.
fn some_of<T>(all: &[T], one: usize) -> &[T] {
    if slowness() == 1 { all } else { &all[one..=one] }
}

fn at_every_step(mechanism: DeviceMechanism) {
    for &[before, after] in some_of(&SIZES, 0) {
        let scene = Scene::new(mechanism);
        scene.start(before);
        let mut flows = Flows::begin(&scene);
        flows.go_on();
        for &size in some_of(&[after, before], 0) {
            let told = scene.replace(scene.open(size), |step| {
                println!("{step:?}");
                flows.go_on();
                flows.extend();
            });
            assert_eq!(told, HandoverStep::AT_DEVICES);
            flows.go_on();
            flows.extend();
            scene.assert_nothing_is_left();
        }
        // With the same tables there are no steps.
        let size = *some_of(&[after, before], 0).last().expect("a size");
        assert_eq!(scene.replace(scene.open(size), |_| {}), []);
        flows.go_on();
    }
}

fn killed_at_any_step(mechanism: DeviceMechanism) {
    let [before, after] = SIZES[0];
    for &last in some_of(&HandoverStep::AT_DEVICES, 3) {
        let both = [after, THIRD_SIZE];
        // With a third size, two generations of programs are replaced by another: no need to see that after each step.
        let successors: &[u32] = match last {
            HandoverStep::NextAtIngress | HandoverStep::LeftToNext => some_of(&both, 0),
            _ => &both[..1],
        };
        for &successor in successors {
            println!("killed after {last:?}, then {successor} entries");
            let scene = Scene::new(mechanism);
            scene.start(before);
            let mut flows = Flows::begin(&scene);
            scene.kill_after(last, after);
            flows.go_on();
            flows.extend();
            flows.go_on();
            let dataplane = scene.open(successor);
            assert_eq!(dataplane.adoption, Adoption::Adopted);
            scene.replace(dataplane, |step| {
                println!("  {step:?}");
                flows.go_on();
                flows.extend();
            });
            flows.go_on();
            flows.extend();
            scene.assert_nothing_is_left();
        }
    }
}

/// Clients behind a gateway have few ports: what is remembered of a connection that is over has nothing to do with the next one.
fn used_ports() {
    let scene = Scene::new(if features().has(Feature::Tcx) { DeviceMechanism::Tcx } else { DeviceMechanism::Clsact });
    let [before, after] = SIZES[0];
    scene.start(before);
    let steps = HandoverStep::AT_DEVICES.len();
    let ports: Vec<u16> = (20_000..).step_by(100).take(steps).collect();
    let of_a_step = |first: u16| first..first + PORTS_AT_A_STEP;
    for port in ports.iter().copied().flat_map(of_a_step) {
        scene.connect_from(port).go_on();
    }
    let mut connections = Vec::new();
    let mut ports = ports.into_iter();
    let go_on = |connections: &mut Vec<flows::Connection>| {
        for connection in connections {
            println!("  from {:?}", connection.asking.local_addr());
            connection.go_on();
        }
    };
    scene.replace(scene.open(after), |step| {
        println!("{step:?}");
        connections.extend(of_a_step(ports.next().expect("some for each step")).map(|port| scene.connect_from(port)));
        go_on(&mut connections);
    });
    go_on(&mut connections);
    assert_eq!(connections.len(), steps * usize::from(PORTS_AT_A_STEP));
}

/// A connection has another of two endpoints than the one before it, or has not.
const PORTS_AT_A_STEP: u16 = 6;

/// Whoever stops in the middle of it may remove everything.
fn cleanup_in_the_middle() {
    let tcx = features().has(Feature::Tcx).then_some(DeviceMechanism::Tcx);
    let [before, after] = SIZES[0];
    for mechanism in tcx.into_iter().chain([DeviceMechanism::Clsact]) {
        let scene = Scene::new(mechanism);
        scene.start(before);
        scene.kill_after(HandoverStep::Finished, after);
        let Node { netns, cgroup, pins } = &scene.node;
        netns.enter(|| cleanup(pins.path(), Some(cgroup.path()))).expect("removes");
        assert!(!pins.path().exists(), "something is pinned");
        assert_eq!(scene.programs_at_devices(), [(0, 0); 3]);
    }
}

/// Sockets that began at any step are told the Service's address at any later one.
fn sockets() {
    let mechanism = if features().has(Feature::Tcx) { DeviceMechanism::Tcx } else { DeviceMechanism::Clsact };
    let scene = Scene::new(mechanism);
    let [size, _] = SIZES[0];
    scene.start(size);
    scene.replace_socket_programs();
    let mut sockets = Vec::new();
    let mut go_on = || {
        let socket = || UdpSocket::bind("0.0.0.0:0").expect("binds");
        sockets.push((scene.on_node(socket), false));
        let connected = scene.on_node(|| {
            let socket = socket();
            socket.connect((VIP, 53)).expect("connects");
            socket
        });
        sockets.push((connected, true));
        for (number, (socket, is_connected)) in sockets.iter().enumerate() {
            socket.set_read_timeout(Some(patience())).expect("may be set");
            if *is_connected {
                socket.send(b"question").expect("sends");
                let peer = scene.on_node(|| socket.peer_addr()).expect("is connected");
                assert_eq!(peer, (VIP, 53).into(), "socket {number}");
            } else {
                scene.on_node(|| socket.send_to(b"question", (VIP, 53))).expect("sends");
            }
            scene.answer();
            let (_, from) = scene.on_node(|| socket.recv_from(&mut [0; 16])).expect("the answer arrives");
            assert_eq!(from, (VIP, 53).into(), "socket {number}");
        }
    };
    go_on();
    let told = scene.replace(scene.open(size), |step| {
        println!("{step:?}");
        go_on();
    });
    assert_eq!(told, HandoverStep::AT_SOCKETS);
    go_on();
    scene.assert_nothing_is_left();
}

/// An agent may write for a while before it has replaced the programs.
fn changes_count_for_all() {
    let scene = Scene::new(if features().has(Feature::Tcx) { DeviceMechanism::Tcx } else { DeviceMechanism::Clsact });
    let [before, after] = SIZES[0];
    scene.start(before);
    let mut dataplane = scene.open(after);
    let mut changes = Changes::default();
    let (address, service) = ([10, 96, 0, 2], ServiceId::new(1));
    let entry = ServiceEntry::new(service, ServiceFlags::NONE, SlotRange::new(1, 2), SlotRange::EMPTY);
    changes.v4.services.push((ServiceKey::new(address, Port::new(80), Protocol::Tcp), entry));
    changes.v4.removed_services.push(ServiceKey::new(VIP.octets(), Port::new(80), Protocol::Tcp));
    dataplane.tables.apply(&changes).expect("the tables can be written");
    let service = SocketAddr::from((address, 80));
    let connects = || scene.client.enter(|| TcpStream::connect_timeout(&service, patience()).is_ok());
    let gone = SocketAddr::from((VIP, 80));
    let is_gone = || scene.client.enter(|| TcpStream::connect_timeout(&gone, patience()).is_err());
    assert!(connects() && is_gone(), "the former programs");
    scene.replace(dataplane, |step| assert!(connects() && is_gone(), "{step:?}"));
    assert!(connects() && is_gone(), "the next programs");
}
