//! All files of the folder together, and what a new look at them changes. Pure: file names and texts
//! go in, updates and warnings come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map, hash_map},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::objects::{Contents, Defined, Item};
use crate::{
    model::{Change, EndpointSlice, Kind, Node, ObjectName, Service, Update},
    yaml::{Syntax, documents},
};

/// A file as it was found: its text, or why it cannot be read.
pub(super) type Found = Result<String, String>;

/// What the files define.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: BTreeMap<String, File>,
    services: Installed<Service>,
    slices: Installed<EndpointSlice>,
    nodes: Installed<Node>,
    warnings: BTreeSet<String>,
}

/// What a new look at the files has shown.
#[derive(Debug, Default, PartialEq)]
pub(super) struct News {
    /// What changed; at the first look, everything as complete lists.
    pub(super) updates: Vec<Update>,
    /// Warnings that were not there at the last look.
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Default)]
struct File {
    hash: u64,
    items: Vec<Item>,
    warnings: Vec<String>,
}

/// The objects of one kind that the updates so far add up to; `None` before the first look.
#[derive(Debug)]
struct Installed<T>(Option<BTreeMap<ObjectName, Arc<T>>>);

impl<T> Default for Installed<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl Catalog {
    /// Compares what is known with all files of the folder, by name.
    pub(super) fn look(&mut self, found: BTreeMap<String, Found>) -> News {
        self.files.retain(|name, _| found.contains_key(name));
        for (name, found) in found {
            let file = self.files.entry(name);
            match found {
                Ok(text) => read(file, &text),
                Err(reason) => {
                    let warning = format!("{}: {reason}; what it said before stays in force", file.key());
                    let file = file.or_default();
                    file.warnings = vec![warning];
                    file.hash = 0;
                }
            }
        }
        let mut warnings: BTreeSet<String> =
            self.files.values().flat_map(|file| file.warnings.iter().cloned()).collect();
        let items = self.merge(&mut warnings);
        let mut updates = Vec::new();
        self.services.install(&items, &mut updates);
        self.slices.install(&items, &mut updates);
        self.nodes.install(&items, &mut updates);
        let news = warnings.difference(&self.warnings).cloned().collect();
        self.warnings = warnings;
        News { updates, warnings: news }
    }

    /// Every object once; of several definitions the first by file name, then by place, counts.
    fn merge(&self, warnings: &mut BTreeSet<String>) -> Vec<Item> {
        let mut first: HashMap<(Kind, &ObjectName), &str> = HashMap::new();
        let mut items = Vec::new();
        for (file, File { items: defined, .. }) in &self.files {
            for item in defined {
                match first.entry(item.key()) {
                    hash_map::Entry::Vacant(entry) => {
                        entry.insert(file);
                        items.push(item.clone());
                    }
                    hash_map::Entry::Occupied(entry) => {
                        let (kind, name) = entry.key();
                        let used = entry.get();
                        warnings
                            .insert(format!("{file}: {kind} {name}: is defined in {used} too, and that one is used"));
                    }
                }
            }
        }
        items
    }
}

/// Reads a file anew, if its text has changed. While a document is no YAML, what the file defined
/// before and its other documents do not define stays: it may be what the broken one is about.
fn read(entry: btree_map::Entry<'_, String, File>, text: &str) {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let hash = hasher.finish();
    let name = entry.key().clone();
    let file = entry.or_default();
    if file.hash == hash {
        return;
    }
    let syntax = if name.to_ascii_lowercase().ends_with(".json") { Syntax::Json } else { Syntax::Yaml };
    let Contents { mut items, mut warnings, broken } = Contents::of(&name, &documents(text, syntax));
    if broken {
        let defined: HashSet<_> = items.iter().map(Item::key).collect();
        let kept: Vec<Item> = file.items.iter().filter(|item| !defined.contains(&item.key())).cloned().collect();
        warnings.extend(kept.iter().map(|item| {
            let (kind, object) = item.key();
            format!("{name}: {kind} {object} stays as it was until the file can be read")
        }));
        items.extend(kept);
    }
    *file = File { hash, items, warnings };
}

impl<T: Defined> Installed<T> {
    fn install(&mut self, items: &[Item], updates: &mut Vec<Update>) {
        let desired: BTreeMap<ObjectName, Arc<T>> =
            items.iter().filter_map(T::of_item).map(|object| (object.name().clone(), Arc::clone(object))).collect();
        let changes: Vec<Change<T>> = match &self.0 {
            None => vec![Change::Reset(desired.values().map(|object| T::clone(object)).collect())],
            Some(installed) => {
                let gone = installed.keys().filter(|name| !desired.contains_key(*name)).cloned().map(Change::Delete);
                let new = desired.iter().filter(|(name, object)| installed.get(*name) != Some(*object));
                gone.chain(new.map(|(_, object)| Change::Apply(T::clone(object)))).collect()
            }
        };
        updates.extend(changes.into_iter().map(T::update));
        self.0 = Some(desired);
    }
}
