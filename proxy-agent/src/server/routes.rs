use std::sync::Arc;

use axum::{
    Router,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;

use super::{Health, HealthReport, Metrics, text_format::TextFormat};

/// What `/proxyMode` says.
const MODE: &str = "ebpf";

type Headers = [(HeaderName, &'static str); 2];

/// `/healthz` and `/livez`, and `/readyz`: whether the node is served.
pub fn health_routes(health: &Arc<Health>, metrics: &Arc<Metrics>) -> Router {
    let (healthz, healthz_metrics) = (Arc::clone(health), Arc::clone(metrics));
    let (livez, livez_metrics) = (Arc::clone(health), Arc::clone(metrics));
    let readyz = Arc::clone(health);
    Router::new()
        .route(
            "/healthz",
            get(move || async move {
                let (status, response) = answer(&healthz.healthz(Timestamp::now()));
                healthz_metrics.healthz_answered(status.as_u16());
                response
            }),
        )
        .route(
            "/livez",
            get(move || async move {
                let (status, response) = answer(&livez.livez(Timestamp::now()));
                livez_metrics.livez_answered(status.as_u16());
                response
            }),
        )
        .route(
            "/readyz",
            get(move || async move {
                if readyz.is_ready() {
                    (StatusCode::OK, "ready\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
                }
            }),
        )
}

/// `/metrics`, `/proxyMode`, and a `/healthz` that only says that the agent runs, as kube-proxy has
/// them all on this address.
pub fn metrics_routes(metrics: &Arc<Metrics>) -> Router {
    let metrics = Arc::clone(metrics);
    let plain = || [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Router::new()
        .route(
            "/metrics",
            get(move |headers: HeaderMap| async move {
                let format = TextFormat::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
                // Reading the tables' counters is system calls, short but many.
                let text = tokio::task::spawn_blocking(move || metrics.encode()).await;
                match text {
                    Ok(Ok(text)) => ([(CONTENT_TYPE, format.content_type())], format.of(text)).into_response(),
                    Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }),
        )
        .route("/proxyMode", get(move || async move { (plain(), MODE) }))
        .route("/healthz", get(move || async move { (plain(), "ok") }))
}

fn answer(report: &HealthReport) -> (StatusCode, Response) {
    let status = if report.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers: Headers = [(CONTENT_TYPE, "application/json"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    match serde_json::to_string(report) {
        Ok(body) => (status, (status, headers, body).into_response()),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, StatusCode::INTERNAL_SERVER_ERROR.into_response()),
    }
}
