//! How many decisions are printed in a second.

use std::num::NonZeroU32;

/// Shows so many in a second, and counts the others.
#[derive(Debug)]
pub(super) struct Limit {
    most: NonZeroU32,
    second: u64,
    shown: u32,
    left_out: u64,
}

/// What becomes of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) is_shown: bool,
    /// Others, of seconds that are over, that were not shown and about which nobody has been told.
    pub(super) left_out: u64,
}

impl Limit {
    pub(super) const fn new(limit: NonZeroU32) -> Self {
        Self { most: limit, second: 0, shown: 0, left_out: 0 }
    }

    /// Whether one more is shown, which was made in this second of any clock.
    pub(super) fn admit(&mut self, second: u64) -> Admission {
        let mut left_out = 0;
        if self.second != second {
            (self.second, self.shown) = (second, 0);
            left_out = std::mem::take(&mut self.left_out);
        }
        let is_shown = self.shown < self.most.get();
        if is_shown {
            self.shown += 1;
        } else {
            self.left_out += 1;
        }
        Admission { is_shown, left_out }
    }
}
