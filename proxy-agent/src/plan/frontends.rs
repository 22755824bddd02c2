//! Who has which frontend: one family's `services` table, installed and claimed.
//!
//! Several Services can claim one frontend, each for one of its ports; the oldest has it. What the
//! table should hold follows from the winner alone, so no order of updates can lose or swap an entry.

use std::collections::{BTreeSet, HashMap};

use proxy_common::{ServiceEntry, ServiceFlags, ServiceId, ServiceKey};

use super::record::Rank;

/// A Service port's claim to a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) rank: Rank,
    pub(super) id: ServiceId,
    pub(super) flags: ServiceFlags,
    pub(super) affinity_timeout: u32,
}

/// The frontends of one family.
#[derive(Clone, Debug)]
pub(super) struct Frontends<A> {
    capacity: usize,
    table: HashMap<ServiceKey<A>, State>,
    contested: BTreeSet<ServiceKey<A>>,
    touched: Vec<ServiceKey<A>>,
}

/// A frontend that is installed, claimed, or both.
#[derive(Clone, Debug, Default)]
struct State {
    installed: Option<ServiceEntry>,
    /// Sorted by rank, at most one of each Service: the first one has it.
    claims: Vec<Claim>,
}

/// What a table must be told to be as claimed.
#[derive(Debug)]
pub(super) struct Difference<A> {
    pub(super) services: Vec<(ServiceKey<A>, ServiceEntry)>,
    pub(super) removed_services: Vec<ServiceKey<A>>,
}

impl<A: Copy + Eq + Ord + std::hash::Hash> Frontends<A> {
    /// Frontends of a table that holds `installed`, with no claims.
    pub(super) fn new(capacity: usize, installed: impl Iterator<Item = (ServiceKey<A>, ServiceEntry)>) -> Self {
        let table = installed.map(|(key, entry)| (key, State { installed: Some(entry), claims: Vec::new() }));
        Self { capacity, table: table.collect(), contested: BTreeSet::new(), touched: Vec::new() }
    }

    /// The claim that has the frontend.
    pub(super) fn winner(&self, key: ServiceKey<A>) -> Option<&Claim> {
        self.table.get(&key)?.claims.first()
    }

    /// Whether the Service has the frontend once it claims it.
    pub(super) fn would_win(&self, key: ServiceKey<A>, rank: &Rank) -> bool {
        let claims = self.table.get(&key).map_or(&[][..], |state| &state.claims);
        // A present claim of the Service itself is about to be replaced.
        let rival = claims.iter().find(|claim| claim.rank.name != rank.name);
        rival.is_none_or(|rival| *rank < rival.rank)
    }

    /// How many entries too many the table would have with these frontends.
    pub(super) fn excess(&self, keys: impl Iterator<Item = ServiceKey<A>>) -> usize {
        let new = keys.filter(|key| !self.table.contains_key(key)).collect::<BTreeSet<_>>().len();
        if new == 0 { 0 } else { (self.table.len() + new).saturating_sub(self.capacity) }
    }

    /// How many entries the next difference removes, as far as is known by now.
    pub(super) fn removable(&self) -> usize {
        let touched: BTreeSet<_> = self.touched.iter().collect();
        let unclaimed = |key: &&ServiceKey<A>| self.table.get(key).is_some_and(|state| state.claims.is_empty());
        touched.into_iter().filter(unclaimed).count()
    }

    /// Replaces all claims of a Service: `old` by `new`. Returns the Services, other than this
    /// one, that gained or lost a frontend.
    pub(super) fn replace(
        &mut self,
        old: Vec<(ServiceKey<A>, ServiceId)>,
        new: Vec<(ServiceKey<A>, Claim)>,
    ) -> Vec<Rank> {
        let keys: BTreeSet<ServiceKey<A>> =
            old.iter().map(|&(key, _)| key).chain(new.iter().map(|&(key, _)| key)).collect();
        let before: Vec<Option<(Rank, ServiceId)>> = keys.iter().map(|&key| self.holder(key)).collect();
        for (key, id) in old {
            if let Some(state) = self.table.get_mut(&key) {
                state.claims.retain(|claim| claim.id != id);
            }
        }
        for (key, claim) in new {
            let claims = &mut self.table.entry(key).or_default().claims;
            let position = claims.partition_point(|other| other.rank < claim.rank);
            claims.reserve_exact(1);
            claims.insert(position, claim);
        }
        let mut moved = Vec::new();
        for (&key, before) in keys.iter().zip(before) {
            if self.table.get(&key).is_some_and(|state| state.claims.len() > 1) {
                self.contested.insert(key);
            } else {
                self.contested.remove(&key);
            }
            let after = self.holder(key);
            if before.as_ref().map(|(_, id)| id) != after.as_ref().map(|(_, id)| id) {
                moved.extend(before.into_iter().chain(after).map(|(rank, _)| rank));
            }
        }
        self.touched.extend(keys);
        moved
    }

    /// Has these frontends looked at in the next difference.
    pub(super) fn touch(&mut self, keys: impl Iterator<Item = ServiceKey<A>>) {
        self.touched.extend(keys);
    }

    /// Has all frontends looked at in the next difference.
    pub(super) fn touch_all(&mut self) {
        self.touched = self.table.keys().copied().collect();
    }

    /// Forgets the frontends that are to be looked at and that nobody claims, as if they were
    /// removed. There are none after [`Self::settle`].
    pub(super) fn forget_unclaimed(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            if self.table.get(&key).is_some_and(|state| state.claims.is_empty()) {
                self.table.remove(&key);
            }
        }
    }

    /// The difference between what is installed and what the winners, whose entries `entry` tells,
    /// should have; counts it as installed.
    pub(super) fn settle(&mut self, entry: impl Fn(&Claim) -> Option<ServiceEntry>) -> Difference<A> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let mut difference = Difference { services: Vec::new(), removed_services: Vec::new() };
        for key in touched {
            let Some(state) = self.table.get_mut(&key) else { continue };
            let wanted = state.claims.first().and_then(&entry);
            match (wanted, state.installed) {
                (Some(wanted), installed) if installed != Some(wanted) => difference.services.push((key, wanted)),
                (None, Some(_)) => difference.removed_services.push(key),
                _ => {}
            }
            state.installed = wanted;
            if state.claims.is_empty() {
                self.table.remove(&key);
            }
        }
        difference
    }

    /// Notes that the table had no room for a frontend; returns the Service that goes without.
    pub(super) fn refused(&mut self, key: ServiceKey<A>) -> Option<Rank> {
        let state = self.table.get_mut(&key)?;
        state.installed = None;
        let holder = state.claims.first().map(|claim| claim.rank.clone());
        if state.claims.is_empty() {
            self.table.remove(&key);
        }
        holder
    }

    /// Frontends with more than one claim, the winner's first.
    pub(super) fn contested(&self) -> impl Iterator<Item = (ServiceKey<A>, &[Claim])> {
        self.contested.iter().filter_map(|key| Some((*key, self.table.get(key)?.claims.as_slice())))
    }

    /// How many frontends are installed or claimed.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    fn holder(&self, key: ServiceKey<A>) -> Option<(Rank, ServiceId)> {
        self.winner(key).map(|claim| (claim.rank.clone(), claim.id))
    }
}
