//! The ports on which load balancers ask whether this node has endpoints of a Service
//! (`healthCheckNodePort`): one small server for each Service that has one.
//!
//! Owns the servers: opens, changes and closes them, follows the addresses that they listen on, and tries a port again that
//! cannot be opened. Never decides which Service has one, on which addresses, or counts endpoints: that is
//! [`HealthCheckChange`]s, and the addresses that it is told.

mod answer;
mod listen;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
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
    notices::{Notice, Notices, Reason, Subject},
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
    /// No servers yet. Each of those to come listens on the addresses that it is told, all the time; see [`ALL_ADDRESSES`].
    #[must_use]
    pub fn start(
        addresses: watch::Receiver<BTreeSet<IpAddr>>,
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
    addresses: watch::Receiver<BTreeSet<IpAddr>>,
    health: Arc<Health>,
    notices: Arc<dyn Notices>,
    servers: BTreeMap<ObjectName, Server>,
}

struct Server {
    port: u16,
    check: Arc<Check>,
    /// The tasks that listen, by address.
    listeners: BTreeMap<IpAddr, JoinSet<()>>,
    /// When to try the addresses that are missing; `None` if none is.
    retry: Option<Retry>,
}

struct Retry {
    at: Instant,
    /// How long after the last try; `None` if none failed yet.
    wait: Option<Duration>,
}

impl Keeper {
    async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Vec<HealthCheckChange>>) {
        loop {
            let next_try = self.servers.values().filter_map(|server| Some(server.retry.as_ref()?.at)).min();
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
                // Once nobody tells them any more, they stay what they are.
                Ok(()) = self.addresses.changed() => self.follow().await,
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
                && let Some(mut server) = self.servers.remove(service)
            {
                server.close_all_but(&BTreeSet::new()).await;
                self.servers.values_mut().filter(|other| other.port == server.port).for_each(Server::try_now);
            }
        }
        for HealthCheckChange { service, check } in changes {
            let Some(wanted) = check else { continue };
            if let Some(server) = self.servers.get(&service) {
                server.check.set_local_endpoints(wanted.local_endpoints);
            } else {
                let check = Check::new(service.clone(), Arc::clone(&self.health), wanted.local_endpoints);
                let retry = Some(Retry { at: Instant::now(), wait: None });
                let (port, check) = (wanted.port.get(), Arc::new(check));
                self.servers.insert(service, Server { port, check, listeners: BTreeMap::new(), retry });
            }
        }
    }

    /// Closes what is not wanted any more, before anything else is opened, and makes what is missing due.
    async fn follow(&mut self) {
        let addresses = self.addresses.borrow_and_update().clone();
        for server in self.servers.values_mut() {
            server.close_all_but(&addresses).await;
            server.retry.get_or_insert(Retry { at: Instant::now(), wait: None });
            server.try_now();
        }
    }

    /// Opens what is due.
    fn open(&mut self) {
        let now = Instant::now();
        let addresses = self.addresses.borrow();
        for (service, server) in &mut self.servers {
            if server.retry.as_ref().is_none_or(|retry| retry.at > now) {
                continue;
            }
            if let Err(error) = server.open(service, &addresses) {
                let text = format!("health check port {} cannot be opened: {error}", server.port);
                warn!("Service {service}: {text}; trying again until it can");
                let subject = Subject::Service(service.clone());
                self.notices.tell(Notice { subject, reason: Reason::HealthCheckPort, text });
            }
        }
    }
}

impl Server {
    fn try_now(&mut self) {
        if let Some(retry) = &mut self.retry {
            retry.at = Instant::now();
        }
    }

    /// Tries to open the port on the addresses that are missing.
    ///
    /// # Errors
    /// It cannot be opened on one of them, and that is news. On the others it is open.
    fn open(&mut self, service: &ObjectName, addresses: &BTreeSet<IpAddr>) -> Result<(), PortError> {
        let before = self.retry.take().and_then(|retry| retry.wait);
        let mut failure = None;
        for &address in addresses {
            if self.listeners.contains_key(&address) {
                continue;
            }
            match listen_on(address, self.port) {
                Ok(listener) => {
                    let mut tasks = JoinSet::new();
                    if let Some(listener) = listener {
                        let routes = routes(&self.check);
                        tasks.spawn(async move {
                            // Accepting goes on after errors; this ends only when it is aborted.
                            let _ = axum::serve(listener, routes).await;
                        });
                    }
                    self.listeners.insert(address, tasks);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let Some(error) = failure else {
            if before.is_some() {
                info!("Service {service}: health check port {} is open now", self.port);
            }
            return Ok(());
        };
        let wait = before.map_or(FIRST_RETRY, |wait| (wait * 2).min(LAST_RETRY));
        self.retry = Some(Retry { at: Instant::now() + wait, wait: Some(wait) });
        if before.is_none() { Err(error) } else { Ok(()) }
    }

    /// Nobody listens on other addresses any more when this returns.
    async fn close_all_but(&mut self, addresses: &BTreeSet<IpAddr>) {
        let given_up: Vec<IpAddr> =
            self.listeners.keys().copied().filter(|address| !addresses.contains(address)).collect();
        for address in given_up {
            if let Some(mut tasks) = self.listeners.remove(&address) {
                tasks.shutdown().await;
            }
        }
    }
}
