//! How old what the tables hold may be: the seam between the sources and the run loop, who know, and metrics and `status`, which tell.
//!
//! Times are wall-clock time in whole seconds since 1970, so that they still mean something to whoever reads them after the agent
//! has ended.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::model::Kind;

/// The kinds of objects that a source tells of.
pub const KINDS: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Node];

/// What is known of a kind. Zero stands for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindTimes {
    /// When a complete list or a change came last.
    pub heard: u64,
    /// Since when the source cannot be listed or watched; zero while it can.
    pub failing: u64,
}

/// All times at once. Zero stands for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When the tables were last in step with what was known.
    pub synced: u64,
    /// For each of [`KINDS`].
    pub kinds: [KindTimes; 3],
}

/// Collects the times.
#[derive(Debug, Default)]
pub struct Freshness {
    synced: AtomicU64,
    heard: [AtomicU64; 3],
    failing: [AtomicU64; 3],
}

impl Freshness {
    /// A list of this kind or a change came.
    pub fn heard(&self, kind: Kind) {
        self.heard[index(kind)].store(now(), Ordering::Relaxed);
    }

    /// This kind cannot be listed or watched. Only the first failure counts.
    pub fn fails(&self, kind: Kind) {
        // That it was failing before is no error.
        let _ = self.failing[index(kind)].compare_exchange(0, now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// It can be again.
    pub fn works(&self, kind: Kind) {
        self.failing[index(kind)].store(0, Ordering::Relaxed);
    }

    /// The tables are in step with what is known.
    pub fn synced(&self) {
        self.synced.store(now(), Ordering::Relaxed);
    }

    /// The times so far.
    #[must_use]
    pub fn times(&self) -> Times {
        let kind = |index: usize| KindTimes {
            heard: self.heard[index].load(Ordering::Relaxed),
            failing: self.failing[index].load(Ordering::Relaxed),
        };
        Times { synced: self.synced.load(Ordering::Relaxed), kinds: [0, 1, 2].map(kind) }
    }
}

const fn index(kind: Kind) -> usize {
    match kind {
        Kind::Service => 0,
        Kind::EndpointSlice => 1,
        Kind::Node => 2,
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The seconds from `time` until `now`; `None` for never.
#[must_use]
pub const fn age(time: u64, now: u64) -> Option<u64> {
    if time == 0 { None } else { Some(now.saturating_sub(time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_failures_counts_until_it_works_again() {
        let freshness = Freshness::default();
        freshness.failing[1].store(7, Ordering::Relaxed);
        freshness.fails(Kind::EndpointSlice);
        freshness.fails(Kind::Service);
        let [services, slices, nodes] = freshness.times().kinds;
        assert_eq!((slices.failing, nodes.failing), (7, 0));
        assert!(services.failing > 7);
        freshness.works(Kind::EndpointSlice);
        assert_eq!(freshness.times().kinds[1].failing, 0);
    }

    #[test]
    fn what_never_was_has_no_age() {
        assert_eq!((age(0, 10), age(4, 10), age(11, 10)), (None, Some(6), Some(0)));
    }
}
