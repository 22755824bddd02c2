//! When to try again, and how often to say so.

use std::time::Duration;

use kube::runtime::watcher::DefaultBackoff;
use tokio::time::Instant;
use tracing::{info, warn};

/// The same failure is told once in this time.
const REPEAT: Duration = Duration::from_mins(1);
/// A different failure is told after this time.
const DIFFERENT: Duration = Duration::from_secs(5);

/// The state of retrying one thing.
pub(super) struct Retry {
    what: String,
    /// 0.8 to 30 seconds, doubling; from the start again after two minutes without a failure.
    backoff: DefaultBackoff,
    told: Option<(Instant, String)>,
    untold: u32,
}

impl Retry {
    /// `what`: the subject of the messages, in the plural.
    pub(super) fn new(what: String) -> Self {
        Self { what, backoff: DefaultBackoff::default(), told: None, untold: 0 }
    }

    /// Notes a failure; returns how long to wait before the next try. `failure` is a verb phrase.
    pub(super) fn failed(&mut self, failure: &str, now: Instant) -> Duration {
        let wait = self.backoff.next().unwrap_or(Duration::from_secs(30));
        let tell = self
            .told
            .as_ref()
            .is_none_or(|(last, text)| now.duration_since(*last) >= if text == failure { REPEAT } else { DIFFERENT });
        if tell {
            let untold = match std::mem::take(&mut self.untold) {
                0 => String::new(),
                count => format!(" ({count} failures since the last message)"),
            };
            warn!("{} {failure}; next try in {wait:.1?}, what is known stays in force{untold}", self.what);
            self.told = Some((now, failure.to_owned()));
        } else {
            self.untold += 1;
        }
        wait
    }

    /// Notes that it works.
    pub(super) fn works(&mut self) {
        if self.told.take().is_some() {
            info!("{} arrive again", self.what);
            self.untold = 0;
        }
    }
}
