//! The Kubernetes API as a source: Services, `EndpointSlices` and this node's Node.
//!
//! Lists are consistent reads in pages, not answers from a cache that may be old, so that the state
//! never goes back in time; a list counts only once it is complete. Watches ask for bookmarks and go
//! on from the last version after a broken connection; when the server has forgotten that version, or
//! an event got lost, everything is listed again. Until then what is known stays in force.

mod client;
mod connect;
mod events;
mod listed;
mod retry;
mod watch;

use std::{sync::Arc, time::Duration};

use kube::{Api, Client, runtime::watcher};
use tokio::task::JoinSet;
use tower::service_fn;

pub use self::client::Liveness;
pub use self::connect::{ConnectError, Server, connect};
pub use self::events::Events;
use self::{listed::Listed, watch::Watch};
use super::{Object, Updates};
use crate::{
    freshness::Freshness,
    model::{EndpointSlice, HEADLESS, Kind, Node, SERVED_BY_ANOTHER, Service},
    notices::Notices,
};

/// What kube-proxy does not even watch. A label that is set later looks like a deletion.
fn without(label: &str) -> watcher::Config {
    watcher::Config::default().labels(&format!("!{label}"))
}

/// How long the server may be silent in the middle of a list before the list is begun anew. Servers
/// give up on a request after a minute.
pub const LIST_SILENCE: Duration = Duration::from_secs(90);

/// Whom the watches tell.
#[derive(Clone)]
pub struct Listeners {
    /// Of objects. When nobody listens any more, the watches end.
    pub updates: Updates,
    /// When watching works, and when not.
    pub freshness: Arc<Freshness>,
    /// Of fields of Services that cannot be used.
    pub notices: Arc<dyn Notices>,
}

/// Starts watching in `tasks`.
pub fn start(client: &Client, node_name: &str, list_silence: Duration, listeners: &Listeners, tasks: &mut JoinSet<()>) {
    spawn::<Service>(client, without(SERVED_BY_ANOTHER), list_silence, listeners, tasks);
    spawn::<EndpointSlice>(client, without(HEADLESS), list_silence, listeners, tasks);
    let own = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
    spawn::<Node>(client, own, list_silence, listeners, tasks);
}

/// A client that tells when the server answers about this kind: a watch that goes on where it stopped has no event to show for it.
fn telling(client: &Client, kind: Kind, freshness: &Arc<Freshness>) -> Client {
    let (inner, freshness) = (client.clone(), Arc::clone(freshness));
    let service = service_fn(move |request| {
        let (inner, freshness) = (inner.clone(), Arc::clone(&freshness));
        async move {
            let response = inner.send(request).await?;
            if response.status().is_success() {
                freshness.works(kind);
            }
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(service, client.default_namespace())
}

fn spawn<T: Object>(
    client: &Client,
    config: watcher::Config,
    list_silence: Duration,
    listeners: &Listeners,
    tasks: &mut JoinSet<()>,
) {
    let Listeners { updates, freshness, notices } = listeners.clone();
    let api: Api<Listed<T>> = Api::all(telling(client, T::KIND, &freshness));
    tasks.spawn(Watch::new(list_silence, updates, freshness, notices).run(api, config));
}
