//! The backends of one Service: how many connections each has, and how many are new.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use crate::cli::flows::record::{Client, Record, State};

/// The connections of a Service's port at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    at: Duration,
    known: HashSet<(Client, SocketAddr, SocketAddr)>,
}

/// What goes to a backend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BackendRates {
    pub(super) backend: SocketAddr,
    /// Connections that have not ended, as far as is known.
    pub(super) connections: usize,
    /// Those that were not there at the moment before, for each second since then.
    pub(super) new: f64,
}

impl Connections {
    /// The connections among these that go on.
    pub(super) fn new(at: Duration, records: &[Record]) -> Self {
        let open = records.iter().filter(|record| record.state != State::Closed);
        Self { at, known: open.map(|record| (record.client, record.frontend, record.backend)).collect() }
    }

    /// What goes to each backend; those with the most connections first.
    pub(super) fn rates(&self, before: Option<&Self>) -> Vec<BackendRates> {
        let mut counts: BTreeMap<SocketAddr, (u32, u32)> = BTreeMap::new();
        for connection in &self.known {
            let (all, new) = counts.entry(connection.2).or_default();
            *all += 1;
            // Of what was there before anybody looked, nobody knows when it began.
            *new += u32::from(before.is_some_and(|before| !before.known.contains(connection)));
        }
        let seconds = before.map_or(0.0, |before| self.at.saturating_sub(before.at).as_secs_f64());
        let rate = |new: u32| if seconds > 0.0 { f64::from(new) / seconds } else { 0.0 };
        let row = |(backend, (all, new)): (SocketAddr, (u32, u32))| BackendRates {
            backend,
            connections: usize::try_from(all).unwrap_or(usize::MAX),
            new: rate(new),
        };
        let mut rows: Vec<BackendRates> = counts.into_iter().map(row).collect();
        rows.sort_by(|one, other| {
            other.connections.cmp(&one.connections).then_with(|| one.backend.cmp(&other.backend))
        });
        rows
    }
}
