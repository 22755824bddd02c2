//! What the kernel knows of this node's network, as far as tables follow from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// This node's addresses and routes. Only `loadBalancerSourceRanges` are judged by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's own addresses, both families.
    pub addresses: BTreeSet<IpAddr>,
    /// For addresses of load balancers ([`Index::guarded_addresses`](super::Index::guarded_addresses)):
    /// the source address that the kernel gives to what this node's own processes send there. `None`:
    /// there is no route. An address that is not in here has not been looked up yet.
    pub sources: BTreeMap<IpAddr, Option<IpAddr>>,
}

impl NodeFacts {
    /// The source address of this node's own packets to `destination`, if there is a route and it is
    /// known.
    #[must_use]
    pub fn source_to(&self, destination: IpAddr) -> Option<IpAddr> {
        self.sources.get(&destination).copied().flatten()
    }
}
