//! `proxy-agent top`.

mod backends;
mod rates;
mod screen;

use std::{
    io::{self, IsTerminal as _, Write},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use proxy_common::ServiceId;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use serde::Serialize;

use self::{
    backends::Connections,
    rates::{Order, Rates, Sample, rates, sort},
    screen::{Screen, Wish, cells},
};
use super::{
    CommandError, Names, Output, ServiceSelector, ShowArgs, flows,
    print::{Detail, Rows},
    text::seconds,
};
use crate::dataplane::tables::{TableError, Tables};

/// What to show rates of.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Only this Service: `[NAMESPACE/]NAME[:PORT]`.
    #[arg(value_name = "NAME")]
    service: Option<ServiceSelector>,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = seconds)]
    interval: u64,
    /// What the greatest of comes first, or the name.
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Print one list and end, also where there is no terminal.
    #[arg(long)]
    once: bool,
    /// Where to look, and how to print with --once.
    #[command(flatten)]
    show: ShowArgs,
}

impl TopArgs {
    /// Shows rates until somebody has seen enough.
    pub(super) fn run(&self, out: &mut impl Write) -> Result<(), CommandError> {
        let tables = self.show.open()?;
        if self.once {
            return self.print(&tables, out, || thread::sleep(self.interval()));
        }
        let is_list_wanted = matches!(self.show.output, Output::Json | Output::Yaml);
        if is_list_wanted || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(CommandError::Nothing("top draws on a terminal; with --once it prints one list".to_owned()));
        }
        let result = ratatui::try_init().map_err(CommandError::from);
        let result = result.and_then(|mut terminal| self.draw(&tables, &mut terminal));
        ratatui::restore();
        result
    }

    const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }

    /// Prints the rates of the time that `pause` takes.
    fn print(&self, tables: &Tables, out: &mut impl Write, pause: impl FnOnce()) -> Result<(), CommandError> {
        let began = Instant::now();
        self.check_name(tables)?;
        let (before, _) = self.sample(tables, began)?;
        pause();
        let (now, names) = self.sample(tables, began)?;
        let mut rows = rates(&before, &now, &names);
        sort(&mut rows, self.sort);
        Ok(self.show.output.print(&List(rows), out)?)
    }

    fn draw(&self, tables: &Tables, terminal: &mut DefaultTerminal) -> Result<(), CommandError> {
        let began = Instant::now();
        self.check_name(tables)?;
        let mut screen = Screen::new(self.sort, self.service.as_ref().map(ToString::to_string));
        let (mut before, _) = self.sample(tables, began)?;
        let mut connections: Option<(ServiceId, Connections)> = None;
        // The first rates come soon.
        let mut next_look = began + Duration::from_millis(500);
        loop {
            terminal.draw(|frame| screen.draw(frame))?;
            let wait = next_look.saturating_duration_since(Instant::now());
            if event::poll(wait)? {
                if let Event::Key(key) = event::read()? {
                    let opened = screen.opened();
                    if screen.key(key) == Wish::End {
                        return Ok(());
                    }
                    if screen.opened() != opened {
                        next_look = Instant::now();
                    }
                }
                continue;
            }
            let (now, names) = self.sample(tables, began)?;
            screen.set_rates(rates(&before, &now, &names));
            before = now;
            if let Some(service) = screen.opened() {
                let now = self.show.read(connections_of(tables, service, began.elapsed()))?;
                let former = connections.as_ref().filter(|(of, _)| *of == service).map(|(_, former)| former);
                screen.set_backends(now.rates(former, &tables.pods));
                connections = Some((service, now));
            }
            next_look = Instant::now() + self.interval();
        }
    }

    /// Looks whether somebody has the name that is asked for. Later it may be gone, and come again.
    fn check_name(&self, tables: &Tables) -> Result<(), CommandError> {
        let names = self.show.read(tables.names.all())?;
        Ok(self.service.as_ref().map_or(Ok(()), |service| service.ids(&names).map(drop))?)
    }

    /// What was counted until now.
    fn sample(&self, tables: &Tables, began: Instant) -> Result<(Sample, Names), CommandError> {
        let names = self.show.read(tables.names.all())?;
        let mut sample =
            Sample { at: began.elapsed(), counted: self.show.read(tables.traffic.read())?, ..Sample::default() };
        for (key, count) in self.show.read(tables.drops.all())? {
            *sample.drops.entry(key.service()).or_default() += count;
        }
        if let Some(service) = &self.service {
            let ids = service.ids(&names).unwrap_or_default();
            sample.counted.services.retain(|id, _| ids.contains(id));
            sample.drops.retain(|id, _| ids.contains(id));
            sample.counted.others = proxy_common::Traffic::default();
        }
        Ok((sample, names))
    }
}

fn connections_of(tables: &Tables, service: ServiceId, at: Duration) -> Result<Connections, TableError> {
    let records = flows::read(tables, |record| record.service == service)?;
    Ok(Connections::new(at, &records))
}

/// The rates, as they are printed.
#[derive(Serialize)]
#[serde(transparent)]
struct List(Vec<Rates>);

impl Rows for List {
    const HEADINGS: (&'static [&'static str], &'static [&'static str]) =
        (&["SERVICE", "CONN/S", "PKT/S", "B/S", "R-PKT/S", "R-B/S", "DROP/S"], &[]);

    fn rows(&self, _: Detail) -> Vec<Vec<String>> {
        self.0.iter().map(|row| cells(row).to_vec()).collect()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
