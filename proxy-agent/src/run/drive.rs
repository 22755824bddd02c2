//! The run loop: what comes from the sources goes into the engine, and the engine's syncs happen when
//! they can.

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use thiserror::Error;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::{mpsc, watch},
    task::JoinError,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    datagrams::Datagrams,
    engine::{Engine, Need, Synced},
};
use crate::{
    dataplane::stranded::GoneBackends,
    error::one_line,
    model::{Change, EndpointSlice, IpFamily, Node, Update},
    notices::{Notice, Notices, Reason, Subject},
    plan::{PlanProblem, Tables},
    server::{Health, HealthCheckServers, Metrics, SyncKind},
    source::Arrival,
};

/// How long the Node and the facts of its network are waited for once everything else is there.
const NODE_PATIENCE: Duration = Duration::from_secs(5);
/// Wait after the first failure of a sync; it doubles with each that follows.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait after a failure of a sync.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Updates that are taken in at once.
const BURST: usize = 4096;
/// Changes whose times are kept until they are in the tables; if more wait, as while the tables cannot be written, those that
/// came first count.
const TIMED: usize = 1 << 16;

/// Where the loop tells what it does.
pub struct Observers {
    /// For `/healthz`.
    pub health: Arc<Health>,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For sockets that are connected to endpoints that are gone.
    pub gone_backends: GoneBackends,
    /// For load balancers that ask for single Services.
    pub health_checks: HealthCheckServers,
    /// For the owners of Services that cannot be served.
    pub notices: Arc<dyn Notices>,
    /// For whoever has to do with the node: how far the loop is, and the Node.
    pub progress: watch::Sender<Progress>,
}

/// How far the loop is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The own Node, once it is known.
    pub node: Option<Node>,
    /// Whether the tables were in step at least once.
    pub stage: Stage,
    /// What is to be known of UDP frontends.
    pub datagrams: Datagrams,
    /// The addresses for which [`NodeFacts::sources`](crate::model::NodeFacts::sources) counts.
    pub guarded: BTreeSet<IpAddr>,
}

/// Whether the tables were in step at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// They hold what a former agent left, or nothing.
    #[default]
    Starting,
    /// They do.
    Ready,
}

/// Why the loop cannot go on. The dataplane stays as it is.
#[derive(Debug, Error)]
pub enum DriveError {
    /// Nobody sends updates any more.
    #[error("all sources of objects have ended")]
    NoSource,
    /// A bug.
    #[error("writing the tables was aborted: {0}")]
    Aborted(#[from] JoinError),
}

/// A runtime for [`drive`] that is nothing but a thread for writing tables.
///
/// Threads that all blocking work shares take turns, which costs more than many a write does, and some of that work, such as asking for
/// the address of the API server, takes long.
///
/// # Errors
/// What the kernel says.
pub fn writer() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().max_blocking_threads(1).build()
}

/// Keeps the tables in step with what comes through `updates`, until `stop`. They are written where `writer` runs what blocks.
///
/// # Errors
/// The sources have ended, or there is a bug. Errors of the dataplane are told and repaired.
pub async fn drive<T: Tables + Send + 'static>(
    engine: Engine<T>,
    mut updates: mpsc::Receiver<Arrival>,
    observers: Observers,
    writer: Handle,
    stop: impl Future<Output = ()>,
) -> Result<(), DriveError> {
    let mut stop = pin!(stop);
    let mut driver = Driver::new(observers);
    let mut engine = engine;
    let mut burst = Vec::new();
    loop {
        let due = driver.due(&engine);
        if due.is_some_and(|due| due <= Instant::now()) {
            let begin = Instant::now();
            let sync = writer.spawn_blocking(move || {
                let result = engine.sync();
                (engine, result)
            });
            let result = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                done = sync => {
                    let result;
                    (engine, result) = done?;
                    result
                }
            };
            driver.synced(&engine, result, begin);
        }
        let wake = async {
            match driver.due(&engine) {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            received = updates.recv_many(&mut burst, BURST) => {
                if received == 0 {
                    return Err(DriveError::NoSource);
                }
                driver.take(&mut engine, &mut burst);
            }
            () = wake => {}
        }
    }
}

