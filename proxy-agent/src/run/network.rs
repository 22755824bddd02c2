//! Keeps the node's own addresses in their tables, and tells the run loop what Services follow from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use proxy_common::NodeAddress;
use tokio::{sync::watch, time::sleep};
use tracing::{debug, warn};

use super::{
    Progress,
    node_ports::{Localhost, health_check_addresses, node_addresses},
};
use crate::{
    config::{KubeProxy, NodePortAddresses},
    dataplane::{
        network::{NetworkError, NetworkWatcher},
        tables::NodeAddressTables,
    },
    error::one_line,
    model::{Node, NodeFacts, Update},
    source::Updates,
};

/// Wait before the network is watched anew.
const RETRY: Duration = Duration::from_secs(5);

/// What the tables of the node's addresses follow from, besides the network itself.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    node_ports: NodePortAddresses,
    localhost: Localhost,
    /// The primary address of its family, whatever the Node says.
    bind_address: Option<IpAddr>,
}

impl Configuration {
    pub(super) fn new(config: &KubeProxy) -> Self {
        let localhost = if config.localhost_node_ports { Localhost::Served } else { Localhost::NotServed };
        Self { node_ports: config.node_port_addresses.clone(), localhost, bind_address: config.bind_address }
    }

    /// The node's primary addresses, the preferred ones first (kube-proxy's `detectNodeIPs`).
    fn primary(&self, node: &Node) -> Vec<IpAddr> {
        self.bind_address.into_iter().chain(node.addresses.iter().copied()).collect()
    }
}

/// Follows the network until nobody tells of `progress` or takes updates any more. `listening` gets the addresses on which
/// health check ports listen.
pub(super) async fn follow(
    tables: NodeAddressTables,
    configuration: Configuration,
    mut progress: watch::Receiver<Progress>,
    updates: Updates,
    listening: watch::Sender<BTreeSet<IpAddr>>,
) {
    let mut follower = Follower { tables, configuration, listening, written: None, told: None, is_full: false };
    loop {
        match follower.watch(&mut progress, &updates).await {
            Ok(()) => return,
            Err(error) => {
                warn!("{}; trying again in {RETRY:?}", one_line(&error));
                sleep(RETRY).await;
            }
        }
    }
}

struct Follower {
    tables: NodeAddressTables,
    configuration: Configuration,
    listening: watch::Sender<BTreeSet<IpAddr>>,
    written: Option<BTreeMap<IpAddr, NodeAddress>>,
    told: Option<NodeFacts>,
    is_full: bool,
}

impl Follower {
    async fn watch(&mut self, progress: &mut watch::Receiver<Progress>, updates: &Updates) -> Result<(), NetworkError> {
        let mut network = NetworkWatcher::start()?;
        loop {
            let (primary, guarded) = {
                let progress = progress.borrow_and_update();
                (progress.node.as_ref().map(|node| self.configuration.primary(node)), progress.guarded.clone())
            };
            let addresses = network.addresses().await?;
            self.write(&addresses, primary.as_deref());
            self.listen(&addresses, primary.as_deref());
            let facts = NodeFacts { sources: sources(&mut network, &guarded).await, addresses };
            if self.told.as_ref() != Some(&facts) {
                if updates.send(Update::Facts(facts.clone())).await.is_err() {
                    return Ok(());
                }
                self.told = Some(facts);
            }
            tokio::select! {
                changed = network.changed() => changed?,
                changed = progress.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    /// Tells where health check ports listen.
    fn listen(&self, own: &BTreeSet<IpAddr>, primary: Option<&[IpAddr]>) {
        if let Some(addresses) = health_check_addresses(own, &self.configuration.node_ports, primary) {
            self.listening.send_if_modified(|told| std::mem::replace(told, addresses.clone()) != addresses);
        }
    }

    /// Brings the tables in step. While the Node is not known but needed, they stay what they are.
    fn write(&mut self, own: &BTreeSet<IpAddr>, primary: Option<&[IpAddr]>) {
        let Configuration { node_ports, localhost, bind_address: _ } = &self.configuration;
        if *node_ports == NodePortAddresses::Primary && primary.is_none() {
            return;
        }
        let wanted = node_addresses(own, node_ports, primary.unwrap_or_default(), *localhost);
        if self.written.as_ref() == Some(&wanted) {
            return;
        }
        match self.tables.replace(&wanted) {
            Ok(refused) => {
                debug!("{} addresses are this node's", wanted.len() - refused.len());
                if !(refused.is_empty() || self.is_full) {
                    warn!("no room for {} of this node's addresses, such as {}", refused.len(), refused[0]);
                }
                self.is_full = !refused.is_empty();
                self.written = Some(wanted);
            }
            Err(error) => warn!("{}", one_line(&error)),
        }
    }
}

async fn sources(network: &mut NetworkWatcher, guarded: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Option<IpAddr>> {
    let mut sources = BTreeMap::new();
    for &destination in guarded {
        sources.insert(destination, network.source_to(destination).await);
    }
    sources
}
