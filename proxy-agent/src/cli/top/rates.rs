//! What happens in a second, from what was counted at two moments.

use std::{collections::BTreeMap, time::Duration};

use clap::ValueEnum;
use proxy_common::{Direction, ServiceId, Traffic};
use serde::Serialize;

use crate::{
    cli::{Names, text::service},
    dataplane::tables::Counted,
};

/// What was counted until a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// The moment, of any clock that does not go back.
    pub(super) at: Duration,
    pub(super) counted: Counted,
    /// What was dropped or refused.
    pub(super) drops: BTreeMap<ServiceId, u64>,
}

/// What happens for a Service's port in a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Absent for all those together that are not counted for themselves.
    #[serde(skip)]
    pub(super) id: Option<ServiceId>,
    pub(super) service: String,
    pub(super) connections: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) reply_packets: f64,
    pub(super) reply_bytes: f64,
    pub(super) drops: f64,
}

/// By what rows are ordered: the name, or the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    #[default]
    Connections,
    Packets,
    Bytes,
    Drops,
    Name,
}

impl Order {
    pub(super) const ALL: [Self; 5] = [Self::Connections, Self::Packets, Self::Bytes, Self::Drops, Self::Name];

    /// Its name, which begins with the key that asks for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Drops => "drops",
            Self::Name => "name",
        }
    }
}

/// The rates of all Services that are counted for themselves. One that was not there at the first moment began with nothing.
pub(super) fn rates(before: &Sample, now: &Sample, names: &Names) -> Vec<Rates> {
    let seconds = now.at.saturating_sub(before.at).as_secs_f64();
    let nothing = Traffic::default();
    let row = |id: Option<ServiceId>, service: String, traffic: Traffic, drops: u64| {
        let rate = |count: u64| if seconds > 0.0 { as_f64(count) / seconds } else { 0.0 };
        Rates {
            id,
            service,
            connections: rate(traffic.connections()),
            packets: rate(traffic.packets(Direction::Original)),
            bytes: rate(traffic.bytes(Direction::Original)),
            reply_packets: rate(traffic.packets(Direction::Reply)),
            reply_bytes: rate(traffic.bytes(Direction::Reply)),
            drops: rate(drops),
        }
    };
    let mut ids: Vec<ServiceId> = now.counted.services.keys().chain(now.drops.keys()).copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let mut rows: Vec<Rates> = ids
        .into_iter()
        .map(|id| {
            let traffic = |sample: &Sample| sample.counted.services.get(&id).copied().unwrap_or_default();
            let drops = |sample: &Sample| sample.drops.get(&id).copied().unwrap_or_default();
            let more = drops(now).saturating_sub(drops(before));
            row(Some(id), service(id, names), traffic(now).since(&traffic(before)), more)
        })
        .collect();
    if now.counted.others != nothing {
        rows.push(row(None, "(others)".to_owned(), now.counted.others.since(&before.counted.others), 0));
    }
    rows
}

/// Puts rows in order; those that are equal, by name.
pub(super) fn sort(rows: &mut [Rates], order: Order) {
    let key = |row: &Rates| match order {
        Order::Connections => row.connections,
        Order::Packets => row.packets + row.reply_packets,
        Order::Bytes => row.bytes + row.reply_bytes,
        Order::Drops => row.drops,
        Order::Name => 0.0,
    };
    rows.sort_by(|one, other| key(other).total_cmp(&key(one)).then_with(|| one.service.cmp(&other.service)));
}

#[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}

/// A rate in at most six characters: `0`, `0.3`, `12`, `4.5k`, `12.0M`.
pub(super) fn short(rate: f64) -> String {
    const THOUSAND: f64 = 1_000.0;
    if rate <= 0.0 {
        return "0".to_owned();
    }
    let (mut rate, mut unit) = (rate, "");
    for next in ["k", "M", "G", "T"] {
        // What would be rounded to a thousand belongs to the next unit.
        if rate < THOUSAND - 0.5 {
            break;
        }
        (rate, unit) = (rate / THOUSAND, next);
    }
    if unit.is_empty() && rate >= 9.95 { format!("{rate:.0}") } else { format!("{rate:.1}{unit}") }
}
