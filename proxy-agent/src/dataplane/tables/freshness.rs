//! The table `freshness`: how old what the other tables hold may be, for whoever asks while the agent is down as well.
//!
//! No program reads it, so it is not part of the datapath's object: the agent makes it.

use std::os::fd::AsFd as _;

use aya::maps::{Array, MapData};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;

use super::{TableError, hash::into_io, open_map};
use crate::{
    dataplane::{bpf, pins::Pins},
    freshness::{KindTimes, Times},
};

/// Its name.
pub(in crate::dataplane) const NAME: &str = "freshness";

/// `Times` in words: when it was in step, then for each kind when it was heard of and since when it fails.
const WORDS: u32 = 7;

/// The `freshness` table: an array of seconds since 1970.
pub struct FreshnessTable {
    array: Array<MapData, u64>,
    path: std::path::PathBuf,
}

impl FreshnessTable {
    /// Opens the pinned table.
    ///
    /// # Errors
    /// It is not there, as after an agent that did not have it.
    pub fn open(pins: &Pins) -> Result<Self, TableError> {
        let path = pins.map(NAME);
        let array = open_map(&path)?.try_into().map_err(|error| TableError::new(&path, "open", into_io(error)))?;
        Ok(Self { array, path })
    }

    /// Opens the pinned table, or makes it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_or_make(pins: &Pins) -> Result<Self, TableError> {
        let path = pins.map(NAME);
        if !path.exists() {
            let made = bpf::create_map(BPF_MAP_TYPE_ARRAY, 4, 8, WORDS, 0);
            let pinned = made.and_then(|map| bpf::pin(map.as_fd(), &path));
            pinned.map_err(|error| TableError::new(&path, "make", error))?;
        }
        Self::open(pins)
    }

    /// The times.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self) -> Result<Times, TableError> {
        let word =
            |index: u32| self.array.get(&index, 0).map_err(|error| TableError::new(&self.path, "read", into_io(error)));
        let kind = |first: u32| Ok(KindTimes { heard: word(first)?, failing: word(first + 1)? });
        Ok(Times { synced: word(0)?, kinds: [kind(1)?, kind(3)?, kind(5)?] })
    }

    /// Replaces the times.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn write(&mut self, times: &Times) -> Result<(), TableError> {
        let Times { synced, kinds: [services, slices, nodes] } = *times;
        let words =
            [synced, services.heard, services.failing, slices.heard, slices.failing, nodes.heard, nodes.failing];
        for (index, word) in (0_u32..).zip(words) {
            self.array.set(index, word, 0).map_err(|error| TableError::new(&self.path, "write", into_io(error)))?;
        }
        Ok(())
    }
}
