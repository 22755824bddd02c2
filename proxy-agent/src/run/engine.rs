//! Objects in, tables out: the part of the run loop that knows no time and no channels.

use std::{collections::BTreeSet, time::Instant};

use proxy_common::{Family, ServiceId};
use tracing::debug;

use super::datagrams::{Datagrams, Owners};
use crate::{
    model::{Affected, Change, Index, ObjectName, Update},
    plan::{
        Capacities, Changes, FamilyChanges, GoneBackend, HealthCheckChange, HealthChecks, NoLocalEndpoints,
        PlanProblem, State, Tables, Usage,
    },
    server::SyncKind,
};

/// The index, the plan and the tables, from the first object on.
pub struct Engine<T> {
    tables: T,
    capacities: Capacities,
    index: Index,
    lists: Lists,
    state: State,
    adopted: Adopted,
    affected: Affected,
    problems: BTreeSet<PlanProblem>,
    health_checks: HealthChecks,
    /// What syncs that failed took away, and nobody was told of yet.
    gone_backends: Vec<GoneBackend>,
    owners: Owners,
}

/// Which lists have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lists {
    services: bool,
    slices: bool,
    nodes: bool,
}

/// Whether the state is that of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopted {
    /// Not before the first sync, nor after one that failed.
    No,
    /// It is.
    Yes,
}

/// What an engine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The complete lists of Services and slices: without them nothing may be written.
    Lists,
    /// The Node, and the facts of its network that Services follow from: worth waiting for, but not for ever.
    Node,
    /// Something that changes the tables.
    Change,
    /// A sync.
    Sync,
}

/// What a sync did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Whether it looked at everything.
    pub kind: SyncKind,
    /// When what it wrote was in force. Tidying up after that may take the kernel some milliseconds.
    pub in_force: Instant,
    /// Elements of tables that were written or removed.
    pub writes: usize,
    /// What could be served before this sync, and cannot be now; or is not served for a new reason.
    pub new_problems: Vec<PlanProblem>,
    /// What could not be served before this sync.
    pub solved_problems: Vec<PlanProblem>,
    /// What load balancers are to be told from now on, where that changes.
    pub health_checks: Vec<HealthCheckChange>,
    /// Endpoints of UDP ports that are gone, each once: sockets that are connected to them are to be told.
    pub gone_backends: Vec<GoneBackend>,
}

impl<T: Tables> Engine<T> {
    /// An engine without objects, for the node of this name. Touches no table yet.
    #[must_use]
    pub fn new(tables: T, node_name: String, capacities: Capacities) -> Self {
        Self {
            tables,
            capacities,
            index: Index::new(node_name),
            lists: Lists::default(),
            state: State::new(capacities),
            adopted: Adopted::No,
            affected: Affected::none(),
            problems: BTreeSet::new(),
            health_checks: HealthChecks::default(),
            gone_backends: Vec::new(),
            owners: Owners::default(),
        }
    }

