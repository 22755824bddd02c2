//! An API server whose host goes without a word. Needs root.

#[path = "fake_api/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each test file is a crate of its own and uses what it needs")]
mod fake_api;
mod support;

use std::{sync::Arc, time::Duration};

use fake_api::FakeApi;
use proxy_agent::{
    freshness::Freshness,
    notices::LogOnly,
    source::{
        self,
        api::{self, LIST_SILENCE, Listeners, Liveness, Server},
    },
};
use support::{Netns, patience};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// Its packets stop, and no FIN or RST says so. Watches have nothing to send, so only questions for signs of life can tell. The read
/// timeout, which is the next to notice, is five minutes away.
#[test]
fn a_server_whose_host_is_gone_is_missed_although_nothing_was_to_be_sent() {
    let (node, other) = (Netns::new(), Netns::new());
    node.veth("eth0", &other, "eth1");
    node.ip("addr add 192.0.2.1/24 dev eth0");
    other.ip("addr add 192.0.2.2/24 dev eth1");
    let api = other.block_on(async || FakeApi::start_at("192.0.2.2:0").await);
    let liveness =
        Liveness { idle: Duration::from_secs(2), interval: Duration::from_secs(1), dead: Duration::from_secs(4) };
    let server = Server { kubeconfig: None, master: Some(api.url()), qps: 50.0, burst: 100, liveness };
    node.block_on(async || {
        let client = api::connect(&server).await.expect("an address is enough");
        let (updates, mut received) = source::channel();
        let (freshness, mut tasks) = (Arc::<Freshness>::default(), JoinSet::new());
        let listeners = Listeners { updates, freshness: Arc::clone(&freshness), notices: Arc::new(LogOnly) };
        api::start(&client, "node-a", LIST_SILENCE, &listeners, &mut tasks);
        for _ in 0..3 {
            timeout(patience(), received.recv()).await.expect("complete lists").expect("a source");
        }
        let fails = || freshness.times().kinds.map(|kind| kind.failing != 0);
        // A connection that is alive is not given up, however little is to be said.
        sleep(liveness.dead * 2).await;
        assert_eq!(fails(), [false; 3], "nothing is wrong");
        other.ip("link set eth1 down");
        let missed = async {
            while fails() != [true; 3] {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(patience(), missed).await.unwrap_or_else(|_| panic!("{:?}", fails()));
        other.ip("link set eth1 up");
        let back = async {
            while fails() != [false; 3] {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(patience() * 2, back).await.unwrap_or_else(|_| panic!("{:?}", fails()));
    });
}
