//! How full the tables of flows are, and what they gave up.

use std::collections::BTreeMap;

use proxy_common::{Counter, Family, FamilyFlows, FlowTable, PlainAddress, maps};

use super::{FamilyTables, TableError, Tables};

/// How full a table of flows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTableUse {
    /// The table's name.
    pub table: &'static str,
    /// Entries that are there; those of flows that have ended stay until they are in the way.
    pub entries: u64,
    /// Entries that there is room for.
    pub capacity: u32,
    /// Entries that the kernel gave up for others since the tables are there: those that programs added and did not remove,
    /// and that are not there. The kernel does not count them itself. Off by what happens while the table is read.
    pub evicted: u64,
}

impl Tables {
    /// How full the tables of flows are. Reads all entries: some 50 ms for 250,000 of them.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn flow_use(&self) -> Result<Vec<FlowTableUse>, TableError> {
        // Before the entries: what is added meanwhile must not look like what was given up.
        let counters = self.counters.read()?;
        let mut all = self.v4.flow_use(&counters)?;
        all.extend(self.v6.flow_use(&counters)?);
        Ok(all)
    }
}

impl<F: Family<Address: PlainAddress>> FamilyTables<F> {
    fn flow_use(&self, counters: &BTreeMap<Counter, u64>) -> Result<Vec<FlowTableUse>, TableError> {
        let count = |counter| counters.get(&counter).copied().unwrap_or(0);
        let of = |table| {
            let flows = FamilyFlows::of::<F>(table);
            let map = match table {
                FlowTable::Confirmed => maps::FLOWS,
                FlowTable::Young => maps::YOUNG_FLOWS,
            };
            let entries = self.flow_table(table).count()? as u64;
            let kept = count(Counter::FlowsAdded(flows)).saturating_sub(count(Counter::FlowsRemoved(flows)));
            Ok(FlowTableUse {
                table: map.name::<F>(),
                entries,
                capacity: self.flow_table(table).capacity(),
                evicted: kept.saturating_sub(entries),
            })
        };
        FlowTable::ALL.into_iter().map(of).collect()
    }
}
