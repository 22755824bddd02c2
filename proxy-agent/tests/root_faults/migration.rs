//! From kube-proxy to the agent and back, under load.

use std::process::Command;

use serde_json::Value;

use super::{
    client::{Held, Place},
    kube_proxy::{Mode, NODE_PORT},
    load::{Report, now},
    manifests,
    peer::{Sight, Talk},
    runner::{Load, cluster_ips, complaints_of},
    stage::{Family, NODE, Stage},
    support::{Netns, run},
};

/// Connections that the load holds for each client.
const HELD: u32 = 30;

/// kube-proxy serves; the agent starts beside it and takes what begins; kube-proxy's rules go; they come back; the agent hands
/// over and is removed. Whatever is open at any of these moments goes on, and whatever begins works.
pub fn there_and_back(mode: Mode) {
    let mut stage = Stage::new(&[]);
    write(&stage);
    // netfilter translates what a process of the node sends only where there is a route to the Service's address.
    stage.node.ip("route add default via 192.0.2.2");
    stage.node.ip("-6 route add default via 2001:db8::2");
    mode.install_others(&stage.node);
    let others = mode.rules(&stage.node);
    mode.install(&stage);
    let mut by_kube_proxy = hold(&stage);
    let mut loads = clients(&stage).map(|(who, place)| (who, Load::start(place, HELD)));

    stage.start();
    assert_same(&mut by_kube_proxy, "the agent starts beside kube-proxy");
    let before = served(&stage);
    let mut by_agent = hold(&stage);
    assert!(served(&stage) > before, "what begins is the agent's, in spite of the rules");
    assert_same(&mut by_agent, "the agent starts beside kube-proxy");

    let removed = command(&stage, &["cleanup", "--kube-proxy"]);
    assert!(removed.contains("removed IPv4") && removed.contains("removed IPv6"), "{removed}");
    assert_eq!(mode.rules(&stage.node), others, "what is not kube-proxy's stays");
    assert_eq!(command(&stage, &["cleanup", "--kube-proxy"]), "nothing to remove\n");
    assert_same(&mut by_kube_proxy, "kube-proxy's rules are gone");
    assert_same(&mut by_agent, "kube-proxy's rules are gone");
    drop(hold(&stage));

    println!("{} kube-proxy comes back", now());
    mode.install(&stage);
    assert_same(&mut by_kube_proxy, "kube-proxy is back");
    assert_same(&mut by_agent, "kube-proxy is back");
    let failed = stage
        .node
        .command(env!("CARGO_BIN_EXE_proxy-agent"))
        .args(["cleanup", "--drain", "--bpffs-root"])
        .arg(stage.pins.path())
        .output()
        .expect("the command runs");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("an agent is running"), "{said}");
    stage.stop();
    let said = command(&stage, &["cleanup", "--drain"]);
    assert!(said.contains("frontends are not served any more"), "{said}");
    let before = served(&stage);
    assert_same(&mut by_kube_proxy, "the agent hands over");
    assert_same(&mut by_agent, "the agent hands over");
    let mut by_kube_proxy_again = hold(&stage);
    assert_same(&mut by_kube_proxy_again, "the agent hands over");
    assert_eq!(served(&stage), before, "what begins is kube-proxy's");

    // What the agent translated is over before the rest of it goes.
    drop(by_agent);
    for (who, load) in &mut loads {
        let complaints = complaints_of(who, &tell(who, load.end()));
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
    command(&stage, &["cleanup"]);
    assert_same(&mut by_kube_proxy, "the agent is removed");
    assert_same(&mut by_kube_proxy_again, "the agent is removed");
    drop(hold(&stage));
}

/// What the ipvs mode leaves besides rules: sets that others have too, and a device.
pub fn sets_and_device() {
    let node = Netns::new();
    node.ip("link add kube-ipvs0 type veth peer name other");
    for set in ["KUBE-CLUSTER-IP hash:ip,port", "KUBE-6-LOOP-BACK hash:ip,port family inet6", "mine hash:ip"] {
        run(node.command("ipset").arg("create").args(set.split(' ')));
    }
    run(node.command("ipset").args(["add", "KUBE-CLUSTER-IP", "10.96.0.1,tcp:443"]));
    let removed = run(node.command(env!("CARGO_BIN_EXE_proxy-agent")).args(["cleanup", "--kube-proxy"]));
    for what in ["set of addresses KUBE-CLUSTER-IP", "set of addresses KUBE-6-LOOP-BACK", "device kube-ipvs0"] {
        assert_eq!(removed.matches(&format!("removed {what}\n")).count(), 1, "{what}: {removed}");
    }
    assert_eq!(run(node.command("ipset").args(["list", "-n"])), "mine\n");
    assert!(!node.ip("link show").contains("kube-ipvs0"));
}

