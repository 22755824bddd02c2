//! The Kubernetes API as a source, against a server that the test runs on loopback.

mod fake_api;
mod log;
mod objects;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use fake_api::{FakeApi, Resource};
use log::Log;
use objects::{node, service, slice};
use proxy_agent::{
    model::{Change, Update},
    notices::LogOnly,
    source::{
        self, Arrival,
        api::{self, Listeners, Liveness, Server},
    },
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

/// Enough for retries on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the source has told, and the source itself.
struct Agent {
    updates: mpsc::Receiver<Arrival>,
    _tasks: JoinSet<()>,
    /// Service → clusterIP, once the list is complete.
    services: Option<BTreeMap<String, String>>,
    /// Slices, once the list is complete.
    slices: Option<BTreeSet<String>>,
    /// Nodes, once the list is complete.
    nodes: Option<BTreeSet<String>>,
    /// Complete lists of Services so far.
    resets: usize,
}

impl Agent {
    async fn start(api: &FakeApi) -> Self {
        Self::patient(api, api::LIST_SILENCE).await
    }

    async fn patient(api: &FakeApi, list_silence: Duration) -> Self {
        let server =
            Server { kubeconfig: None, master: Some(api.url()), qps: 5.0, burst: 50, liveness: Liveness::default() };
        let client = api::connect(&server).await.expect("an address is enough");
        let (sender, updates) = source::channel();
        let mut tasks = JoinSet::new();
        let listeners = Listeners { updates: sender, freshness: Arc::default(), notices: Arc::new(LogOnly) };
        api::start(&client, "node-a", list_silence, &listeners, &mut tasks);
        Self { updates, _tasks: tasks, services: None, slices: None, nodes: None, resets: 0 }
    }

    /// Takes in updates until `reached`.
    async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(update) = tokio::time::timeout(left, self.updates.recv()).await else {
                panic!("waited in vain for: {what}; services {:?}, slices {:?}", self.services, self.slices);
            };
            self.take(update.expect("a source").update);
        }
    }

    /// Takes in what comes within `time`.
    async fn during(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(update) = tokio::time::timeout_at(deadline, self.updates.recv()).await {
            self.take(update.expect("a source").update);
        }
    }

    async fn synced(&mut self) {
        self.until("complete lists", |agent| {
            agent.services.is_some() && agent.slices.is_some() && agent.nodes.is_some()
        })
        .await;
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Service(Change::Reset(list)) => {
                let entry = |service: proxy_agent::model::Service| {
                    (service.name.name().to_owned(), service.cluster_ips[0].to_string())
                };
                self.services = Some(list.into_iter().map(entry).collect());
                self.resets += 1;
            }
            Update::Service(Change::Apply(service)) => {
                let services = self.services.as_mut().expect("a list comes first");
                services.insert(service.name.name().to_owned(), service.cluster_ips[0].to_string());
            }
            Update::Service(Change::Delete(name)) => {
                self.services.as_mut().expect("a list comes first").remove(name.name());
            }
            Update::Slice(Change::Reset(list)) => {
                self.slices = Some(list.into_iter().map(|slice| slice.name.name().to_owned()).collect());
            }
            Update::Slice(Change::Apply(slice)) => {
                self.slices.as_mut().expect("a list comes first").insert(slice.name.name().to_owned());
            }
            Update::Slice(Change::Delete(name)) => {
                self.slices.as_mut().expect("a list comes first").remove(name.name());
            }
            Update::Node(Change::Reset(list)) => {
                self.nodes = Some(list.into_iter().map(|node| node.name.name().to_owned()).collect());
            }
            Update::Node(Change::Apply(node)) => {
                self.nodes.as_mut().expect("a list comes first").insert(node.name.name().to_owned());
            }
            Update::Node(Change::Delete(name)) => {
                self.nodes.as_mut().expect("a list comes first").remove(name.name());
            }
            Update::Facts(_) => panic!("no API object tells of routes"),
        }
    }

    fn ip(&self, service: &str) -> Option<&str> {
        self.services.as_ref()?.get(service).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.services.iter().flatten().map(|(name, _)| name.as_str()).collect()
    }
}

