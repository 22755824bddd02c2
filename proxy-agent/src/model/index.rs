//! All objects, joined: each Service with its slices.
//!
//! Owns: the newest state of every object, and the answer to "whose tables may differ now?". Never
//! decides what a table holds. An update costs what the Services in question cost, not what all do;
//! only a `Reset` and a change of this node's zone look at everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Change, EndpointSlice, Node, NodeFacts, ObjectName, Service, Update};

/// Services whose tables may differ after an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// These. They need not exist (any more).
    Services(BTreeSet<ObjectName>),
    /// All, including those that are installed and no longer exist.
    All,
}

impl Affected {
    /// No Service.
    #[must_use]
    pub const fn none() -> Self {
        Self::Services(BTreeSet::new())
    }

    /// Whether no Service is affected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Services(services) if services.is_empty())
    }

    /// Adds those that another update affected.
    pub fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Services(mine), Self::Services(theirs)) => mine.extend(theirs),
            _ => *self = Self::All,
        }
    }
}

impl Default for Affected {
    fn default() -> Self {
        Self::none()
    }
}

/// A Service and the slices that name it; either can be there before the other.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    /// Sorted by name.
    slices: Vec<EndpointSlice>,
}

impl Entry {
    fn position(&self, slice: &ObjectName) -> Result<usize, usize> {
        self.slices.binary_search_by(|other| other.name.cmp(slice))
    }
}

/// All objects that count on this node.
#[derive(Debug)]
pub struct Index {
    node_name: Box<str>,
    node: Option<Node>,
    facts: NodeFacts,
    entries: BTreeMap<ObjectName, Entry>,
    /// The Service of each slice.
    owners: BTreeMap<ObjectName, ObjectName>,
    /// The addresses that are served to some sources only, each with its Service.
    guarded: BTreeSet<(IpAddr, ObjectName)>,
}

impl Index {
    /// An empty index of the node with this name.
    #[must_use]
    pub fn new(node_name: String) -> Self {
        Self {
            node_name: node_name.into(),
            node: None,
            facts: NodeFacts::default(),
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
            guarded: BTreeSet::new(),
        }
    }

    /// Takes in a change, and says which Services it affects. An object that says what is known
    /// already affects none.
    pub fn update(&mut self, update: Update) -> Affected {
        let mut affected = BTreeSet::new();
        match update {
            Update::Service(Change::Apply(service)) => self.apply_service(service, &mut affected),
            Update::Service(Change::Delete(name)) => self.delete_service(&name, &mut affected),
            Update::Service(Change::Reset(services)) => self.reset_services(services, &mut affected),
            Update::Slice(Change::Apply(slice)) => self.apply_slice(slice, &mut affected),
            Update::Slice(Change::Delete(name)) => self.delete_slice(&name, &mut affected),
            Update::Slice(Change::Reset(slices)) => self.reset_slices(slices, &mut affected),
            Update::Node(Change::Apply(node)) if *node.name.name() == *self.node_name => {
                self.set_node(Some(node), &mut affected);
            }
            Update::Node(Change::Delete(name)) if *name.name() == *self.node_name => {
                self.set_node(None, &mut affected);
            }
            Update::Node(Change::Apply(_) | Change::Delete(_)) => {}
            Update::Node(Change::Reset(nodes)) => {
                let own = nodes.into_iter().find(|node| *node.name.name() == *self.node_name);
                self.set_node(own, &mut affected);
            }
            Update::Facts(facts) => self.set_facts(facts, &mut affected),
        }
        Affected::Services(affected)
    }

