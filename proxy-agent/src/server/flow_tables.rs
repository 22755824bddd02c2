//! How full the tables of flows are, as metrics. Counting their entries means reading them, so that is not done for every
//! request.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::Statistics;
use crate::dataplane::tables::FlowTableUse;

/// How old an answer may be. Reading full tables of the default size takes a fifth of a second of a processor.
const FRESH: Duration = Duration::from_secs(30);

/// Puts the use of the tables into a registry.
pub(super) struct FlowTables {
    statistics: Arc<dyn Statistics>,
    newest: Mutex<Sample>,
}

impl FlowTables {
    pub(super) fn new(statistics: Arc<dyn Statistics>) -> Self {
        Self { statistics, newest: Mutex::default() }
    }
}

/// What was read last.
#[derive(Debug, Default)]
struct Sample {
    read: Option<Instant>,
    tables: Vec<FlowTableUse>,
}

impl Sample {
    /// What was read last, after reading again with `read` if that is too old at the time `now`.
    fn get(&mut self, now: Instant, read: impl FnOnce() -> Vec<FlowTableUse>) -> &[FlowTableUse] {
        if self.read.is_none_or(|then| now.saturating_duration_since(then) >= FRESH) {
            let mut tables = read();
            for table in &mut tables {
                // A counter does not go back, though what is known of it is not exact.
                let before = self.tables.iter().find(|before| before.table == table.table);
                table.evicted = table.evicted.max(before.map_or(0, |before| before.evicted));
            }
            *self = Self { read: Some(now), tables };
        }
        &self.tables
    }
}

impl fmt::Debug for FlowTables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FlowTables")
    }
}

impl Collector for FlowTables {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = newest.get(Instant::now(), || self.statistics.flow_tables());
        let mut entries = encoder.encode_descriptor(
            "proxy_agent_flow_table_entries",
            "Entries in a table of flows, also of those that have ended, half a minute ago at most",
            None,
            MetricType::Gauge,
        )?;
        for table in tables {
            ConstGauge::new(i64::try_from(table.entries).unwrap_or(i64::MAX))
                .encode(entries.encode_family(&[("table", table.table)])?)?;
        }
        let mut capacity = encoder.encode_descriptor(
            "proxy_agent_flow_table_capacity",
            "Entries that a table of flows has room for",
            None,
            MetricType::Gauge,
        )?;
        for table in tables {
            ConstGauge::new(i64::from(table.capacity)).encode(capacity.encode_family(&[("table", table.table)])?)?;
        }
        let mut evictions = encoder.encode_descriptor(
            "proxy_agent_flow_table_evictions",
            "Entries that the kernel gave up for others, as far as that can be told, also of flows that had ended",
            None,
            MetricType::Counter,
        )?;
        for table in tables {
            ConstCounter::new(table.evicted).encode(evictions.encode_family(&[("table", table.table)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: u64, evicted: u64) -> Vec<FlowTableUse> {
        vec![FlowTableUse { table: "flows_v4", entries, capacity: 100, evicted }]
    }

    #[test]
    fn tables_are_read_once_in_half_a_minute_and_counters_do_not_go_back() {
        let start = Instant::now();
        let mut sample = Sample::default();
        assert_eq!(sample.get(start, || table(90, 5)), table(90, 5));
        assert_eq!(sample.get(start + FRESH / 2, || panic!("it is known")), table(90, 5));
        assert_eq!(sample.get(start + FRESH, || table(80, 4)), table(80, 5));
        assert_eq!(sample.get(start + FRESH * 3, || table(70, 6)), table(70, 6));
    }
}
