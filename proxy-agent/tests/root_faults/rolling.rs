//! A rolling update: backends are replaced one after the other, under load.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::{
    load::{Report, now},
    manifests,
    runner::{Load, cluster_ips, complaints_of, on_this_machine},
    server::Server,
    stage::{Family, NODE, Stage},
    support::{eventually, slowness},
};

/// How many backends there are at a time.
const BACKENDS: u32 = 20;
/// The first backend's port; each has its own.
const FIRST_PORT: u16 = 9000;
/// Connections that are held by each client.
const HELD: u32 = 60;

/// What a slice says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Terminating,
}

/// Each backend becomes ready, serves, terminates while it goes on serving, and goes. Nobody who connects or is connected
/// notices, and nobody new reaches one that is gone.
pub fn update() {
    let mut stage = Stage::new(&[]);
    let count = usize::try_from(on_this_machine(BACKENDS)).expect("few");
    let held = on_this_machine(HELD);
    // Servers end with the test: what is gone from the slices still answers those who are connected.
    let mut servers: Vec<Server> = (0..count).map(|number| server(&stage, number)).collect();
    let mut backends: Vec<(usize, State)> = (0..count).map(|number| (number, State::Ready)).collect();
    write(&stage, &backends);
    stage.start();
    let mut loads = [("outside, by TC", stage.outside_client()), ("a pod, at its sockets", stage.ordinary_pod())]
        .map(|(who, place)| (who, Load::start(place, held)));
    let mut gone = Vec::new();
    for old in 0..count {
        let new = count + old;
        servers.push(server(&stage, new));
        backends.push((new, State::Ready));
        backends[0].1 = State::Terminating;
        write(&stage, &backends);
        thread::sleep(Duration::from_millis(60) * slowness());
        backends.remove(0);
        write(&stage, &backends);
        eventually("the endpoint is out of the tables", || {
            let text = stage.ask("backends").to_string();
            (!text.contains(&format!("{}", FIRST_PORT + u16::try_from(old).expect("few")))).then_some(())
        });
        gone.push((name(old), now()));
    }
    // What the last one broke would not show at once.
    thread::sleep(Duration::from_millis(300) * slowness().div_ceil(4));
    let mut complaints = Vec::new();
    for (who, load) in &mut loads {
        let report = load.end();
        println!(
            "{who}: {held} connections held, {} lost; {} new connections, {} datagrams",
            report.broken.len(),
            report.connections.len(),
            report.datagrams.len(),
        );
        assert!(report.exchanges > u64::from(held) && report.connections.len() > 10, "{who}: there was load");
        complaints.extend(complaints_of(who, &report));
        complaints.extend(too_late(&report, &gone).map(|why| format!("{who}: {why}")));
    }
    complaints.truncate(30);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Who was answered by a backend that was gone when they began.
fn too_late(report: &Report, gone: &[(String, u64)]) -> impl Iterator<Item = String> {
    report.connections.iter().chain(&report.datagrams).filter_map(move |attempt| {
        let server = attempt.result.as_ref().ok()?;
        let (_, since) = gone.iter().find(|(name, since)| name == server && attempt.began > *since)?;
        Some(format!("{server} was gone at {since}: {attempt:?}"))
    })
}

fn name(number: usize) -> String {
    format!("backend-{number}")
}

fn server(stage: &Stage, number: usize) -> Server {
    let pod = &stage.backends[number % stage.backends.len()];
    Server::new(&pod.namespace, &Family::ALL, &name(number), port(number))
}

fn port(number: usize) -> u16 {
    FIRST_PORT + u16::try_from(number).expect("few backends")
}

/// Each backend has a slice of its own, because its port is its own.
fn write(stage: &Stage, backends: &[(usize, State)]) {
    let ips = cluster_ips(1).map(|address| address.ip());
    let mut objects = vec![manifests::service("web", &ips, 80, &json!({}))];
    for &(number, state) in backends {
        let pod = &stage.backends[number % stage.backends.len()];
        for family in Family::ALL {
            let mut endpoint = pod.endpoint(family);
            endpoint.set_port(port(number));
            let mut slice: Value = manifests::slice("web", &[(endpoint, NODE)]);
            slice["metadata"]["name"] = format!("web-{number}-{family:?}").to_lowercase().into();
            if state == State::Terminating {
                slice["endpoints"][0]["conditions"] = json!({ "ready": false, "serving": true, "terminating": true });
            }
            objects.push(slice);
        }
    }
    stage.write("web", &objects);
}
