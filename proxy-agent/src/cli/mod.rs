//! The commands that look at the pinned tables, and the one that removes them.
//!
//! They need no running agent and no configuration: everything they show comes from the kernel. Each
//! command first builds a view, without IO, and then prints it, as a table or as JSON.

mod backends;
mod flows;
mod print;
mod services;
mod status;
mod text;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueEnum};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use self::print::Rows;
use crate::dataplane::{
    self, CleanupError, pins,
    tables::{TableError, Tables},
};

/// The commands that look at the node's tables, and the one that removes them.
#[derive(Clone, Debug, Subcommand)]
pub enum TableCommand {
    /// Shows the kernel's features, what is attached where, how full the tables are, and counters.
    Status(ShowArgs),
    /// Lists the frontends that this node serves, and how often their Services refused or dropped something.
    Services(ShowArgs),
    /// Lists the endpoints that connections are sent to.
    Backends(ShowArgs),
    /// Lists the connections that are being translated.
    Flows(ShowArgs),
    /// Removes all programs, tables and rules of the agent from this node.
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

/// What to remove.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// The agent's directory on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = pins::DEFAULT_ROOT)]
    pub bpffs_root: PathBuf,
    /// The cgroup that the programs are attached to; counts on kernels before 5.7 only. Default: the root of
    /// the cgroup2 file system.
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Why a command failed: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nothing is pinned there.
    #[error(
        "no tables at {path}: is the agent running on this node? If it uses another directory, name it with --bpffs-root"
    )]
    NoTables {
        /// The directory.
        path: PathBuf,
    },
    /// Reading needs rights.
    #[error("not allowed to read the tables at {path}: run as root")]
    NotAllowed {
        /// The directory.
        path: PathBuf,
    },
    /// A table cannot be read.
    #[error(transparent)]
    Table(TableError),
    /// What is attached cannot be read.
    #[error("cannot read what is attached: {0}")]
    Attached(io::Error),
    /// Something could not be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl TableCommand {
    /// Carries out the command and prints to `out`.
    ///
    /// # Errors
    /// There are no tables, they cannot be read, or `out` cannot be written. A reader that has read enough
    /// is none.
    pub fn run(&self, out: &mut impl Write) -> Result<(), CommandError> {
        match self.print(out) {
            Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    fn print(&self, out: &mut impl Write) -> Result<(), CommandError> {
        match self {
            Self::Status(show) => {
                let tables = open(show)?;
                let status = status::read(&tables, &show.bpffs_root).map_err(|error| error.at(show))?;
                match show.output {
                    Output::Table => write!(out, "{status}")?,
                    Output::Json => json(&status, out)?,
                }
            }
            Self::Services(show) => {
                let tables = open(show)?;
                let read = || Ok(services::view(&tables.snapshot()?, &tables.drops.all()?));
                list(&read().map_err(|error| CommandError::of_table(error, show))?, show.output, out)?;
            }
            Self::Backends(show) => {
                let snapshot = open(show)?.snapshot().map_err(|error| CommandError::of_table(error, show))?;
                list(&backends::view(&snapshot), show.output, out)?;
            }
            Self::Flows(show) => {
                let tables = open(show)?;
                let contents = flows::Contents::read(&tables).map_err(|error| CommandError::of_table(error, show))?;
                list(&contents.view(seconds_since_boot()), show.output, out)?;
            }
            Self::Cleanup(CleanupArgs { bpffs_root, cgroup_root }) => {
                let removed = dataplane::cleanup(bpffs_root, cgroup_root.as_deref())?;
                for what in &removed {
                    writeln!(out, "removed {what}")?;
                }
                if removed.is_empty() {
                    writeln!(out, "nothing to remove")?;
                }
            }
        }
        Ok(())
    }
}

impl CommandError {
    fn of_table(error: TableError, show: &ShowArgs) -> Self {
        let path = show.bpffs_root.clone();
        if error.is_missing() {
            Self::NoTables { path }
        } else if error.is_denied() {
            Self::NotAllowed { path }
        } else {
            Self::Table(error)
        }
    }
}

fn open(show: &ShowArgs) -> Result<Tables, CommandError> {
    dataplane::read_tables(&show.bpffs_root).map_err(|error| CommandError::of_table(error, show))
}

fn list<R: Rows + Serialize>(rows: &R, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Table => print::table(rows, out),
        Output::Json => json(rows, out),
    }
}

fn json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// The clock by which the programs note when they saw a packet (`bpf_ktime_get_ns`).
fn seconds_since_boot() -> u32 {
    u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(u32::MAX)
}
