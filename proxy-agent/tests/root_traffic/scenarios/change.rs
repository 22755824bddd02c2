//! What happens when something changes, stops or breaks.

use std::collections::BTreeSet;

use proxy_agent::dataplane::{pins::SocketHook, status};

use super::{
    super::{
        peer::{Sight, Talk, Task},
        server::Server,
        stage::{Family, Stage, TARGET_PORT},
        support::{Netns, eventually, run},
    },
    assert_answers, backends, cluster_ip, servers, write_service,
};

/// New connections avoid an endpoint as soon as its slice says so; a TCP connection that has it goes on, a UDP flow
/// moves.
pub fn removed_endpoint() {
    let mut stage = Stage::new(&[]);
    write_service(&stage, "web", 10, &[&stage.backends[0]]);
    stage.start();
    for family in Family::ALL {
        let to = cluster_ip(family, 10);
        for (place, pod) in stage.pods() {
            write_service(&stage, "web", 10, &[&stage.backends[0]]);
            wait_for_backends(&stage, &["10.1.11.2"]);
            let mut tcp = place.hold(&Talk::Tcp { to });
            let mut udp = place.hold(&Talk::Udp { to });
            assert_eq!(servers(&[tcp.next(), udp.again()]), BTreeSet::from(["pod-11".to_owned()]));

            write_service(&stage, "web", 10, &[&stage.backends[1]]);
            wait_for_backends(&stage, &["10.1.12.2"]);
            assert_eq!(servers(&place.run(&Task::Tcp { to, count: 12 })), BTreeSet::from(["pod-12".to_owned()]));
            assert_eq!(servers(&[tcp.again()]), BTreeSet::from(["pod-11".to_owned()]), "TCP is left alone");
            let moved = udp.again();
            assert_eq!(servers(std::slice::from_ref(&moved)), BTreeSet::from(["pod-12".to_owned()]), "UDP moves");
            assert_answers(&[moved], to, pod.ip(family), "the moved flow");
        }
    }
}

/// Waits until the tables hold exactly these IPv4 endpoints.
#[track_caller]
fn wait_for_backends(stage: &Stage, expected: &[&str]) {
    let all = ["10.1.11.2", "10.1.12.2", "10.1.13.2"];
    eventually("the tables follow the manifests", || {
        let text = stage.ask("backends").to_string();
        all.iter().all(|address| text.contains(address) == expected.contains(address)).then_some(())
    });
}

/// Services appear and vanish with their files.
pub fn manifests_come_and_go() {
    let mut stage = Stage::new(&[]);
    stage.start();
    let to = cluster_ip(Family::V4, 10);
    write_service(&stage, "web", 10, &backends(&stage));
    eventually("the new Service is served", || stage.ask("services").to_string().contains("web").then_some(()));
    assert_eq!(servers(&stage.ordinary_pod().run_until(3, &Task::Tcp { to, count: 12 })).len(), 3);
    stage.remove("web");
    eventually("the Service is gone", || (!stage.ask("services").to_string().contains("web")).then_some(()));
    let sights = stage.sandboxed_pod().run(&Task::Tcp { to, count: 1 });
    assert!(matches!(sights[..], [Sight::Failed(_)]), "{sights:?}");
    assert!(!stage.ask("backends").to_string().contains("10.1.11.2"), "nothing is left of it");
}

/// Bad input is named in the log; its neighbours are served.
pub fn broken_manifest() {
    let mut stage = Stage::new(&[]);
    write_service(&stage, "web", 10, &[&stage.backends[0]]);
    let ips = Family::ALL.map(|family| cluster_ip(family, 20).ip());
    let mut odd = super::manifests::service("odd", &ips, 80, &serde_json::json!({}));
    odd["spec"]["ports"][0]["port"] = 70_000.into();
    stage.write("odd", &[odd]);
    std::fs::write(stage.manifests().join("broken.yaml"), "kind: Service\n  : [").expect("the folder is ours");
    stage.start();
    let to = cluster_ip(Family::V4, 10);
    assert_eq!(servers(&stage.ordinary_pod().run(&Task::Tcp { to, count: 2 })).len(), 1);
    let log = stage.log();
    for word in ["broken.yaml", "default/odd", "spec.ports[0].port"] {
        assert!(log.contains(word), "the log names {word}: {log}");
    }
}

