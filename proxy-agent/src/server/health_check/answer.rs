//! What a load balancer is told, in kube-proxy's words.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    http::{
        HeaderName, StatusCode,
        header::{CONNECTION, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{model::ObjectName, server::Health};

/// How many endpoints are here, for load balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What the answers for a Service follow from.
#[derive(Debug)]
pub(super) struct Check {
    service: ObjectName,
    health: Arc<Health>,
    local_endpoints: AtomicUsize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Service<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Service<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Check {
    pub(super) fn new(service: ObjectName, health: Arc<Health>, local_endpoints: usize) -> Self {
        Self { service, health, local_endpoints: AtomicUsize::new(local_endpoints) }
    }

    pub(super) fn set_local_endpoints(&self, count: usize) {
        self.local_endpoints.store(count, Ordering::Relaxed);
    }

    /// As kube-proxy judges: whether the Node is about to go does not matter here, because a load balancer
    /// that asks for one Service still has connections to drain (KEP-3836).
    fn answer(&self) -> Response {
        let local_endpoints = self.local_endpoints.load(Ordering::Relaxed);
        let service_proxy_healthy = self.health.livez(Timestamp::now()).healthy;
        let status = match (local_endpoints, service_proxy_healthy) {
            (1.., true) => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let service = Service { namespace: self.service.namespace(), name: self.service.name() };
        let headers = [(X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()), (WEIGHT, local_endpoints.to_string())];
        let body = Json(Body { service, local_endpoints, service_proxy_healthy });
        (status, headers, body).into_response()
    }
}

/// Answers GET and HEAD on every path until the check is gone. One answer a connection, so that nobody goes on asking a
/// port that is closed.
pub(super) fn routes(check: &Arc<Check>) -> Router {
    let check: Weak<Check> = Arc::downgrade(check);
    Router::new().fallback_service(get(move || async move {
        let answer =
            check.upgrade().map_or_else(|| StatusCode::SERVICE_UNAVAILABLE.into_response(), |check| check.answer());
        ([(CONNECTION, "close")], answer)
    }))
}
