//! Replaces pinned tables by tables of another layout or size, and carries their entries over.
//!
//! A table that is replaced is moved to a directory that is named after its layout, so an agent that ends half way leaves
//! everything that its successor needs. There it stays until the programs that use it have been replaced. Its entries go over
//! when the new table has been made, once more just before the programs are replaced, and what they noted until the very last once
//! they are.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use proxy_common::{
    AffinityEntry, AffinityKey, BackendId, Family, Flow, FlowFlags, FlowKey, PlainAddress, Port, ServiceId,
    SocketAffinityKey, SocketEntry, SocketKey, TcpState, V4, V6, maps,
};

use super::{
    carry::{Carried, CarryOver, HashCarry},
    layouts::{Conversion, Fate},
    pins::{FormerMap, Pins, unpin},
    tables::{HashTable, SettingsTable, TableError, Writes, read_settings_of_any_layout},
};

/// The programs that write a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Those at the cgroup.
    Sockets,
    /// Those at devices, and the agent.
    Devices,
}

/// Makes room for new tables where the pinned ones cannot be used as they are. The table of settings, which has the layout's
/// version, comes last: until then everything can be done again.
///
/// # Errors
/// Where it cannot, and why.
pub(super) fn make_room(
    pins: &Pins,
    layout: u32,
    fates: &[(&'static str, Fate)],
    writes: Writes,
) -> Result<(), (PathBuf, io::Error)> {
    let is_settings = |name: &str| name == maps::SETTINGS;
    let (last, first): (Vec<_>, Vec<_>) = fates.iter().partition(|(name, _)| is_settings(name));
    for (name, fate) in first.into_iter().chain(last) {
        let failed = |error| (pins.map(name), error);
        match fate {
            Fate::Kept => {}
            Fate::Lost => unpin(&pins.map(name)).map_err(failed)?,
            Fate::Converted => {
                merge(pins, name, writes).map_err(failed)?;
                pins.set_aside(name, layout).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Ends the replacement of a table that an agent before this one has begun, because the new table is replaced itself.
fn merge(pins: &Pins, name: &str, writes: Writes) -> io::Result<()> {
    let begun = |former: &FormerMap| former.name == name;
    let mut former = FormerTables::open_some(pins, writes, begun).map_err(io::Error::other)?;
    former.finish_all().map_err(io::Error::other)
}

struct FormerTable {
    path: PathBuf,
    writers: Writers,
    entries: Box<dyn CarryOver>,
}

/// The tables that are being replaced.
pub(super) struct FormerTables {
    tables: Vec<FormerTable>,
    pins: Pins,
}

impl FormerTables {
    /// Opens what is being replaced. What nobody can read any more is removed.
    ///
    /// # Errors
    /// A table cannot be opened or removed.
    pub(super) fn open(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        Self::open_some(pins, writes, |_| true)
    }

    fn open_some(pins: &Pins, writes: Writes, wanted: impl Fn(&FormerMap) -> bool) -> Result<Self, TableError> {
        let mut tables = Vec::new();
        for former in pins.former_maps().map_err(|error| TableError::new(pins.root(), "read", error))? {
            if !wanted(&former) {
                continue;
            }
            if let Some((writers, entries)) = carry_over(&former, pins, writes)? {
                tables.push(FormerTable { path: former.path, writers, entries });
            } else {
                tracing::warn!("{}: its entries cannot be used any more", former.path.display());
                unpin(&former.path).map_err(|error| TableError::new(&former.path, "remove", error))?;
            }
        }
        Ok(Self { tables, pins: pins.clone() })
    }

    /// Carries all entries over. To be called while nothing has been replaced yet.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn copy_all(&mut self) -> Result<(), TableError> {
        self.copy(Writers::Sockets)?;
        self.copy(Writers::Devices)
    }

    /// Carries the entries over that these programs wrote. To be called before they are replaced, as shortly as can be.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn copy(&mut self, writers: Writers) -> Result<(), TableError> {
        for FormerTable { path, entries, .. } in self.tables.iter_mut().filter(|table| table.writers == writers) {
            let Carried { written, left_behind } = entries.copy()?;
            tracing::info!(table = %path.display(), written, left_behind, "entries carried over");
        }
        Ok(())
    }

    /// Adds what these programs have written since, when they have been replaced, and removes their former tables.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn finish(&mut self, writers: Writers) -> Result<(), TableError> {
        for FormerTable { path, entries, .. } in self.tables.extract_if(.., |table| table.writers == writers) {
            let mut entries = entries;
            entries.finish()?;
            if let Err(error) = unpin(&path) {
                tracing::warn!("{}: {error}", path.display());
            }
        }
        self.pins.remove_former();
        Ok(())
    }

    fn finish_all(&mut self) -> Result<(), TableError> {
        self.finish(Writers::Sockets)?;
        self.finish(Writers::Devices)
    }
}

type Opened = Option<(Writers, Box<dyn CarryOver>)>;

/// The way from a former table to the one that takes its place; `None` if there is none.
fn carry_over(former: &FormerMap, pins: &Pins, writes: Writes) -> Result<Opened, TableError> {
    let path = pins.map(&former.name);
    let [from, to] = [&former.path, &path].map(|path| {
        let info = MapInfo::from_pin(path).map_err(|error| TableError::new(path, "open", io::Error::other(error)))?;
        Ok((info.key_size(), info.value_size()))
    });
    let Some(conversion) = Conversion::of(&former.name, former.layout, from?, to?) else { return Ok(None) };
    if conversion == Conversion::WithoutEstablishedTimeout {
        let settings = SettingsCarry { former: former.path.clone(), table: SettingsTable::open(pins)? };
        return Ok(Some((Writers::Devices, Box::new(settings))));
    }
    let paths = [former.path.as_path(), &path];
    match of_family::<V4, 20>(&former.name, conversion, paths, writes)? {
        Some(opened) => Ok(Some(opened)),
        None => of_family::<V6, 32>(&former.name, conversion, paths, writes),
    }
}

/// The same for one of the tables of a family. `SHORT` is the size of a flow without a client's port.
fn of_family<F: Family<Address: PlainAddress>, const SHORT: usize>(
    name: &str,
    conversion: Conversion,
    paths: [&Path; 2],
    writes: Writes,
) -> Result<Opened, TableError> {
    let [from, to] = paths;
    let is = |map: maps::FamilyMap| map.name::<F>() == name;
    Ok(if is(maps::FLOWS) || is(maps::YOUNG_FLOWS) {
        let table: HashTable<FlowKey<F::Address>, Flow<F::Address>> = HashTable::open(to, writes)?;
        let entries: Box<dyn CarryOver> = if conversion == Conversion::WithoutClientPort {
            let former = HashTable::<FlowKey<F::Address>, [u8; SHORT]>::open(from, writes)?;
            let convert = |key, bytes: [u8; SHORT]| Some((key, without_client_port::<F>(&bytes)));
            Box::new(HashCarry::new(former, table, convert, Flow::last_seen))
        } else {
            Box::new(HashCarry::new(HashTable::open(from, writes)?, table, same, Flow::last_seen))
        };
        Some((Writers::Devices, entries))
    } else if is(maps::SOCKETS) {
        let table: HashTable<SocketKey<F::Address>, SocketEntry<F::Address>> = HashTable::open(to, writes)?;
        let former = HashTable::open(from, writes)?;
        Some((Writers::Sockets, Box::new(HashCarry::new(former, table, same, SocketEntry::last_used))))
    } else if is(maps::AFFINITY) {
        let table: HashTable<AffinityKey<F::Address>, AffinityEntry> = HashTable::open(to, writes)?;
        let former = HashTable::open(from, writes)?;
        Some((Writers::Devices, Box::new(HashCarry::new(former, table, same, AffinityEntry::last_used))))
    } else if is(maps::SOCKET_AFFINITY) {
        let table: HashTable<SocketAffinityKey, AffinityEntry> = HashTable::open(to, writes)?;
        let former = HashTable::open(from, writes)?;
        Some((Writers::Sockets, Box::new(HashCarry::new(former, table, same, AffinityEntry::last_used))))
    } else {
        None
    })
}

#[expect(clippy::unnecessary_wraps, reason = "what a conversion is: here, nothing is left behind")]
fn same<K, V>(key: K, value: V) -> Option<(K, V)> {
    Some((key, value))
}

/// A flow as it was before a connection's client could get another port: all fields of today's but the last two.
fn without_client_port<F: Family>(bytes: &[u8]) -> Flow<F::Address> {
    let (address_bytes, rest) = bytes.split_at(F::ADDRESS_LEN);
    let mut address = F::UNSPECIFIED;
    address.as_mut().copy_from_slice(address_bytes);
    let word = |offset: usize| u32::from_ne_bytes(std::array::from_fn(|index| rest[offset + index]));
    let port = Port::new(u16::from_ne_bytes([rest[0], rest[1]]));
    let flags = FlowFlags::from_bits(rest[2]);
    let mut flow = Flow::new((address, port), flags, BackendId::new(word(4)), ServiceId::new(word(8)), word(12));
    flow.note(word(12), TcpState::from_bits(rest[3]));
    flow
}

/// The settings of a former agent, which count until this one has written its own.
struct SettingsCarry {
    former: PathBuf,
    table: SettingsTable,
}

impl CarryOver for SettingsCarry {
    fn copy(&mut self) -> Result<Carried, TableError> {
        if self.table.read()?.layout_version() != 0 {
            return Ok(Carried::default());
        }
        let Some((_, settings)) = read_settings_of_any_layout(&self.former)? else { return Ok(Carried::default()) };
        self.table.write(&settings)?;
        Ok(Carried { written: 1, left_behind: 0 })
    }

    fn finish(&mut self) -> Result<Carried, TableError> {
        self.copy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_without_a_clients_port_becomes_one_of_today() {
        let mut bytes = vec![10, 1, 0, 2];
        bytes.extend(8080_u16.to_ne_bytes());
        bytes.extend([FlowFlags::MASQUERADE.bits(), TcpState::SYN.bits()]);
        bytes.extend([7_u32, 9, 1234].map(u32::to_ne_bytes).as_flattened());
        assert_eq!(bytes.len(), 20);
        let to = ([10, 1, 0, 2], Port::new(8080));
        let mut expected = Flow::new(to, FlowFlags::MASQUERADE, BackendId::new(7), ServiceId::new(9), 1234);
        expected.note(1234, TcpState::SYN);
        assert_eq!(without_client_port::<V4>(&bytes), expected);
    }
}
