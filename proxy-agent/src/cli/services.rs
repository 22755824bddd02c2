//! `proxy-agent services`.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{DropKey, DropReason, Family, PlainAddress, ServiceFlags, ServiceId, V4, V6};
use serde::Serialize;

use super::{
    print::{Detail, Rows, or_dash},
    text::{IntoIp, address, endpoint},
};
use crate::plan::{FamilySnapshot, Snapshot};

/// Source ranges that a line of text shows.
const SHOWN_RANGES: usize = 2;

/// The frontends, ordered by Service.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct ServicesView(Vec<Row>);

/// A frontend.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    /// Empty if the id has no name; `name` is then the id.
    namespace: String,
    name: String,
    port: String,
    protocol: &'static str,
    r#type: Type,
    /// The address is unspecified for a port on each of the node's addresses.
    frontend: String,
    /// The traffic policy that applies to the frontend.
    policy: &'static str,
    /// Endpoints in the whole cluster among which connections choose.
    cluster_endpoints: u32,
    /// Endpoints on this node among which connections choose that may use no others.
    local_endpoints: u32,
    /// Timeout of the session affinity, without which it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u32>,
    /// Who may use the frontend; absent: everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<Sources>,
    /// Packets and calls that were dropped or refused for the Service's port, at all its frontends, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    drops: BTreeMap<&'static str, u64>,
    /// Number of the Service's port in the tables.
    id: u32,
}

/// For whom a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Type {
    /// Clients in the cluster.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Clients outside, at an external address or one of a load balancer.
    External,
    /// Clients outside, at a port of each node.
    NodePort,
}

/// `loadBalancerSourceRanges`, as this node follows them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Sources {
    ranges: Vec<String>,
    /// Whether this node's own processes may use the frontend.
    node: bool,
}

/// Leaves only what belongs to these Service ports.
pub(super) fn keep(snapshot: &mut Snapshot, ids: &BTreeSet<ServiceId>) {
    fn family<F: Family>(tables: &mut FamilySnapshot<F>, ids: &BTreeSet<ServiceId>) {
        tables.services.retain(|_, entry| ids.contains(&entry.id()));
        tables.backends.retain(|_, backend| ids.contains(&backend.service()));
    }
    family(&mut snapshot.v4, ids);
    family(&mut snapshot.v6, ids);
}

/// The frontends in the tables.
pub(super) fn view(snapshot: &Snapshot, drops: &BTreeMap<DropKey, u64>) -> ServicesView {
    let mut rows = Vec::new();
    add::<V4>(&mut rows, snapshot, &snapshot.v4, drops);
    add::<V6>(&mut rows, snapshot, &snapshot.v6, drops);
    rows.sort_unstable();
    ServicesView(rows)
}

fn add<F: Family<Address: IntoIp + PlainAddress>>(
    rows: &mut Vec<Row>,
    snapshot: &Snapshot,
    tables: &FamilySnapshot<F>,
    drops: &BTreeMap<DropKey, u64>,
) {
    let mut ranges: BTreeMap<ServiceId, Vec<String>> = BTreeMap::new();
    for range in &tables.source_ranges {
        ranges.entry(range.service()).or_default().push(format!("{}/{}", address(range.prefix()), range.bits()));
    }
    rows.extend(tables.services.iter().map(|(key, entry)| {
        let name = snapshot.names.get(&entry.id());
        let flags = entry.flags();
        let sources = || Sources {
            ranges: ranges.get(&entry.id()).cloned().unwrap_or_default(),
            node: flags.contains(ServiceFlags::NODE_ALLOWED),
        };
        Row {
            namespace: name.map_or_else(String::new, |name| name.namespace().to_owned()),
            name: name.map_or_else(|| format!("#{}", entry.id().get()), |name| name.name().to_owned()),
            port: name.map_or_else(String::new, |name| name.port().to_owned()),
            protocol: key.protocol().map_or("?", proxy_common::Protocol::name),
            r#type: Type::of(flags),
            frontend: endpoint((key.address(), key.port())),
            policy: if flags.contains(ServiceFlags::LOCAL) { "Local" } else { "Cluster" },
            cluster_endpoints: entry.cluster().count(),
            local_endpoints: entry.local().count(),
            affinity_seconds: flags.contains(ServiceFlags::AFFINITY).then(|| entry.affinity_timeout()),
            sources: flags.contains(ServiceFlags::SOURCE_RANGES).then(sources),
            drops: drops_of(entry.id(), drops),
            id: entry.id().get(),
        }
    }));
}

fn drops_of(service: ServiceId, drops: &BTreeMap<DropKey, u64>) -> BTreeMap<&'static str, u64> {
    let count = |reason: DropReason| Some((reason.name(), *drops.get(&DropKey::new(service, reason))?));
    DropReason::ALL.into_iter().filter_map(count).collect()
}

impl Type {
    fn of(flags: ServiceFlags) -> Self {
        if flags.contains(ServiceFlags::NODE_PORT) {
            Self::NodePort
        } else if flags.contains(ServiceFlags::EXTERNAL) {
            Self::External
        } else {
            Self::ClusterIp
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::External => "External",
            Self::NodePort => "NodePort",
        }
    }
}

impl Sources {
    /// The ranges, and `node` if the node's own processes are let through. Unless it is to be wide, only the first ranges and how
    /// many there are more.
    fn text(&self, detail: Detail) -> String {
        let Self { ranges, node } = self;
        let shown = match detail {
            Detail::Usual => SHOWN_RANGES.min(ranges.len()),
            Detail::Wide => ranges.len(),
        };
        let more = ranges.len() - shown;
        let more = (more > 0).then(|| format!("+{more}"));
        let node = node.then(|| "node".to_owned());
        ranges.iter().take(shown).cloned().chain(more).chain(node).collect::<Vec<_>>().join(",")
    }
}

impl Rows for ServicesView {
    const HEADINGS: (&'static [&'static str], &'static [&'static str]) = (
        &[
            "NAMESPACE",
            "NAME",
            "PORT",
            "PROTOCOL",
            "TYPE",
            "FRONTEND",
            "POLICY",
            "CLUSTER",
            "LOCAL",
            "AFFINITY",
            "SOURCES",
            "DROPS",
        ],
        &["DROPPED FOR", "ID"],
    );

    fn rows(&self, detail: Detail) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row {
                namespace,
                name,
                port,
                protocol,
                r#type,
                frontend,
                policy,
                cluster_endpoints,
                local_endpoints,
                affinity_seconds,
                sources,
                drops,
                id,
            } = row;
            let mut cells = vec![
                or_dash(Some(namespace)),
                name.clone(),
                or_dash(Some(port)),
                (*protocol).to_owned(),
                r#type.name().to_owned(),
                frontend.clone(),
                (*policy).to_owned(),
                cluster_endpoints.to_string(),
                local_endpoints.to_string(),
                or_dash(affinity_seconds.map(|seconds| format!("{seconds}s"))),
                or_dash(sources.as_ref().map(|sources| sources.text(detail))),
                drops.values().sum::<u64>().to_string(),
            ];
            if detail == Detail::Wide {
                let reasons: Vec<String> = drops.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
                cells.extend([or_dash(Some(reasons.join(","))), id.to_string()]);
            }
            cells
        };
        self.0.iter().map(cells).collect()
    }
}
