//! The backends of one Service: how many connections each has, and how many are new.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use proxy_common::BackendId;

use crate::{
    cli::{
        flows::record::{Client, Record, State},
        pods::PodNames,
    },
    model::IpFamily,
};

/// The connections of a Service's port at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    at: Duration,
    known: HashSet<(Client, SocketAddr, SocketAddr, BackendId)>,
}

/// What goes to a backend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BackendRates {
    pub(super) backend: SocketAddr,
    /// The pod that it is, if that is known.
    pub(super) pod: Option<String>,
    /// Connections that have not ended, as far as is known.
    pub(super) connections: usize,
    /// Those that were not there at the moment before, for each second since then.
    pub(super) new: f64,
}

/// By what backends are ordered: the address, or the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BackendOrder {
    #[default]
    Connections,
    New,
    Address,
}

impl BackendOrder {
    pub(super) const ALL: [Self; 3] = [Self::Connections, Self::New, Self::Address];

    /// Its name, which begins with the key that asks for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::New => "new connections in a second",
            Self::Address => "address",
        }
    }

    /// Puts rows in order; those that are equal, by address.
    pub(super) fn sort(self, rows: &mut [BackendRates]) {
        rows.sort_by(|one, other| {
            let order = match self {
                Self::Connections => other.connections.cmp(&one.connections),
                Self::New => other.new.total_cmp(&one.new),
                Self::Address => Ordering::Equal,
            };
            order.then_with(|| one.backend.cmp(&other.backend))
        });
    }
}

impl Connections {
    /// The connections among these that go on.
    pub(super) fn new(at: Duration, records: &[Record]) -> Self {
        let open = records.iter().filter(|record| record.state != State::Closed);
        let known = open.map(|record| (record.client, record.frontend, record.backend, record.backend_id));
        Self { at, known: known.collect() }
    }

    /// What goes to each backend.
    pub(super) fn rates(&self, before: Option<&Self>, pods: &impl PodNames) -> Vec<BackendRates> {
        let mut counts: BTreeMap<(SocketAddr, BackendId), (u32, u32)> = BTreeMap::new();
        for connection in &self.known {
            let (all, new) = counts.entry((connection.2, connection.3)).or_default();
            *all += 1;
            // Of what was there before anybody looked, nobody knows when it began.
            *new += u32::from(before.is_some_and(|before| !before.known.contains(connection)));
        }
        let seconds = before.map_or(0.0, |before| self.at.saturating_sub(before.at).as_secs_f64());
        let rate = |new: u32| if seconds > 0.0 { f64::from(new) / seconds } else { 0.0 };
        let row = |((backend, id), (all, new)): ((SocketAddr, BackendId), (u32, u32))| BackendRates {
            backend,
            pod: pods.pod(IpFamily::of(backend.ip()), id),
            connections: usize::try_from(all).unwrap_or(usize::MAX),
            new: rate(new),
        };
        counts.into_iter().map(row).collect()
    }
}
