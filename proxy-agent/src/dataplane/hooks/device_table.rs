//! A table of devices that the programs look up by index.

use std::collections::BTreeSet;

use super::super::{
    pins::Pins,
    tables::{HashTable, TableError, Writes},
};

/// Interface index → 1.
pub(crate) struct DeviceTable {
    name: &'static str,
    table: HashTable<u32, u32>,
    /// What it holds.
    devices: BTreeSet<u32>,
}

impl DeviceTable {
    /// The table of this name, with what a former agent left in it.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub(crate) fn open(pins: &Pins, name: &'static str, writes: Writes) -> Result<Self, TableError> {
        let table = HashTable::open(&pins.map(name), writes)?;
        let devices = table.all()?.into_keys().collect();
        Ok(Self { name, table, devices })
    }

    /// Brings it in step. What fails is logged, and tried again with the next change of any device.
    pub(crate) fn sync(&mut self, wanted: BTreeSet<u32>) {
        let new: Vec<(u32, u32)> = wanted.difference(&self.devices).map(|&index| (index, 1)).collect();
        let result = self.table.insert(&new).and_then(|refused| {
            if !refused.is_empty() {
                tracing::warn!(table = self.name, devices = refused.len(), "the table is full");
            }
            self.devices.difference(&wanted).try_for_each(|index| self.table.remove(index))
        });
        match result {
            Ok(()) => self.devices = wanted,
            Err(error) => tracing::warn!(%error),
        }
    }
}
