//! Which pod is behind which number of a backend, for people: no packet depends on it.

use std::{collections::BTreeMap, net::IpAddr};

use proxy_common::{BackendId, ServiceId, V4, V6};

use super::{State, family::PlanFamily, record::PortRecord};
use crate::model::{Affected, Index, IpFamily, ObjectName};

/// A number in one of the tables of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendNumber {
    /// Whose table.
    pub family: IpFamily,
    /// The number.
    pub id: BackendId,
}

/// What is known of the pods behind backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods<'a> {
    /// Of all backends. Those that are not named have none.
    All(Vec<(BackendNumber, &'a str)>),
    /// Of these; `None`: it has no name.
    Some(Vec<(BackendNumber, Option<&'a str>)>),
}

impl State {
    /// The pods behind the backends of the Services affected, or behind all where `written` holds a backend of another Service.
    #[must_use]
    pub fn pods<'a>(
        &self,
        index: &'a Index,
        affected: &Affected,
        mut written: impl Iterator<Item = ServiceId>,
    ) -> Pods<'a> {
        let Affected::Services(names) = affected else { return self.all_pods(index) };
        let records = || names.iter().filter_map(|name| Some((name, self.services.get(name)?)));
        let mut ids: Vec<ServiceId> =
            records().flat_map(|(_, record)| record.ports.iter().map(|port| port.id)).collect();
        ids.sort_unstable();
        if written.any(|id| ids.binary_search(&id).is_err()) {
            return self.all_pods(index);
        }
        Pods::Some(records().flat_map(|(name, record)| of_service(index, name, &record.ports)).collect())
    }

    fn all_pods<'a>(&self, index: &'a Index) -> Pods<'a> {
        let all = self.services.iter().flat_map(|(name, record)| of_service(index, name, &record.ports));
        Pods::All(all.filter_map(|(number, pod)| Some((number, pod?))).collect())
    }
}

fn of_service<'a>(
    index: &'a Index,
    service: &ObjectName,
    ports: &[PortRecord],
) -> Vec<(BackendNumber, Option<&'a str>)> {
    let endpoints = index.slices(service).iter().flat_map(|slice| &slice.endpoints);
    let pods: BTreeMap<IpAddr, &'a str> =
        endpoints.filter_map(|endpoint| Some((endpoint.address, endpoint.pod.as_deref()?))).collect();
    let mut named = Vec::new();
    for port in ports {
        add::<V4>(port, &pods, &mut named);
        add::<V6>(port, &pods, &mut named);
    }
    named
}

fn add<'a, F: PlanFamily>(
    port: &PortRecord,
    pods: &BTreeMap<IpAddr, &'a str>,
    named: &mut Vec<(BackendNumber, Option<&'a str>)>,
) {
    named.extend(F::of_record(port).backends.iter().map(|backend| {
        let pod = pods.get(&F::to_ip(backend.target.address)).copied();
        (BackendNumber { family: F::IP_FAMILY, id: backend.id }, pod)
    }));
}
