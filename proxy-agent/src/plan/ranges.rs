//! One family's `source_ranges` table, installed and wanted.
//!
//! What the table should hold follows from what the ports want at the end of a round, so no order of
//! updates can lose a range: that would shut out clients.

use std::collections::BTreeMap;

use proxy_common::SourceRangeKey;

/// The source ranges of one family. A range has its Service port's number in it, so only one port can
/// want it.
#[derive(Clone, Debug)]
pub(super) struct Ranges<A> {
    capacity: usize,
    table: BTreeMap<SourceRangeKey<A>, State>,
    touched: Vec<SourceRangeKey<A>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Wanted, and not installed yet.
    New,
    /// Wanted and installed.
    Settled,
    /// Installed, and not wanted.
    Stray,
}

/// What a table must be told to be as wanted.
#[derive(Debug)]
pub(super) struct Difference<A> {
    pub(super) source_ranges: Vec<SourceRangeKey<A>>,
    pub(super) removed_source_ranges: Vec<SourceRangeKey<A>>,
}

impl<A: Copy + Ord> Ranges<A> {
    /// Ranges of a table that holds `installed`, none of which is wanted.
    pub(super) fn new(capacity: usize, installed: impl Iterator<Item = SourceRangeKey<A>>) -> Self {
        Self { capacity, table: installed.map(|range| (range, State::Stray)).collect(), touched: Vec::new() }
    }

    /// How many of these the table does not have.
    pub(super) fn missing(&self, ranges: &[SourceRangeKey<A>]) -> usize {
        ranges.iter().filter(|range| !self.table.contains_key(range)).count()
    }

    /// How many entries too many the table would have with this many more.
    pub(super) fn excess(&self, more: usize) -> usize {
        if more == 0 { 0 } else { (self.table.len() + more).saturating_sub(self.capacity) }
    }

    /// How many entries the next difference removes, as far as is known by now.
    pub(super) fn removable(&self) -> usize {
        let mut touched = self.touched.clone();
        touched.sort_unstable();
        touched.dedup();
        touched.iter().filter(|range| self.table.get(range) == Some(&State::Stray)).count()
    }

    /// Some ports want `new` instead of `old`.
    pub(super) fn replace(
        &mut self,
        old: impl Iterator<Item = SourceRangeKey<A>>,
        new: impl Iterator<Item = SourceRangeKey<A>>,
    ) {
        for range in old {
            self.touched.push(range);
            match self.table.get_mut(&range) {
                Some(state @ State::Settled) => *state = State::Stray,
                Some(State::New) => drop(self.table.remove(&range)),
                Some(State::Stray) | None => {}
            }
        }
        for range in new {
            self.touched.push(range);
            let state = self.table.entry(range).or_insert(State::New);
            if *state == State::Stray {
                *state = State::Settled;
            }
        }
    }

    /// Has all ranges looked at in the next difference.
    pub(super) fn touch_all(&mut self) {
        self.touched = self.table.keys().copied().collect();
    }

    /// Forgets the ranges that are to be looked at and that nobody wants, as if they were removed.
    /// There are none after [`Self::settle`].
    pub(super) fn forget_strays(&mut self) {
        for range in std::mem::take(&mut self.touched) {
            if self.table.get(&range) == Some(&State::Stray) {
                self.table.remove(&range);
            }
        }
    }

    /// The difference between what is installed and what is wanted; counts it as installed.
    pub(super) fn settle(&mut self) -> Difference<A> {
        let mut difference = Difference { source_ranges: Vec::new(), removed_source_ranges: Vec::new() };
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for range in touched {
            match self.table.get_mut(&range) {
                Some(state @ State::New) => {
                    *state = State::Settled;
                    difference.source_ranges.push(range);
                }
                Some(State::Stray) => {
                    self.table.remove(&range);
                    difference.removed_source_ranges.push(range);
                }
                Some(State::Settled) | None => {}
            }
        }
        difference
    }

    /// How many ranges are installed or wanted.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}
