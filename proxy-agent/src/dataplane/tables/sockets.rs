//! The `sockets` tables by themselves, for who only needs those.

use proxy_common::{SocketEntry, SocketKey, V4, V6, maps};

use super::{HashTable, TableError, Writes};
use crate::dataplane::pins::Pins;

/// Both families' tables.
pub struct SocketTables {
    pub(in crate::dataplane) v4: HashTable<SocketKey<[u8; 4]>, SocketEntry<[u8; 4]>>,
    pub(in crate::dataplane) v6: HashTable<SocketKey<[u8; 16]>, SocketEntry<[u8; 16]>>,
}

impl SocketTables {
    /// Opens the pinned tables.
    ///
    /// # Errors
    /// They are not there, or have another layout.
    pub fn open(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        Ok(Self {
            v4: HashTable::open(&pins.map(maps::SOCKETS.name::<V4>()), writes)?,
            v6: HashTable::open(&pins.map(maps::SOCKETS.name::<V6>()), writes)?,
        })
    }
}
