//! Notices become Events of their Service, at an API server that only knows these requests.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use proxy_agent::{
    model::ObjectName,
    notices::{Notice, Notices, Reason, Subject},
    source::api::{self, Events, Liveness, Server},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<Value>>>);

async fn service() -> Json<Value> {
    Json(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "uid": "the-uid"},
    }))
}

async fn missing() -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// A name is taken once.
async fn create(State(written): State<Written>, Json(event): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut written = written.0.lock().expect("no panic");
    let is_there = written.iter().any(|other: &Value| other["metadata"]["name"] == event["metadata"]["name"]);
    written.push(event.clone());
    if is_there {
        let body =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "AlreadyExists"});
        return (StatusCode::CONFLICT, Json(body));
    }
    (StatusCode::CREATED, Json(event))
}

/// An API server, and what it was asked to write.
async fn server() -> (Written, String) {
    let written = Written::default();
    let router = Router::new()
        .route("/api/v1/namespaces/shop/services/web", get(service))
        .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events", post(create))
        .fallback(missing)
        .with_state(written.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("a server runs") });
    (written, url)
}

/// The agent of a node that tells such a server.
async fn agent(url: &str, node: &str, tasks: &mut JoinSet<()>) -> Events {
    let server = Server {
        kubeconfig: None,
        master: Some(url.to_owned()),
        qps: 500.0,
        burst: 1000,
        liveness: Liveness::default(),
    };
    let client = api::connect(&server).await.expect("an address is enough");
    Events::start(&client, node, tasks)
}

fn notice(service: &str, reason: Reason, text: &str) -> Notice {
    Notice { subject: Subject::Service(ObjectName::new("shop", service)), reason, text: text.to_owned() }
}

impl Written {
    /// All that was asked for, once it is so much.
    async fn until(&self, count: usize) -> Vec<Value> {
        let begin = Instant::now();
        loop {
            let written = self.0.lock().expect("no panic").clone();
            if written.len() >= count {
                return written;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "only {written:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["metadata"]["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_notice_is_an_event_of_its_service() {
    let (written, url) = server().await;
    let mut tasks = JoinSet::new();
    let events = agent(&url, &"n".repeat(200), &mut tasks).await;
    events.tell(notice("gone", Reason::HealthCheckPort, "nobody is left to be told"));
    events.tell(notice("web", Reason::HealthCheckPort, &"é".repeat(1000)));
    events.tell(Notice { subject: Subject::Node, reason: Reason::Starting, text: "begins".to_owned() });
    let written = written.until(2).await;
    let [event, of_node] = written.as_slice() else { panic!("{written:?}") };
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(event["action"], "Listen");
    assert_eq!(event["note"], "é".repeat(512), "at most 1024 bytes");
    assert_eq!(event["regarding"]["kind"], "Service");
    assert_eq!(event["regarding"]["uid"], "the-uid", "by which kubectl finds it");
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert!(names(&written)[0].starts_with("web."), "{event}");
    assert_eq!(event["reportingController"], "proxy-agent");
    assert_eq!(event["reportingInstance"], "n".repeat(128));
    assert!(event["eventTime"].is_string(), "{event}");

    assert_eq!((&of_node["type"], &of_node["reason"]), (&json!("Normal"), &json!("Starting")));
    assert_eq!(of_node["metadata"]["namespace"], "default", "where Events about Nodes are");
    assert_eq!(of_node["regarding"]["kind"], "Node");
    assert_eq!(of_node["regarding"]["uid"], "n".repeat(200), "as kubelet says it");
}

#[tokio::test]
async fn what_is_told_already_is_not_told_again() {
    let (written, url) = server().await;
    let mut tasks = JoinSet::new();
    let [one, other] = [agent(&url, "node-a", &mut tasks).await, agent(&url, "node-b", &mut tasks).await];
    let clash = || notice("web", Reason::FrontendTaken, "somebody has it");
    let port = || notice("web", Reason::HealthCheckPort, "somebody listens");
    for agent in [&one, &other] {
        for notice in [clash(), port(), clash(), port()] {
            agent.tell(notice);
        }
        agent.tell(notice("web", Reason::NoRoom, "the last of a node"));
    }
    // Each node asks for three; of those that say the same of the cluster, one is written.
    let written = written.until(6).await;
    let all = names(&written);
    let different: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!((all.len(), different.len()), (6, 5), "{all:?}");
    let clashes = written.iter().filter(|event| event["reason"] == "FrontendTaken");
    let clashes: BTreeSet<&str> = clashes.map(|event| event["metadata"]["name"].as_str().expect("a name")).collect();
    assert_eq!(clashes.len(), 1, "whichever node tells it: {clashes:?}");
}

#[tokio::test]
async fn many_notices_become_few_events_at_a_time() {
    let (written, url) = server().await;
    let mut tasks = JoinSet::new();
    let agent = agent(&url, "node-a", &mut tasks).await;
    for number in 0..200 {
        agent.tell(notice("web", Reason::UnusableField, &format!("field {number}")));
    }
    let begin = Instant::now();
    let count = written.until(25).await.len();
    // However slow the machine is: one more for each two seconds, and one that was about to be sent.
    let most = 25 + usize::try_from(begin.elapsed().as_secs() / 2).expect("a few seconds") + 1;
    assert!(count <= most, "{count} in {:?}", begin.elapsed());
}
