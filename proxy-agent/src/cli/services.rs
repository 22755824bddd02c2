//! `proxy-agent services`.

use proxy_common::{Family, PlainAddress, ServiceFlags, V4, V6};
use serde::Serialize;

use super::{
    print::Rows,
    text::{IntoIp, endpoint},
};
use crate::plan::{FamilySnapshot, Snapshot};

/// The frontends, ordered by Service.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct ServicesView(Vec<Row>);

/// A frontend.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    namespace: String,
    name: String,
    port: String,
    protocol: &'static str,
    frontend: String,
    /// Whether the frontend is meant for clients outside the cluster.
    external: bool,
    /// The traffic policy that applies to the frontend.
    policy: &'static str,
    /// Endpoints in the whole cluster among which connections choose.
    cluster_endpoints: u32,
    /// Those of them on this node.
    local_endpoints: u32,
    /// Timeout of the session affinity, without which it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u32>,
}

/// The frontends in the tables.
pub(super) fn view(snapshot: &Snapshot) -> ServicesView {
    let mut rows = Vec::new();
    add::<V4>(&mut rows, snapshot, &snapshot.v4);
    add::<V6>(&mut rows, snapshot, &snapshot.v6);
    rows.sort_unstable();
    ServicesView(rows)
}

fn add<F: Family<Address: IntoIp + PlainAddress>>(
    rows: &mut Vec<Row>,
    snapshot: &Snapshot,
    tables: &FamilySnapshot<F>,
) {
    rows.extend(tables.services.iter().map(|(key, entry)| {
        let name = snapshot.names.get(&entry.id());
        let flags = entry.flags();
        Row {
            namespace: name.map_or_else(String::new, |name| name.namespace().to_owned()),
            name: name.map_or_else(|| format!("#{}", entry.id().get()), |name| name.name().to_owned()),
            port: name.map_or_else(String::new, |name| name.port().to_owned()),
            protocol: key.protocol().map_or("?", proxy_common::Protocol::name),
            frontend: endpoint((key.address(), key.port())),
            external: flags.contains(ServiceFlags::EXTERNAL),
            policy: if flags.contains(ServiceFlags::LOCAL) { "Local" } else { "Cluster" },
            cluster_endpoints: entry.cluster().count(),
            local_endpoints: entry.local().count(),
            affinity_seconds: flags.contains(ServiceFlags::AFFINITY).then(|| entry.affinity_timeout()),
        }
    }));
}

impl Rows for ServicesView {
    const HEADINGS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "PORT", "PROTOCOL", "FRONTEND", "POLICY", "CLUSTER", "LOCAL", "AFFINITY"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row {
                namespace,
                name,
                port,
                protocol,
                frontend,
                external: _,
                policy,
                cluster_endpoints,
                local_endpoints,
                affinity_seconds,
            } = row;
            let affinity = affinity_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s"));
            vec![
                or_dash(namespace),
                name.clone(),
                or_dash(port),
                (*protocol).to_owned(),
                frontend.clone(),
                (*policy).to_owned(),
                cluster_endpoints.to_string(),
                local_endpoints.to_string(),
                affinity,
            ]
        };
        self.0.iter().map(cells).collect()
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
