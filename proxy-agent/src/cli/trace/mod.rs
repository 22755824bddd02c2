//! `proxy-agent trace`.

mod limit;
mod view;

use std::{
    collections::BTreeSet,
    future::Future,
    io::Write,
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use clap::Args;
use proxy_common::{Decision, Protocol, ServiceId, Trace, V4, V6};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    limit::Limit,
    view::{DecisionView, Header, LeftOut, MonotonicClock},
};
use super::{
    CommandError, Names, Output, ServiceSelector, ShowArgs,
    flows::{address, protocol},
    text::number,
};
use crate::dataplane::{
    pins::Pins,
    tables::Tables,
    trace::{TraceError, Tracing},
};

/// Which decisions to follow.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Only decisions about this Service: `[NAMESPACE/]NAME[:PORT]`.
    #[arg(short, long, value_name = "NAME")]
    service: Option<ServiceSelector>,
    /// Only decisions about what has this address as its client, destination or backend. (A client at its socket has none yet.)
    #[arg(short, long, value_parser = address)]
    address: Option<IpAddr>,
    /// Only decisions about this protocol: tcp, udp or sctp.
    #[arg(short, long, value_parser = protocol)]
    protocol: Option<Protocol>,
    /// Decisions that are printed in a second, at most; how many more there were is printed too.
    #[arg(long, value_name = "DECISIONS", default_value = "100", value_parser = number)]
    limit: NonZeroU32,
    /// End after so many decisions.
    #[arg(short, long, value_name = "DECISIONS", value_parser = number)]
    count: Option<NonZeroU32>,
    /// Where to look, and how to print.
    #[command(flatten)]
    show: ShowArgs,
}

impl TraceArgs {
    /// Prints decisions until the process is interrupted, or has printed as many as were asked for.
    pub(super) fn run(&self, out: &mut impl Write) -> Result<(), CommandError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let stop = async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            self.follow(out, stop).await
        })
    }

    async fn follow(&self, out: &mut impl Write, stop: impl Future<Output = ()>) -> Result<(), CommandError> {
        let tables = self.show.open()?;
        let names = self.show.read(tables.names.all())?;
        let services = self.service.as_ref().map(|service| service.ids(&names)).transpose()?;
        let mut tracing = Tracing::begin(&Pins::new(&self.show.bpffs_root), |all| self.wanted(all, services.as_ref()))
            .map_err(|error| self.failed(error))?;
        let mut printer = Printer::new(self, &tables, names, services);
        printer.begin(out)?;

        let (mut look, mut extend) = (tokio::time::interval(PERIOD), tokio::time::interval(Tracing::LEASE / 3));
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                _ = extend.tick() => {
                    tracing.extend().map_err(|error| self.failed(error))?;
                    let untold = self.show.read(tracing.untold())?;
                    printer.untold(untold, out)?;
                }
                _ = look.tick() => {
                    while let Some(decision) = tracing.next_decision() {
                        if printer.print(&decision, out)? == More::Enough {
                            return Ok(());
                        }
                    }
                    out.flush()?;
                }
            }
        }
    }

    /// What the programs are asked for. They need not be exact: what they tell is looked at again.
    fn wanted(&self, all: Trace, services: Option<&BTreeSet<ServiceId>>) -> Trace {
        let Self { service: _, address, protocol, limit: _, count: _, show: _ } = self;
        let trace = services.map_or(all, |services| all.of_services(services.iter().copied()));
        let trace = protocol.map_or(trace, |protocol| trace.of_protocol(protocol));
        match address {
            Some(IpAddr::V4(address)) => trace.of_address::<V4>(address.octets()),
            Some(IpAddr::V6(address)) => trace.of_address::<V6>(address.octets()),
            None => trace,
        }
    }

    fn failed(&self, error: TraceError) -> CommandError {
        match error {
            TraceError::Table(error) => self.show.failed(error),
            other => other.into(),
        }
    }
}

/// How often the decisions are read that have been told; they wait in a ring buffer meanwhile.
const PERIOD: Duration = Duration::from_millis(50);

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Wanted,
    Enough,
}

/// How often the names of Services are read again, at most, for one that is not known.
const NAMES_PERIOD: Duration = Duration::from_secs(1);

struct Printer<'a> {
    arguments: &'a TraceArgs,
    tables: &'a Tables,
    names: Names,
    named_at: Instant,
    services: Option<BTreeSet<ServiceId>>,
    clock: MonotonicClock,
    limit: Limit,
    untold: u64,
    left: Option<u32>,
}

impl<'a> Printer<'a> {
    fn new(arguments: &'a TraceArgs, tables: &'a Tables, names: Names, services: Option<BTreeSet<ServiceId>>) -> Self {
        Self {
            arguments,
            tables,
            names,
            named_at: Instant::now(),
            services,
            clock: MonotonicClock::now(),
            limit: Limit::new(arguments.limit),
            untold: 0,
            left: arguments.count.map(NonZeroU32::get),
        }
    }

    /// Prints what comes before all decisions.
    fn begin(&self, out: &mut impl Write) -> Result<(), CommandError> {
        if matches!(self.output(), Output::Table | Output::Wide) {
            self.output().print_line(&Header, out)?;
            out.flush()?;
        }
        Ok(())
    }

    fn print(&mut self, decision: &Decision, out: &mut impl Write) -> Result<More, CommandError> {
        if self.services.as_ref().is_some_and(|services| !services.contains(&decision.service())) {
            return Ok(More::Wanted);
        }
        let admission = self.limit.admit(decision.time() / 1_000_000_000);
        self.left_out(admission.left_out, out)?;
        if !admission.is_shown {
            return Ok(More::Wanted);
        }
        if !self.names.contains_key(&decision.service()) && self.named_at.elapsed() >= NAMES_PERIOD {
            self.names = self.arguments.show.read(self.tables.names.all())?;
            self.named_at = Instant::now();
        }
        self.output().print_line(&DecisionView::new(decision, &self.names, &self.clock), out)?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(if self.left == Some(0) { More::Enough } else { More::Wanted })
    }

    /// Takes note of how many decisions the programs have not told, so far.
    fn untold(&mut self, untold: u64, out: &mut impl Write) -> Result<(), CommandError> {
        let more = untold.saturating_sub(self.untold);
        self.untold = untold;
        self.left_out(more, out)
    }

    fn left_out(&self, count: u64, out: &mut impl Write) -> Result<(), CommandError> {
        if count > 0 {
            self.output().print_line(&LeftOut { not_shown: count }, out)?;
            out.flush()?;
        }
        Ok(())
    }

    const fn output(&self) -> Output {
        self.arguments.show.output
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