struct Driver {
    observers: Observers,
    begin: Instant,
    /// Changes of endpoints that happened before do not say how long this agent takes.
    since: SystemTime,
    /// When the changes happened that the next sync carries out, and in which family.
    triggers: Vec<(IpFamily, Timestamp)>,
    /// The families that the next sync is about.
    families: BTreeSet<IpFamily>,
    /// When the agent learned of the changes that the next sync carries out. Complete lists are none.
    arrivals: Vec<Instant>,
    node_deadline: Option<Instant>,
    has_known_node: bool,
    /// When to try again, and how long to wait after one more failure.
    retry: Option<(Instant, Duration)>,
}

impl Driver {
    fn new(observers: Observers) -> Self {
        Self {
            observers,
            begin: Instant::now(),
            since: SystemTime::now(),
            triggers: Vec::new(),
            families: BTreeSet::new(),
            arrivals: Vec::new(),
            node_deadline: None,
            has_known_node: false,
            retry: None,
        }
    }

    /// When to sync, as things stand.
    fn due<T: Tables + Send + 'static>(&mut self, engine: &Engine<T>) -> Option<Instant> {
        let due = match engine.need() {
            Need::Lists | Need::Change => return None,
            Need::Node => *self.node_deadline.get_or_insert_with(|| Instant::now() + NODE_PATIENCE),
            Need::Sync => Instant::now(),
        };
        Some(self.retry.map_or(due, |(at, _)| due.max(at)))
    }

    fn take<T: Tables + Send + 'static>(&mut self, engine: &mut Engine<T>, burst: &mut Vec<Arrival>) {
        let (mut services, mut slices) = (0, 0);
        let mut may_guard = false;
        for Arrival { update, at } in burst.drain(..) {
            if let Some(kind) = update.kind() {
                self.observers.metrics.freshness().heard(kind);
            }
            let counter = match &update {
                Update::Service(_) => Some(&mut services),
                Update::Slice(_) => Some(&mut slices),
                Update::Node(_) | Update::Facts(_) => None,
            };
            let trigger = trigger(&update, self.since);
            let families = families(&update);
            let is_change = is_change(&update);
            may_guard |= matches!(update, Update::Service(_));
            if engine.take(update) {
                if let Some(counter) = counter {
                    *counter += 1;
                }
                self.families.extend(families);
                if self.triggers.len() < TIMED {
                    self.triggers.extend(trigger);
                }
                if is_change && self.arrivals.len() < TIMED {
                    self.arrivals.push(at);
                }
            }
        }
        let Observers { health, metrics, health_checks: _, gone_backends: _, notices: _, progress } = &self.observers;
        let node = engine.index().node();
        // One that is gone was being deleted.
        health.set_leaving(node.map_or(self.has_known_node, |node| node.leaving));
        self.has_known_node |= node.is_some();
        progress.send_if_modified(|progress| {
            let is_known = progress.node.as_ref() == node;
            // Only Services have such addresses. Slices change all the time.
            let are_known = !may_guard || progress.guarded.iter().copied().eq(engine.index().guarded_addresses());
            if !is_known {
                progress.node = node.cloned();
            }
            if !are_known {
                progress.guarded = engine.index().guarded_addresses().collect();
            }
            !(is_known && are_known)
        });
        if engine.need() != Need::Change {
            let now = Timestamp::now();
            health.queued(now);
            metrics.queued(services, slices, &self.families, now);
        }
    }

    fn synced<T: Tables + Send + 'static>(
        &mut self,
        engine: &Engine<T>,
        result: Result<Synced, T::Error>,
        begin: Instant,
    ) {
        let Observers { health, metrics, health_checks: servers, gone_backends: stranded, notices, progress } =
            &self.observers;
        match result {
            Ok(Synced { kind, in_force, writes, new_problems, solved_problems, health_checks, gone_backends }) => {
                servers.update(health_checks);
                // A sync does not wait for sockets.
                let count = gone_backends.len();
                if count > 0 && stranded.try_send(gone_backends).is_err() {
                    warn!(
                        "UDP sockets connected to one of {count} endpoints that are gone are not told: too many at once"
                    );
                }
                for problem in new_problems {
                    warn!("{problem}");
                    notices.tell(notice(problem));
                }
                for problem in solved_problems {
                    info!("no longer: {problem}");
                }
                let now = Timestamp::now();
                let first = !health.was_synced();
                health.synced(now);
                metrics.freshness().synced();
                // What looks at everything, or tries again what had no room, is about both.
                if kind == SyncKind::Full || self.families.is_empty() {
                    self.families.extend(IpFamily::ALL);
                }
                metrics.synced(kind, &self.families, begin.elapsed(), &self.triggers, now);
                self.families.clear();
                metrics.set_usage(engine.usage(), engine.capacities());
                metrics.set_no_local_endpoints(engine.no_local_endpoints());
                self.triggers.clear();
                metrics.in_tables(self.arrivals.drain(..).map(|at| in_force.duration_since(at.into_std())));
                progress.send_if_modified(|progress| {
                    let datagrams = engine.datagrams();
                    let was_ready = std::mem::replace(&mut progress.stage, Stage::Ready) == Stage::Ready;
                    !was_ready | (std::mem::replace(&mut progress.datagrams, datagrams) != datagrams)
                });
                if first {
                    self.tell_first(engine, writes, begin);
                } else if self.retry.is_some() {
                    info!("the tables are in step again ({writes} writes)");
                } else if kind == SyncKind::Full || writes > 0 {
                    debug!("tables in step after {:.1?} ({writes} writes)", begin.elapsed());
                }
                self.retry = None;
            }
            Err(error) => {
                metrics.sync_failed();
                let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LAST_RETRY));
                warn!("the tables cannot be brought in step: {}; next try in {wait:?}", one_line(&error));
                self.retry = Some((Instant::now() + wait, wait));
            }
        }
    }

    fn tell_first<T: Tables + Send + 'static>(&self, engine: &Engine<T>, writes: usize, begin: Instant) {
        let index = engine.index();
        let services = index.services().count();
        let endpoints: usize =
            index.services().flat_map(|service| index.slices(&service.name)).map(|slice| slice.endpoints.len()).sum();
        if index.node().is_none() {
            info!("Node {} is not known; its zone counts as unknown until it is", index.node_name());
        }
        info!(
            "tables filled: {services} Services with {endpoints} endpoints, listed after {:.1?}, written in {:.1?} \
             ({writes} writes)",
            begin.duration_since(self.begin),
            begin.elapsed()
        );
    }
}

