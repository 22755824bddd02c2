//! The largest Services, and more changes than there is time for: from the API to the kernel's tables. Needs root.
//!
//! In all of it, what the API said last is in the tables at the end, and memory does not grow with what waits.

#[expect(dead_code, reason = "only a part of the server is needed here")]
mod fake_api;
mod objects;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use fake_api::{FakeApi, Resource};
use objects::{node, service, slice};
use proxy_agent::{
    dataplane::{Dataplane, read_tables, stranded, tables::FlowTableUse},
    notices::LogOnly,
    plan::Capacities,
    run::{DriveError, Engine, Observers, Progress, drive},
    server::{Health, HealthCheckServers, Metrics, ServiceSeries, Statistics},
    source::{
        self,
        api::{self, LIST_SILENCE, Listeners, Liveness, Server},
    },
};
use proxy_common::Counter;
use serde_json::{Value, json};
use support::{Node, patience, slowness};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, interval, sleep},
};

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

/// An agent without programs: its tables in the kernel follow an API server.
struct Agent {
    api: FakeApi,
    root: PathBuf,
    metrics: Arc<Metrics>,
    _stop: oneshot::Sender<()>,
    _loop: JoinHandle<Result<(), DriveError>>,
    _tasks: JoinSet<()>,
}

impl Agent {
    async fn start(home: &Node, api: FakeApi) -> Self {
        let tables = Dataplane::open(&home.config()).unwrap_or_else(|error| panic!("{error}")).tables;
        let (updates, receiver) = source::channel();
        let metrics = Arc::new(Metrics::new(Arc::new(NoCounters), ServiceSeries::default()));
        let mut tasks = JoinSet::new();
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let addresses = watch::channel(BTreeSet::<IpAddr>::new()).1;
        let health_checks = HealthCheckServers::start(addresses, Arc::clone(&health), Arc::new(LogOnly), &mut tasks);
        let observers = Observers {
            health,
            metrics: Arc::clone(&metrics),
            gone_backends: stranded::channel().0,
            health_checks,
            notices: Arc::new(LogOnly),
            progress: watch::channel(Progress::default()).0,
        };
        let engine = Engine::new(tables, "node-a".to_owned(), Capacities::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(drive(engine, receiver, observers, Handle::current(), async {
            drop(stopped.await);
        }));
        let server =
            Server { kubeconfig: None, master: Some(api.url()), qps: 5.0, burst: 50, liveness: Liveness::default() };
        let client = api::connect(&server).await.expect("an address is enough");
        let freshness = Arc::clone(metrics.freshness());
        let listeners = Listeners { updates, freshness, notices: Arc::new(LogOnly) };
        api::start(&client, "node-a", LIST_SILENCE, &listeners, &mut tasks);
        let root = home.pins.path().to_owned();
        Self { api, root, metrics, _stop: stop, _loop: running, _tasks: tasks }
    }

    /// Each frontend and its backends, as the programs find them.
    fn served(&self) -> BTreeMap<String, BTreeSet<String>> {
        let tables = read_tables(&self.root).expect("pinned");
        let services = tables.v4.services.all().expect("readable");
        let backend = |slot| {
            let backend = tables.v4.slot(slot).and_then(|id| tables.v4.backend(id)).expect("within the table");
            format!("{}:{}", Ipv4Addr::from(backend.address()), backend.port().get())
        };
        let frontends = services.into_iter().map(|(key, entry)| {
            let range = entry.cluster();
            let backends = (range.offset()..range.offset() + range.count()).map(backend);
            (format!("{}:{}", Ipv4Addr::from(key.address()), key.port().get()), backends.collect())
        });
        frontends.collect()
    }

    async fn until_served(&self, expected: &BTreeMap<String, BTreeSet<String>>) {
        let deadline = Instant::now() + patience() * 3;
        loop {
            let served = self.served();
            if served == *expected {
                return;
            }
            let differ = |(frontend, backends): &(&String, &BTreeSet<String>)| served.get(*frontend) != Some(*backends);
            let wrong: Vec<&String> = expected.iter().filter(differ).map(|(frontend, _)| frontend).take(5).collect();
            assert!(Instant::now() < deadline, "{} frontends; among those that are not right: {wrong:?}", served.len());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The value of a metric.
    fn value(&self, name: &str) -> u64 {
        let text = self.metrics.encode().expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }
}

fn addresses(net: u8, count: u16) -> Vec<String> {
    (1..=count)
        .map(|host| Ipv4Addr::from([10, net, host.to_be_bytes()[0], host.to_be_bytes()[1]]).to_string())
        .collect()
}

/// A slice with these endpoints.
fn slice_of(name: &str, service: &str, addresses: &[String]) -> Value {
    slice(name, service, &addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

fn with_ports(addresses: &[String], port: u16) -> BTreeSet<String> {
    addresses.iter().map(|address| format!("{address}:{port}")).collect()
}

const WIDE_SLICES: u8 = 5;
const ENDPOINTS_OF_SLICE: u16 = 1000;
const PORTS: u16 = 100;

/// A Service with 5,000 endpoints in slices of 1,000, and one with a hundred ports.
#[tokio::test(flavor = "multi_thread")]
async fn large_services_are_served_whole() {
    let (home, api) = (Node::default(), FakeApi::start().await);
    let state = api.state();
    state.put(Resource::Nodes, node("node-a"));
    state.put(Resource::Services, service("wide", "10.96.0.1"));
    for net in 0..WIDE_SLICES {
        let slice = slice_of(&format!("wide-{net}"), "wide", &addresses(net, ENDPOINTS_OF_SLICE));
        state.put(Resource::EndpointSlices, slice);
    }
    let named = |number: u16| format!("port-{number}");
    let mut many = service("many", "10.96.0.2");
    many["spec"]["ports"] =
        (1..=PORTS).map(|number| json!({"name": named(number), "port": number, "protocol": "TCP"})).collect();
    state.put(Resource::Services, many);
    let mut many = slice_of("many-1", "many", &addresses(100, 50));
    many["ports"] =
        (1..=PORTS).map(|number| json!({"name": named(number), "port": 8000 + number, "protocol": "TCP"})).collect();
    state.put(Resource::EndpointSlices, many.clone());

    let agent = Agent::start(&home, api).await;
    let mut expected: BTreeMap<String, BTreeSet<String>> = (1..=PORTS)
        .map(|number| (format!("10.96.0.2:{number}"), with_ports(&addresses(100, 50), 8000 + number)))
        .collect();
    let wide = |count| (0..WIDE_SLICES).flat_map(|net| with_ports(&addresses(net, count), 8080)).collect();
    expected.insert("10.96.0.1:80".to_owned(), wide(ENDPOINTS_OF_SLICE));
    assert_eq!(expected["10.96.0.1:80"].len(), 5000);
    agent.until_served(&expected).await;

    // All of them change at once.
    for net in 0..WIDE_SLICES {
        let slice = slice_of(&format!("wide-{net}"), "wide", &addresses(net, ENDPOINTS_OF_SLICE / 2));
        agent.api.state().put(Resource::EndpointSlices, slice);
    }
    for number in 0..usize::from(PORTS) {
        many["ports"][number]["port"] = json!(9001 + number);
    }
    agent.api.state().put(Resource::EndpointSlices, many);
    expected.insert("10.96.0.1:80".to_owned(), wide(ENDPOINTS_OF_SLICE / 2));
    for number in 1..=PORTS {
        expected.insert(format!("10.96.0.2:{number}"), with_ports(&addresses(100, 50), 9000 + number));
    }
    agent.until_served(&expected).await;
}

const SERVICES: u16 = 50;
/// How much this process may grow meanwhile, in bytes: the API server is part of it, and keeps what it has told.
const GROWTH: u64 = 96 << 20;

/// A thousand changes of slices in each second for five seconds; one second's on an emulated machine, where they take many seconds.
/// Those that come while a sync goes on become one (how many, depends on the machine), the last one of each slice counts, each is timed,
/// and none is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_a_second_are_taken_in() {
    let (home, api) = (Node::default(), FakeApi::start().await);
    let cluster_ip = |number: u16| Ipv4Addr::from([10, 96, 1, number.to_be_bytes()[1]]).to_string();
    let put = |api: &FakeApi, number: u16, addresses: &[String]| {
        let slice = slice_of(&format!("web-{number}-1"), &format!("web-{number}"), addresses);
        api.state().put(Resource::EndpointSlices, slice);
    };
    api.state().put(Resource::Nodes, node("node-a"));
    for number in 0..SERVICES {
        api.state().put(Resource::Services, service(&format!("web-{number}"), &cluster_ip(number)));
        put(&api, number, &addresses(1, 3));
    }
    let agent = Agent::start(&home, api).await;
    let frontends = |addresses: &dyn Fn(u16) -> Vec<String>| -> BTreeMap<String, BTreeSet<String>> {
        (0..SERVICES)
            .map(|number| (format!("{}:80", cluster_ip(number)), with_ports(&addresses(number), 8080)))
            .collect()
    };
    agent.until_served(&frontends(&|_| addresses(1, 3))).await;
    let syncs = || agent.value("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}");
    let (first_syncs, before) = (syncs(), resident());

    let mut ticks = interval(Duration::from_millis(10));
    let updates = if slowness() == 1 { 5000 } else { 1000 };
    for update in 0..updates {
        if update % 10 == 0 {
            ticks.tick().await;
        }
        // Another set of endpoints each time.
        put(&agent.api, update % SERVICES, &addresses(2 + update.to_be_bytes()[1] % 100, 1 + update % 5));
    }
    let last = |number: u16| {
        let update = updates - SERVICES + number;
        addresses(2 + update.to_be_bytes()[1] % 100, 1 + update % 5)
    };
    agent.until_served(&frontends(&last)).await;
    let (syncs, grown) = (syncs() - first_syncs, resident().saturating_sub(before));
    // The tables are right before the agent has tidied up and counts.
    let deadline = Instant::now() + patience();
    let timed = loop {
        let timed = agent.value("proxy_agent_event_to_kernel_seconds_count");
        if timed >= u64::from(updates) || Instant::now() > deadline {
            break timed;
        }
        sleep(Duration::from_millis(10)).await;
    };
    println!("{updates} changes in {syncs} syncs, {timed} timed, {} MiB more", grown >> 20);
    assert!(syncs < u64::from(updates), "{syncs} syncs");
    assert_eq!(timed, u64::from(updates));
    assert_eq!(agent.value("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), 0);
    assert!(grown < GROWTH, "{} MiB", grown >> 20);
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says how much is resident");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kibibytes");
    kibibytes << 10
}
