//! What tables hold for the Services of a namespace, without ids, numbers and offsets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use proxy_agent::{
    dataplane::tables::{FamilyTables, TableError, Tables},
    plan::{FamilySnapshot, Snapshot},
};
use proxy_common::{
    Backend, BackendId, Family, PlainAddress, PortName, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
    SourceRangeKey,
};

/// What new connections follow from. Two sets of tables serve them alike if their views are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    ports: BTreeSet<Port>,
    frontends: BTreeMap<String, Frontend>,
    source_ranges: BTreeSet<(Port, String)>,
}

/// Name of a Service, its port, and the protocol's number.
type Port = (String, String, Option<u8>);

/// Endpoints of a Service's port, with their flags.
pub type Endpoints = BTreeSet<(Port, String, u16)>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frontend {
    port: Port,
    flags: ServiceFlags,
    affinity_timeout: u32,
    cluster: Vec<String>,
    local: Vec<String>,
}

/// The view of what a plan wrote, and all endpoints, also those that take no new connections.
pub fn planned(snapshot: &Snapshot, namespace: &str) -> (View, Endpoints) {
    let ports = ports(&snapshot.names, namespace);
    let mut view = View { ports: ports.values().cloned().collect(), ..View::default() };
    let mut endpoints = Endpoints::new();
    planned_family("v4", &snapshot.v4, &ports, &mut view, &mut endpoints);
    planned_family("v6", &snapshot.v6, &ports, &mut view, &mut endpoints);
    (view, endpoints)
}

fn planned_family<F: Family>(
    prefix: &str,
    family: &FamilySnapshot<F>,
    ports: &BTreeMap<ServiceId, Port>,
    view: &mut View,
    endpoints: &mut Endpoints,
) where
    F::Address: Debug,
{
    let FamilySnapshot { services, slots, backends, source_ranges } = family;
    view.add(prefix, services, source_ranges, ports, |slot| backends.get(slots.get(&slot)?).copied());
    endpoints.extend(backends.values().filter_map(|backend| endpoint(backend, ports)));
}

/// Reads the tables of a running agent for as long as one namespace is of interest.
#[derive(Debug, Default)]
pub struct Reader {
    seen_v4: BTreeSet<BackendId>,
    seen_v6: BTreeSet<BackendId>,
}

impl Reader {
    /// The view, and all endpoints that were in a list at one of the times when the tables were read.
    pub fn read(&mut self, tables: &Tables, namespace: &str) -> Result<(View, Endpoints), TableError> {
        let ports = ports(&tables.names.all()?, namespace);
        let mut view = View { ports: ports.values().cloned().collect(), ..View::default() };
        let mut endpoints = Endpoints::new();
        read_family("v4", &tables.v4, &ports, &mut view, &mut self.seen_v4, &mut endpoints)?;
        read_family("v6", &tables.v6, &ports, &mut view, &mut self.seen_v6, &mut endpoints)?;
        Ok((view, endpoints))
    }
}

fn read_family<F: Family<Address: PlainAddress>>(
    prefix: &str,
    tables: &FamilyTables<F>,
    ports: &BTreeMap<ServiceId, Port>,
    view: &mut View,
    seen: &mut BTreeSet<BackendId>,
    endpoints: &mut Endpoints,
) -> Result<(), TableError>
where
    F::Address: Debug,
{
    let (services, source_ranges) = (tables.services.all()?, tables.source_ranges.all()?);
    view.add(prefix, &services, &source_ranges, ports, |slot| {
        let id = tables.slot(slot)?;
        seen.insert(id);
        tables.backend(id)
    });
    let backends = seen.iter().filter_map(|&id| tables.backend(id));
    endpoints.extend(backends.filter_map(|backend| endpoint(&backend, ports)));
    Ok(())
}

impl View {
    fn add<A: Copy + Ord + Debug>(
        &mut self,
        prefix: &str,
        services: &BTreeMap<ServiceKey<A>, ServiceEntry>,
        source_ranges: &BTreeSet<SourceRangeKey<A>>,
        ports: &BTreeMap<ServiceId, Port>,
        mut backend: impl FnMut(u32) -> Option<Backend<A>>,
    ) {
        for (key, entry) in services {
            let Some(port) = ports.get(&entry.id()) else { continue };
            let mut list = |range: SlotRange| {
                let backends = (range.offset()..range.offset() + range.count()).filter_map(&mut backend);
                let mut list: Vec<String> = backends.map(|backend| address(&backend)).collect();
                list.sort_unstable();
                list
            };
            let frontend = Frontend {
                port: port.clone(),
                flags: entry.flags(),
                affinity_timeout: entry.affinity_timeout(),
                cluster: list(entry.cluster()),
                local: list(entry.local()),
            };
            self.frontends.insert(format!("{prefix} {key:?}"), frontend);
        }
        for range in source_ranges {
            let Some(port) = ports.get(&range.service()) else { continue };
            self.source_ranges.insert((port.clone(), format!("{:?}/{}", range.prefix(), range.bits())));
        }
    }
}

fn ports(names: &BTreeMap<ServiceId, PortName>, namespace: &str) -> BTreeMap<ServiceId, Port> {
    let names = names.iter().filter(|(_, name)| name.namespace() == namespace);
    let port = |name: &PortName| {
        let protocol = name.protocol().map(proxy_common::Protocol::number);
        (name.name().to_owned(), name.port().to_owned(), protocol)
    };
    names.map(|(&id, name)| (id, port(name))).collect()
}

fn endpoint<A: Copy + Debug>(backend: &Backend<A>, ports: &BTreeMap<ServiceId, Port>) -> Option<(Port, String, u16)> {
    Some((ports.get(&backend.service())?.clone(), address(backend), backend.flags()))
}

fn address<A: Copy + Debug>(backend: &Backend<A>) -> String {
    format!("{:?}:{}", backend.address(), backend.port().get())
}