/// Whether a single object has come, changed or gone.
const fn is_change(update: &Update) -> bool {
    matches!(
        update,
        Update::Service(Change::Apply(_) | Change::Delete(_)) | Update::Slice(Change::Apply(_) | Change::Delete(_))
    )
}

/// The families whose tables the update may change.
fn families(update: &Update) -> &'static [IpFamily] {
    match update {
        Update::Slice(Change::Apply(slice)) => match slice.family {
            IpFamily::V4 => &[IpFamily::V4],
            IpFamily::V6 => &[IpFamily::V6],
        },
        _ => &IpFamily::ALL,
    }
}

/// What the owner of a Service is to know of a problem.
fn notice(problem: PlanProblem) -> Notice {
    let text = problem.to_string();
    let (service, reason) = match problem {
        PlanProblem::Clash { service, .. } => (service, Reason::FrontendTaken),
        PlanProblem::NoRoom { service, .. } => (service, Reason::NoRoom),
    };
    Notice { subject: Subject::Service(service), reason, text }
}

/// When the change happened that the update is the outcome of, if it happened after `since`, and in which family.
fn trigger(update: &Update, since: SystemTime) -> Option<(IpFamily, Timestamp)> {
    let Update::Slice(Change::Apply(EndpointSlice { last_change_trigger: Some(trigger), family, .. })) = update else {
        return None;
    };
    if *trigger < since { None } else { Some((*family, Timestamp::try_from(*trigger).ok()?)) }
}
