//! What load balancers are told that ask whether this node has endpoints of a Service.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::Port;

use crate::model::{Affected, EndpointSlice, Index, IpFamily, ObjectName, Service, ServiceType, TrafficPolicy};

/// The answer to give on a Service's `healthCheckNodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port of this node on which load balancers ask.
    pub port: Port,
    /// Ready endpoints on this node. Those that terminate do not count (KEP-1669); a pod with an address of
    /// each family counts once.
    pub local_endpoints: usize,
}

/// That the answer for a Service is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckChange {
    /// The Service.
    pub service: ObjectName,
    /// What to answer; `None`: nobody is to be answered any more.
    pub check: Option<HealthCheck>,
}

/// The health checks of all Services that have one.
#[derive(Debug, Default)]
pub struct HealthChecks(BTreeMap<ObjectName, HealthCheck>);

impl HealthChecks {
    /// Brings the checks of the Services affected in step with the index, and returns those that changed,
    /// sorted by Service.
    pub fn update(&mut self, index: &Index, affected: &Affected) -> Vec<HealthCheckChange> {
        match affected {
            Affected::Services(names) => names.iter().filter_map(|name| self.update_one(name, index)).collect(),
            Affected::All => {
                let known = self.0.keys().cloned();
                let names: BTreeSet<_> = known.chain(index.services().map(|service| service.name.clone())).collect();
                names.iter().filter_map(|name| self.update_one(name, index)).collect()
            }
        }
    }

    fn update_one(&mut self, name: &ObjectName, index: &Index) -> Option<HealthCheckChange> {
        let service = index.service(name);
        let check = service.and_then(|service| health_check(service, index.slices(name), index.node_name()));
        let before = match check {
            Some(check) => self.0.insert(name.clone(), check),
            None => self.0.remove(name),
        };
        (before != check).then(|| HealthCheckChange { service: name.clone(), check })
    }
}

/// The health check of a Service on this node; `None` if its load balancer need not ask.
fn health_check(service: &Service, slices: &[EndpointSlice], node: &str) -> Option<HealthCheck> {
    let asks =
        service.service_type == ServiceType::LoadBalancer && service.external_traffic_policy == TrafficPolicy::Local;
    let port = service.health_check_node_port.filter(|_| asks)?;
    let counts = [IpFamily::V4, IpFamily::V6].map(|family| local_endpoints(slices, family, node));
    Some(HealthCheck { port, local_endpoints: counts.into_iter().max().unwrap_or(0) })
}

fn local_endpoints(slices: &[EndpointSlice], family: IpFamily, node: &str) -> usize {
    let slices = slices.iter().filter(|slice| slice.family == family && !slice.ports.is_empty());
    let local = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.node.as_deref() == Some(node));
    local.filter(|endpoint| endpoint.conditions.ready).map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
}
