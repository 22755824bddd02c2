//! Whether the node is served: kube-proxy's `ProxyHealthServer` (KEP-3836).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::model::IpFamily;

/// What the run loop does, and whether that is healthy. Times are passed in.
#[derive(Debug)]
pub struct Health {
    /// How long an update may wait.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Time of the last sync of each family that ever had one.
    synced: BTreeMap<IpFamily, Timestamp>,
    /// Since when the oldest update waits that is not in the tables yet.
    queued: BTreeMap<IpFamily, Timestamp>,
    /// The Node is being deleted, or the autoscaler is about to remove it.
    leaving: bool,
    /// The programs are attached.
    attached: bool,
}

/// What `/healthz` and `/livez` say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// Time of the last sync; now, if everything is healthy.
    pub last_updated: Timestamp,
    /// Now.
    pub current_time: Timestamp,
    /// Whether the node may get traffic from load balancers; `/livez` does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    /// Whether no family has an update waiting for too long.
    pub healthy: bool,
    /// Each family that was ever synced.
    pub status: BTreeMap<String, FamilyHealth>,
}

/// The health of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyHealth {
    /// Time of the last sync.
    pub last_updated: Timestamp,
    /// Whether no update waits for too long.
    pub healthy: bool,
}

impl Health {
    /// Nothing synced yet, which is healthy. An update may wait for twice `sync_period`.
    #[must_use]
    pub fn new(sync_period: Duration) -> Self {
        Self { patience: sync_period * 2, state: Mutex::default() }
    }

    /// An update has arrived that is not in the tables yet.
    pub fn queued(&self, now: Timestamp) {
        let mut state = self.lock();
        for family in [IpFamily::V4, IpFamily::V6] {
            state.queued.entry(family).or_insert(now);
        }
    }

    /// Everything that had arrived is in the tables.
    pub fn synced(&self, now: Timestamp) {
        let mut state = self.lock();
        state.queued.clear();
        for family in [IpFamily::V4, IpFamily::V6] {
            state.synced.insert(family, now);
        }
    }

    /// Whether the own Node is about to go.
    pub fn set_leaving(&self, leaving: bool) {
        self.lock().leaving = leaving;
    }

    /// The programs are attached.
    pub fn attached(&self) {
        self.lock().attached = true;
    }

    /// Whether everything was in the tables at least once.
    #[must_use]
    pub fn was_synced(&self) -> bool {
        !self.lock().synced.is_empty()
    }

    /// Whether the node is served: everything was in the tables, and the programs are attached.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        state.attached && !state.synced.is_empty()
    }

    /// What `/healthz` says.
    #[must_use]
    pub fn healthz(&self, now: Timestamp) -> HealthReport {
        let eligible = !self.lock().leaving;
        HealthReport { node_eligible: Some(eligible), ..self.livez(now) }
    }

    /// What `/livez` says.
    #[must_use]
    pub fn livez(&self, now: Timestamp) -> HealthReport {
        let state = self.lock();
        let patience = jiff::SignedDuration::try_from(self.patience).unwrap_or(jiff::SignedDuration::MAX);
        let late = |family| state.queued.get(family).is_some_and(|since| now.duration_since(*since) >= patience);
        // A family that never synced is starting up, not late.
        let status: BTreeMap<String, FamilyHealth> = state
            .synced
            .iter()
            .map(|(family, synced)| {
                (family.to_string(), FamilyHealth { last_updated: *synced, healthy: !late(family) })
            })
            .collect();
        let healthy = status.values().all(|family| family.healthy);
        let newest = status.values().map(|family| family.last_updated).max().unwrap_or_default();
        HealthReport {
            last_updated: if healthy { now } else { newest },
            current_time: now,
            node_eligible: None,
            healthy,
            status,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment, so it is never left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthReport {
    /// Whether the answer is 200: healthy, and not about to go.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().expect("a time") + seconds.seconds()
    }

    #[test]
    fn what_never_synced_is_not_late() {
        let health = Health::new(Duration::from_secs(30));
        health.queued(at(0));
        let report = health.healthz(at(1000));
        assert!(report.is_ok());
        assert!(report.status.is_empty());
        assert!(!health.is_ready());
    }

    #[test]
    fn an_update_may_wait_for_twice_the_sync_period() {
        let health = Health::new(Duration::from_secs(30));
        health.synced(at(0));
        health.queued(at(10));
        health.queued(at(50));
        assert!(health.livez(at(69)).is_ok());
        let late = health.livez(at(70));
        assert!(!late.is_ok());
        assert_eq!(late.last_updated, at(0));
        health.synced(at(75));
        assert!(health.livez(at(1000)).is_ok());
        assert_eq!(health.livez(at(1000)).last_updated, at(1000));
    }

    #[test]
    fn ready_is_filled_tables_and_attached_programs() {
        let health = Health::new(Duration::from_secs(30));
        health.attached();
        assert!(!health.is_ready());
        health.synced(at(0));
        assert!(health.is_ready());
    }

    #[test]
    fn a_node_that_leaves_is_not_eligible_but_alive() {
        let health = Health::new(Duration::from_secs(30));
        health.synced(at(0));
        health.set_leaving(true);
        assert!(!health.healthz(at(1)).is_ok());
        assert!(health.healthz(at(1)).healthy);
        assert!(health.livez(at(1)).is_ok());
    }

    #[test]
    fn the_body_is_kube_proxys() {
        let health = Health::new(Duration::from_secs(30));
        health.synced(at(0));
        health.queued(at(0));
        let body = serde_json::to_value(health.healthz(at(60))).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({
                "lastUpdated": "2026-01-01T00:00:00Z",
                "currentTime": "2026-01-01T00:01:00Z",
                "nodeEligible": true,
                "healthy": false,
                "status": {
                    "IPv4": {"lastUpdated": "2026-01-01T00:00:00Z", "healthy": false},
                    "IPv6": {"lastUpdated": "2026-01-01T00:00:00Z", "healthy": false},
                },
            })
        );
        let body = serde_json::to_value(health.livez(at(1))).expect("JSON");
        assert_eq!(body.get("nodeEligible"), None);
    }
}
