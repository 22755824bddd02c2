//! Notices as Events of the Service that they are about, for `kubectl describe`.

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::warn;

use crate::{
    error::one_line,
    notices::{Notice, Notices, Reason},
};

/// Who reports.
const CONTROLLER: &str = "proxy-agent";
/// Longest name of the one who reports, in bytes; the server refuses longer ones.
const INSTANCE_LEN: usize = 128;
/// Longest text of an Event, in bytes; the server refuses longer ones.
const NOTE_LEN: usize = 1024;
/// Notices that wait while the server does not answer. What does not fit is only logged.
const QUEUE: usize = 256;

/// Notices become Events, one after the other.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Notice>);

impl Events {
    /// Starts to write Events in one of `tasks`, in the name of the agent on this node.
    #[must_use]
    pub fn start(client: &Client, node_name: &str, tasks: &mut JoinSet<()>) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(cut(node_name, INSTANCE_LEN)) };
        let recorder = Recorder::new(client.clone(), reporter);
        let (sender, receiver) = mpsc::channel(QUEUE);
        tasks.spawn(publish_all(client.clone(), recorder, receiver));
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

async fn publish_all(client: Client, recorder: Recorder, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        if let Err(error) = publish(&client, &recorder, &notice).await {
            warn!("Service {}: no Event can be written: {}", notice.service, one_line(&error));
        }
    }
}

async fn publish(client: &Client, recorder: &Recorder, notice: &Notice) -> kube::Result<()> {
    let Notice { service, reason, text } = notice;
    // `kubectl describe` finds Events by the object's uid.
    let services: Api<Service> = Api::namespaced(client.clone(), service.namespace());
    let Some(object) = services.get_opt(service.name()).await? else { return Ok(()) };
    let (reason, action) = match reason {
        Reason::HealthCheckPort => ("FailedToStartServiceHealthcheck", "Listen"),
    };
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(cut(text, NOTE_LEN)),
        action: action.to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &object.object_ref(&())).await
}

fn cut(text: &str, len: usize) -> String {
    text[..text.floor_char_boundary(len)].to_owned()
}