    /// The Service with this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.entries.get(name)?.service.as_deref()
    }

    /// All Services, sorted by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|entry| entry.service.as_deref())
    }

    /// The slices of the Service with this name, sorted by name, whether or not the Service exists.
    #[must_use]
    pub fn slices(&self, service: &ObjectName) -> &[EndpointSlice] {
        self.entries.get(service).map_or(&[], |entry| &entry.slices)
    }

    /// The node that this program runs on, if its object is known.
    #[must_use]
    pub const fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Name of the node that this program runs on.
    #[must_use]
    pub const fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Zone of the node that this program runs on.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.node.as_ref()?.zone.as_deref()
    }

    /// What is known of this node's network; nothing until somebody tells.
    #[must_use]
    pub const fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// The load balancers' addresses that are served to some sources only, sorted: those for which
    /// [`NodeFacts::sources`] counts.
    pub fn guarded_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut last = None;
        let addresses = self.guarded.iter().map(|&(address, _)| address);
        addresses.filter(move |&address| last.replace(address) != Some(address))
    }

    /// Whether [`NodeFacts::sources`] says nothing of an address for which it counts.
    #[must_use]
    pub fn lacks_facts(&self) -> bool {
        self.guarded_addresses().any(|address| !self.facts.sources.contains_key(&address))
    }

    fn apply_service(&mut self, mut service: Service, affected: &mut BTreeSet<ObjectName>) {
        let entry = self.entries.entry(service.name.clone()).or_default();
        match &mut entry.service {
            Some(known) if **known == service => {}
            // Names stay those of the first object, so that all copies share one text.
            Some(known) => {
                service.name = known.name.clone();
                affected.insert(known.name.clone());
                unguard(&mut self.guarded, known);
                guard(&mut self.guarded, &service);
                **known = service;
            }
            unknown => {
                affected.insert(service.name.clone());
                guard(&mut self.guarded, &service);
                *unknown = Some(Box::new(service));
            }
        }
    }

    fn delete_service(&mut self, name: &ObjectName, affected: &mut BTreeSet<ObjectName>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if let Some(gone) = entry.service.take() {
            unguard(&mut self.guarded, &gone);
            affected.insert(name.clone());
        }
        self.forget_if_empty(name);
    }

    fn reset_services(&mut self, services: Vec<Service>, affected: &mut BTreeSet<ObjectName>) {
        let listed: BTreeSet<ObjectName> = services.iter().map(|service| service.name.clone()).collect();
        let known = self.services().map(|service| service.name.clone());
        let gone: Vec<ObjectName> = known.filter(|name| !listed.contains(name)).collect();
        for name in gone {
            self.delete_service(&name, affected);
        }
        for service in services {
            self.apply_service(service, affected);
        }
    }

    fn apply_slice(&mut self, mut slice: EndpointSlice, affected: &mut BTreeSet<ObjectName>) {
        if self.owners.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.delete_slice(&slice.name.clone(), affected);
        }
        let entry = self.entries.entry(slice.service.clone()).or_default();
        match entry.position(&slice.name) {
            Ok(position) => {
                let known = &mut entry.slices[position];
                let same = known.serves_as(&slice);
                slice.name = known.name.clone();
                slice.service = known.service.clone();
                *known = slice;
                if !same {
                    affected.insert(known.service.clone());
                }
            }
            Err(position) => {
                affected.insert(slice.service.clone());
                self.owners.insert(slice.name.clone(), slice.service.clone());
                entry.slices.reserve_exact(1);
                entry.slices.insert(position, slice);
            }
        }
    }

    fn delete_slice(&mut self, name: &ObjectName, affected: &mut BTreeSet<ObjectName>) {
        let Some(service) = self.owners.remove(name) else { return };
        if let Some(entry) = self.entries.get_mut(&service)
            && let Ok(position) = entry.position(name)
        {
            entry.slices.remove(position);
            entry.slices.shrink_to_fit();
        }
        self.forget_if_empty(&service);
        affected.insert(service);
    }

    fn reset_slices(&mut self, slices: Vec<EndpointSlice>, affected: &mut BTreeSet<ObjectName>) {
        let listed: BTreeSet<ObjectName> = slices.iter().map(|slice| slice.name.clone()).collect();
        let gone: Vec<ObjectName> = self.owners.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        for name in gone {
            self.delete_slice(&name, affected);
        }
        for slice in slices {
            self.apply_slice(slice, affected);
        }
    }

    /// A new zone matters to the Services that have zone hints, and to no others.
    fn set_node(&mut self, node: Option<Node>, affected: &mut BTreeSet<ObjectName>) {
        let zone = self.zone().map(Box::<str>::from);
        self.node = node;
        if self.zone() == zone.as_deref() {
            return;
        }
        let hinted = self.entries.iter().filter(|(_, entry)| {
            let mut endpoints = entry.slices.iter().flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| endpoint.hints.as_ref().is_some_and(|hints| !hints.zones.is_empty()))
        });
        affected.extend(hinted.map(|(name, _)| name.clone()));
    }

    /// Facts matter to the Services with addresses that are served to some sources only: new routes to
    /// those that they lead to, new addresses of the node to all.
    fn set_facts(&mut self, facts: NodeFacts, affected: &mut BTreeSet<ObjectName>) {
        let is_moved = self.facts.addresses != facts.addresses;
        let matters = |address: IpAddr| is_moved || self.facts.source_to(address) != facts.source_to(address);
        affected.extend(self.guarded.iter().filter(|(address, _)| matters(*address)).map(|(_, name)| name.clone()));
        self.facts = facts;
    }

    fn forget_if_empty(&mut self, name: &ObjectName) {
        if self.entries.get(name).is_some_and(|entry| entry.service.is_none() && entry.slices.is_empty()) {
            self.entries.remove(name);
        }
    }
}

fn guard(guarded: &mut BTreeSet<(IpAddr, ObjectName)>, service: &Service) {
    guarded.extend(service.guarded_addresses().map(|address| (address, service.name.clone())));
}

fn unguard(guarded: &mut BTreeSet<(IpAddr, ObjectName)>, service: &Service) {
    for address in service.guarded_addresses() {
        guarded.remove(&(address, service.name.clone()));
    }
}
