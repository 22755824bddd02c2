//! Replaces pinned tables by tables of another layout or size, and carries their entries over.
//!
//! A table that is replaced is moved to a directory that is named after its layout, so an agent that ends half way leaves
//! everything that its successor needs. There it stays until the programs that use it have been replaced. What the agent wrote goes
//! over when the new table has been made; what programs wrote goes over before they are replaced, and what they noted until the very last
//! once they begin nothing any more.

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
    layouts::{self, Conversion, Fate, Filler},
    pins::{FormerMap, Pins, unpin},
    tables::{HashTable, SettingsTable, TableError, Writes, read_settings_of_any_layout},
};

/// Who writes a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// The agent.
    Agent,
    /// Programs at the cgroup.
    Sockets,
    /// Programs at devices.
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
    set_frontends_aside(pins, layout, fates).map_err(|error| (pins.root().to_owned(), error))?;
    let is_settings = |name: &str| name == maps::SETTINGS;
    let (last, first): (Vec<_>, Vec<_>) = fates.iter().partition(|(name, _)| is_settings(name));
    for (name, fate) in first.into_iter().chain(last) {
        let failed = |error| (pins.map(name), error);
        match fate {
            Fate::Kept => {}
            Fate::Lost => unpin(&pins.map(name)).map_err(failed)?,
            // No program uses what an agent before this one has made and filled.
            Fate::Converted if is_former(pins, name).map_err(failed)? && !pins.exchange_has_begun() => {
                unpin(&pins.map(name)).map_err(failed)?;
            }
            Fate::Converted => {
                merge(pins, name, writes).map_err(failed)?;
                pins.set_aside(name, layout).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Where tables of flows are to be replaced, sets the tables of frontends aside, too ([`super::frontends`]). Comes before the flows: an agent
/// that ends in between has begun nothing.
fn set_frontends_aside(pins: &Pins, layout: u32, fates: &[(&'static str, Fate)]) -> io::Result<()> {
    let is = |name: &str, wanted: Fate| fates.iter().any(|&(found, fate)| found == name && fate == wanted);
    let is_new_world = fates.iter().any(|&(name, fate)| Filler::of(name) == Filler::Agent && fate == Fate::Lost);
    let is_exchange = layouts::tables_of_flows().any(|name| is(name, Fate::Converted));
    for name in [maps::SERVICES.name::<V4>(), maps::SERVICES.name::<V6>()] {
        if is_new_world || (is_exchange && pins.exchange_has_begun()) {
            // The numbers in there mean nothing any more; or two generations of programs run already, and a third one replaces both.
            let former = pins.former_maps()?.into_iter().filter(|former| former.name == name);
            former.map(|former| former.path).try_for_each(|path| unpin(&path))?;
        } else if is_exchange && is(name, Fate::Kept) && !is_former(pins, name)? {
            pins.set_aside(name, layout)?;
        }
    }
    Ok(())
}

fn is_former(pins: &Pins, name: &str) -> io::Result<bool> {
    Ok(pins.former_maps()?.iter().any(|former| former.name == name))
}

fn is_frontends(name: &str) -> bool {
    [maps::SERVICES.name::<V4>(), maps::SERVICES.name::<V6>()].contains(&name)
}

/// Ends the replacement of a table that an agent before this one has begun, because the new table is replaced itself.
fn merge(pins: &Pins, name: &str, writes: Writes) -> io::Result<()> {
    let begun = |former: &FormerMap| former.name == name;
    let mut former = FormerTables::open_some(pins, writes, begun).map_err(io::Error::other)?;
    [Writers::Agent, Writers::Sockets, Writers::Devices]
        .into_iter()
        .try_for_each(|writers| former.finish(writers))
        .map_err(io::Error::other)?;
    former.tables.into_iter().try_for_each(|table| unpin(&table.path))
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
            if is_frontends(&former.name) || !wanted(&former) {
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

    /// Whether there is a table of theirs.
    pub(super) fn has(&self, writers: Writers) -> bool {
        self.tables.iter().any(|table| table.writers == writers)
    }

    /// Notes that programs are about to use what takes these tables' place.
    ///
    /// # Errors
    /// The BPF file system refuses.
    pub(super) fn begin(&self) -> Result<(), TableError> {
        if self.tables.is_empty() {
            return Ok(());
        }
        self.pins.begin_exchange().map_err(|error| TableError::new(self.pins.root(), "make a directory in", error))
    }

    /// Carries over what new programs must know before they see what former ones of the same kind pass on.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn prepare(&mut self, writers: Writers) -> Result<(), TableError> {
        self.of(writers).try_for_each(|table| table.entries.prepare())
    }

    /// Carries the entries over that they wrote. To be called before they are replaced, as shortly as can be.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn copy(&mut self, writers: Writers) -> Result<(), TableError> {
        for FormerTable { path, entries, .. } in self.of(writers) {
            let Carried { written, left_behind } = entries.copy()?;
            tracing::info!(table = %path.display(), written, left_behind, "entries carried over");
        }
        Ok(())
    }

    /// Adds what they have written since, when they begin nothing any more.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub(super) fn finish(&mut self, writers: Writers) -> Result<(), TableError> {
        self.of(writers).try_for_each(|table| table.entries.finish().map(drop))
    }

    /// Removes all former tables, those of frontends last: while there is one of flows, it is known by them how it is replaced. To be called
    /// when no program uses any of them.
    pub(super) fn remove(&mut self) {
        let tables = self.tables.drain(..).map(|table| table.path);
        let frontends = self.pins.former_maps().unwrap_or_default().into_iter();
        let frontends = frontends.filter(|former| is_frontends(&former.name)).map(|former| former.path);
        for path in tables.chain(frontends) {
            if let Err(error) = unpin(&path) {
                tracing::warn!("{}: {error}", path.display());
            }
        }
        self.pins.remove_former();
    }

    fn of(&mut self, writers: Writers) -> impl Iterator<Item = &mut FormerTable> {
        self.tables.iter_mut().filter(move |table| table.writers == writers)
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
        return Ok(Some((Writers::Agent, Box::new(settings))));
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
            Box::new(
                HashCarry::new(former, table, convert, Flow::last_seen)
                    .with_first(is_own::<F>)
                    .that_change(is_same::<F>),
            )
        } else {
            let former = HashTable::open(from, writes)?;
            Box::new(
                HashCarry::new(former, table, same, Flow::last_seen).with_first(is_own::<F>).that_change(is_same::<F>),
            )
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

/// Whether both entries of a key are about the same flow: between the same ends, another may begin when one is over.
fn is_same<F: Family>(one: &Flow<F::Address>, other: &Flow<F::Address>) -> bool {
    let what = |flow: &Flow<F::Address>| (flow.to(), flow.backend(), flow.client_port(), flow.state().is_closing());
    what(one) == what(other)
}

/// Whether it says that datagrams to a frontend are answers to the node itself: who does not know that takes them for a new flow.
fn is_own<F: Family>(flow: &Flow<F::Address>) -> bool {
    flow.flags().contains(FlowFlags::OWN)
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
