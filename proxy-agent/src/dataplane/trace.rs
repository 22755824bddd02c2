//! Following what the programs decide, while they do.
//!
//! Whoever follows takes a place in the table `traces`, for a few seconds at a time. So what a killed process asked for ends by
//! itself, and no agent is needed. Places are given out under a lock on the directory of links; who has one has its ring buffer.

use std::{io, path::PathBuf, time::Duration};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use proxy_common::{Decision, TRACES, Trace, TraceRate, maps};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    time::{ClockId, clock_gettime},
};

use super::{
    pins::Pins,
    tables::{TableError, into_io, open_map},
};

/// Why decisions cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// All places are taken.
    #[error("{TRACES} others follow decisions on this node already: wait until one of them ends")]
    Taken,
    /// Somebody else has the place: this process was stopped for longer than a place is kept.
    #[error("this process was stopped, and somebody else follows decisions in its place: begin again")]
    Lost,
    /// The directory of links cannot be locked.
    #[error("cannot lock {path}: {error}")]
    Lock {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A place in the table of traces, until it is dropped.
pub struct Tracing {
    number: u32,
    wanted: Trace,
    /// When the place was taken, in nanoseconds of `CLOCK_MONOTONIC`: also the owner's number, which nobody else can have.
    since: u64,
    places: Places,
    events: RingBuf<MapData>,
    /// What had not been told when the place was taken.
    untold_before: u64,
}

impl Tracing {
    /// For how long a place is kept for who does not ask for it again.
    pub const LEASE: Duration = Duration::from_secs(3);

    /// Asks for decisions; `wanted` says which. [`Self::extend`] has to be called again and again.
    ///
    /// # Errors
    /// There are no tables, or all places are taken.
    pub fn begin(pins: &Pins, wanted: impl FnOnce(Trace) -> Trace) -> Result<Self, TraceError> {
        let links = pins.links();
        let locked = |error: rustix::io::Errno| TraceError::Lock { path: links.clone(), error: error.into() };
        let places = Places::open(pins)?;
        let directory = open(&links, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(locked)?;
        flock(&directory, FlockOperation::LockExclusive).map_err(locked)?;
        let since = now();
        let number = places.free(since)?.ok_or(TraceError::Taken)?;
        let path = pins.map(maps::EVENTS[usize::try_from(number).unwrap_or_default()]);
        let events = open_map(&path)?.try_into().map_err(|error| TableError::new(&path, "open", into_io(error)))?;
        let wanted = wanted(Trace::all(since));
        let untold_before = places.untold(number)?;
        let mut tracing = Self { number, wanted, since, places, events, untold_before };
        // What was told to who had the place before.
        while tracing.events.next().is_some() {}
        tracing.places.write(number, &wanted.until(later()))?;
        Ok(tracing)
    }

    /// Keeps the place for another [`Self::LEASE`].
    ///
    /// # Errors
    /// It was not kept in time and is somebody else's, or the table cannot be written.
    pub fn extend(&mut self) -> Result<(), TraceError> {
        if self.places.read(self.number)?.owner() != self.since {
            return Err(TraceError::Lost);
        }
        Ok(self.places.write(self.number, &self.wanted.until(later()))?)
    }

    /// The next decision, if one has been told.
    pub fn next_decision(&mut self) -> Option<Decision> {
        loop {
            // A record of another length is one of another version's programs.
            match Decision::read(&self.events.next()?) {
                Some(decision) if decision.time() >= self.since => return Some(decision),
                _ => {}
            }
        }
    }

    /// Decisions that were asked for and not told, because there were too many in a second or nobody read for too long.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn untold(&self) -> Result<u64, TableError> {
        Ok(self.places.untold(self.number)?.saturating_sub(self.untold_before))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // If it cannot be given back, it ends by itself.
        if self.places.read(self.number).is_ok_and(|trace| trace.owner() == self.since) {
            drop(self.places.write(self.number, &Trace::OFF));
        }
    }
}

/// The tables of who follows.
struct Places {
    traces: Array<MapData, Trace>,
    traces_path: PathBuf,
    rates: PerCpuArray<MapData, TraceRate>,
    rates_path: PathBuf,
}

impl Places {
    fn open(pins: &Pins) -> Result<Self, TableError> {
        let (traces_path, rates_path) = (pins.map(maps::TRACES), pins.map(maps::TRACE_RATES));
        let traces = open_map(&traces_path)?;
        let traces = traces.try_into().map_err(|error| TableError::new(&traces_path, "open", into_io(error)))?;
        let rates = open_map(&rates_path)?;
        let rates = rates.try_into().map_err(|error| TableError::new(&rates_path, "open", into_io(error)))?;
        Ok(Self { traces, traces_path, rates, rates_path })
    }

    /// A place that nobody has at this time.
    fn free(&self, now: u64) -> Result<Option<u32>, TableError> {
        for number in 0..self.traces.len() {
            if !self.read(number)?.lasts(now) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn read(&self, number: u32) -> Result<Trace, TableError> {
        let trace = self.traces.get(&number, 0);
        trace.map_err(|error| TableError::new(&self.traces_path, "read", into_io(error)))
    }

    fn write(&mut self, number: u32, trace: &Trace) -> Result<(), TableError> {
        let written = self.traces.set(number, trace, 0);
        written.map_err(|error| TableError::new(&self.traces_path, "write", into_io(error)))
    }

    fn untold(&self, number: u32) -> Result<u64, TableError> {
        let rates = self.rates.get(&number, 0);
        let rates = rates.map_err(|error| TableError::new(&self.rates_path, "read", into_io(error)))?;
        Ok(rates.iter().map(TraceRate::untold).sum())
    }
}

/// The programs' clock, in nanoseconds.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let time = Duration::try_from(time).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn later() -> u64 {
    now() + u64::try_from(Tracing::LEASE.as_nanos()).unwrap_or(u64::MAX)
}
