//! `proxy-agent flows`.

mod filter;
pub(super) mod record;
mod view;

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;

pub(super) use self::filter::{address, protocol};
use self::{filter::Filter, record::Record, view::FlowsView};
use super::{CommandError, Names, Output, ShowArgs, seconds_since_boot, text::seconds};
use crate::dataplane::tables::{TableError, Tables};

/// Clears a terminal and begins at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Which connections to list.
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    #[command(flatten)]
    filter: Filter,
    /// List again and again, until the command is interrupted.
    #[arg(short, long)]
    watch: bool,
    /// Seconds between two lists of --watch.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = seconds)]
    interval: u64,
    /// Where to look, and how to print.
    #[command(flatten)]
    show: ShowArgs,
}

impl FlowsArgs {
    /// Time between two lists.
    pub(super) const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }

    /// Prints the list; with `--watch` again for as long as `pause` says so, which is asked in between.
    pub(super) fn run(&self, out: &mut impl Write, mut pause: impl FnMut() -> bool) -> Result<(), CommandError> {
        let tables = self.show.open()?;
        loop {
            let names = self.show.read(tables.names.all())?;
            let selection = self.filter.resolve(&names)?;
            let records = self.show.read(read(&tables, |record| selection.passes(record)))?;
            let view = FlowsView::new(records, names, &tables.pods, seconds_since_boot());
            if self.watch {
                self.separate(out)?;
            }
            self.show.output.print(&view, out)?;
            out.flush()?;
            if !self.watch || !pause() {
                return Ok(());
            }
        }
    }

    /// What comes between two lists: a terminal is cleared, and YAML's documents are kept apart. (JSON's need nothing.)
    fn separate(&self, out: &mut impl Write) -> io::Result<()> {
        match self.show.output {
            Output::Table | Output::Wide => out.write_all(CLEAR.as_bytes()),
            Output::Yaml => writeln!(out, "---"),
            Output::Json => Ok(()),
        }
    }
}

/// The connections that pass, in no order.
pub(super) fn read(tables: &Tables, passes: impl Fn(&Record) -> bool) -> Result<Vec<Record>, TableError> {
    let mut records = Vec::new();
    record::read(&tables.v4, &passes, &mut records)?;
    record::read(&tables.v6, &passes, &mut records)?;
    Ok(records)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
