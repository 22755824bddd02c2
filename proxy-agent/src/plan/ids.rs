//! Numbers that stand for something in the tables, given out and taken back.

use std::collections::{BTreeSet, VecDeque};

/// A pool of the numbers from 1 to a greatest one.
///
/// What was given back is given out again as late as possible: only when every number was used
/// once, and then the one that has been free for the longest time. A flow that outlives what its
/// number stood for is thus unlikely to meet another meaning of it.
#[derive(Clone, Debug)]
pub(super) struct IdPool {
    greatest: u32,
    /// The least number that was never given out.
    next: u32,
    free: VecDeque<u32>,
    used: usize,
}

impl IdPool {
    /// A pool in which the numbers in `used` are given out; those above `greatest` are not its own.
    /// Since when the others are free is not known: those above all in `used` come first.
    pub(super) fn new(greatest: u32, used: &BTreeSet<u32>) -> Self {
        let newest = used.range(1..=greatest).next_back().copied().unwrap_or(0);
        let free: VecDeque<u32> = (1..newest).filter(|number| !used.contains(number)).collect();
        let used = usize::try_from(newest).unwrap_or(usize::MAX) - free.len();
        Self { greatest, next: newest.saturating_add(1), free, used }
    }

    /// Gives out a number; `None` if all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        let number = if self.next <= self.greatest {
            self.next += 1;
            self.next - 1
        } else {
            self.free.pop_front()?
        };
        self.used += 1;
        Some(number)
    }

    /// Takes a number back that nothing names any more.
    pub(super) fn release(&mut self, number: u32) {
        if (1..=self.greatest).contains(&number) {
            self.used -= 1;
            self.free.push_back(number);
        }
    }

    /// Takes back a number that was given out and never used. The last one that was given out is
    /// the first to be taken back.
    pub(super) fn undo(&mut self, number: u32) {
        self.used -= 1;
        if number + 1 == self.next {
            self.next = number;
        } else {
            self.free.push_front(number);
        }
    }

    /// How many numbers are given out.
    pub(super) const fn used(&self) -> usize {
        self.used
    }
}
