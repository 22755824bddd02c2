//! One kind of object: list, watch, and what to do when either fails.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, trace};

use super::{listed::Listed, retry::Retry};
use crate::{
    error::one_line,
    freshness::Freshness,
    model::{Change, Kind, ObjectName},
    notices::{Notice, Notices, Reason, Subject},
    source::{Decoded, Flaw, Object, Reports, Updates},
};

/// Watching the objects of kind `T`.
pub(super) struct Watch<T> {
    list_silence: Duration,
    updates: Updates,
    reports: Reports,
    retry: Retry,
    freshness: Arc<Freshness>,
    notices: Arc<dyn Notices>,
    /// The list so far, while it is incomplete.
    list: Option<List<T>>,
}

struct List<T> {
    objects: Vec<T>,
    names: HashSet<ObjectName>,
}

/// Nobody listens to the updates any more.
struct Closed;

/// How to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Where it stopped; kube's watcher lists again by itself if it must.
    Resume,
    /// With a new list, because events may have got lost.
    Relist,
}

impl<T: Object> Watch<T> {
    pub(super) fn new(
        list_silence: Duration,
        updates: Updates,
        freshness: Arc<Freshness>,
        notices: Arc<dyn Notices>,
    ) -> Self {
        let retry = Retry::new(format!("{}s", T::KIND));
        Self { list_silence, updates, reports: Reports::default(), retry, freshness, notices, list: None }
    }

    /// Watches until nobody listens any more.
    pub(super) async fn run(mut self, api: Api<Listed<T>>, config: watcher::Config) {
        let closed = self.updates.clone();
        tokio::select! {
            () = closed.closed() => {}
            Closed = self.watch(api, config) => {}
        }
    }

    async fn watch(&mut self, api: Api<Listed<T>>, config: watcher::Config) -> Closed {
        loop {
            let mut events = pin!(watcher(api.clone(), config.clone()));
            self.list = None;
            loop {
                let (failure, recovery) = match self.next(&mut events).await {
                    Ok(event) => match self.take(event).await {
                        Ok(()) => continue,
                        Err(closed) => return closed,
                    },
                    Err(failure) => failure,
                };
                self.freshness.fails(T::KIND);
                sleep(self.retry.failed(&failure, Instant::now())).await;
                if recovery == Recovery::Relist {
                    break;
                }
            }
        }
    }

    async fn next(
        &self,
        events: &mut (impl StreamExt<Item = watcher::Result<Event<Listed<T>>>> + Unpin),
    ) -> Result<Event<Listed<T>>, (String, Recovery)> {
        let ended = || ("end unexpectedly".to_owned(), Recovery::Relist);
        let event = match &self.list {
            None => events.next().await,
            Some(_) => timeout(self.list_silence, events.next()).await.map_err(|_| {
                (format!("cannot be listed: no answer within {:?}", self.list_silence), Recovery::Relist)
            })?,
        };
        event.ok_or_else(ended)?.map_err(|error| explain(&error))
    }

    async fn take(&mut self, event: Event<Listed<T>>) -> Result<(), Closed> {
        match event {
            Event::Init => {
                debug!("listing {}s", T::KIND);
                self.list = Some(List { objects: Vec::new(), names: HashSet::new() });
                return Ok(());
            }
            Event::InitApply(listed) => {
                let Decoded { name, object, flaws } = listed.decoded;
                self.note(&name, flaws);
                if let Some(list) = &mut self.list {
                    list.objects.extend(object);
                    list.names.insert(name);
                }
                return Ok(());
            }
            Event::InitDone => {
                let Some(list) = self.list.take() else { return Ok(()) };
                debug!("{} {}s listed, {} of them for nodes", list.names.len(), T::KIND, list.objects.len());
                self.reports.retain(&list.names);
                self.send(Change::Reset(list.objects)).await?;
            }
            Event::Apply(listed) => {
                let Decoded { name, object, flaws } = listed.decoded;
                trace!("{} {name} changed", T::KIND);
                self.note(&name, flaws);
                self.send(object.map_or(Change::Delete(name), Change::Apply)).await?;
            }
            Event::Delete(listed) => {
                let name = listed.decoded.name;
                trace!("{} {name} deleted", T::KIND);
                self.reports.forget(&name);
                self.send(Change::Delete(name)).await?;
            }
        }
        self.retry.works();
        Ok(())
    }

    /// Warns of what is wrong with an object, and tells the owner of a Service. (EndpointSlices are written by programs.)
    fn note(&mut self, name: &ObjectName, flaws: Vec<Flaw>) {
        let news = self.reports.note(name, flaws);
        if T::KIND == Kind::Service {
            for flaw in news {
                let text = format!("{flaw}; this part is not served");
                let subject = Subject::Service(flaw.object);
                self.notices.tell(Notice { subject, reason: Reason::UnusableField, text });
            }
        }
    }

    async fn send(&self, change: Change<T>) -> Result<(), Closed> {
        self.updates.send(T::update(change)).await.map_err(|_| Closed)
    }
}

/// The failure as a verb phrase, and how to recover from it.
fn explain(error: &watcher::Error) -> (String, Recovery) {
    match error {
        watcher::Error::InitialListFailed(error) => (format!("cannot be listed: {}", reason(error)), Recovery::Resume),
        watcher::Error::WatchStartFailed(error) => {
            // The version is unknown or too old here, which does not get better by waiting. A server
            // that is overloaded or not there keeps its versions.
            let recovery = match error {
                kube::Error::Api(status) if !matches!(status.code, 429 | 500..) => Recovery::Relist,
                _ => Recovery::Resume,
            };
            (format!("cannot be watched: {}", reason(error)), recovery)
        }
        // kube's watcher skips a line that it cannot read, and goes on in a watch that the server
        // has reported an error about. Both can lose events, so everything is listed again.
        watcher::Error::WatchFailed(error @ kube::Error::ReadEvents(_)) => {
            (format!("were cut off: {}", reason(error)), Recovery::Resume)
        }
        watcher::Error::WatchFailed(error) => (format!("cannot be understood: {}", reason(error)), Recovery::Relist),
        watcher::Error::WatchError(status) => {
            (format!("cannot be watched any further: {} ({})", status.message, status.code), Recovery::Relist)
        }
        watcher::Error::NoResourceVersion => ("come without a version".to_owned(), Recovery::Relist),
    }
}

fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        kube::Error::Service(error) => one_line(&**error),
        other => one_line(other),
    }
}
