//! What load balancers are told on the ports of Services, over real HTTP on loopback.

mod log;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use log::Log;
use proxy_agent::{
    model::ObjectName,
    notices::{Notice, Notices, Reason, Subject},
    plan::{HealthCheck, HealthCheckChange},
    server::{ALL_ADDRESSES, Health, HealthCheckServers},
};
use proxy_common::Port;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// How long anything may take that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps all notices.
#[derive(Default)]
struct Told(Mutex<Vec<Notice>>);

impl Notices for Told {
    fn tell(&self, notice: Notice) {
        self.0.lock().expect("no panic").push(notice);
    }
}

/// A node with addresses of its own on loopback.
struct Node {
    health: Arc<Health>,
    servers: HealthCheckServers,
    addresses: watch::Sender<BTreeSet<IpAddr>>,
    told: Arc<Told>,
    /// Of every test: what is logged first where nobody listens may be lost for all threads.
    log: Log,
    _tasks: JoinSet<()>,
}

impl Node {
    fn start() -> Self {
        Self::start_on(&[address()])
    }

    fn start_on(addresses: &[IpAddr]) -> Self {
        let log = Log::begin();
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let told = Arc::new(Told::default());
        let mut tasks = JoinSet::new();
        let notices: Arc<dyn Notices> = Arc::<Told>::clone(&told);
        let (addresses, receiver) = watch::channel(addresses.iter().copied().collect());
        let servers = HealthCheckServers::start(receiver, Arc::clone(&health), notices, &mut tasks);
        Self { health, servers, addresses, told, log, _tasks: tasks }
    }

    fn listen_on(&self, addresses: &[IpAddr]) {
        self.addresses.send_replace(addresses.iter().copied().collect());
    }

    fn update(&self, changes: &[(&str, Option<(u16, usize)>)]) {
        let changes = changes.iter().map(|(service, check)| HealthCheckChange {
            service: ObjectName::new("default", service),
            check: check.map(|(port, local_endpoints)| HealthCheck { port: Port::new(port), local_endpoints }),
        });
        self.servers.update(changes.collect());
    }

    fn told(&self) -> Vec<Notice> {
        self.told.0.lock().expect("no panic").clone()
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

/// An address on loopback that no other run of the tests uses.
fn address() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    IpAddr::from([127, a | 0x80, b, c])
}

/// Another one.
fn other_address() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    IpAddr::from([127, a | 0xc0, b, c])
}

/// A port that no other test uses.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn connect(port: u16) -> TcpStream {
    connect_to(address(), port).await
}

async fn connect_to(address: IpAddr, port: u16) -> TcpStream {
    let begin = Instant::now();
    loop {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return stream,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "port {port}: {error}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn ask(mut stream: TcpStream, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: lb\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut text));
    read.await.expect("the server closes the connection").expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(body).expect("JSON") }
}

/// Asks until the answer is about this many endpoints of this Service.
async fn until_answered(port: u16, service: &str, endpoints: usize) -> Answer {
    let begin = Instant::now();
    loop {
        let answer = ask(connect(port).await, "/").await;
        if answer.body["service"]["name"] == service && answer.body["localEndpoints"] == endpoints {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "{answer:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn until_closed(port: u16) {
    until_closed_on(address(), port).await;
}

async fn until_closed_on(address: IpAddr, port: u16) {
    let begin = Instant::now();
    while TcpStream::connect((address, port)).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "port {port} is still open");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_answer_is_kube_proxys_on_every_path() {
    let node = Node::start();
    let port = port();
    node.update(&[("web", Some((port, 2)))]);
    for path in ["/", "/healthz", "/a/b?c=d"] {
        let answer = ask(connect(port).await, path).await;
        assert_eq!(answer.status, 200, "{path}");
        for header in
            ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 2"]
        {
            assert!(answer.head.lines().any(|line| line == header), "{header} is missing in {}", answer.head);
        }
        let service = json!({"namespace": "default", "name": "web"});
        assert_eq!(
            answer.body,
            json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true}),
            "{path}"
        );
    }
    assert_eq!(node.told(), []);
}

#[tokio::test]
async fn no_local_endpoint_or_a_late_proxy_is_503() {
    let node = Node::start();
    let port = port();
    node.update(&[("web", Some((port, 0)))]);
    let answer = until_answered(port, "web", 0).await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("x-load-balancing-endpoint-weight: 0"), "{}", answer.head);
    assert_eq!(answer.body["serviceProxyHealthy"], true);
    node.update(&[("web", Some((port, 3)))]);
    assert_eq!(until_answered(port, "web", 3).await.status, 200);

    // A node that is about to go drains its connections; that is no reason to say otherwise.
    node.health.synced(Timestamp::now());
    node.health.set_leaving(true);
    assert_eq!(until_answered(port, "web", 3).await.status, 200);

    node.health.queued(Timestamp::now() - SignedDuration::from_secs(61));
    let answer = until_answered(port, "web", 3).await;
    assert_eq!((answer.status, &answer.body["serviceProxyHealthy"]), (503, &json!(false)));
    assert!(answer.head.contains("x-load-balancing-endpoint-weight: 3"), "the count stays true: {}", answer.head);
}

#[tokio::test]
async fn servers_come_and_go_with_their_services() {
    let node = Node::start();
    let [first, second, other] = [port(), port(), port()];
    node.update(&[("other", Some((other, 1))), ("web", Some((first, 1)))]);
    until_answered(first, "web", 1).await;
    let before = connect(first).await;
    node.update(&[("web", Some((second, 1)))]);
    until_answered(second, "web", 1).await;
    until_closed(first).await;
    let text = { before }.try_read(&mut [0]);
    assert!(matches!(text, Ok(0) | Err(_)), "nobody is answered without having asked");
    node.update(&[("web", None)]);
    until_closed(second).await;
    until_answered(other, "other", 1).await;
    assert_eq!(node.told(), []);
}

