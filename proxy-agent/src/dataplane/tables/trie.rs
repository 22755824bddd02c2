//! A pinned longest-prefix-match trie of source ranges.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use aya::maps::{
    LpmTrie, Map, MapData, MapError, MapInfo,
    lpm_trie::{Key, LpmTrie as Trie},
};
use proxy_common::{ALLOWED, PlainAddress, SourceRange, SourceRangeKey};

use super::{
    TableError,
    hash::{into_io, is_full},
};

/// The `source_ranges` table of a family.
#[derive(Debug)]
pub struct SourceRanges<A> {
    path: PathBuf,
    map: Trie<MapData, SourceRange<A>, u32>,
    capacity: u32,
}

impl<A: PlainAddress + Ord> SourceRanges<A> {
    /// Opens the map pinned at `path`.
    ///
    /// # Errors
    /// Nothing is pinned there, or no trie of this family's ranges.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let error = |error: MapError| TableError::new(path, "open", into_io(error));
        let capacity = MapInfo::from_pin(path).map_err(error)?.max_entries();
        let map = MapData::from_pin(path).and_then(Map::from_map_data).and_then(LpmTrie::try_from).map_err(error)?;
        Ok(Self { path: path.to_owned(), map, capacity })
    }

    /// How many ranges there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// All ranges. Those that come or go meanwhile may be in the result or not.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all(&self) -> Result<BTreeSet<SourceRangeKey<A>>, TableError> {
        // A range that goes while it is visited makes the kernel start anew; the bound makes this end.
        let bound = usize::try_from(self.capacity).unwrap_or(usize::MAX).saturating_mul(2);
        let key = |key: Result<Key<SourceRange<A>>, MapError>| {
            let key = key.map_err(|error| TableError::new(&self.path, "read", into_io(error)))?;
            Ok(SourceRangeKey::from_parts(key.prefix_len(), key.data()))
        };
        self.map.keys().take(bound).map(key).collect()
    }

    /// The narrowest range that holds the key's address, for the key's Service port, by its value; see
    /// [`SourceRangeKey::lookup`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn get(&self, lookup: &SourceRangeKey<A>) -> Result<Option<u32>, TableError> {
        match self.map.get(&key(lookup), 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(TableError::new(&self.path, "read", into_io(error))),
        }
    }

    /// Writes ranges and returns those for which there is no room.
    ///
    /// # Errors
    /// A write failed for another reason; the ranges before it are written.
    pub fn insert(&mut self, ranges: &[SourceRangeKey<A>]) -> Result<Vec<SourceRangeKey<A>>, TableError> {
        let mut refused = Vec::new();
        for range in ranges {
            match self.map.insert(&key(range), ALLOWED, 0).map_err(into_io) {
                Ok(()) => {}
                Err(error) if is_full(&error) => refused.push(*range),
                Err(error) => return Err(TableError::new(&self.path, "write", error)),
            }
        }
        Ok(refused)
    }

    /// What it means that [`insert`](Self::insert) refuses a range for which the table has room.
    pub(super) fn no_memory(&self) -> TableError {
        TableError::new(&self.path, "write", io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Removes a range; that it is not there is no error.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove(&mut self, range: &SourceRangeKey<A>) -> Result<(), TableError> {
        match self.map.remove(&key(range)).map_err(into_io) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(TableError::new(&self.path, "remove from", error))
            }
            _ => Ok(()),
        }
    }
}

fn key<A: PlainAddress>(range: &SourceRangeKey<A>) -> Key<SourceRange<A>> {
    Key::new(range.prefix_len(), range.range())
}
