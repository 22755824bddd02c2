//! The HTTP side: lists and watches.

use std::collections::HashMap;

use axum::{
    Router,
    body::Body,
    extract::{Query, State as Shared},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use serde_json::{Value, json};

use super::state::{Opened, Resource, State};

type Parameters = HashMap<String, String>;

pub(super) fn router(state: State) -> Router {
    let route = |resource| {
        get(move |Shared(state): Shared<State>, uri: Uri, Query(parameters): Query<Parameters>| {
            answer(state, resource, uri, parameters)
        })
    };
    Router::new()
        .route("/api/v1/services", route(Resource::Services))
        .route("/api/v1/nodes", route(Resource::Nodes))
        .route("/apis/discovery.k8s.io/v1/endpointslices", route(Resource::EndpointSlices))
        .with_state(state)
}

/// The two forms of selectors that the agent uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels_absent: Vec<String>,
    name: Option<String>,
}

impl Selector {
    fn of(parameters: &Parameters) -> Self {
        let labels = parameters.get("labelSelector").map(String::as_str).unwrap_or_default();
        let labels_absent = labels
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| part.strip_prefix('!').expect("the agent only asks for labels that are absent").to_owned());
        let name = parameters
            .get("fieldSelector")
            .map(|field| field.strip_prefix("metadata.name=").expect("the agent only asks for a name").to_owned());
        Self { labels_absent: labels_absent.collect(), name }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.labels_absent.iter().all(|label| metadata["labels"].get(label).is_none())
            && self.name.as_ref().is_none_or(|name| metadata["name"] == **name)
    }
}

async fn answer(state: State, resource: Resource, uri: Uri, parameters: Parameters) -> Response {
    let mut shown: Vec<String> = parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
    shown.sort();
    state.note(format!("{}?{}", uri.path(), shown.join("&")));
    if parameters.get("watch").is_some_and(|watch| watch == "true") {
        watch(&state, resource, &parameters)
    } else {
        list(&state, resource, &parameters).await
    }
}

async fn list(state: &State, resource: Resource, parameters: &Parameters) -> Response {
    let (delay, status) = state.with(resource, |collection, _| {
        (collection.list_delays.pop_front(), collection.list_errors.pop_front().flatten())
    });
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    if let Some(status) = status {
        return failure(status);
    }
    let selector = Selector::of(parameters);
    let limit = parameters.get("limit").map_or(usize::MAX, |limit| limit.parse().expect("a number"));
    let begin: usize = parameters.get("continue").map_or(0, |token| token.parse().expect("a token of this server"));
    let body = state.with(resource, |collection, version| {
        let all: Vec<Value> = collection.objects.values().filter(|object| selector.matches(object)).cloned().collect();
        let page: Vec<Value> = all.iter().skip(begin).take(limit).cloned().collect();
        let end = begin + page.len();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if end < all.len() {
            metadata["continue"] = json!(end.to_string());
        }
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page})
    });
    (StatusCode::OK, body.to_string()).into_response()
}

fn watch(state: &State, resource: Resource, parameters: &Parameters) -> Response {
    let from = parameters.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    match state.open_watch(resource, from, Selector::of(parameters)) {
        Opened::Status(status) => failure(status),
        Opened::Stream(mut receiver) => {
            let chunks = stream::poll_fn(move |context| receiver.poll_recv(context));
            (StatusCode::OK, Body::from_stream(chunks)).into_response()
        }
    }
}

fn failure(status: u16) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status,
        "reason": "Test", "message": format!("the test wants {status}")});
    (StatusCode::from_u16(status).expect("a status"), body.to_string()).into_response()
}