    /// What is known of the cluster.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// How much of the tables is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state.usage()
    }

    /// How many Service ports have endpoints, and none here where they should.
    #[must_use]
    pub const fn no_local_endpoints(&self) -> NoLocalEndpoints {
        self.state.no_local_endpoints()
    }

    /// What the settings follow from, as far as the tables are in step.
    #[must_use]
    pub const fn datagrams(&self) -> Datagrams {
        self.owners.known()
    }

    /// How much the tables hold.
    #[must_use]
    pub const fn capacities(&self) -> Capacities {
        self.capacities
    }

    /// Takes in an update, and returns whether it changes anything for a Service. Touches no table.
    pub fn take(&mut self, update: Update) -> bool {
        match &update {
            Update::Service(Change::Reset(_)) => self.lists.services = true,
            Update::Slice(Change::Reset(_)) => self.lists.slices = true,
            Update::Node(Change::Reset(_)) => self.lists.nodes = true,
            Update::Service(_) | Update::Slice(_) | Update::Node(_) | Update::Facts(_) => {}
        }
        note(&update);
        let affected = self.index.update(update);
        let changes = !affected.is_empty();
        self.affected.merge(affected);
        changes
    }

    /// What is missing before a sync makes sense.
    #[must_use]
    pub fn need(&self) -> Need {
        match self.adopted {
            Adopted::No if !(self.lists.services && self.lists.slices) => Need::Lists,
            Adopted::No if !self.lists.nodes || self.index.lacks_facts() => Need::Node,
            Adopted::Yes if self.affected.is_empty() && !self.state.retry_is_due() => Need::Change,
            Adopted::No | Adopted::Yes => Need::Sync,
        }
    }

    /// Brings the tables in step with the index. The first time, and after a failure, everything is
    /// compared with what the tables really hold.
    ///
    /// # Errors
    /// The tables cannot be read or written. What was written before stays, and nothing is forgotten:
    /// the next sync starts from what the tables hold then.
    pub fn sync(&mut self) -> Result<Synced, T::Error> {
        let mut affected = std::mem::take(&mut self.affected);
        let (kind, changes) = match std::mem::replace(&mut self.adopted, Adopted::No) {
            Adopted::Yes => (SyncKind::Partial, self.state.reconcile(&self.index, &affected)),
            Adopted::No => {
                affected = Affected::All;
                let snapshot = self.tables.snapshot()?;
                // What is still there was not taken away after all, or will be now.
                self.gone_backends.retain(|gone| !snapshot.holds(gone));
                self.owners.adopt(&snapshot);
                self.state.adopt(&snapshot);
                (SyncKind::Full, self.state.complete(&self.index))
            }
        };
        self.gone_backends.extend(&changes.gone_backends);
        self.owners.change(&changes);
        let mut in_force = None;
        if !changes.is_empty() {
            let refused = self.tables.apply(&changes)?;
            in_force = self.tables.in_force();
            self.state.applied(&refused);
        }
        let in_force = in_force.unwrap_or_else(Instant::now);
        self.tables.name_pods(&self.state.pods(&self.index, &affected, written(&changes)));
        self.adopted = Adopted::Yes;
        let problems: BTreeSet<PlanProblem> = self.state.problems().into_iter().collect();
        let new_problems = problems.difference(&self.problems).cloned().collect();
        let solved_problems = self.problems.difference(&problems).cloned().collect();
        self.problems = problems;
        Ok(Synced {
            kind,
            in_force,
            writes: writes(&changes),
            new_problems,
            solved_problems,
            health_checks: self.health_checks.update(&self.index, &affected),
            gone_backends: std::mem::take(&mut self.gone_backends),
        })
    }
}

/// The Service ports of which backends are written.
fn written(changes: &Changes) -> impl Iterator<Item = ServiceId> {
    let v4 = changes.v4.backends.iter().map(|(_, backend)| backend.service());
    v4.chain(changes.v6.backends.iter().map(|(_, backend)| backend.service()))
}

fn writes(changes: &Changes) -> usize {
    let Changes { names, v4, v6, retired_names, gone_backends: _ } = changes;
    names.len() + retired_names.len() + family_writes(v4) + family_writes(v6)
}

fn family_writes<F: Family>(changes: &FamilyChanges<F>) -> usize {
    let FamilyChanges {
        backends,
        slots,
        source_ranges,
        services,
        removed_services,
        retired_backends,
        removed_source_ranges,
    } = changes;
    let slots: usize = slots.iter().map(|(_, run)| run.len()).sum();
    let inserted = backends.len() + slots + source_ranges.len() + services.len();
    inserted + removed_services.len() + retired_backends.len() + removed_source_ranges.len()
}

fn note(update: &Update) {
    match update {
        Update::Service(change) => note_change("Service", change, |service| &service.name),
        Update::Slice(change) => note_change("EndpointSlice", change, |slice| &slice.name),
        Update::Node(change) => note_change("Node", change, |node| &node.name),
        Update::Facts(facts) => debug!("this node has {} addresses", facts.addresses.len()),
    }
}

fn note_change<T>(kind: &str, change: &Change<T>, name: impl Fn(&T) -> &ObjectName) {
    match change {
        Change::Apply(object) => debug!("{kind} {} is there or has changed", name(object)),
        Change::Delete(object) => debug!("{kind} {object} is gone, or not for nodes"),
        Change::Reset(objects) => debug!("{kind}: complete list of {}", objects.len()),
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
