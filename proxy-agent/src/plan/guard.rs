//! Who may use a Service's load-balancer addresses: `loadBalancerSourceRanges` on this node.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::ServiceFlags;

use super::{desired::Prefix, family::PlanFamily};
use crate::model::{IpFamily, NodeFacts, Service};

/// The prefixes from which a Service's load-balancer addresses of one family may be used.
///
/// Beside the ranges that the Service names these are its load-balancer addresses themselves, if a range
/// holds an address of this node: where such an address is also one of the node's own, packets of the
/// node to it have it as their source. kube-proxy adds them for the same reason.
#[derive(Debug)]
pub(super) struct Guard {
    /// None: everybody may.
    ranges: Vec<IpNet>,
}

impl Guard {
    pub(super) fn new(service: &Service, family: IpFamily, facts: &NodeFacts) -> Self {
        let mut ranges: Vec<IpNet> = service.guard(family).collect();
        if !ranges.is_empty() && facts.addresses.iter().any(|&address| hold(&ranges, address)) {
            let own = service.virtual_addresses().filter(|&address| IpFamily::of(address) == family);
            ranges.extend(own.map(IpNet::from));
        }
        ranges.sort_unstable();
        ranges.dedup();
        Self { ranges }
    }

    /// The flags that a frontend at this load-balancer address has because of it.
    pub(super) fn flags(&self, address: IpAddr, facts: &NodeFacts) -> ServiceFlags {
        if self.ranges.is_empty() {
            ServiceFlags::NONE
        } else if facts.source_to(address).is_some_and(|source| hold(&self.ranges, source)) {
            ServiceFlags::SOURCE_RANGES.with(ServiceFlags::NODE_ALLOWED)
        } else {
            ServiceFlags::SOURCE_RANGES
        }
    }

    /// The prefixes, which are of the guard's family.
    pub(super) fn prefixes<F: PlanFamily>(&self) -> Vec<Prefix<F::Address>> {
        let prefix = |range: &IpNet| Some(Prefix { address: F::from_ip(range.addr())?, bits: range.prefix_len() });
        self.ranges.iter().filter_map(prefix).collect()
    }
}

fn hold(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}
