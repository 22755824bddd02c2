//! Health and metrics over real HTTP, on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use proxy_agent::{
    dataplane::tables::FlowTableUse,
    server::{Health, Metrics, OnBusyPort, ServiceSeries, Statistics, health_routes, listen, metrics_routes},
};
use proxy_common::Counter;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
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

struct Servers {
    health: Arc<Health>,
    health_address: SocketAddr,
    metrics_address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Servers {
    async fn start() -> Self {
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let metrics = Arc::new(Metrics::new(Arc::new(NoCounters), ServiceSeries::default()));
        let (health_address, metrics_address) = (free_address(), free_address());
        let mut tasks = JoinSet::new();
        let routes = health_routes(&health, &metrics);
        listen("health", health_address, routes, OnBusyPort::Fail, &mut tasks).await.expect("a free port");
        let routes = metrics_routes(&metrics);
        listen("metrics", metrics_address, routes, OnBusyPort::Fail, &mut tasks).await.expect("a free port");
        Self { health, health_address, metrics_address, _tasks: tasks }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// An address on loopback that no other test and no other run of them uses.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, a | 0x80, b, c], NEXT.fetch_add(1, Ordering::Relaxed)))
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    get_as(address, path, "*/*").await
}

async fn get_as(address: SocketAddr, path: &str, accept: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn healthz_and_livez_are_kube_proxys() {
    let servers = Servers::start().await;
    let answer = get(servers.health_address, "/healthz").await;
    assert_eq!(answer.status, 200, "starting up is healthy");
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&true.into(), &true.into()));
    assert_eq!(get(servers.health_address, "/readyz").await.status, 503);

    servers.health.synced(Timestamp::now());
    servers.health.attached();
    assert_eq!(get(servers.health_address, "/readyz").await.status, 200);
    servers.health.set_leaving(true);
    assert_eq!(get(servers.health_address, "/healthz").await.status, 503);
    let livez = get(servers.health_address, "/livez").await;
    assert_eq!(livez.status, 200);
    assert!(!livez.body.contains("nodeEligible"), "{}", livez.body);
    servers.health.queued(Timestamp::now() - SignedDuration::from_secs(61));
    let livez = get(servers.health_address, "/livez").await;
    assert_eq!(livez.status, 503);
    let body: Value = serde_json::from_str(&livez.body).expect("JSON");
    assert_eq!((&body["healthy"], &body["status"]["IPv4"]["healthy"]), (&false.into(), &false.into()));

    let metrics = get(servers.metrics_address, "/metrics").await.body;
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 1",
        "kubeproxy_proxy_livez_total{code=\"503\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
}

/// As Go's servers, and so kube-proxy's, understand the default `0.0.0.0:10256`.
#[tokio::test]
async fn the_unspecified_address_means_both_families() {
    for unspecified in ["0.0.0.0", "::"] {
        let port = free_address().port();
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let metrics = Arc::new(Metrics::new(Arc::new(NoCounters), ServiceSeries::default()));
        let mut tasks = JoinSet::new();
        let address = SocketAddr::new(unspecified.parse().expect("an address"), port);
        let routes = health_routes(&health, &metrics);
        listen("the health server", address, routes, OnBusyPort::Fail, &mut tasks).await.expect("listens");
        for loopback in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(loopback.parse().expect("an address"), port);
            assert_eq!(get(address, "/livez").await.status, 200, "{unspecified} by {loopback}");
        }
    }
}

#[tokio::test]
async fn metrics_and_mode_are_on_their_own_address() {
    let servers = Servers::start().await;
    let metrics = get(servers.metrics_address, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("# TYPE proxy_agent_sync_failures_total counter\n"), "{}", metrics.body);
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let metrics = get_as(servers.metrics_address, "/metrics", accept).await;
    assert!(metrics.head.contains("content-type: application/openmetrics-text"), "{}", metrics.head);
    assert!(metrics.body.ends_with("# EOF\n"), "complete");
    let mode = get(servers.metrics_address, "/proxyMode").await;
    assert_eq!((mode.status, mode.body.as_str()), (200, "ebpf"));
    assert_eq!(get(servers.health_address, "/metrics").await.status, 404);
}

/// The status of whatever answers such a request.
async fn status_of(address: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    // A server that has heard enough may close before all is sent.
    drop(stream.write_all(request.as_bytes()).await);
    let mut text = Vec::new();
    drop(stream.read_to_end(&mut text).await);
    let text = String::from_utf8_lossy(&text);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {text:?}"))
}

/// Nothing can be sent to the servers, and what a request may cost them is bounded.
#[tokio::test]
async fn only_get_and_head_and_only_so_many_headers() {
    let servers = Servers::start().await;
    for (address, path) in [
        (servers.health_address, "/healthz"),
        (servers.health_address, "/livez"),
        (servers.metrics_address, "/metrics"),
        (servers.metrics_address, "/proxyMode"),
    ] {
        let request = |method: &str, headers: &str| {
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
        };
        for method in ["GET", "HEAD"] {
            assert_eq!(status_of(address, &request(method, "")).await, 200, "{method} {path}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"] {
            let status = status_of(address, &request(method, "")).await;
            assert!((400..500).contains(&status), "{method} {path}: {status}");
        }
        let many = "X-Many: 1\r\n".repeat(1000);
        assert_eq!(status_of(address, &request("GET", &many)).await, 431, "many headers at {path}");
        let long = format!("X-Long: {}\r\n", "x".repeat(1 << 20));
        assert_eq!(status_of(address, &request("GET", &long)).await, 431, "a long header at {path}");
    }
}

#[tokio::test]
async fn a_busy_port_is_waited_for_or_ends_the_agent() {
    let address = free_address();
    let busy = TcpListener::bind(address).await.expect("a free port");
    let health = Arc::new(Health::new(Duration::from_secs(30)));
    let metrics = Arc::new(Metrics::new(Arc::new(NoCounters), ServiceSeries::default()));
    let mut tasks = JoinSet::new();
    let routes = || health_routes(&health, &metrics);
    let error = listen("the health server", address, routes(), OnBusyPort::Fail, &mut tasks).await.expect_err("busy");
    assert!(error.to_string().starts_with(&format!("the health server cannot listen on {address}: ")), "{error}");

    listen("the health server", address, routes(), OnBusyPort::Retry, &mut tasks).await.expect("waits");
    drop(busy);
    let answer = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return get(address, "/livez").await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!(answer.await.expect("in time").status, 200);
}
