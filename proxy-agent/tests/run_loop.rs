//! The run loop over tables in memory: when it writes, how bursts become one change, and how it gets
//! over errors.

#[expect(dead_code, reason = "only a part of the server is needed here")]
mod fake_api;
mod log;
mod objects;

use std::{
    collections::BTreeMap,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use fake_api::{FakeApi, Resource};
use log::Log;
use objects::{node, service, slice};
use proxy_agent::{
    dataplane::{stranded, tables::FlowTableUse},
    model::{Change, EndpointSlice, Node, NodeFacts, ObjectName, Service, Update},
    notices::{Notice, Notices, Reason, Subject},
    plan::{
        Capacities, Changes, GoneBackend, Refused, Snapshot, Tables,
        memory::{MemoryError, MemoryTables},
    },
    run::{DriveError, Engine, Observers, Progress, Stage, drive},
    server::{Health, HealthCheckServers, Metrics, ServiceSeries, Statistics},
    source::{
        self, Object, Updates,
        api::{self, LIST_SILENCE, Listeners, Liveness, Server},
        decode,
    },
};
use proxy_common::{Counter, ServiceFlags};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

/// Tables that a test can look at while the loop writes them.
#[derive(Clone)]
struct Shared(Arc<(Mutex<Inner>, Condvar)>);

struct Inner {
    tables: MemoryTables,
    applies: usize,
    failing_snapshots: usize,
    /// While it is closed, `apply` waits.
    gate: Gate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
}

impl Shared {
    fn new(room: usize) -> Self {
        let inner = Inner { tables: MemoryTables::new(room), applies: 0, failing_snapshots: 0, gate: Gate::Open };
        Self(Arc::new((Mutex::new(inner), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().expect("no test panics while it holds the lock")
    }

    fn set_gate(&self, gate: Gate) {
        self.lock().gate = gate;
        self.0.1.notify_all();
    }

    /// Each IPv4 frontend and its backends, as text.
    fn served(&self) -> BTreeMap<String, Vec<String>> {
        let snapshot = self.lock().tables.snapshot().expect("reading does not fail");
        let backend = |slot| {
            let backend = snapshot.v4.backends[&snapshot.v4.slots[&slot]];
            format!("{}:{}", Ipv4Addr::from(backend.address()), backend.port().get())
        };
        let frontends = snapshot.v4.services.iter().map(|(key, entry)| {
            let range = entry.cluster();
            let mut backends: Vec<String> = (range.offset()..range.offset() + range.count()).map(backend).collect();
            backends.sort();
            (format!("{}:{}", Ipv4Addr::from(key.address()), key.port().get()), backends)
        });
        frontends.collect()
    }
}

impl Tables for Shared {
    type Error = MemoryError;

    fn snapshot(&self) -> Result<Snapshot, MemoryError> {
        let mut inner = self.lock();
        if inner.failing_snapshots > 0 {
            inner.failing_snapshots -= 1;
            return Err(MemoryError::Injected);
        }
        inner.tables.snapshot()
    }

    fn apply(&mut self, changes: &Changes) -> Result<Refused, MemoryError> {
        let mut inner = self.0.1.wait_while(self.lock(), |inner| inner.gate == Gate::Closed).expect("no panic");
        inner.applies += 1;
        inner.tables.apply(changes)
    }
}

struct NoCounters;

impl Statistics for NoCounters {
    fn counters(&self) -> Vec<(Counter, u64)> {
        Vec::new()
    }

    fn flow_tables(&self) -> Vec<FlowTableUse> {
        Vec::new()
    }

    fn masquerading(&self) -> Option<bool> {
        None
    }
}

/// Where load balancers ask: an address on loopback that no other run of the tests uses.
fn health_check_address() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    IpAddr::from([127, a | 0x80, b, c])
}

fn health_check_addresses() -> watch::Receiver<BTreeSet<IpAddr>> {
    watch::channel(BTreeSet::from([health_check_address()])).1
}

/// What owners were told.
#[derive(Default)]
struct Told(Mutex<Vec<Notice>>);

impl Notices for Told {
    fn tell(&self, notice: Notice) {
        self.0.lock().expect("no panic").push(notice);
    }
}

/// A loop that runs.
struct Loop {
    tables: Shared,
    updates: Updates,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    progress: watch::Receiver<Progress>,
    gone: mpsc::Receiver<Vec<GoneBackend>>,
    told: Arc<Told>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), DriveError>>,
    _tasks: JoinSet<()>,
}

impl Loop {
    fn start(tables: &Shared) -> Self {
        let (updates, receiver) = source::channel();
        let (progress, watcher) = watch::channel(Progress::default());
        let metrics = Arc::new(Metrics::new(Arc::new(NoCounters), ServiceSeries::default()));
        let mut tasks = JoinSet::new();
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let (gone_backends, gone) = stranded::channel();
        let told = Arc::new(Told::default());
        let notices: Arc<dyn Notices> = Arc::<Told>::clone(&told);
        let health_checks =
            HealthCheckServers::start(health_check_addresses(), Arc::clone(&health), Arc::clone(&notices), &mut tasks);
        let observers = Observers {
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            gone_backends,
            health_checks,
            notices,
            progress,
        };
        let engine = Engine::new(tables.clone(), "node-a".to_owned(), Capacities::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(drive(engine, receiver, observers, Handle::current(), async {
            let _ = stopped.await;
        }));
        Self {
            tables: tables.clone(),
            updates,
            metrics,
            health,
            progress: watcher,
            gone,
            told,
            stop: Some(stop),
            task,
            _tasks: tasks,
        }
    }

    /// Whom the watches of an API server tell.
    fn listeners(&self) -> Listeners {
        let notices: Arc<dyn Notices> = Arc::<Told>::clone(&self.told);
        Listeners { updates: self.updates.clone(), freshness: Arc::clone(self.metrics.freshness()), notices }
    }

    /// What owners were told, once it is so much.
    async fn until_told(&self, count: usize) -> Vec<Notice> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let told = self.told.0.lock().expect("no panic").clone();
            if told.len() >= count {
                return told;
            }
            assert!(Instant::now() < deadline, "only {told:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn send(&self, update: Update) {
        self.updates.send(update).await.expect("the loop runs");
    }

    /// The complete lists of all kinds.
    async fn lists(&self, services: &[Value], slices: &[Value]) {
        self.send(Update::Node(Change::Reset(objects::<Node>(&[node("node-a")])))).await;
        self.send(Update::Service(Change::Reset(objects::<Service>(services)))).await;
        self.send(Update::Slice(Change::Reset(objects::<EndpointSlice>(slices)))).await;
    }

    async fn until_served(&self, expected: &[(&str, &[&str])]) {
        self.until_served_within(Duration::from_secs(20), expected).await;
    }

    async fn until_served_within(&self, time: Duration, expected: &[(&str, &[&str])]) {
        let expected: BTreeMap<String, Vec<String>> = expected
            .iter()
            .map(|(frontend, backends)| {
                ((*frontend).to_owned(), backends.iter().map(|backend| (*backend).to_owned()).collect())
            })
            .collect();
        let deadline = Instant::now() + time;
        while self.tables.served() != expected {
            assert!(Instant::now() < deadline, "served {:?} instead of {expected:?}", self.tables.served());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The value of a metric.
    fn gauge(&self, name: &str) -> i64 {
        let text = self.metrics.encode().expect("text");
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
        value.trim().parse().expect("a number")
    }

    async fn stop(mut self) -> Result<(), DriveError> {
        let _ = self.stop.take().expect("stopped once").send(());
        self.task.await.expect("the loop does not panic")
    }
}

fn objects<T: Object>(json: &[Value]) -> Vec<T> {
    json.iter().map(|json| decode::<T>(json).object.expect("a good object")).collect()
}

fn apply_slice(json: &Value) -> Update {
    Update::Slice(Change::Apply(objects::<EndpointSlice>(std::slice::from_ref(json)).remove(0)))
}

fn apply_service(json: &Value) -> Update {
    Update::Service(Change::Apply(objects::<Service>(std::slice::from_ref(json)).remove(0)))
}

/// Tables that a former agent filled with one Service.
async fn filled() -> Shared {
    let tables = Shared::new(100);
    let former = Loop::start(&tables);
    former.lists(&[service("old", "10.96.0.9")], &[slice("old-1", "old", &["10.0.0.9"])]).await;
    former.until_served(&[("10.96.0.9:80", &["10.0.0.9:8080"])]).await;
    former.stop().await.expect("a stop is no error");
    tables.lock().applies = 0;
    tables
}

#[tokio::test]
async fn nothing_is_written_before_both_lists_are_complete() {
    let tables = filled().await;
    let agent = Loop::start(&tables);
    agent.send(Update::Node(Change::Reset(objects::<Node>(&[node("node-a")])))).await;
    agent.send(Update::Service(Change::Reset(objects::<Service>(&[service("web", "10.96.0.1")])))).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(tables.lock().applies, 0);
    agent.until_served(&[("10.96.0.9:80", &["10.0.0.9:8080"])]).await;
    assert_eq!(agent.progress.borrow().stage, Stage::Starting);

    let slices = objects::<EndpointSlice>(&[slice("web-1", "web", &["10.0.0.1", "10.0.0.2"])]);
    agent.send(Update::Slice(Change::Reset(slices))).await;
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.1:8080", "10.0.0.2:8080"])]).await;
    assert_eq!(tables.lock().applies, 1);
    let ready = agent.progress.clone().wait_for(|progress| progress.stage == Stage::Ready).await.is_ok();
    assert!(ready);
}

/// The same with the real source: an API server that is slow with one list, as after a restart of all.
#[tokio::test]
async fn a_slow_api_server_changes_nothing_until_it_has_answered() {
    let tables = filled().await;
    let server = FakeApi::start().await;
    server.state().put(Resource::Services, service("web", "10.96.0.1"));
    server.state().put(Resource::EndpointSlices, slice("web-1", "web", &["10.0.0.1"]));
    server.state().delay_lists(Resource::EndpointSlices, &[Duration::from_secs(2)]);
    let agent = Loop::start(&tables);
    let options =
        Server { kubeconfig: None, master: Some(server.url()), qps: 5.0, burst: 50, liveness: Liveness::default() };
    let client = api::connect(&options).await.expect("an address is enough");
    let mut tasks = JoinSet::new();
    api::start(&client, "node-a", LIST_SILENCE, &agent.listeners(), &mut tasks);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(tables.lock().applies, 0);
    agent.until_served(&[("10.96.0.9:80", &["10.0.0.9:8080"])]).await;
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.1:8080"])]).await;

    // And what happens in the cluster afterwards is in the tables at once.
    server.state().put(Resource::EndpointSlices, slice("web-1", "web", &["10.0.0.2"]));
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.2:8080"])]).await;
    server.state().delete(Resource::Services, "web");
    agent.until_served(&[]).await;
}

/// Owners learn of what is not served, once, and of fields of Services; whatever else is wrong is in the log.
#[tokio::test]
async fn owners_are_told_what_is_not_served() {
    let server = FakeApi::start().await;
    let created = |mut service: Value, time: &str| {
        service["metadata"]["creationTimestamp"] = json!(time);
        service
    };
    server.state().put(Resource::Services, created(service("web", "10.96.0.1"), "2026-01-01T00:00:00Z"));
    let agent = Loop::start(&Shared::new(100));
    let options =
        Server { kubeconfig: None, master: Some(server.url()), qps: 50.0, burst: 50, liveness: Liveness::default() };
    let client = api::connect(&options).await.expect("an address is enough");
    let mut tasks = JoinSet::new();
    api::start(&client, "node-a", LIST_SILENCE, &agent.listeners(), &mut tasks);
    agent.until_served(&[("10.96.0.1:80", &[])]).await;

    let mut broken = created(service("thief", "10.96.0.2"), "2026-01-02T00:00:00Z");
    broken["spec"]["externalIPs"] = json!(["10.96.0.1", "here"]);
    server.state().put(Resource::Services, broken.clone());
    let told = agent.until_told(2).await;
    let thief = Subject::Service(ObjectName::new("default", "thief"));
    assert!(told.iter().all(|notice| notice.subject == thief), "{told:?}");
    assert_eq!(
        told.iter().map(|notice| notice.reason).collect::<Vec<_>>(),
        [Reason::UnusableField, Reason::FrontendTaken]
    );
    assert!(told[0].text.contains("spec.externalIPs[1]: \"here\" is not an IP address"), "{told:?}");
    assert!(told[1].text.contains("10.96.0.1:80/TCP belongs to the older Service default/web"), "{told:?}");

    // Nothing of that is news when something else changes; a slice is no owner's.
    broken["spec"]["ports"][0]["targetPort"] = json!(9);
    server.state().put(Resource::Services, broken);
    let mut bad_slice = slice("web-1", "web", &["10.0.0.1"]);
    bad_slice["endpoints"][0]["addresses"] = json!(["nowhere", "10.0.0.1"]);
    server.state().put(Resource::EndpointSlices, bad_slice);
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.1:8080"]), ("10.96.0.2:80", &[])]).await;
    assert_eq!(agent.until_told(2).await, told);
}

/// While the server is away, all stays as it is, and metrics say for how long. What was deleted meanwhile goes when it is back.
#[tokio::test]
async fn an_api_server_that_is_away_takes_nothing_away_and_is_told_of() {
    let tables = Shared::new(100);
    let mut server = FakeApi::start().await;
    server.state().put(Resource::Services, service("web", "10.96.0.1"));
    server.state().put(Resource::Services, service("old", "10.96.0.2"));
    server.state().put(Resource::EndpointSlices, slice("web-1", "web", &["10.0.0.1"]));
    let agent = Loop::start(&tables);
    let options =
        Server { kubeconfig: None, master: Some(server.url()), qps: 5.0, burst: 50, liveness: Liveness::default() };
    let client = api::connect(&options).await.expect("an address is enough");
    let mut tasks = JoinSet::new();
    api::start(&client, "node-a", LIST_SILENCE, &agent.listeners(), &mut tasks);
    let before = [("10.96.0.1:80", &["10.0.0.1:8080"][..]), ("10.96.0.2:80", &[])];
    agent.until_served(&before).await;
    let failing = |kind: &str| agent.gauge(&format!("proxy_agent_source_failing_seconds{{kind=\"{kind}\"}}"));
    let kinds = ["Service", "EndpointSlice", "Node"];
    assert_eq!(kinds.map(failing), [0; 3]);
    assert!(agent.gauge("proxy_agent_source_last_event_age_seconds{kind=\"Service\"}") < 60);

    server.stop();
    until("all kinds are told of", || kinds.map(failing).iter().all(|seconds| *seconds > 0)).await;
    agent.until_served(&before).await;
    server.state().delete(Resource::Services, "old");
    server.state().put(Resource::EndpointSlices, slice("web-1", "web", &["10.0.0.2"]));

    server.restart().await;
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.2:8080"])]).await;
    until("all kinds are watched again", || kinds.map(failing) == [0; 3]).await;
}

/// Waits until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1200 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test(start_paused = true)]
async fn the_node_is_waited_for_but_not_for_ever() {
    let log = Log::begin();
    let tables = Shared::new(100);
    let agent = Loop::start(&tables);
    let begin = Instant::now();
    agent.send(Update::Service(Change::Reset(objects::<Service>(&[service("web", "10.96.0.1")])))).await;
    agent.send(Update::Slice(Change::Reset(Vec::new()))).await;
    agent.until_served(&[("10.96.0.1:80", &[])]).await;
    assert!((5..6).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    agent.progress.clone().wait_for(|progress| progress.stage == Stage::Ready).await.expect("the loop runs");
    assert_eq!(log.lines_with("Node node-a is not known").len(), 1);

    // When it appears after all, whoever attaches the programs is told.
    agent.send(Update::Node(Change::Reset(objects::<Node>(&[node("node-a")])))).await;
    let told = agent.progress.clone().wait_for(|progress| progress.node.is_some()).await.is_ok();
    assert!(told);
}

#[tokio::test(start_paused = true)]
async fn routes_to_guarded_addresses_are_asked_for_and_waited_for() {
    let tables = Shared::new(100);
    let agent = Loop::start(&tables);
    let begin = Instant::now();
    let mut web = service("web", "10.96.0.1");
    web["spec"]["type"] = "LoadBalancer".into();
    web["spec"]["loadBalancerSourceRanges"] = vec!["198.51.100.0/24"].into();
    web["status"]["loadBalancer"]["ingress"] = vec![json!({"ip": "192.0.2.1"})].into();
    agent.lists(&[web], &[]).await;
    let vip: IpAddr = "192.0.2.1".parse().expect("an address");
    let asked = agent.progress.clone().wait_for(|progress| progress.guarded == [vip].into()).await.is_ok();
    assert!(asked);
    assert_eq!(tables.served(), BTreeMap::new());
    let sources = [(vip, Some("198.51.100.7".parse().expect("an address")))].into();
    agent.send(Update::Facts(NodeFacts { sources, ..NodeFacts::default() })).await;
    agent.until_served(&[("10.96.0.1:80", &[]), ("192.0.2.1:80", &[])]).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let snapshot = tables.snapshot().expect("readable");
    let (_, balanced) = snapshot.v4.services.last_key_value().expect("the load balancer's address");
    assert!(balanced.flags().contains(ServiceFlags::NODE_ALLOWED));
}

#[tokio::test]
async fn a_burst_becomes_one_change() {
    let tables = Shared::new(100);
    let agent = Loop::start(&tables);
    agent.lists(&[service("web", "10.96.0.1")], &[]).await;
    agent.until_served(&[("10.96.0.1:80", &[])]).await;

    tables.set_gate(Gate::Closed);
    let applies = tables.lock().applies;
    // The first is being written while all the others arrive; the last word on each object counts.
    for number in 1..=200_u8 {
        agent.send(apply_slice(&slice("web-1", "web", &[&format!("10.0.0.{number}")]))).await;
    }
    sleep(Duration::from_millis(100)).await;
    tables.set_gate(Gate::Open);
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.200:8080"])]).await;
    let applies = tables.lock().applies - applies;
    assert!((1..=3).contains(&applies), "{applies} writes for 200 updates");
}

#[tokio::test]
async fn what_changes_nothing_is_not_written() {
    let tables = Shared::new(100);
    let agent = Loop::start(&tables);
    let (web, endpoints) = (service("web", "10.96.0.1"), slice("web-1", "web", &["10.0.0.1"]));
    agent.lists(std::slice::from_ref(&web), std::slice::from_ref(&endpoints)).await;
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.1:8080"])]).await;
    let applies = tables.lock().applies;
    agent.lists(std::slice::from_ref(&web), std::slice::from_ref(&endpoints)).await;
    agent.send(apply_service(&web)).await;
    agent.send(apply_slice(&endpoints)).await;
    agent.send(Update::Service(Change::Delete(ObjectName::new("default", "nobody")))).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(tables.lock().applies, applies);
}

/// Wherever a write fails, the tables end up as they should be.
#[tokio::test(start_paused = true)]
async fn a_failed_write_is_repaired_from_what_the_tables_hold() {
    let log = Log::begin();
    for writes in 0..12 {
        let tables = filled().await;
        let agent = Loop::start(&tables);
        tables.lock().tables.fail_after(writes);
        agent.lists(&[service("web", "10.96.0.1")], &[slice("web-1", "web", &["10.0.0.1", "10.0.0.2"])]).await;
        agent.until_served(&[("10.96.0.1:80", &["10.0.0.1:8080", "10.0.0.2:8080"])]).await;

        tables.lock().tables.fail_after(writes);
        agent.send(apply_slice(&slice("web-1", "web", &["10.0.0.2", "10.0.0.3"]))).await;
        agent.send(apply_service(&service("db", "10.96.0.2"))).await;
        agent.until_served(&[("10.96.0.1:80", &["10.0.0.2:8080", "10.0.0.3:8080"]), ("10.96.0.2:80", &[])]).await;
        agent.stop().await.expect("an error of the tables does not end the loop");
    }
    assert!(!log.lines_with("the tables cannot be brought in step: this write was to fail; next try in").is_empty());
    assert!(!log.lines_with("the tables are in step again").is_empty());
}

#[tokio::test(start_paused = true)]
async fn tables_that_cannot_be_read_are_tried_again_less_and_less_often() {
    let log = Log::begin();
    let tables = Shared::new(100);
    tables.lock().failing_snapshots = 8;
    let agent = Loop::start(&tables);
    let begin = Instant::now();
    agent.lists(&[service("web", "10.96.0.1")], &[]).await;
    while log.lines_with("next try in").len() < 8 {
        assert!(begin.elapsed() < Duration::from_mins(2));
        sleep(Duration::from_millis(100)).await;
    }
    agent.until_served_within(Duration::from_mins(1), &[("10.96.0.1:80", &[])]).await;
    // 0.5 + 1 + 2 + 4 + 8 + 16 + 30 + 30 seconds.
    assert!((91..93).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    let text = agent.metrics.encode().expect("text");
    assert!(text.contains("proxy_agent_sync_failures_total 8"), "{text}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_tables() {
    let tables = Shared::new(100);
    tables.set_gate(Gate::Closed);
    let agent = Loop::start(&tables);
    agent.lists(&[service("web", "10.96.0.1")], &[]).await;
    sleep(Duration::from_millis(100)).await;
    let stopped = tokio::time::timeout(Duration::from_secs(5), agent.stop()).await;
    tables.set_gate(Gate::Open);
    stopped.expect("at once").expect("a stop is no error");
}

#[tokio::test]
async fn the_end_of_all_sources_is_an_error() {
    let agent = Loop::start(&Shared::new(100));
    let Loop { updates, task, stop, .. } = agent;
    drop(updates);
    let result = task.await.expect("no panic");
    assert!(matches!(result, Err(DriveError::NoSource)));
    drop(stop);
}

#[tokio::test]
async fn what_cannot_be_served_is_told_once_and_when_it_can_be_again() {
    let log = Log::begin();
    let tables = Shared::new(100);
    let agent = Loop::start(&tables);
    let mut older = service("older", "10.96.0.1");
    older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    let mut newer = service("newer", "10.96.0.1");
    newer["metadata"]["creationTimestamp"] = "2021-01-01T00:00:00Z".into();
    agent.lists(&[older, newer], &[slice("newer-1", "newer", &["10.0.0.2"])]).await;
    agent.until_served(&[("10.96.0.1:80", &[])]).await;
    agent.send(apply_service(&service("other", "10.96.0.2"))).await;
    agent.until_served(&[("10.96.0.1:80", &[]), ("10.96.0.2:80", &[])]).await;
    let clash = "Service default/newer: 10.96.0.1:80/";
    let told = |log: &Log| log.lines_with(clash).len();
    assert_eq!(told(&log), 1, "{:?}", log.lines_with(""));
    agent.send(Update::Service(Change::Delete(ObjectName::new("default", "older")))).await;
    agent.until_served(&[("10.96.0.1:80", &["10.0.0.2:8080"]), ("10.96.0.2:80", &[])]).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(log.lines_with(&format!("no longer: {clash}")).len(), 1, "{:?}", log.lines_with(""));
}

#[tokio::test]
async fn a_full_table_refuses_one_service_until_there_is_room() {
    let log = Log::begin();
    let tables = Shared::new(1);
    let agent = Loop::start(&tables);
    agent.lists(&[service("a", "10.96.0.1")], &[]).await;
    agent.until_served(&[("10.96.0.1:80", &[])]).await;
    agent.send(apply_service(&service("b", "10.96.0.2"))).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while log.lines_with("Service default/b: no room in table services_v4").is_empty() {
        assert!(Instant::now() < deadline, "{:?}", log.lines_with(""));
        sleep(Duration::from_millis(10)).await;
    }
    agent.until_served(&[("10.96.0.1:80", &[])]).await;
    agent.send(Update::Service(Change::Delete(ObjectName::new("default", "a")))).await;
    agent.until_served(&[("10.96.0.2:80", &[])]).await;
}

#[tokio::test]
async fn load_balancers_learn_of_each_sync() {
    let agent = Loop::start(&Shared::new(100));
    let mut web = service("web", "10.96.0.1");
    web["spec"]["type"] = json!("LoadBalancer");
    web["spec"]["externalTrafficPolicy"] = json!("Local");
    web["spec"]["healthCheckNodePort"] = json!(31_000);
    let mut endpoints = slice("web-1", "web", &["10.0.0.1", "10.0.0.2"]);
    endpoints["endpoints"][0]["nodeName"] = json!("node-a");
    agent.lists(&[web], std::slice::from_ref(&endpoints)).await;
    until_told("\"localEndpoints\":1").await;
    endpoints["endpoints"][1]["nodeName"] = json!("node-a");
    agent.send(apply_slice(&endpoints)).await;
    until_told("\"localEndpoints\":2").await;
    agent.stop().await.expect("a stop is no error");
}

/// Asks on the port that the test opens until the answer contains `text`.
async fn until_told(text: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut answer = String::new();
    while !answer.contains(text) {
        assert!(Instant::now() < deadline, "{answer:?} does not contain {text}");
        sleep(Duration::from_millis(5)).await;
        answer.clear();
        let Ok(mut stream) = TcpStream::connect((health_check_address(), 31_000)).await else { continue };
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("sent");
        stream.read_to_string(&mut answer).await.expect("an answer");
    }
}

#[tokio::test]
async fn endpoints_of_udp_ports_that_are_gone_are_told_on() {
    let mut agent = Loop::start(&Shared::new(100));
    let mut dns = service("dns", "10.96.0.10");
    dns["spec"]["ports"][0]["protocol"] = json!("UDP");
    let mut endpoints = slice("dns-1", "dns", &["10.0.0.1", "10.0.0.2"]);
    endpoints["ports"][0]["protocol"] = json!("UDP");
    agent.lists(&[dns], std::slice::from_ref(&endpoints)).await;
    agent.until_served(&[("10.96.0.10:80", &["10.0.0.1:8080", "10.0.0.2:8080"])]).await;
    endpoints["endpoints"].as_array_mut().expect("a list").remove(0);
    agent.send(apply_slice(&endpoints)).await;
    let gone = tokio::time::timeout(Duration::from_secs(20), agent.gone.recv()).await.expect("in time").expect("told");
    let addresses: Vec<String> = gone.iter().map(|gone| gone.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:8080"]);
    agent.stop().await.expect("a stop is no error");
}

#[tokio::test]
async fn a_node_that_is_gone_gets_no_traffic_from_load_balancers() {
    let running = Loop::start(&Shared::new(100));
    let eligible = |expected| {
        let health = Arc::clone(&running.health);
        async move {
            let deadline = Instant::now() + Duration::from_secs(20);
            while health.healthz(jiff::Timestamp::now()).node_eligible != Some(expected) {
                assert!(Instant::now() < deadline, "it is not {expected}");
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    running.send(Update::Node(Change::Reset(Vec::new()))).await;
    running.lists(&[service("a", "10.96.0.1")], &[]).await;
    running.until_served(&[("10.96.0.1:80", &[])]).await;
    eligible(true).await;
    let own = objects::<Node>(&[node("node-a")]).remove(0);
    running.send(Update::Node(Change::Delete(own.name.clone()))).await;
    eligible(false).await;
    running.send(Update::Node(Change::Apply(own))).await;
    eligible(true).await;
}