fn clients(stage: &Stage) -> [(&'static str, Place<'_>); 2] {
    [("outside, by TC", stage.outside_client()), ("a pod, at its sockets", stage.ordinary_pod())]
}

fn tell(who: &str, report: Report) -> Report {
    println!(
        "{who}: {HELD} connections held, {} lost; {} messages on them; {} new connections, {} datagrams",
        report.broken.len(),
        report.exchanges,
        report.connections.len(),
        report.datagrams.len(),
    );
    assert!(report.exchanges > u64::from(HELD) && report.connections.len() > 10, "there was load");
    report
}

/// The Service of kube-proxy's rules, as the agent sees it.
fn write(stage: &Stage) {
    let ports: Vec<Value> = ["TCP", "UDP"]
        .iter()
        .map(|protocol| {
            let name = if *protocol == "TCP" { "main" } else { "main-udp" };
            serde_json::json!({ "name": name, "port": 80, "nodePort": NODE_PORT, "protocol": protocol })
        })
        .collect();
    let ips = cluster_ips(1).map(|address| address.ip());
    let mut objects =
        vec![manifests::service("web", &ips, 80, &serde_json::json!({ "type": "NodePort", "ports": ports }))];
    for family in Family::ALL {
        let endpoints: Vec<_> = stage.backends.iter().map(|pod| (pod.endpoint(family), NODE)).collect();
        objects.push(manifests::slice("web", &endpoints));
    }
    stage.write("web", &objects);
}

/// A connection and what was seen on it first; or a flow of datagrams, which another backend may answer once somebody else
/// translates it.
struct Open {
    what: String,
    held: Held,
    first: Option<Sight>,
}

/// Connections of every sort of client, over each path, and flows of datagrams.
fn hold(stage: &Stage) -> Vec<Open> {
    let mut open = Vec::new();
    for family in Family::ALL {
        let cluster_ip = cluster_ips(1)[usize::from(family == Family::V6)];
        let node_port = match family {
            Family::V4 => ([192, 0, 2, 1], NODE_PORT).into(),
            Family::V6 => format!("[2001:db8::1]:{NODE_PORT}").parse().expect("an address"),
        };
        for (who, place, to) in [
            ("outside to the nodePort", stage.outside_client(), node_port),
            ("outside to the clusterIP", stage.outside_client(), cluster_ip),
            ("a sandboxed pod to the clusterIP", stage.sandboxed_pod(), cluster_ip),
            ("a pod to the clusterIP", stage.ordinary_pod(), cluster_ip),
            ("the node to the clusterIP", stage.host(), cluster_ip),
        ] {
            let mut held = place.hold(&Talk::Tcp { to });
            let first = held.next();
            assert!(matches!(first, Sight::Answer { .. }), "{who}, {family:?}: {first:?}");
            open.push(Open { what: format!("{who}, {family:?}"), held, first: Some(first) });
            let held = place.hold(&Talk::UdpConnected { to });
            open.push(Open { what: format!("datagrams from {who}, {family:?}"), held, first: None });
        }
    }
    open
}

/// Everybody is answered; connections by the backend that answered first.
#[track_caller]
fn assert_same(open: &mut [Open], when: &str) {
    // What the clients tell of carries the same times.
    println!("{} {when}", now());
    for Open { what, held, first } in open {
        let sight = held.again();
        match first {
            Some(first) => assert_eq!(&sight, first, "{when}: {what}"),
            None => assert!(matches!(sight, Sight::Answer { .. }), "{when}: {what}: {sight:?}"),
        }
    }
}

/// Connections that the agent's programs took.
fn served(stage: &Stage) -> u64 {
    let status = stage.ask("status");
    ["socket_connections", "flows"].iter().filter_map(|name| status["counters"][name].as_u64()).sum()
}

fn command(stage: &Stage, words: &[&str]) -> String {
    println!("{} {words:?}", now());
    let mut command: Command = stage.node.command(env!("CARGO_BIN_EXE_proxy-agent"));
    command.args(words).arg("--bpffs-root").arg(stage.pins.path());
    run(command.arg("--cgroup-root").arg(stage.cgroup.path()))
}
