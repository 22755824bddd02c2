//! The Kubernetes API as a source: Services, `EndpointSlices` and this node's Node.
//!
//! Lists are consistent reads in pages, not answers from a cache that may be old, so that the state
//! never goes back in time; a list counts only once it is complete. Watches ask for bookmarks and go
//! on from the last version after a broken connection; when the server has forgotten that version, or
//! an event got lost, everything is listed again. Until then what is known stays in force.

mod connect;
mod events;
mod listed;
mod retry;
mod watch;

use std::time::Duration;

use kube::{Api, Client, runtime::watcher};
use tokio::task::JoinSet;

pub use self::connect::{ConnectError, Server, connect};
pub use self::events::Events;
use self::{listed::Listed, watch::Watch};
use super::{Object, Updates};
use crate::model::{EndpointSlice, Node, Service};

/// What kube-proxy does not even watch. A label that is set later looks like a deletion.
const NOT_OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// How long the server may be silent in the middle of a list before the list is begun anew. Servers
/// give up on a request after a minute.
pub const LIST_SILENCE: Duration = Duration::from_secs(90);

/// Starts watching in `tasks`. They end when nobody listens to `updates` any more.
pub fn start(client: &Client, node_name: &str, list_silence: Duration, updates: &Updates, tasks: &mut JoinSet<()>) {
    let everything = watcher::Config::default;
    spawn::<Service>(client, everything().labels(NOT_OURS), list_silence, updates, tasks);
    spawn::<EndpointSlice>(client, everything().labels(NOT_OURS), list_silence, updates, tasks);
    let own = format!("metadata.name={node_name}");
    spawn::<Node>(client, everything().fields(&own), list_silence, updates, tasks);
}

fn spawn<T: Object>(
    client: &Client,
    config: watcher::Config,
    list_silence: Duration,
    updates: &Updates,
    tasks: &mut JoinSet<()>,
) {
    let api: Api<Listed<T>> = Api::all(client.clone());
    let watch = Watch::new(list_silence, updates.clone());
    tasks.spawn(watch.run(api, config));
}
