//! `proxy-agent explain`.

mod ends;
mod origin;
mod sentences;
mod view;

use std::{io::Write, net::IpAddr};

use clap::Args;
use proxy_common::{BackendId, Family, PlainAddress, Protocol, ServiceEntry, V4, V6, maps};

pub(super) use self::sentences::because;
use self::{
    ends::{Destination, Source},
    origin::{Attached, From},
    view::{ExplainView, Pods},
};
use super::{
    CommandError, ShowArgs,
    flows::protocol,
    pods::PodNames as _,
    seconds_since_boot,
    text::{IntoIp, socket_address},
};
use crate::{
    dataplane::{
        pins::Pins,
        status,
        tables::{FamilyTables, HashTable, Lookups, TableError, Tables, Writes},
    },
    explain::{self, Explanation, MixedFamilies, Origin, Question},
    model::IpFamily,
};

/// What to explain.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The client: its address, and its port if that matters (`10.0.0.1`, `10.0.0.1:4000`, `[fd00::1]:4000`).
    #[arg(value_name = "SRC[:PORT]")]
    source: Source,
    /// Where it connects to: `10.96.0.1:80`, `[fd00::1]:80`, or a Service's port, `[NAMESPACE/]NAME[:PORT]`, by its name
    /// or number.
    #[arg(value_name = "DST:PORT")]
    destination: Destination,
    /// The protocol: tcp, udp or sctp. Default: tcp, or the one that the named Service port has.
    #[arg(long = "proto", value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<Protocol>,
    /// Who the client is: `pod` or `node` (a process that is served at its socket), `outside`, or the name of the device by which
    /// its packets enter the node. Default: what its address says.
    #[arg(long, value_name = "WHO")]
    from: Option<From>,
    /// Where to look, and how to print.
    #[command(flatten)]
    show: ShowArgs,
}

impl ExplainArgs {
    /// Prints the explanation.
    pub(super) fn run(&self, out: &mut impl Write) -> Result<(), CommandError> {
        let Self { source, destination, protocol, from, show } = self;
        let tables = show.open()?;
        let names = show.read(tables.names.all())?;
        let settings = show.read(tables.settings.read())?;
        let pins = Pins::new(&show.bpffs_root);
        let pod_devices = show.read(HashTable::open(&pins.map(maps::POD_DEVICES), Writes::Single))?;
        let (destination, protocol) = show.read_or(destination.resolve(*protocol, source.address, &tables, &names))?;
        let attached = Attached {
            sockets: status::socket_hooks(&pins).map_err(CommandError::Attached)?,
            devices: status::devices(&pins).map_err(CommandError::Attached)?,
        };
        let who = show.read_or(origin::find(from.as_ref(), source.address, &tables, &pod_devices, &attached))?;
        let question = Question {
            source: source.address,
            source_port: source.port,
            destination,
            protocol,
            origin: who.origin,
            hooks: attached.hooks(),
        };
        let explanation = if who.is_unattached {
            Explanation::nothing_done()
        } else {
            show.read_or(ask(&question, &tables, &pod_devices, settings))?
        };
        let pods = explanation.frontend().map(|entry| pods_of(&entry, &tables, source.address)).unwrap_or_default();
        let view = ExplainView::new(&question, &who, &explanation, &names, &pods, &settings);
        Ok(show.output.print(&view, out)?)
    }
}

/// What cannot be asked.
#[derive(Debug)]
pub(super) enum AskError {
    Table(TableError),
    Command(CommandError),
}

impl std::convert::From<TableError> for AskError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl std::convert::From<CommandError> for AskError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl std::convert::From<MixedFamilies> for AskError {
    fn from(error: MixedFamilies) -> Self {
        Self::Command(CommandError::Nothing(error.to_string()))
    }
}

impl ShowArgs {
    fn read_or<T>(&self, result: Result<T, AskError>) -> Result<T, CommandError> {
        match result {
            Ok(value) => Ok(value),
            Err(AskError::Table(error)) => self.read(Err(error)),
            Err(AskError::Command(error)) => Err(error),
        }
    }
}

fn ask(
    question: &Question,
    tables: &Tables,
    pod_devices: &HashTable<u32, u32>,
    settings: proxy_common::Settings,
) -> Result<Explanation, AskError> {
    let now = seconds_since_boot();
    if question.source.is_ipv4() {
        let lookups = Lookups::<V4>::new(&tables.v4, pod_devices, settings, now);
        let explanation = explain::explain(question, || lookups.overlay())?;
        lookups.finish()?;
        Ok(explanation)
    } else {
        let lookups = Lookups::<V6>::new(&tables.v6, pod_devices, settings, now);
        let explanation = explain::explain(question, || lookups.overlay())?;
        lookups.finish()?;
        Ok(explanation)
    }
}

/// The names of the pods among which a frontend chooses, by their endpoints.
fn pods_of(entry: &ServiceEntry, tables: &Tables, source: IpAddr) -> Pods {
    let mut pods = Pods::new();
    if source.is_ipv4() {
        add_pods(entry, &tables.v4, |id| tables.pods.pod(IpFamily::V4, id), &mut pods);
    } else {
        add_pods(entry, &tables.v6, |id| tables.pods.pod(IpFamily::V6, id), &mut pods);
    }
    pods
}

fn add_pods<F: Family<Address: PlainAddress + IntoIp>>(
    entry: &ServiceEntry,
    tables: &FamilyTables<F>,
    pod: impl Fn(BackendId) -> Option<String>,
    pods: &mut Pods,
) {
    for range in [entry.cluster(), entry.local()] {
        for id in (range.offset()..range.offset().saturating_add(range.count())).filter_map(|slot| tables.slot(slot)) {
            if let Some((backend, pod)) = tables.backend(id).zip(pod(id)) {
                pods.insert(socket_address((backend.address(), backend.port())), pod);
            }
        }
    }
}

impl Origin {
    /// As it is written on the command line.
    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pod { .. } => "pod",
            Self::Packets { .. } => "packets",
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
