//! How many Events there may be.

use std::time::Duration;

use tokio::time::Instant;

/// Events at once.
const BURST: u32 = 25;
/// Time for each that comes after them.
const EACH: Duration = Duration::from_secs(2);

/// Lets so many Events pass at once, and others one by one.
#[derive(Debug)]
pub(super) struct Pace {
    /// When everything that was let pass is paid for.
    paid: Instant,
}

impl Pace {
    /// Nothing was let pass yet.
    pub(super) const fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// How long the next one has to wait.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.paid = self.paid.max(now) + EACH;
        self.paid.saturating_duration_since(now).saturating_sub(EACH * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_pass_at_once_and_others_wait_for_their_turn() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..BURST {
            assert_eq!(pace.wait(now), Duration::ZERO);
        }
        assert_eq!(pace.wait(now), EACH);
        assert_eq!(pace.wait(now + EACH), EACH, "it waited, and is the next");
        assert_eq!(pace.wait(now + EACH * 3 * BURST), Duration::ZERO, "after a while of silence");
    }
}
