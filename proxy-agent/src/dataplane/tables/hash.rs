//! A pinned hash map with typed keys and values.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, MapInfo},
};
use aya_obj::generated::BPF_NOEXIST;

use super::TableError;
use crate::dataplane::bpf;

/// How elements are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Many in one call (Linux 5.6).
    Batched,
    /// One by one.
    Single,
}

/// A pinned hash or LRU hash map.
#[derive(Debug)]
pub struct HashTable<K, V> {
    path: PathBuf,
    map: HashMap<MapData, K, V>,
    descriptor: OwnedFd,
    capacity: u32,
    writes: Writes,
}

impl<K: Pod + Ord, V: Pod> HashTable<K, V> {
    /// Opens the map pinned at `path`.
    ///
    /// # Errors
    /// Nothing is pinned there, or no hash map of `K` and `V`.
    pub fn open(path: &Path, writes: Writes) -> Result<Self, TableError> {
        let error = |error: MapError| TableError::new(path, "open", into_io(error));
        let capacity = MapInfo::from_pin(path).map_err(error)?.max_entries();
        let data = MapData::from_pin(path).map_err(error)?;
        let descriptor =
            data.fd().as_fd().try_clone_to_owned().map_err(|error| TableError::new(path, "open", error))?;
        let map = Map::from_map_data(data).and_then(HashMap::try_from).map_err(error)?;
        Ok(Self { path: path.to_owned(), map, descriptor, capacity, writes })
    }

    /// How many elements there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// All elements. Those that come or go meanwhile may be in the result or not.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all(&self) -> Result<BTreeMap<K, V>, TableError> {
        let mut all = BTreeMap::new();
        self.visit(|key, value| {
            all.insert(key, value);
        })?;
        Ok(all)
    }

    /// Shows all elements to `visit`, without holding more than some thousands of them. Those that come or go meanwhile may be
    /// shown or not; where the kernel reads one element at a time, some may then be shown twice.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn visit(&self, visit: impl FnMut(K, V)) -> Result<(), TableError> {
        match self.writes {
            Writes::Batched => bpf::visit_all(self.descriptor.as_fd(), self.capacity, visit)
                .map_err(|error| TableError::new(&self.path, "read", error)),
            Writes::Single => self.visit_singly(visit),
        }
    }

    /// How many elements there are, about.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn count(&self) -> Result<usize, TableError> {
        let mut count = 0;
        self.visit(|_, _| count += 1)?;
        Ok(count)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(TableError::new(&self.path, "read", into_io(error))),
        }
    }

    /// Writes elements, new ones and others, each at once, and returns the keys of those for which
    /// there is no room.
    ///
    /// # Errors
    /// A write failed for another reason; the elements before it are written.
    pub fn insert(&mut self, elements: &[(K, V)]) -> Result<Vec<K>, TableError> {
        let mut refused = Vec::new();
        match self.writes {
            Writes::Single => elements.iter().try_for_each(|element| self.insert_one(element, &mut refused))?,
            Writes::Batched => {
                let (keys, values): (Vec<K>, Vec<V>) = elements.iter().copied().unzip();
                let mut done = 0;
                while done < elements.len() {
                    let (written, result) = bpf::update_batch(self.descriptor.as_fd(), &keys[done..], &values[done..]);
                    done += written;
                    if result.is_err() {
                        // Something is wrong with the next element; what, is known when it is written by itself.
                        self.insert_one(&elements[done], &mut refused)?;
                        done += 1;
                    }
                }
            }
        }
        Ok(refused)
    }

    /// Writes an element, if there is none with its key and there is room; whether it did.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn insert_new(&mut self, key: &K, value: &V) -> Result<bool, TableError> {
        match self.map.insert(key, value, u64::from(BPF_NOEXIST)).map_err(into_io) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) || is_full(&error) => Ok(false),
            Err(error) => Err(TableError::new(&self.path, "write", error)),
        }
    }

    /// Removes an element; that it is not there is no error.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove(&mut self, key: &K) -> Result<(), TableError> {
        match self.map.remove(key).map_err(into_io) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(TableError::new(&self.path, "remove from", error))
            }
            _ => Ok(()),
        }
    }

    fn insert_one(&mut self, (key, value): &(K, V), refused: &mut Vec<K>) -> Result<(), TableError> {
        match self.map.insert(key, value, 0).map_err(into_io) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                refused.push(*key);
                Ok(())
            }
            Err(error) => Err(TableError::new(&self.path, "write", error)),
        }
    }

    /// Element by element. A key that goes while it is visited makes the kernel start anew; the number
    /// of steps is bounded so that this ends.
    fn visit_singly(&self, mut visit: impl FnMut(K, V)) -> Result<(), TableError> {
        let bound = usize::try_from(self.capacity).unwrap_or(usize::MAX).saturating_mul(2);
        for element in self.map.iter().take(bound) {
            let (key, value) = element.map_err(|error| TableError::new(&self.path, "read", into_io(error)))?;
            visit(key, value);
        }
        Ok(())
    }
}

/// Whether the kernel has no room for another element: the map is full, or memory is.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM))
}

/// What the kernel says in a map error of aya.
pub(in crate::dataplane) fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::KeyNotFound => io::Error::from_raw_os_error(libc::ENOENT),
        error => io::Error::other(error),
    }
}