/// Waits until the server has a watch of Services.
async fn watched(api: &FakeApi) {
    let deadline = Instant::now() + PATIENCE;
    while api.state().watches(Resource::Services) == 0 {
        assert!(Instant::now() < deadline, "no watch of Services");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Gives what was sent through a watch time to arrive before its connection breaks.
async fn arrives() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn lists_come_in_pages_and_count_when_complete() {
    let api = FakeApi::start().await;
    for number in 0..1100 {
        let ip = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        api.state().put(Resource::Services, service(&format!("s{number}"), &ip));
    }
    api.state().put(Resource::EndpointSlices, slice("s1-x", "s1", &["10.0.0.1"]));
    api.state().put(Resource::Nodes, node("node-a"));
    api.state().put(Resource::Nodes, node("node-b"));
    let mut agent = Agent::start(&api).await;
    agent.synced().await;

    assert_eq!(agent.names().len(), 1100);
    assert_eq!(agent.resets, 1);
    assert_eq!(agent.nodes, Some(BTreeSet::from(["node-a".to_owned()])), "only the own Node");
    let lists: Vec<String> = api
        .state()
        .requests()
        .into_iter()
        .filter(|request| request.starts_with("/api/v1/services?") && !request.contains("watch=true"))
        .collect();
    let selector = "labelSelector=!service.kubernetes.io/service-proxy-name";
    let expected = [
        format!("/api/v1/services?{selector}&limit=500"),
        format!("/api/v1/services?continue=500&{selector}&limit=500"),
        format!("/api/v1/services?continue=1000&{selector}&limit=500"),
    ];
    assert_eq!(lists, expected);
    let requests = api.state().requests();
    let slices = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=!service.kubernetes.io/headless&limit=500";
    assert!(requests.iter().any(|request| request == slices), "{requests:?}");
}

#[tokio::test]
async fn changes_arrive_and_labels_decide_what_is_ours() {
    let api = FakeApi::start().await;
    api.state().put(Resource::Services, service("web", "10.96.0.1"));
    let mut agent = Agent::start(&api).await;
    agent.synced().await;

    api.state().put(Resource::Services, service("db", "10.96.0.2"));
    agent.until("db is there", |agent| agent.ip("db") == Some("10.96.0.2")).await;
    api.state().put(Resource::Services, service("db", "10.96.0.3"));
    agent.until("db has changed", |agent| agent.ip("db") == Some("10.96.0.3")).await;
    api.state().delete(Resource::Services, "db");
    agent.until("db is gone", |agent| agent.ip("db").is_none()).await;

    let mut labelled = service("web", "10.96.0.1");
    labelled["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    api.state().put(Resource::Services, labelled);
    agent.until("web is another proxy's", |agent| agent.ip("web").is_none()).await;
    api.state().put(Resource::Services, service("web", "10.96.0.1"));
    agent.until("web is ours again", |agent| agent.ip("web").is_some()).await;

    let mut external = service("web", "10.96.0.1");
    external["spec"] = json!({"type": "ExternalName", "externalName": "web.example"});
    api.state().put(Resource::Services, external);
    agent.until("web is an external name", |agent| agent.ip("web").is_none()).await;
    assert_eq!(agent.resets, 1);
}

#[tokio::test]
async fn a_broken_connection_loses_nothing() {
    let api = FakeApi::start().await;
    let log = Log::begin();
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    watched(&api).await;
    api.state().put(Resource::Services, service("a", "10.96.0.1"));
    agent.until("a is there", |agent| agent.ip("a").is_some()).await;

    api.state().cut_watches(Resource::Services);
    api.state().put(Resource::Services, service("b", "10.96.0.2"));
    api.state().delete(Resource::Services, "a");
    agent.until("both are caught up with", |agent| agent.names() == ["b"]).await;
    assert_eq!(agent.resets, 1, "resumed, not listed again");
    assert!(log.lines_with("proxy_agent").is_empty(), "nothing to do for anybody: {:?}", log.lines_with(""));
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let api = FakeApi::start().await;
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    watched(&api).await;
    api.state().put(Resource::Services, service("a", "10.96.0.1"));
    agent.until("a is there", |agent| agent.ip("a").is_some()).await;
    let version = api.state().bookmark(Resource::Services);
    arrives().await;
    // The versions before the bookmark are forgotten: without it, everything would be listed again.
    api.state().compact_before(version);
    api.state().cut_watches(Resource::Services);
    api.state().put(Resource::Services, service("b", "10.96.0.2"));
    agent.until("b is there", |agent| agent.ip("b").is_some()).await;
    assert_eq!(agent.resets, 1);
    let asked = format!("resourceVersion={version}&");
    assert!(api.state().requests().iter().any(|request| request.contains(&asked)), "{:?}", api.state().requests());
}

#[tokio::test]
async fn after_410_everything_is_listed_again_and_deletions_are_caught_up_with() {
    let api = FakeApi::start().await;
    for (name, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
        api.state().put(Resource::Services, service(name, ip));
    }
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    watched(&api).await;

    // The answer of a server whose watch cache has moved on: an event.
    api.state().cut_watches(Resource::Services);
    api.state().delete(Resource::Services, "a");
    api.state().compact();
    agent.until("a is gone", |agent| agent.names() == ["b"]).await;
    assert_eq!(agent.resets, 2);

    // The answer of others: the status of the response.
    watched(&api).await;
    api.state().fail_watches(Resource::Services, &[410]);
    api.state().cut_watches(Resource::Services);
    api.state().delete(Resource::Services, "b");
    api.state().put(Resource::Services, service("c", "10.96.0.3"));
    api.state().compact();
    agent.until("b is gone", |agent| agent.names() == ["c"]).await;
    assert_eq!(agent.resets, 3);
}

#[tokio::test]
async fn any_other_error_in_a_watch_leads_to_a_new_list_too() {
    let api = FakeApi::start().await;
    api.state().put(Resource::Services, service("a", "10.96.0.1"));
    let log = Log::begin();
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    watched(&api).await;
    let status = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "etcd is tired"});
    api.state().send_raw(Resource::Services, &format!("{}\n", json!({"type": "ERROR", "object": status})));
    agent.until("a new list", |agent| agent.resets == 2).await;
    assert_eq!(log.lines_with("Services cannot be watched any further: etcd is tired (500); next try in ").len(), 1);
}

#[tokio::test]
async fn an_event_that_nobody_can_read_leads_to_a_new_list() {
    let api = FakeApi::start().await;
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    watched(&api).await;
    api.state().send_raw(Resource::Services, "{\"type\":\"REPLACED\",\"object\":{}}\n");
    agent.until("a new list", |agent| agent.resets == 2).await;
}

#[tokio::test]
async fn a_slow_list_is_waited_for() {
    let api = FakeApi::start().await;
    for number in 0..501 {
        let ip = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        api.state().put(Resource::Services, service(&format!("s{number}"), &ip));
    }
    // Both pages are slow: after the first, half of the objects have been seen.
    api.state().delay_lists(Resource::Services, &[Duration::from_millis(500), Duration::from_millis(1500)]);
    let mut agent = Agent::start(&api).await;
    agent.during(Duration::from_millis(1200)).await;
    assert!(agent.slices.is_some(), "the other kinds do not wait");
    assert_eq!(agent.services, None, "half a list is no list");
    agent.synced().await;
    assert_eq!(agent.names().len(), 501);
}

#[tokio::test]
async fn a_list_without_an_answer_is_begun_anew() {
    let api = FakeApi::start().await;
    api.state().put(Resource::Services, service("a", "10.96.0.1"));
    api.state().delay_lists(Resource::Services, &[Duration::from_hours(1)]);
    let log = Log::begin();
    let mut agent = Agent::patient(&api, Duration::from_millis(500)).await;
    agent.synced().await;
    assert_eq!(agent.names(), ["a"]);
    assert_eq!(log.lines_with("Services cannot be listed: no answer within 500ms; next try in").len(), 1);
}

#[tokio::test]
async fn half_a_new_list_removes_nothing() {
    let api = FakeApi::start().await;
    for number in 0..600 {
        let ip = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        api.state().put(Resource::Services, service(&format!("s{number}"), &ip));
    }
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    watched(&api).await;
    // The second page has expired, as tokens do after five minutes; the next try is whole.
    api.state().fail_lists(Resource::Services, &[None, Some(410)]);
    api.state().fail_watches(Resource::Services, &[410]);
    api.state().cut_watches(Resource::Services);
    let deadline = Instant::now() + PATIENCE;
    while agent.resets < 2 {
        assert!(Instant::now() < deadline, "no new list");
        agent.during(Duration::from_millis(20)).await;
        assert_eq!(agent.names().len(), 600);
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_is_named_and_the_others_are_served() {
    let api = FakeApi::start().await;
    let mut bad = service("bad", "10.96.0.9");
    bad["spec"]["ports"][0]["port"] = json!("http");
    let mut bad_metadata = slice("bad-1", "web", &["10.0.0.1"]);
    bad_metadata["metadata"]["annotations"] = json!([1]);
    api.state().put(Resource::Services, bad.clone());
    api.state().put(Resource::Services, service("web", "10.96.0.1"));
    api.state().put(Resource::EndpointSlices, bad_metadata);
    api.state().put(Resource::EndpointSlices, slice("web-1", "web", &["10.0.0.1"]));
    let log = Log::begin();
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    assert_eq!(agent.names(), ["web"]);
    assert_eq!(agent.slices, Some(BTreeSet::from(["web-1".to_owned()])));
    let named = "Service default/bad: spec.ports[0].port: invalid type: string \"http\", expected i32";
    assert_eq!(log.lines_with(named).len(), 1, "{:?}", log.lines_with(""));
    assert_eq!(log.lines_with("EndpointSlice default/bad-1: metadata.annotations: ").len(), 1);

    // In the watch: what was good goes, what was bad comes, and what stays bad is not told again.
    bad["metadata"]["labels"] = json!({"still": "bad"});
    api.state().put(Resource::Services, bad.clone());
    bad["metadata"]["name"] = json!("web");
    api.state().put(Resource::Services, bad);
    api.state().put(Resource::Services, service("after", "10.96.0.2"));
    agent.until("web is not usable any more", |agent| agent.names() == ["after"]).await;
    assert_eq!(log.lines_with(named).len(), 1);
    assert_eq!(log.lines_with("Service default/web: spec.ports[0].port").len(), 1);
    api.state().put(Resource::Services, service("bad", "10.96.0.9"));
    agent.until("bad is good", |agent| agent.ip("bad").is_some()).await;
    assert_eq!(agent.resets, 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for() {
    let mut api = FakeApi::start().await;
    api.stop();
    api.state().put(Resource::Services, service("a", "10.96.0.1"));
    let log = Log::begin();
    let mut agent = Agent::start(&api).await;
    agent.during(Duration::from_secs(2)).await;
    assert_eq!(agent.services, None);
    let warnings = log.lines_with("Services cannot be listed: ");
    assert_eq!(warnings.len(), 1, "told once, not at each try: {warnings:?}");
    assert!(warnings[0].contains("Connection refused"), "{warnings:?}");
    assert!(warnings[0].contains("next try in"), "{warnings:?}");
    api.restart().await;
    agent.synced().await;
    assert_eq!(agent.names(), ["a"]);

    // And again, later: what is known stays.
    watched(&api).await;
    api.stop();
    agent.during(Duration::from_secs(1)).await;
    assert_eq!(agent.names(), ["a"]);
    api.state().delete(Resource::Services, "a");
    api.state().put(Resource::Services, service("b", "10.96.0.2"));
    api.restart().await;
    agent.until("what happened meanwhile", |agent| agent.names() == ["b"]).await;
}

#[tokio::test]
async fn a_refusal_is_retried_and_told_with_its_reason() {
    let api = FakeApi::start().await;
    api.state().put(Resource::Services, service("a", "10.96.0.1"));
    api.state().fail_lists(Resource::Services, &[Some(403)]);
    let log = Log::begin();
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    assert_eq!(agent.names(), ["a"]);
    assert_eq!(log.lines_with("Services cannot be listed: the test wants 403 (403); next try in").len(), 1);
    assert_eq!(log.lines_with("Services arrive again").len(), 1);
}

/// A load balancer without a server behind it, or one that has too much to do, says so with these.
#[tokio::test]
async fn a_server_that_is_not_there_for_a_moment_is_asked_again_soon_and_told_of() {
    for status in [429, 503, 504] {
        let api = FakeApi::start().await;
        let log = Log::begin();
        let mut agent = Agent::start(&api).await;
        agent.synced().await;
        watched(&api).await;
        api.state().fail_watches(Resource::Services, &[status]);
        api.state().cut_watches(Resource::Services);
        api.state().put(Resource::Services, service("a", "10.96.0.1"));
        agent.until("a is there", |agent| agent.ip("a").is_some()).await;
        assert_eq!(agent.resets, 1, "{status}: nothing is lost");
        let told = format!("Services cannot be watched: the test wants {status} ({status}); next try in");
        assert_eq!(log.lines_with(&told).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_ends_each_watch_is_not_asked_in_a_tight_loop() {
    let api = FakeApi::start().await;
    api.state().always_end_watches(Resource::Services);
    let mut agent = Agent::start(&api).await;
    agent.synced().await;
    agent.during(Duration::from_secs(3)).await;
    let requests = api.state().requests().len();
    assert!((5..=60).contains(&requests), "{requests} requests with 5 a second and 50 at once");
}
