//! Notices as Events of what they are about, for `kubectl describe`.
//!
//! Nodes tell of the same Service at the same time, and would write the same Event hundreds of times: what is true of the Service on
//! every node has a name that follows from what it says, so the first node's Event is the only one.

mod pace;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, Resource as _, api::PostParams};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use self::pace::Pace;
use crate::{
    error::one_line,
    notices::{Notice, Notices, Reason, Subject},
};

/// Who reports.
const CONTROLLER: &str = "proxy-agent";
/// Longest name of the one who reports, in bytes; the server refuses longer ones.
const INSTANCE_LEN: usize = 128;
/// Longest text of an Event, in bytes; the server refuses longer ones.
const NOTE_LEN: usize = 1024;
/// Notices that wait while the server does not answer, or because there were too many. What does not fit is only logged.
const QUEUE: usize = 256;
/// What was told is not told again for so long.
const AGAIN: Duration = Duration::from_mins(10);
/// Events about Nodes are in this namespace.
const NODES_NAMESPACE: &str = "default";

/// Notices become Events, one after the other, and not too many at a time.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Notice>);

impl Events {
    /// Starts to write Events in one of `tasks`, in the name of the agent on this node.
    #[must_use]
    pub fn start(client: &Client, node_name: &str, tasks: &mut JoinSet<()>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let publisher = Publisher { client: client.clone(), node: node_name.to_owned(), told: HashMap::new() };
        tasks.spawn(publisher.run(receiver));
        Self(sender)
    }
}

impl Notices for Events {
    fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            warn!("no Event is written: {error}");
        }
    }
}

struct Publisher {
    client: Client,
    node: String,
    /// When this agent told what, by the names of Events.
    told: HashMap<String, Instant>,
}

impl Publisher {
    async fn run(mut self, mut notices: mpsc::Receiver<Notice>) {
        let mut pace = Pace::new(Instant::now());
        while let Some(notice) = notices.recv().await {
            let now = Instant::now();
            self.told.retain(|_, at| now.duration_since(*at) < AGAIN);
            let name = self.name(&notice, Timestamp::now());
            if self.told.contains_key(&name) {
                continue;
            }
            sleep(pace.wait(now)).await;
            match self.publish(&name, &notice).await {
                Ok(()) => drop(self.told.insert(name, now)),
                Err(error) => warn!("no Event can be written ({}): {}", notice.text, one_line(&error)),
            }
        }
    }

    /// The same name is the same Event. It is what it is about, and a number.
    fn name(&self, notice: &Notice, now: Timestamp) -> String {
        let Notice { subject, reason, text } = notice;
        let mut hasher = DefaultHasher::new();
        (reason, text).hash(&mut hasher);
        match scope(*reason) {
            Scope::Cluster => {}
            Scope::Node => self.node.hash(&mut hasher),
            Scope::Moment => (&self.node, now.as_nanosecond()).hash(&mut hasher),
        }
        let name = match subject {
            Subject::Service(service) => service.name(),
            Subject::Node => &self.node,
        };
        format!("{name}.{:016x}", hasher.finish())
    }

    async fn publish(&self, name: &str, notice: &Notice) -> kube::Result<()> {
        let Notice { subject, reason, text } = notice;
        let (namespace, regarding) = match subject {
            Subject::Service(service) => {
                // `kubectl describe` finds Events by the object's uid.
                let services: Api<Service> = Api::namespaced(self.client.clone(), service.namespace());
                let Some(object) = services.get_opt(service.name()).await? else { return Ok(()) };
                (service.namespace(), object.object_ref(&()))
            }
            Subject::Node => (NODES_NAMESPACE, self.node_reference()),
        };
        let (kind, reason, action) = words(*reason);
        let event = Event {
            action: Some(action.to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            note: Some(cut(text, NOTE_LEN)),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(cut(&self.node, INSTANCE_LEN)),
            type_: Some(kind.to_owned()),
            ..Event::default()
        };
        match Api::namespaced(self.client.clone(), namespace).create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!("Event {namespace}/{name} is there already");
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// The node as kubelet and kube-proxy refer to it, by which `kubectl describe node` finds Events.
    fn node_reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        }
    }
}

/// For whom something is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// All nodes find the same.
    Cluster,
    /// It is this node's.
    Node,
    /// Each time is another.
    Moment,
}

const fn scope(reason: Reason) -> Scope {
    match reason {
        Reason::FrontendTaken | Reason::UnusableField => Scope::Cluster,
        Reason::HealthCheckPort | Reason::NoRoom | Reason::HealthServer => Scope::Node,
        Reason::Starting => Scope::Moment,
    }
}

/// Type, reason and action of the Event. Those that kube-proxy writes, too, are called as there.
const fn words(reason: Reason) -> (&'static str, &'static str, &'static str) {
    match reason {
        Reason::HealthCheckPort => ("Warning", "FailedToStartServiceHealthcheck", "Listen"),
        Reason::HealthServer => ("Warning", "FailedToStartProxierHealthcheck", "Listen"),
        Reason::Starting => ("Normal", "Starting", "StartProxyAgent"),
        Reason::FrontendTaken => ("Warning", "FrontendTaken", "ServeFrontend"),
        Reason::NoRoom => ("Warning", "NoRoom", "ServeService"),
        Reason::UnusableField => ("Warning", "UnusableField", "ReadService"),
    }
}

fn cut(text: &str, len: usize) -> String {
    text[..text.floor_char_boundary(len)].to_owned()
}
