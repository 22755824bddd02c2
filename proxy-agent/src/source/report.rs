//! Warnings about objects, each told once for as long as it stays the same.

use std::collections::{HashMap, HashSet};

use tracing::warn;

use super::Flaw;
use crate::model::ObjectName;

/// What was told of the objects of one kind.
#[derive(Debug, Default)]
pub struct Reports {
    told: HashMap<ObjectName, Vec<Flaw>>,
}

impl Reports {
    /// Notes what is wrong with an object now, and warns of what was not known before, which it returns.
    pub fn note(&mut self, name: &ObjectName, flaws: Vec<Flaw>) -> Vec<Flaw> {
        let told = self.told.remove(name).unwrap_or_default();
        let news: Vec<Flaw> = flaws.iter().filter(|flaw| !told.contains(flaw)).cloned().collect();
        for flaw in &news {
            warn!("{flaw}; this part is not served");
        }
        if !flaws.is_empty() {
            self.told.insert(name.clone(), flaws);
        }
        news
    }

    /// Forgets an object that is gone.
    pub fn forget(&mut self, name: &ObjectName) {
        self.told.remove(name);
    }

    /// Forgets all objects but these.
    pub fn retain(&mut self, names: &HashSet<ObjectName>) {
        self.told.retain(|name, _| names.contains(name));
    }
}
