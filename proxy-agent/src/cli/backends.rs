//! `proxy-agent backends`.

use proxy_common::{Backend, BackendId, Family, PlainAddress, V4, V6};
use serde::Serialize;

use super::{
    pods::PodNames,
    print::{Detail, Rows, or_dash},
    text::{IntoIp, endpoint, service},
};
use crate::{
    model::IpFamily,
    plan::{FamilySnapshot, Snapshot},
};

/// The endpoints, ordered by Service.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct BackendsView(Vec<Row>);

/// An endpoint.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    service: String,
    endpoint: String,
    /// The pod that it is, in the Service's namespace; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    /// Whether it is on this node.
    local: bool,
    /// Among which endpoints new connections find it: those of the whole cluster, those for traffic policy
    /// `Local`. In neither list it goes on serving the connections that it has.
    lists: Vec<&'static str>,
    id: u32,
}

/// The endpoints in the tables.
pub(super) fn view(snapshot: &Snapshot, pods: &impl PodNames) -> BackendsView {
    let mut rows = Vec::new();
    add::<V4>(&mut rows, snapshot, &snapshot.v4, |id| pods.pod(IpFamily::V4, id));
    add::<V6>(&mut rows, snapshot, &snapshot.v6, |id| pods.pod(IpFamily::V6, id));
    rows.sort_unstable();
    BackendsView(rows)
}

fn add<F: Family<Address: IntoIp + PlainAddress>>(
    rows: &mut Vec<Row>,
    snapshot: &Snapshot,
    tables: &FamilySnapshot<F>,
    pod: impl Fn(BackendId) -> Option<String>,
) {
    rows.extend(tables.backends.iter().map(|(id, backend)| Row {
        service: service(backend.service(), &snapshot.names),
        endpoint: endpoint((backend.address(), backend.port())),
        pod: pod(*id),
        local: backend.is_local(),
        lists: lists(backend),
        id: id.get(),
    }));
}

fn lists<A: Copy>(backend: &Backend<A>) -> Vec<&'static str> {
    let lists = [(Backend::<A>::IN_CLUSTER_LIST, "cluster"), (Backend::<A>::IN_LOCAL_LIST, "local")];
    lists.into_iter().filter(|&(flag, _)| backend.has(flag)).map(|(_, name)| name).collect()
}

impl Rows for BackendsView {
    const HEADINGS: (&'static [&'static str], &'static [&'static str]) =
        (&["SERVICE", "ENDPOINT", "POD", "ON NODE", "LISTS"], &["ID"]);

    fn rows(&self, detail: Detail) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row { service, endpoint, pod, local, lists, id } = row;
            let on_node = if *local { "yes" } else { "no" }.to_owned();
            let pod = or_dash(pod.as_ref());
            let mut cells = vec![service.clone(), endpoint.clone(), pod, on_node, or_dash(Some(lists.join(",")))];
            if detail == Detail::Wide {
                cells.push(id.to_string());
            }
            cells
        };
        self.0.iter().map(cells).collect()
    }
}
