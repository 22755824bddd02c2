//! An API server that goes away, forgets and stumbles, under load.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::{
    fake_api::{FakeApi, Resource},
    manifests,
    runner::{Load, cluster_ips, complaints_of, on_this_machine},
    stage::{Family, NODE, Pod, Stage},
    support::{eventually, slowness},
};

/// Connections that are held by each client.
const HELD: u32 = 30;
/// What the agent watches.
const WATCHED: [Resource; 2] = [Resource::Services, Resource::EndpointSlices];

/// What befalls the server.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// It goes away for a moment.
    Away,
    /// It goes away, and the agent is killed and started before it is back.
    AwayAtStart,
    /// Its connections break in the middle of an event.
    Cut,
    /// It forgets what was, and its first answers are errors.
    Forgetful,
}

/// Whatever befalls it, nothing is lost, and what has changed meanwhile is served as soon as it answers again.
pub fn comes_and_goes() {
    let mut stage = Stage::new(&[]);
    let mut api = stage.node.block_on(async || FakeApi::start().await);
    stage.watch(api.url());
    api.state().put(Resource::Nodes, json!({"metadata": {"name": NODE}, "spec": {}}));
    let ips = cluster_ips(1).map(|address| address.ip());
    api.state().put(Resource::Services, manifests::service("web", &ips, 80, &json!({})));
    let all: Vec<&Pod> = stage.backends.iter().collect();
    put(&api, &all);
    stage.start();
    let mut loads = [("outside, by TC", stage.outside_client()), ("a pod, at its sockets", stage.ordinary_pod())]
        .map(|(who, place)| (who, Load::start(place, on_this_machine(HELD))));
    for trouble in [Trouble::Away, Trouble::Cut, Trouble::AwayAtStart, Trouble::Forgetful, Trouble::Away] {
        println!("{trouble:?}");
        let is_away = matches!(trouble, Trouble::Away | Trouble::AwayAtStart);
        if is_away {
            api.stop();
        }
        // One backend is taken away while nobody hears of it.
        put(&api, &stage.backends.iter().skip(1).collect::<Vec<_>>());
        match trouble {
            Trouble::Away => thread::sleep(Duration::from_millis(500) * slowness().div_ceil(4)),
            Trouble::AwayAtStart => {
                stage.kill();
                stage.start();
                assert!(serves(&stage, &stage.backends[0]), "what was is believed until the lists are complete");
            }
            Trouble::Cut => cut(&api),
            Trouble::Forgetful => {
                for resource in WATCHED {
                    api.state().fail_lists(resource, &[Some(500), None]);
                }
                api.state().compact();
                cut(&api);
            }
        }
        if is_away {
            stage.node.block_on(async || api.restart().await);
        }
        eventually("what was taken away meanwhile is gone", || {
            (!serves(&stage, &stage.backends[0]) && serves(&stage, &stage.backends[1])).then_some(())
        });
        put(&api, &stage.backends.iter().collect::<Vec<_>>());
        eventually("it is back", || serves(&stage, &stage.backends[0]).then_some(()));
    }
    let mut complaints = Vec::new();
    for (who, load) in &mut loads {
        let report = load.end();
        println!("{who}: {} new connections, {} datagrams", report.connections.len(), report.datagrams.len());
        assert!(
            report.exchanges > u64::from(on_this_machine(HELD)) && report.connections.len() > 10,
            "{who}: there was load"
        );
        complaints.extend(complaints_of(who, &report));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Breaks all connections in the middle of an event.
fn cut(api: &FakeApi) {
    for resource in WATCHED {
        api.state().cut_watches(resource);
    }
}

/// Makes these pods the endpoints of the Service.
fn put(api: &FakeApi, pods: &[&Pod]) {
    for family in Family::ALL {
        let endpoints: Vec<_> = pods.iter().map(|pod| (pod.endpoint(family), NODE)).collect();
        let slice: Value = manifests::slice("web", &endpoints);
        api.state().put(Resource::EndpointSlices, slice);
    }
}

/// Whether new connections may reach a pod.
fn serves(stage: &Stage, pod: &Pod) -> bool {
    let endpoint = format!("\"{}\"", pod.endpoint(Family::V4));
    stage.ask("backends").to_string().contains(&endpoint)
}