/// The dataplane outlives the agent: SIGTERM, SIGKILL, start again. Connections that exist and new ones go on.
pub fn restart() {
    let mut stage = Stage::new(&[]);
    write_service(&stage, "web", 10, &backends(&stage));
    stage.start();
    let mut held: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| {
            let to = cluster_ip(family, 10);
            [stage.ordinary_pod(), stage.sandboxed_pod(), stage.outside_client()]
                .map(|place| place.hold(&Talk::Tcp { to }))
        })
        .collect();
    let first: Vec<Sight> = held.iter_mut().map(|held| held.next()).collect();
    servers(&first);
    let mut check = |stage: &Stage, what: &str| {
        for (held, first) in held.iter_mut().zip(&first) {
            assert_eq!(held.again(), *first, "{what}: a connection that was there");
        }
        for family in Family::ALL {
            let to = cluster_ip(family, 10);
            for place in [stage.ordinary_pod(), stage.sandboxed_pod(), stage.outside_client()] {
                let sights = place.run_until(3, &Task::Tcp { to, count: 12 });
                assert_eq!(servers(&sights).len(), 3, "{what}: new connections");
            }
        }
    };
    check(&stage, "while it runs");
    let before = stage.ask("backends");
    stage.stop();
    check(&stage, "after SIGTERM");
    assert_eq!(stage.ask("backends"), before, "the commands work without the agent");
    stage.start();
    check(&stage, "after a start on what was there");
    assert_eq!(stage.ask("backends"), before, "a restart keeps every number");
    stage.kill();
    check(&stage, "after SIGKILL");
    // What changed while nobody looked takes effect at the next start.
    write_service(&stage, "other", 11, &[&stage.backends[0]]);
    stage.pins.forget_programs();
    stage.start();
    check(&stage, "after the second start, with other programs");
    let to = cluster_ip(Family::V4, 11);
    // The programs serve from what was there before the new lists are complete.
    let (sights, _) = eventually("the new Service is served", || {
        let sights = stage.sandboxed_pod().run(&Task::Tcp { to, count: 2 });
        sights.iter().all(|sight| matches!(sight, Sight::Answer { .. })).then_some(sights)
    });
    assert_eq!(servers(&sights).len(), 1);
}

/// Two nodes on one kernel: each agent serves its own.
pub fn two_agents() {
    let (mut one, mut other) = (Stage::new(&[]), Stage::new(&[]));
    write_service(&one, "web", 10, &[&one.backends[0]]);
    write_service(&other, "web", 10, &[&other.backends[1]]);
    one.start();
    other.start();
    let to = cluster_ip(Family::V4, 10);
    for (stage, expected) in [(&one, "pod-11"), (&other, "pod-12")] {
        for place in [stage.host(), stage.ordinary_pod(), stage.sandboxed_pod(), stage.outside_client()] {
            let sights = place.run(&Task::Tcp { to, count: 3 });
            assert_eq!(servers(&sights), BTreeSet::from([expected.to_owned()]));
        }
    }
}

/// `cleanup` takes down all of ours and nothing else.
pub fn cleanup() {
    let mut stage = Stage::new(&[]);
    write_service(&stage, "web", 10, &backends(&stage));
    run(stage.node.command("nft").arg("add table inet foreign"));
    stage.start();
    let cgroup = stage.cgroup.path().to_owned();
    let attached = || status::at_cgroup(&cgroup).expect("readable").len();
    assert_eq!(attached(), SocketHook::ALL.len(), "they were there");
    stage.stop();
    let mut cleanup = stage.node.command(env!("CARGO_BIN_EXE_proxy-agent"));
    cleanup.arg("cleanup").arg("--bpffs-root").arg(stage.pins.path()).arg("--cgroup-root").arg(stage.cgroup.path());
    run(&mut cleanup);
    let tables = run(stage.node.command("nft").args(["list", "tables"]));
    assert!(tables.contains("foreign") && !tables.contains("proxy-agent"), "{tables}");
    let left: Vec<_> =
        std::fs::read_dir(stage.pins.path()).map(|entries| entries.flatten().collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(attached(), 0, "programs at the cgroup");
    for place in [stage.ordinary_pod(), stage.sandboxed_pod(), stage.outside_client()] {
        let sights = place.run(&Task::Tcp { to: cluster_ip(Family::V4, 10), count: 1 });
        assert!(matches!(sights[..], [Sight::Failed(_)]), "nobody serves the Service any more: {sights:?}");
    }
}

/// A pod that starts after the agent is served, and is served as a backend.
pub fn late_device() {
    let mut stage = Stage::new(&[]);
    write_service(&stage, "web", 10, &backends(&stage));
    stage.start();
    let late = Netns::new();
    stage.node.veth("late", &late, "eth0");
    stage.node.ip("addr add 10.1.99.1/24 dev late");
    late.ip("addr add 10.1.99.2/24 dev eth0");
    late.ip("route add default via 10.1.99.1");
    let _server = Server::new(&late, &Family::ALL, "late", TARGET_PORT);
    let to = cluster_ip(Family::V4, 10);
    let place = super::super::client::Place { namespace: &late, cgroup: None };
    eventually("the new device has the programs", || stage.ask("status").to_string().contains("late").then_some(()));
    let sights = place.run_until(3, &Task::Tcp { to, count: 12 });
    assert_eq!(servers(&sights).len(), 3);
    assert_answers(&sights, to, [10, 1, 99, 2].into(), "the late pod");
}
