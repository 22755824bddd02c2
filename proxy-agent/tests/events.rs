//! Notices become Events of their Service, at an API server that only knows these requests.

use std::{
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
    notices::{Notice, Notices, Reason},
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

async fn create(State(written): State<Written>, Json(event): Json<Value>) -> (StatusCode, Json<Value>) {
    written.0.lock().expect("no panic").push(event.clone());
    (StatusCode::CREATED, Json(event))
}

#[tokio::test]
async fn a_notice_is_an_event_of_its_service() {
    let written = Written::default();
    let router = Router::new()
        .route("/api/v1/namespaces/shop/services/web", get(service))
        .route("/apis/events.k8s.io/v1/namespaces/shop/events", post(create))
        .fallback(missing)
        .with_state(written.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.expect("a server runs") });
    let server = Server { kubeconfig: None, master: Some(url), qps: 50.0, burst: 100, liveness: Liveness::default() };
    let client = api::connect(&server).await.expect("an address is enough");

    let node = "n".repeat(200);
    let events = Events::start(&client, &node, &mut tasks);
    let notice = |name: &str, text: String| Notice {
        service: ObjectName::new("shop", name),
        reason: Reason::HealthCheckPort,
        text,
    };
    events.tell(notice("gone", "nobody is left to be told".to_owned()));
    events.tell(notice("web", "é".repeat(1000)));

    let begin = Instant::now();
    while written.0.lock().expect("no panic").is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "no Event");
        sleep(Duration::from_millis(5)).await;
    }
    let written = written.0.lock().expect("no panic").clone();
    assert_eq!(written.len(), 1);
    let event = &written[0];
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(event["action"], "Listen");
    assert_eq!(event["note"], "é".repeat(512), "at most 1024 bytes");
    assert_eq!(event["regarding"]["kind"], "Service");
    assert_eq!(event["regarding"]["uid"], "the-uid", "by which kubectl finds it");
    assert_eq!(event["reportingController"], "proxy-agent");
    assert_eq!(event["reportingInstance"], "n".repeat(128));
}
