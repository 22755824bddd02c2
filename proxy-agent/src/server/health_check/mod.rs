//! The ports on which load balancers ask whether this node has endpoints of a Service
//! (`healthCheckNodePort`): one small server for each Service that has one.
//!
//! Owns the servers: opens, changes and closes them, and tries a port again that cannot be opened. Never
//! decides which Service has one, or counts endpoints: that is [`HealthCheckChange`]s.

mod answer;
mod listen;

use std::{collections::BTreeMap, future::pending, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

pub use self::listen::ALL_ADDRESSES;
use self::{
    answer::{Check, routes},
    listen::{PortError, listen_on},
};
use super::Health;
use crate::{
    model::ObjectName,
    notices::{Notice, Notices, Reason},
    plan::HealthCheckChange,
};

/// Wait after a port could not be opened; it doubles with each try that follows.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between two tries.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The servers of all Services that have one. They end with the task that they run in.
#[derive(Clone, Debug)]
pub struct HealthCheckServers(mpsc::UnboundedSender<Vec<HealthCheckChange>>);

impl HealthCheckServers {
    /// No servers yet. Those to come listen on these addresses, see [`ALL_ADDRESSES`].
    #[must_use]
    pub fn start(
        addresses: Vec<IpAddr>,
        health: Arc<Health>,
        notices: Arc<dyn Notices>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let keeper = Keeper { addresses, health, notices, servers: BTreeMap::new() };
        tasks.spawn(keeper.run(receiver));
        Self(sender)
    }

    /// Opens, changes and closes servers, soon.
    pub fn update(&self, changes: Vec<HealthCheckChange>) {
        if !changes.is_empty() {
            // Nobody listens only while the agent ends.
            let _ = self.0.send(changes);
        }
    }
}

struct Keeper {
    addresses: Vec<IpAddr>,
    health: Arc<Health>,
    notices: Arc<dyn Notices>,
    servers: BTreeMap<ObjectName, Server>,
}

struct Server {
    port: u16,
    check: Arc<Check>,
    state: State,
}

enum State {
    /// The tasks that listen.
    Open(JoinSet<()>),
    /// Nobody listens. `wait`: how long after the last try the next one is; `None` before the first one.
    Closed { next_try: Instant, wait: Option<Duration> },
}

impl Keeper {
    async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Vec<HealthCheckChange>>) {
        loop {
            let next_try = self.servers.values().filter_map(Server::next_try).min();
            let wake = async {
                match next_try {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                received = changes.recv() => match received {
                    Some(changes) => self.update(changes).await,
                    None => return,
                },
                () = wake => {}
            }
            self.open();
        }
    }

    /// Ports that are given up are free when this returns, whoever wants them next.
    async fn update(&mut self, changes: Vec<HealthCheckChange>) {
        for HealthCheckChange { service, check } in &changes {
            let wanted = check.map(|check| check.port.get());
            if self.servers.get(service).is_some_and(|server| Some(server.port) != wanted)
                && let Some(server) = self.servers.remove(service)
            {
                let port = server.port;
                server.close().await;
                self.servers.values_mut().filter(|other| other.port == port).for_each(Server::try_now);
            }
        }
        for HealthCheckChange { service, check } in changes {
            let Some(wanted) = check else { continue };
            if let Some(server) = self.servers.get(&service) {
                server.check.set_local_endpoints(wanted.local_endpoints);
            } else {
                let check = Check::new(service.clone(), Arc::clone(&self.health), wanted.local_endpoints);
                let state = State::Closed { next_try: Instant::now(), wait: None };
                self.servers.insert(service, Server { port: wanted.port.get(), check: Arc::new(check), state });
            }
        }
    }

    /// Opens what is due.
    fn open(&mut self) {
        let now = Instant::now();
        for (service, server) in &mut self.servers {
            if server.next_try().is_none_or(|at| at > now) {
                continue;
            }
            if let Err(error) = server.open(service, &self.addresses) {
                let text = format!("health check port {} cannot be opened: {error}", server.port);
                warn!("Service {service}: {text}; trying again until it can");
                self.notices.tell(Notice { service: service.clone(), reason: Reason::HealthCheckPort, text });
            }
        }
    }
}

impl Server {
    fn next_try(&self) -> Option<Instant> {
        match self.state {
            State::Open(_) => None,
            State::Closed { next_try, .. } => Some(next_try),
        }
    }

    fn try_now(&mut self) {
        if let State::Closed { next_try, .. } = &mut self.state {
            *next_try = Instant::now();
        }
    }

    /// Tries to open the port.
    ///
    /// # Errors
    /// It cannot be opened, and that is news.
    fn open(&mut self, service: &ObjectName, addresses: &[IpAddr]) -> Result<(), PortError> {
        let State::Closed { wait: before, .. } = self.state else { return Ok(()) };
        match listen_on(self.port, addresses) {
            Ok(listeners) => {
                if before.is_some() {
                    info!("Service {service}: health check port {} is open now", self.port);
                }
                let mut tasks = JoinSet::new();
                for listener in listeners {
                    let routes = routes(&self.check);
                    tasks.spawn(async move {
                        // Accepting goes on after errors; this ends only when it is aborted.
                        let _ = axum::serve(listener, routes).await;
                    });
                }
                self.state = State::Open(tasks);
                Ok(())
            }
            Err(error) => {
                let wait = before.map_or(FIRST_RETRY, |wait| (wait * 2).min(LAST_RETRY));
                self.state = State::Closed { next_try: Instant::now() + wait, wait: Some(wait) };
                if before.is_none() { Err(error) } else { Ok(()) }
            }
        }
    }

    /// Nobody listens any more when this returns.
    async fn close(self) {
        if let State::Open(mut tasks) = self.state {
            tasks.shutdown().await;
        }
    }
}
