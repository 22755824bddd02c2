//! Objects, their history, and how the server shall behave.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::routes::Selector;

/// A kind of object, by its plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Services,
    EndpointSlices,
    Nodes,
}

pub(crate) type Chunk = Result<String, io::Error>;

/// The server's data and behaviour.
#[derive(Clone)]
pub(crate) struct State(Arc<Mutex<Inner>>);

struct Inner {
    version: u64,
    collections: HashMap<Resource, Collection>,
    requests: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Collection {
    pub(crate) objects: BTreeMap<String, Value>,
    history: Vec<Change>,
    /// Versions before this one are forgotten.
    oldest: u64,
    watches: Vec<Watch>,
    pub(crate) list_delays: VecDeque<Duration>,
    pub(crate) list_errors: VecDeque<Option<u16>>,
    watch_errors: VecDeque<u16>,
    always_end_watches: bool,
}

#[derive(Clone)]
struct Change {
    version: u64,
    old: Option<Value>,
    new: Option<Value>,
}

struct Watch {
    selector: Selector,
    sender: UnboundedSender<Chunk>,
}

/// What a request for a watch gets.
pub(crate) enum Opened {
    Stream(tokio::sync::mpsc::UnboundedReceiver<Chunk>),
    Status(u16),
}

impl Default for State {
    fn default() -> Self {
        // Like a real server's, the version of an empty list is not 0.
        let inner = Inner { version: 100, collections: HashMap::new(), requests: Vec::new() };
        Self(Arc::new(Mutex::new(inner)))
    }
}

impl State {
    /// Creates or replaces an object.
    pub(crate) fn put(&self, resource: Resource, mut object: Value) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let collection = inner.collections.entry(resource).or_default();
        let old = collection.objects.insert(key(&object), object.clone());
        collection.changed(Change { version, old, new: Some(object) });
    }

    /// Deletes an object of namespace `default`, or without one.
    pub(crate) fn delete(&self, resource: Resource, name: &str) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let collection = inner.collections.entry(resource).or_default();
        let key = collection.objects.keys().find(|key| key.ends_with(&format!("/{name}"))).cloned();
        let old = collection.objects.remove(&key.expect("an object of that name"));
        collection.changed(Change { version, old, new: None });
    }

    /// Forgets all versions up to now, as etcd does every five minutes.
    pub(crate) fn compact(&self) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        drop(inner);
        self.compact_before(version);
    }

    /// Forgets all versions before this one.
    pub(crate) fn compact_before(&self, version: u64) {
        for collection in self.lock().collections.values_mut() {
            collection.oldest = version;
            collection.history.retain(|change| change.version >= version);
        }
    }

    /// Sends a bookmark of a new version to all watches of the resource, and returns the version.
    pub(crate) fn bookmark(&self, resource: Resource) -> u64 {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}});
        inner.collections.entry(resource).or_default().send(&line("BOOKMARK", &object));
        version
    }

    /// Sends text to all watches of the resource, as it is.
    pub(crate) fn send_raw(&self, resource: Resource, text: &str) {
        self.lock().collections.entry(resource).or_default().send(text);
    }

    /// Breaks the connections of all watches of the resource, in the middle of a line.
    pub(crate) fn cut_watches(&self, resource: Resource) {
        for watch in self.lock().collections.entry(resource).or_default().watches.drain(..) {
            let _ = watch.sender.send(Ok("{\"type\":\"MODIFIED\",\"obj".to_owned()));
            let _ = watch.sender.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Ends all watches in order.
    pub(crate) fn close_watches(&self) {
        for collection in self.lock().collections.values_mut() {
            collection.watches.clear();
        }
    }

    /// How many watches of the resource there are.
    pub(crate) fn watches(&self, resource: Resource) -> usize {
        let mut inner = self.lock();
        let collection = inner.collections.entry(resource).or_default();
        collection.watches.retain(|watch| !watch.sender.is_closed());
        collection.watches.len()
    }

    /// Answers the next pages of lists only after these times.
    pub(crate) fn delay_lists(&self, resource: Resource, delays: &[Duration]) {
        self.lock().collections.entry(resource).or_default().list_delays.extend(delays);
    }

    /// Answers the next pages of lists with these statuses; `None` is the page.
    pub(crate) fn fail_lists(&self, resource: Resource, statuses: &[Option<u16>]) {
        self.lock().collections.entry(resource).or_default().list_errors.extend(statuses);
    }

    /// Answers the next watches with these statuses.
    pub(crate) fn fail_watches(&self, resource: Resource, statuses: &[u16]) {
        self.lock().collections.entry(resource).or_default().watch_errors.extend(statuses);
    }

    /// Ends each watch as soon as it has begun.
    pub(crate) fn always_end_watches(&self, resource: Resource) {
        self.lock().collections.entry(resource).or_default().always_end_watches = true;
    }

    /// The requests so far, path and decoded query.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    pub(super) fn note(&self, request: String) {
        self.lock().requests.push(request);
    }

    pub(super) fn with<T>(&self, resource: Resource, read: impl FnOnce(&mut Collection, u64) -> T) -> T {
        let mut inner = self.lock();
        let version = inner.version;
        read(inner.collections.entry(resource).or_default(), version)
    }

    pub(super) fn open_watch(&self, resource: Resource, from: u64, selector: Selector) -> Opened {
        self.with(resource, |collection, _| {
            if let Some(status) = collection.watch_errors.pop_front() {
                return Opened::Status(status);
            }
            if collection.always_end_watches {
                return Opened::Stream(unbounded_channel().1);
            }
            let (sender, receiver) = unbounded_channel();
            if from < collection.oldest {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": format!("too old resource version: {from}")});
                let _ = sender.send(Ok(line("ERROR", &status)));
                return Opened::Stream(receiver);
            }
            for change in collection.history.iter().filter(|change| change.version > from) {
                if let Some(text) = change.line(&selector) {
                    let _ = sender.send(Ok(text));
                }
            }
            collection.watches.push(Watch { selector, sender });
            Opened::Stream(receiver)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics while it holds the lock")
    }
}

impl Collection {
    fn changed(&mut self, change: Change) {
        for watch in &self.watches {
            if let Some(text) = change.line(&watch.selector) {
                let _ = watch.sender.send(Ok(text));
            }
        }
        self.history.push(change);
    }

    fn send(&self, text: &str) {
        for watch in &self.watches {
            let _ = watch.sender.send(Ok(text.to_owned()));
        }
    }
}

impl Change {
    /// What a watch with this selector is told.
    fn line(&self, selector: &Selector) -> Option<String> {
        let old = self.old.as_ref().filter(|object| selector.matches(object));
        let new = self.new.as_ref().filter(|object| selector.matches(object));
        let (kind, object) = match (old, new) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
        };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(line(kind, &object))
    }
}

/// An event as the API server writes it: first its type (`metav1.WatchEvent`).
fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn key(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}
