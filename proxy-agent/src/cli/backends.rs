//! `proxy-agent backends`.

use std::collections::BTreeSet;

use proxy_common::{BackendId, Family, PlainAddress, V4, V6};
use serde::Serialize;

use super::{
    print::Rows,
    text::{IntoIp, endpoint, service},
};
use crate::plan::{FamilySnapshot, Snapshot};

/// The endpoints, ordered by Service.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct BackendsView(Vec<Row>);

/// An endpoint.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    service: String,
    endpoint: String,
    /// Whether it is on this node.
    local: bool,
    /// Whether new connections choose it. One that is not goes on serving the connections that it has.
    in_use: bool,
    id: u32,
}

/// The endpoints in the tables.
pub(super) fn view(snapshot: &Snapshot) -> BackendsView {
    let mut rows = Vec::new();
    add::<V4>(&mut rows, snapshot, &snapshot.v4);
    add::<V6>(&mut rows, snapshot, &snapshot.v6);
    rows.sort_unstable();
    BackendsView(rows)
}

fn add<F: Family<Address: IntoIp + PlainAddress>>(
    rows: &mut Vec<Row>,
    snapshot: &Snapshot,
    tables: &FamilySnapshot<F>,
) {
    let used: BTreeSet<BackendId> = tables.slots.values().copied().collect();
    rows.extend(tables.backends.iter().map(|(id, backend)| Row {
        service: service(backend.service(), &snapshot.names),
        endpoint: endpoint((backend.address(), backend.port())),
        local: backend.is_local(),
        in_use: used.contains(id),
        id: id.get(),
    }));
}

impl Rows for BackendsView {
    const HEADINGS: &'static [&'static str] = &["SERVICE", "ENDPOINT", "LOCAL", "IN USE"];

    fn rows(&self) -> Vec<Vec<String>> {
        let word = |value: bool| if value { "yes" } else { "no" }.to_owned();
        let cells = |row: &Row| {
            let Row { service, endpoint, local, in_use, id: _ } = row;
            vec![service.clone(), endpoint.clone(), word(*local), word(*in_use)]
        };
        self.0.iter().map(cells).collect()
    }
}
