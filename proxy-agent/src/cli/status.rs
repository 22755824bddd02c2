//! `proxy-agent status`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use proxy_common::{
    Counter, DROP_MARK, Detector, DropKey, DropReason, Family, FamilySettings, PlainAddress, PortName, ServiceId,
    Settings, SettingsFlags, V4, V6, maps,
};
use serde::Serialize;

use super::{
    CommandError, ShowArgs,
    ages::AgesView,
    print::{Detail, View, columns, or_dash, warning},
    text::{IntoIp, address, service},
};
use crate::{
    dataplane::{
        self, diagnosis,
        features::Features,
        lock,
        nft::{self, Presence},
        pins::{Direction, Pins},
        status::{self, AttachedDevice, AttachedSocketHook},
        tables::{FamilyTables, FlowTableUse, TableError, Tables},
    },
    freshness::now,
};

/// Service ports with the most drops that the text shows, if it is not to be wide.
const SHOWN_SERVICE_DROPS: usize = 20;
/// Percentage of a table's room from which on somebody should know.
const NEARLY_FULL: usize = 90;

/// Everything there is to know.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct StatusView {
    version: &'static str,
    /// Process id of the agent, if one is running.
    agent: Option<u32>,
    kernel: KernelView,
    layout_version: u32,
    /// How old the tables may be; `None` if the agent that made them did not tell.
    ages: Option<AgesView>,
    settings: SettingsView,
    /// Whether the nftables table is in this network namespace; `None` if that cannot be known.
    masquerading: Option<Presence>,
    /// Packets that the nftables table dropped for the drop mark that they carried; `None` if it is not there.
    dropped_by_mark: Option<u64>,
    socket_hooks: Vec<SocketHookView>,
    devices: Vec<DeviceView>,
    tables: Vec<TableView>,
    counters: BTreeMap<&'static str, u64>,
    drops: BTreeMap<&'static str, u64>,
    /// The same for single Service ports, the greatest count first.
    service_drops: Vec<ServiceDropsView>,
    /// What somebody should look at, a sentence each.
    warnings: Vec<String>,
}

/// Packets and calls that were dropped or refused for a Service port.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ServiceDropsView {
    service: String,
    reason: &'static str,
    count: u64,
}

