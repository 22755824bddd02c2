//! The `node_addresses` tables, written as a whole.

use std::{collections::BTreeMap, net::IpAddr};

use aya::Pod;
use proxy_common::{NodeAddress, maps};

use super::{HashTable, TableError, Writes};
use crate::dataplane::pins::Pins;

/// Both families' tables.
pub struct NodeAddressTables {
    v4: HashTable<[u8; 4], NodeAddress>,
    v6: HashTable<[u8; 16], NodeAddress>,
}

impl NodeAddressTables {
    /// Opens the pinned tables.
    ///
    /// # Errors
    /// They are not there, or have another layout.
    pub fn open(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        Ok(Self {
            v4: HashTable::open(&pins.map(maps::NODE_ADDRESSES.name::<proxy_common::V4>()), writes)?,
            v6: HashTable::open(&pins.map(maps::NODE_ADDRESSES.name::<proxy_common::V6>()), writes)?,
        })
    }

    /// Makes the tables hold exactly these addresses: new ones first, then what is gone. Returns those for which there is
    /// no room.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub fn replace(&mut self, addresses: &BTreeMap<IpAddr, NodeAddress>) -> Result<Vec<IpAddr>, TableError> {
        let mut v4 = BTreeMap::new();
        let mut v6 = BTreeMap::new();
        for (&address, &value) in addresses {
            match address {
                IpAddr::V4(address) => drop(v4.insert(address.octets(), value)),
                IpAddr::V6(address) => drop(v6.insert(address.octets(), value)),
            }
        }
        let mut refused: Vec<IpAddr> = replace(&mut self.v4, &v4)?.into_iter().map(IpAddr::from).collect();
        refused.extend(replace(&mut self.v6, &v6)?.into_iter().map(IpAddr::from));
        Ok(refused)
    }
}

fn replace<K: Pod + Ord>(
    table: &mut HashTable<K, NodeAddress>,
    wanted: &BTreeMap<K, NodeAddress>,
) -> Result<Vec<K>, TableError> {
    let present = table.all()?;
    let differs = |(key, value): &(&K, &NodeAddress)| present.get(key) != Some(value);
    let new: Vec<(K, NodeAddress)> = wanted.iter().filter(differs).map(|(&key, &value)| (key, value)).collect();
    let refused = if new.is_empty() { Vec::new() } else { table.insert(&new)? };
    present.keys().filter(|key| !wanted.contains_key(key)).try_for_each(|key| table.remove(key))?;
    Ok(refused)
}
