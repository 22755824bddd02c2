//! The agent's own way from objects to tables, without a process: decoding, model, plan and the loop's engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use clap::Parser;
use proxy_agent::{
    config::{KubeProxy, RunFlags},
    dataplane::devices::PodDevices,
    model::{Change, EndpointSlice, Node, NodeFacts, Service, Update},
    plan::{Capacities, Changes, Refused, Snapshot, Tables, Usage},
    run::{self, Engine, Localhost, pod_devices},
    source::{Object, decode},
};
use proxy_common::{NodeAddress, Settings};
use serde_json::Value;

use super::{
    cast::{self, NODE},
    objects::{Kind, Objects, usual_node},
    row::Setting,
};

/// Tables that others look into while an engine has them.
#[derive(Debug)]
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub fn new(tables: T) -> Self {
        Self(Arc::new(Mutex::new(tables)))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics while writing")
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Tables> Tables for Shared<T> {
    type Error = T::Error;

    fn snapshot(&self) -> Result<Snapshot, T::Error> {
        self.lock().snapshot()
    }

    fn apply(&mut self, changes: &Changes) -> Result<Refused, T::Error> {
        self.lock().apply(changes)
    }
}

/// The node of a row, from its objects to its tables.
pub struct Control<T> {
    config: KubeProxy,
    tables: Shared<T>,
    engine: Engine<Shared<T>>,
    objects: Objects,
    node: Value,
    addresses: BTreeSet<IpAddr>,
    told: Vec<String>,
}

impl<T: Tables> Control<T> {
    /// A node without objects.
    pub fn new(setting: Setting, tables: Shared<T>) -> Self {
        let (objects, node, addresses) = (Objects::new(), usual_node(), cast::node_addresses());
        let engine = engine(&tables, &node);
        let config = configuration(setting.arguments());
        let mut control = Self { config, tables, engine, objects, node, addresses, told: vec![] };
        control.sync();
        control
    }

    /// Another row, with no objects yet.
    pub fn begin(&mut self, setting: Setting) {
        assert_eq!(self.usage(), Usage::default(), "the row before has cleared its objects");
        self.config = configuration(setting.arguments());
        self.addresses = cast::node_addresses();
        self.told.clear();
        let node = usual_node();
        self.set(&Objects::new(), &node);
    }

    /// How much of the tables is used.
    pub fn usage(&self) -> Usage {
        self.engine.usage()
    }

    /// What the tables hold.
    pub fn snapshot(&self) -> Snapshot {
        self.tables.lock().snapshot().unwrap_or_else(|error| panic!("the tables cannot be read: {error}"))
    }

    /// The node's own addresses.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// The node has one more address. Counts from the next change of the objects on.
    pub fn add_address(&mut self, address: IpAddr) {
        self.addresses.insert(address);
    }

    /// Whether pods are told by their devices.
    pub fn detects_devices(&self) -> bool {
        pod_devices(&self.config) != PodDevices::None
    }

    /// Whether a problem was told in words that contain these.
    pub fn tells(&self, words: &str) -> bool {
        self.told.iter().any(|text| text.contains(words))
    }

    /// The row's objects are gone.
    pub fn clear(&mut self) {
        let node = self.node.clone();
        self.set(&Objects::new(), &node);
    }

    /// Takes in what differs, and writes the tables.
    pub fn set(&mut self, objects: &Objects, node: &Value) {
        for (key @ (kind, _), value) in objects {
            if self.objects.get(key) != Some(value) {
                self.apply(*kind, value);
            }
        }
        let gone: Vec<_> = self.objects.iter().filter(|(key, _)| !objects.contains_key(*key)).collect();
        let deletions: Vec<Update> = gone
            .into_iter()
            .map(|((kind, _), value)| match kind {
                Kind::Service => Update::Service(Change::Delete(decode::<Service>(value).name)),
                Kind::Slice => Update::Slice(Change::Delete(decode::<EndpointSlice>(value).name)),
            })
            .collect();
        for deletion in deletions {
            self.engine.take(deletion);
        }
        if *node != self.node {
            self.engine.take(Node::update(Change::Apply(parsed_node(node))));
        }
        (self.objects, self.node) = (objects.clone(), node.clone());
        self.sync();
    }

    fn apply(&mut self, kind: Kind, value: &Value) {
        match kind {
            Kind::Service => self.take::<Service>(value),
            Kind::Slice => self.take::<EndpointSlice>(value),
        }
    }

    fn take<O: Object>(&mut self, value: &Value) {
        let decoded = decode::<O>(value);
        self.told.extend(decoded.flaws.iter().map(ToString::to_string));
        self.engine.take(O::update(match decoded.object {
            Some(object) => Change::Apply(object),
            None => Change::Delete(decoded.name),
        }));
    }

    fn sync(&mut self) {
        let own = &self.addresses;
        let source = |address| if own.contains(&address) { address } else { cast::node_source(address) };
        let sources = self.engine.index().guarded_addresses().map(|address| (address, Some(source(address)))).collect();
        self.engine.take(Update::Facts(NodeFacts { addresses: own.clone(), sources }));
        let synced = self.engine.sync().unwrap_or_else(|error| panic!("the tables cannot be written: {error}"));
        self.told.extend(synced.new_problems.iter().map(ToString::to_string));
    }

    /// Another engine on the same tables, with the same objects.
    pub fn restart(&mut self) {
        self.engine = engine(&self.tables, &self.node);
        for ((kind, _), value) in &self.objects.clone() {
            self.apply(*kind, value);
        }
        self.sync();
    }

    /// Which of the node's addresses serve nodePorts.
    pub fn node_ports(&self) -> BTreeMap<IpAddr, NodeAddress> {
        let localhost = if self.config.localhost_node_ports { Localhost::Served } else { Localhost::NotServed };
        let primary = parsed_node(&self.node).addresses;
        run::node_addresses(&self.addresses, &self.config.node_port_addresses, &primary, localhost)
    }
}

/// The settings of the usual Node, whose network namespace has this cookie.
pub fn settings(setting: Setting, namespace: u64) -> Settings {
    let config = configuration(setting.arguments());
    let (settings, _) = run::settings(&config, NODE, Some(&parsed_node(&usual_node())));
    settings.with_node_netns_cookie(namespace)
}

/// An engine that knows the Node, and that there is nothing else.
fn engine<T: Tables>(tables: &Shared<T>, node: &Value) -> Engine<Shared<T>> {
    let mut engine = Engine::new(tables.clone(), NODE.to_owned(), Capacities::default());
    engine.take(Update::Service(Change::Reset(vec![])));
    engine.take(Update::Slice(Change::Reset(vec![])));
    engine.take(Update::Node(Change::Reset(vec![parsed_node(node)])));
    engine
}

fn parsed_node(value: &Value) -> Node {
    decode::<Node>(value).object.expect("the Node is well-formed")
}

fn configuration(arguments: &[&str]) -> KubeProxy {
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        run: RunFlags,
    }
    let words = ["run"].iter().chain(arguments);
    Flags::parse_from(words).run.kube_proxy().expect("the row's flags are right")
}