#[tokio::test]
async fn a_port_may_change_hands_in_one_update() {
    let node = Node::start();
    let port = port();
    node.update(&[("web", Some((port, 1)))]);
    until_answered(port, "web", 1).await;
    node.update(&[("api", Some((port, 4))), ("web", None)]);
    until_answered(port, "api", 4).await;
    assert_eq!(node.told(), [], "it was free when it was asked for");
}

#[tokio::test]
async fn a_busy_port_is_told_once_and_opened_when_it_is_free() {
    let node = Node::start();
    let port = port();
    let busy = TcpListener::bind((address(), port)).await.expect("a free port");
    node.update(&[("web", Some((port, 1)))]);
    sleep(Duration::from_millis(2500)).await;
    let at = SocketAddr::new(address(), port);
    let text = format!("health check port {port} cannot be opened: {at}: Address already in use (os error 98)");
    let subject = Subject::Service(ObjectName::new("default", "web"));
    assert_eq!(node.told(), [Notice { subject, reason: Reason::HealthCheckPort, text: text.clone() }]);
    let warnings = node.log.lines_with(&format!("Service default/web: {text}"));
    assert_eq!(warnings.len(), 1, "{:?}", node.log.lines_with(""));
    // What has changed meanwhile is what is answered then.
    node.update(&[("web", Some((port, 5)))]);
    drop(busy);
    until_answered(port, "web", 5).await;
    assert_eq!(node.log.lines_with(&format!("Service default/web: health check port {port} is open now")).len(), 1);
    assert_eq!(node.told().len(), 1);
}

#[tokio::test]
async fn a_port_that_nobody_wants_any_more_is_not_tried_again() {
    let node = Node::start();
    let port = port();
    let busy = TcpListener::bind((address(), port)).await.expect("a free port");
    node.update(&[("web", Some((port, 1)))]);
    let begin = Instant::now();
    while node.told().is_empty() {
        assert!(begin.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    node.update(&[("web", None)]);
    drop(busy);
    sleep(Duration::from_secs(2)).await;
    until_closed(port).await;
}

#[tokio::test]
async fn of_two_services_with_one_port_the_second_one_waits() {
    let node = Node::start();
    let port = port();
    node.update(&[("web", Some((port, 1)))]);
    until_answered(port, "web", 1).await;
    node.update(&[("api", Some((port, 2)))]);
    let begin = Instant::now();
    while node.told().is_empty() {
        assert!(begin.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.told()[0].subject, Subject::Service(ObjectName::new("default", "api")));
    until_answered(port, "web", 1).await;
    node.update(&[("web", None)]);
    until_answered(port, "api", 2).await;
    assert_eq!(node.told().len(), 1);
}

#[tokio::test]
async fn both_families_are_served_on_all_addresses() {
    let node = Node::start_on(&ALL_ADDRESSES);
    // Other tests listen on single addresses of loopback, so this takes a port that is free on all of them.
    let free = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    node.update(&[("web", Some((port, 1)))]);
    until_answered(port, "web", 1).await;
    let families: &[&str] = if has_ipv6() { &["127.0.0.1", "::1"] } else { &["127.0.0.1"] };
    for address in families {
        let stream = TcpStream::connect((*address, port)).await.expect("somebody listens");
        assert_eq!(ask(stream, "/").await.status, 200, "{address}");
    }
    assert_eq!(node.told(), []);
}

#[tokio::test]
async fn the_ports_follow_the_addresses() {
    let node = Node::start_on(&[]);
    let port = port();
    node.update(&[("web", Some((port, 1)))]);
    node.listen_on(&[address()]);
    until_answered(port, "web", 1).await;
    let before = connect(port).await;

    node.listen_on(&[address(), other_address()]);
    assert_eq!(ask(connect_to(other_address(), port).await, "/").await.status, 200);
    assert_eq!(ask(before, "/").await.status, 200, "the address that stays was not closed meanwhile");

    node.listen_on(&[other_address()]);
    until_closed(port).await;
    assert_eq!(ask(connect_to(other_address(), port).await, "/").await.status, 200);
    // A Service that comes later listens there too, and another one may have the address that was given up.
    let (later, freed) = (self::port(), TcpListener::bind((address(), port)).await.expect("the port is free"));
    node.update(&[("api", Some((later, 2)))]);
    assert_eq!(ask(connect_to(other_address(), later).await, "/").await.body["localEndpoints"], 2);
    until_closed(later).await;

    drop(freed);
    node.listen_on(&[]);
    until_closed_on(other_address(), port).await;
    until_closed_on(other_address(), later).await;
    assert_eq!(node.told(), []);
}

#[tokio::test]
async fn an_address_whose_port_is_busy_costs_the_others_nothing() {
    let node = Node::start();
    let port = port();
    node.update(&[("web", Some((port, 1)))]);
    until_answered(port, "web", 1).await;
    let busy = TcpListener::bind((other_address(), port)).await.expect("a free port");
    node.listen_on(&[address(), other_address()]);
    let begin = Instant::now();
    while node.told().is_empty() {
        assert!(begin.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    assert!(node.told()[0].text.contains(&other_address().to_string()), "{:?}", node.told());
    until_answered(port, "web", 1).await;
    drop(busy);
    assert_eq!(ask(connect_to(other_address(), port).await, "/").await.status, 200);
    assert_eq!(node.told().len(), 1);
}

/// Whether loopback has its IPv6 address here.
fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}
