//! The commands that look at the pinned tables, and the one that removes them.
//!
//! They need no running agent and no configuration: everything they show comes from the kernel. Each
//! command first builds a view and then prints it: for people, as JSON or as YAML. The fields of views are for programs,
//! and keep their names and meaning; docs/commands.md lists them.

mod ages;
mod backends;
mod check;
mod cleanup;
mod error;
mod explain;
mod flows;
mod pods;
mod print;
mod select;
mod services;
mod status;
mod text;
mod top;
mod trace;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    thread,
};

use clap::{Args, Subcommand};
use proxy_common::{PortName, ServiceId};
use rustix::time::{ClockId, clock_gettime};

pub use self::{
    check::{CheckArgs, Readiness},
    cleanup::{CleanupArgs, Instead},
    error::CommandError,
    print::Output,
    select::{SelectorError, ServiceSelector, UnknownService},
};
use self::{explain::ExplainArgs, flows::FlowsArgs, top::TopArgs, trace::TraceArgs};
use crate::dataplane::{
    self, diagnosis, pins,
    tables::{TableError, Tables},
};

/// The commands that look at the node's tables, and the one that removes them.
#[derive(Clone, Debug, Subcommand)]
pub enum TableCommand {
    /// Shows the kernel's features, what is attached where, how full the tables are, counters, and what is wrong.
    Status(ShowArgs),
    /// Lists the frontends that this node serves, and how often their Services refused or dropped something.
    Services(ListArgs),
    /// Lists the endpoints that connections are sent to.
    Backends(ListArgs),
    /// Lists the connections that are being translated, in packets and at sockets.
    Flows(FlowsArgs),
    /// Explains what becomes of a new connection, step by step, by running the datapath's own code over the tables as they are.
    Explain(ExplainArgs),
    /// Follows what is decided while it is: connections that begin, and what is refused or dropped, a line each.
    Trace(TraceArgs),
    /// Shows what happens in a second for each Service, and for the backends of one, on the whole terminal.
    Top(TopArgs),
    /// Removes all programs, tables and rules of the agent from this node; or what kube-proxy left there; or only hands over.
    Cleanup(CleanupArgs),
}

/// Where to look, and how to print.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// The agent's directory on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = pins::DEFAULT_ROOT)]
    pub bpffs_root: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What to list.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Only this Service: `[NAMESPACE/]NAME[:PORT]`.
    #[arg(value_name = "NAME")]
    pub service: Option<ServiceSelector>,
    /// Where to look, and how to print.
    #[command(flatten)]
    pub show: ShowArgs,
}

impl TableCommand {
    /// Carries out the command and prints to `out`, with ANSI styles.
    ///
    /// # Errors
    /// There are no tables, they cannot be read, nothing has a name that was asked for, or `out` cannot be written. A
    /// reader that has read enough is none.
    pub fn run(&self, out: &mut impl Write) -> Result<(), CommandError> {
        match self.print(out).and_then(|()| Ok(out.flush()?)) {
            Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    fn print(&self, out: &mut impl Write) -> Result<(), CommandError> {
        match self {
            Self::Status(show) => {
                let status = status::read(&show.open()?, &show.bpffs_root).map_err(|error| error.at(show))?;
                show.output.print(&status, out)?;
            }
            Self::Services(ListArgs { service, show }) => {
                let tables = show.open()?;
                let mut snapshot = show.read(tables.snapshot())?;
                if let Some(service) = service {
                    let ids = service.ids(&snapshot.names)?;
                    services::keep(&mut snapshot, &ids);
                }
                show.output.print(&services::view(&snapshot, &show.read(tables.drops.all())?), out)?;
            }
            Self::Backends(ListArgs { service, show }) => {
                let tables = show.open()?;
                let mut snapshot = show.read(tables.snapshot())?;
                if let Some(service) = service {
                    let ids = service.ids(&snapshot.names)?;
                    services::keep(&mut snapshot, &ids);
                }
                show.output.print(&backends::view(&snapshot, &tables.pods), out)?;
            }
            Self::Flows(flows) => flows.run(out, || {
                thread::sleep(flows.interval());
                true
            })?,
            Self::Explain(explain) => explain.run(out)?,
            Self::Trace(trace) => trace.run(out)?,
            Self::Top(top) => top.run(out)?,
            Self::Cleanup(arguments) => cleanup::run(arguments, out)?,
        }
        Ok(())
    }
}

impl ShowArgs {
    /// The tables, of this version's layout.
    fn open(&self) -> Result<Tables, CommandError> {
        let tables = self.read(dataplane::read_tables(&self.bpffs_root))?;
        diagnosis::check_layout(&self.read(tables.settings.read())?, &self.bpffs_root)?;
        Ok(tables)
    }

    /// What was read, or what its error means.
    fn read<T>(&self, result: Result<T, TableError>) -> Result<T, CommandError> {
        result.map_err(|error| self.failed(error))
    }

    /// What an error of a table means.
    fn failed(&self, error: TableError) -> CommandError {
        diagnosis::of_error(error, &self.bpffs_root).into()
    }
}

/// Names of Service ports, by id.
type Names = BTreeMap<ServiceId, PortName>;

/// The clock by which the programs note when they saw a packet (`bpf_ktime_get_ns`).
fn seconds_since_boot() -> u32 {
    u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