/// What the kernel can do.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum KernelView {
    Known(Features),
    /// Why that cannot be known.
    Unknown {
        error: String,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct SettingsView {
    masquerade_mark: String,
    masquerade_all: bool,
    /// What else nodePort traffic is marked with that keeps its source.
    local_node_port_mark: Option<String>,
    /// Whether sockets outside the node's own network namespace are left to the TC programs.
    host_namespace_only: bool,
    udp_timeout_seconds: u32,
    pods_v4: String,
    pods_v6: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct SocketHookView {
    hook: &'static str,
    program: u32,
    cgroup: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct DeviceView {
    device: String,
    index: u32,
    /// Number of the program, by direction.
    ingress: Option<u32>,
    egress: Option<u32>,
    mechanism: &'static str,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct TableView {
    table: &'static str,
    entries: usize,
    capacity: u32,
    /// Entries that were given up for others, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    evicted: Option<u64>,
    /// What becomes of it when it is full.
    #[serde(skip)]
    eviction: Eviction,
}

/// What a full table does with something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    /// Refuses it.
    None,
    /// Gives up what was not used for longest.
    Oldest,
    /// The same, and nobody misses it: the table is full before long wherever there are packets.
    Usual,
}

/// What went wrong while the status was read.
#[derive(Debug)]
pub(super) enum StatusError {
    Table(TableError),
    Attached(io::Error),
}

impl StatusError {
    pub(super) fn at(self, show: &ShowArgs) -> CommandError {
        match self {
            Self::Table(error) => diagnosis::of_error(error, &show.bpffs_root).into(),
            Self::Attached(error) => CommandError::Attached(error),
        }
    }
}

impl From<TableError> for StatusError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<io::Error> for StatusError {
    fn from(error: io::Error) -> Self {
        Self::Attached(error)
    }
}

/// Reads everything from the kernel.
pub(super) fn read(tables: &Tables, bpffs_root: &Path) -> Result<StatusView, StatusError> {
    let pins = Pins::new(bpffs_root);
    let settings = tables.settings.read()?;
    let (counters, drops) = split(&tables.counters.read()?);
    let view = StatusView {
        version: env!("CARGO_PKG_VERSION"),
        agent: lock::holder(bpffs_root)?,
        kernel: match Features::probe() {
            Ok(features) => KernelView::Known(features),
            Err(error) => KernelView::Unknown { error: error.to_string() },
        },
        layout_version: settings.layout_version(),
        ages: dataplane::read_freshness(bpffs_root).ok().map(|times| AgesView::new(&times, now())),
        settings: settings_view(&settings),
        masquerading: nft::presence().ok(),
        dropped_by_mark: nft::dropped().ok().flatten(),
        socket_hooks: status::socket_hooks(&pins)?.into_iter().map(socket_hook_view).collect(),
        devices: devices_view(&status::devices(&pins)?, status::device_name),
        tables: tables_view(tables)?,
        counters,
        drops,
        service_drops: service_drops_view(&tables.drops.all()?, &tables.names.all()?),
        warnings: Vec::new(),
    };
    let warnings = warnings(&view);
    Ok(StatusView { warnings, ..view })
}

/// What somebody should look at.
fn warnings(view: &StatusView) -> Vec<String> {
    let StatusView { agent, ages, kernel, masquerading, socket_hooks, devices, tables, .. } = view;
    let mut warnings = Vec::new();
    if agent.is_none() {
        warnings.push("no agent is running: what is in the tables stays as it is".to_owned());
    } else {
        warnings.extend(ages.iter().flat_map(AgesView::warnings));
    }
    if let KernelView::Unknown { error } = kernel {
        warnings.push(format!("what the kernel can do is not known: {error}"));
    }
    match masquerading {
        Some(Presence::Installed) => {}
        Some(Presence::Missing) => {
            warnings.push("the nftables table is missing: nothing is masqueraded; the agent makes it anew".to_owned());
        }
        Some(Presence::Unsupported) => {
            warnings.push("the kernel has no nf_tables: nothing is masqueraded; load the module nf_tables".to_owned());
        }
        None => warnings.push("whether the nftables table is there cannot be known: run as root".to_owned()),
    }
    if socket_hooks.is_empty() {
        warnings.push("nothing is attached to a cgroup: the node's own processes are not served".to_owned());
    }
    if devices.is_empty() {
        warnings.push(
            "nothing is attached to a device of this network namespace: clients outside are not served".to_owned(),
        );
    }
    for TableView { table, entries, capacity, evicted: _, eviction } in tables {
        let full = usize::try_from(*capacity).unwrap_or(usize::MAX).saturating_mul(NEARLY_FULL) / 100;
        if *entries >= full.max(1) {
            let consequence = match eviction {
                Eviction::Usual => continue,
                Eviction::Oldest => "what was not used lately is given up for what is new",
                Eviction::None => "when it is full, new Services or endpoints are not served",
            };
            warnings.push(format!("table {table} is nearly full ({entries} of {capacity}): {consequence}"));
        }
    }
    warnings
}

fn service_drops_view(drops: &BTreeMap<DropKey, u64>, names: &BTreeMap<ServiceId, PortName>) -> Vec<ServiceDropsView> {
    let view = |(key, &count): (&DropKey, _)| ServiceDropsView {
        service: service(key.service(), names),
        reason: key.reason().map_or("?", DropReason::name),
        count,
    };
    let mut views: Vec<ServiceDropsView> = drops.iter().map(view).collect();
    views.sort_by(|one, other| (other.count, &one.service, one.reason).cmp(&(one.count, &other.service, other.reason)));
    views
}

fn split(all: &BTreeMap<Counter, u64>) -> (BTreeMap<&'static str, u64>, BTreeMap<&'static str, u64>) {
    let (mut counters, mut drops) = (BTreeMap::new(), BTreeMap::new());
    for (counter, &count) in all {
        match counter {
            Counter::SocketConnections => counters.insert("socket_connections", count),
            Counter::Flows => counters.insert("flows", count),
            Counter::Drop(reason) => drops.insert(DropReason::name(*reason), count),
            // Of no use without the tables.
            Counter::FlowsAdded(_) | Counter::FlowsRemoved(_) => None,
        };
    }
    (counters, drops)
}

fn settings_view(settings: &Settings) -> SettingsView {
    SettingsView {
        masquerade_mark: format!("{:#x}", settings.masquerade_mark()),
        masquerade_all: settings.flags().contains(SettingsFlags::MASQUERADE_ALL),
        local_node_port_mark: match settings.local_node_port_mark() {
            0 => None,
            mark => Some(format!("{mark:#x}")),
        },
        host_namespace_only: settings.flags().contains(SettingsFlags::HOST_NAMESPACE_ONLY),
        udp_timeout_seconds: settings.udp_timeout(),
        pods_v4: pods(settings.v4()),
        pods_v6: pods(settings.v6()),
    }
}

/// How pods are told from the outside.
fn pods<A: IntoIp + Copy + AsRef<[u8]>>(settings: &FamilySettings<A>) -> String {
    match settings.detector() {
        Detector::None => "not told from others".to_owned(),
        Detector::Device => "by device".to_owned(),
        Detector::Prefix => {
            let length: u32 = settings.mask().as_ref().iter().map(|byte| byte.leading_ones()).sum();
            format!("{}/{length}", address(settings.prefix()))
        }
    }
}

fn socket_hook_view(hook: AttachedSocketHook) -> SocketHookView {
    let AttachedSocketHook { hook, program, cgroup } = hook;
    SocketHookView { hook: hook.name(), program, cgroup }
}

/// The two directions of each device together.
fn devices_view(attached: &[AttachedDevice], name: impl Fn(u32) -> Option<String>) -> Vec<DeviceView> {
    let mut views: BTreeMap<(u32, &'static str), DeviceView> = BTreeMap::new();
    for AttachedDevice { index, direction, program, mechanism } in attached {
        let view = views.entry((*index, mechanism.name())).or_insert_with(|| DeviceView {
            device: name(*index).unwrap_or_else(|| format!("#{index}")),
            index: *index,
            ingress: None,
            egress: None,
            mechanism: mechanism.name(),
        });
        match direction {
            Direction::Ingress => view.ingress = Some(*program),
            Direction::Egress => view.egress = Some(*program),
        }
    }
    views.into_values().collect()
}

fn tables_view(tables: &Tables) -> Result<Vec<TableView>, TableError> {
    let Tables { names, v4, v6, counters: _, drops, traffic: _, settings: _, pods: _ } = tables;
    let flows = tables.flow_use()?;
    let mut views = family_tables_view::<V4>(v4, &flows)?;
    views.extend(family_tables_view::<V6>(v6, &flows)?);
    let view = |table, entries, capacity, eviction| TableView { table, entries, capacity, evicted: None, eviction };
    views.push(view(maps::NAMES, names.count()?, names.capacity(), Eviction::None));
    views.push(view(maps::DROPS, drops.count()?, drops.capacity(), Eviction::Oldest));
    Ok(views)
}

fn family_tables_view<F: Family<Address: PlainAddress>>(
    tables: &FamilyTables<F>,
    flows: &[FlowTableUse],
) -> Result<Vec<TableView>, TableError> {
    let snapshot = tables.snapshot()?;
    let view = |map: maps::FamilyMap, entries, capacity, eviction| TableView {
        table: map.name::<F>(),
        entries,
        capacity,
        evicted: None,
        eviction,
    };
    let flow_view = |map: maps::FamilyMap, eviction| {
        let used = flows.iter().find(|used| used.table == map.name::<F>())?;
        let FlowTableUse { table, entries, capacity, evicted } = *used;
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        Some(TableView { table, entries, capacity, evicted: Some(evicted), eviction })
    };
    let FamilyTables { services, sockets, source_ranges, node_addresses, affinity, socket_affinity, .. } = tables;
    let (full, lru) = (Eviction::None, Eviction::Oldest);
    let mut views = vec![
        view(maps::SERVICES, snapshot.services.len(), services.capacity(), full),
        view(maps::SLOTS, snapshot.slots.len(), tables.slots_capacity(), full),
        view(maps::BACKENDS, snapshot.backends.len(), tables.backends_capacity(), full),
        view(maps::SOCKETS, sockets.count()?, sockets.capacity(), lru),
        view(maps::SOURCE_RANGES, snapshot.source_ranges.len(), source_ranges.capacity(), full),
        view(maps::NODE_ADDRESSES, node_addresses.count()?, node_addresses.capacity(), full),
        view(maps::AFFINITY, affinity.count()?, affinity.capacity(), lru),
        view(maps::SOCKET_AFFINITY, socket_affinity.count()?, socket_affinity.capacity(), lru),
    ];
    views.extend(flow_view(maps::FLOWS, lru));
    views.extend(flow_view(maps::YOUNG_FLOWS, Eviction::Usual));
    Ok(views)
}

impl View for StatusView {
    fn write_text(&self, detail: Detail, out: &mut dyn Write) -> io::Result<()> {
        let Self {
            version,
            agent,
            kernel,
            layout_version,
            ages,
            settings,
            masquerading,
            dropped_by_mark,
            socket_hooks,
            devices,
            tables,
            counters,
            drops,
            service_drops,
            warnings,
        } = self;
        writeln!(out, "proxy-agent {version}, table layout {layout_version}")?;
        for text in warnings {
            writeln!(out, "{} {text}", warning("WARNING:"))?;
        }
        match agent {
            Some(process) => writeln!(out, "agent: running, process {process}")?,
            None => writeln!(out, "agent: not running")?,
        }
        if let Some(ages) = ages {
            ages.write_text(out)?;
        }
        match kernel {
            KernelView::Known(features) => writeln!(out, "{features}")?,
            KernelView::Unknown { error } => writeln!(out, "kernel: {error}")?,
        }
        settings.write_text(*masquerading, *dropped_by_mark, !socket_hooks.is_empty(), out)?;

        let rows = socket_hooks.iter().map(|SocketHookView { hook, program, cgroup }| {
            vec![(*hook).to_owned(), program.to_string(), or_dash(*cgroup)]
        });
        section(out, &["SOCKET HOOK", "PROGRAM", "CGROUP"], rows.collect())?;
        let rows = devices.iter().map(|DeviceView { device, index, ingress, egress, mechanism }| {
            vec![device.clone(), index.to_string(), or_dash(*ingress), or_dash(*egress), (*mechanism).to_owned()]
        });
        section(out, &["DEVICE", "INDEX", "INGRESS", "EGRESS", "BY"], rows.collect())?;
        let rows = tables.iter().map(|TableView { table, entries, capacity, evicted, eviction: _ }| {
            vec![(*table).to_owned(), entries.to_string(), capacity.to_string(), or_dash(*evicted)]
        });
        section(out, &["TABLE", "ENTRIES", "CAPACITY", "EVICTED"], rows.collect())?;
        let rows = counters.iter().map(|(name, count)| vec![(*name).to_owned(), count.to_string()]);
        section(out, &["COUNTER", "COUNT"], rows.collect())?;
        let rows = drops.iter().map(|(reason, count)| vec![(*reason).to_owned(), count.to_string()]);
        section(out, &["DROPPED", "COUNT"], rows.collect())?;
        let shown = match detail {
            Detail::Usual => SHOWN_SERVICE_DROPS,
            Detail::Wide => usize::MAX,
        };
        let rows = service_drops.iter().take(shown).map(|ServiceDropsView { service, reason, count }| {
            vec![service.clone(), (*reason).to_owned(), count.to_string()]
        });
        section(out, &["DROPPED FOR", "REASON", "COUNT"], rows.collect())
    }
}

impl SettingsView {
    fn write_text(
        &self,
        masquerading: Option<Presence>,
        dropped_by_mark: Option<u64>,
        has_socket_hooks: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let Self {
            masquerade_mark,
            masquerade_all,
            local_node_port_mark,
            host_namespace_only,
            udp_timeout_seconds,
            pods_v4,
            pods_v6,
        } = self;
        let presence = match masquerading {
            Some(Presence::Installed) => "nftables table present",
            Some(Presence::Missing) => "nftables table MISSING",
            Some(Presence::Unsupported) => "NO nf_tables in the kernel",
            None => "nftables table UNKNOWN",
        };
        let which = if *masquerade_all { "every clusterIP" } else { "as needed" };
        writeln!(out, "masquerading: mark {masquerade_mark}, {which}, {presence}")?;
        if let Some(packets) = dropped_by_mark {
            writeln!(out, "drop mark {DROP_MARK:#x}: {packets} packets dropped")?;
        }
        if let Some(mark) = local_node_port_mark {
            writeln!(out, "nodePort traffic under policy Local: mark {mark}")?;
        }
        let sockets = match (has_socket_hooks, host_namespace_only) {
            (false, _) => "none",
            (true, true) => "the node's own network namespace",
            (true, false) => "all below the cgroup",
        };
        writeln!(out, "sockets served: {sockets}")?;
        writeln!(out, "UDP timeout: {udp_timeout_seconds}s")?;
        writeln!(out, "pods: IPv4 {pods_v4}, IPv6 {pods_v6}")
    }
}

fn section(out: &mut dyn Write, headings: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    writeln!(out)?;
    writeln!(out, "{}", columns(headings, rows))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
