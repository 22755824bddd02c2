//! Reads the object, and creates or reopens the pinned maps.
//!
//! Loads no program: [`super::loaded`] does.

use std::{borrow::Cow, fs, io, path::PathBuf};

use aya::{Ebpf, EbpfError, EbpfLoader, maps::MapInfo, programs::ProgramError};
use proxy_common::{V4, V6, maps};

use super::{
    adoption::{Adoption, Examined, examine},
    features::{Feature, Features},
    flow_filter,
    flow_tables::FlowTableSize,
    former,
    kept::{Identity, KeptPrograms},
    layouts,
    object::{self, OBJECT},
    pins::{Pins, unpin},
    tables::{TableError, Writes},
    untyped,
};

/// Why maps or programs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object file is not what this agent expects; it was built from other sources.
    #[error("the embedded datapath has no {name}: build the agent again")]
    Incomplete {
        /// The map or program that is missing.
        name: String,
    },
    /// The object file cannot be read, or a map cannot be created.
    #[error("cannot load the datapath: {}", one_line(.0))]
    Object(#[source] EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the program {name}: {}", one_line(.error))]
    Program {
        /// The program.
        name: String,
        /// What the kernel says.
        #[source]
        error: ProgramError,
    },
    /// What is pinned cannot be read or removed.
    #[error("{path}: {error}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A pinned table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl LoadError {
    /// Whether the kernel denied a map or program.
    pub(super) fn is_denied(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// What the programs tell the agent of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketLog {
    /// Nothing.
    #[default]
    Off,
    /// Each packet that is dropped or refused.
    Drops,
}

/// The names of all pinned maps.
pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
    maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]).chain(maps::SHARED_MAPS)
}

/// A constant of the object: its name, its value, and whether the object has it in any case.
type Constant = (&'static str, &'static u8, bool);

/// The constants that the programs get on a kernel with these features.
fn constants(features: &Features, log: PacketLog) -> [Constant; 6] {
    let has = |feature| if features.has(feature) { &1 } else { &0 };
    // Both have CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS, always.
    let reads_unaligned: &u8 = if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) { &1 } else { &0 };
    let log_level: &u8 = match log {
        PacketLog::Off => &0,
        PacketLog::Drops => &(aya_log::Level::Trace as u8),
    };
    [
        ("HAS_SET_RETVAL", has(Feature::SetRetval), true),
        ("HAS_NETNS_COOKIE", has(Feature::NetnsCookie), true),
        ("READS_UNALIGNED", reads_unaligned, true),
        ("HAS_COARSE_CLOCK", has(Feature::CoarseClock), true),
        ("HAS_HOST_ROUTING", has(Feature::HostRouting), true),
        (aya_log::LEVEL, log_level, false),
    ]
}

/// A loader with the constants that the programs get on a kernel with these features.
///
/// As it is, it makes maps of its own; the agent's are made or opened by [`super::Dataplane::open`].
#[must_use]
pub fn loader(features: &Features, log: PacketLog) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    for (name, value, is_there) in constants(features, log) {
        loader.override_global(name, value, is_there);
    }
    loader
}

/// The tables, and what is needed to load the programs that use them.
pub(super) struct Prepared {
    /// What became of the tables of a former agent.
    pub(super) adoption: Adoption,
    /// The object with its maps.
    pub(super) object: Ebpf,
    /// The programs that are loaded already.
    pub(super) kept: KeptPrograms,
}

/// Opens the maps pinned in the agent's directory, or creates and pins them, for the programs that this returns.
///
/// Pinned maps are used as far as they are of this version's layout. Those that can be converted, and tables of flows that have
/// another size than `size`, are set aside for [`former::FormerTables`]; others are replaced by empty ones.
///
/// # Errors
/// The kernel refuses a map, or a pin cannot be read or removed.
pub(super) fn prepare(
    pins: &Pins,
    features: &Features,
    log: PacketLog,
    size: FlowTableSize,
) -> Result<Prepared, LoadError> {
    let object = if features.has(Feature::Btf) { Cow::Borrowed(OBJECT) } else { untyped::object(OBJECT).into() };
    let object = &*object;
    let mut parsed = aya_obj::Object::parse(object).map_err(|error| LoadError::Object(error.into()))?;
    let mut loader = loader(features, log);
    for (name, entries) in size.tables() {
        let map = parsed.maps.get_mut(name).ok_or_else(|| LoadError::Incomplete { name: name.to_owned() })?;
        map.set_max_entries(entries);
        loader.map_max_entries(name, entries);
    }
    let Examined { adoption, layout, fates } = examine(&parsed, pins)?;
    let writes = if features.has(Feature::BatchUpdate) { Writes::Batched } else { Writes::Single };
    former::make_room(pins, layout, &fates, writes).map_err(|(path, error)| LoadError::Pin { path, error })?;
    let unmarked = pins.unmarked_filter();
    let pin_failed = |error| LoadError::Pin { path: unmarked.clone(), error };
    unpin(&unmarked).map_err(pin_failed)?;
    let is_filtered = !has_unfiltered_flows(pins).map_err(pin_failed)?;
    // An agent that ends before all ends are marked leaves no filter under its own name.
    let path_of = |name: &str| if is_filtered || name != maps::FLOW_FILTER { pins.map(name) } else { unmarked.clone() };
    let paths: Vec<(&str, PathBuf)> = map_names().map(|name| (name, path_of(name))).collect();
    let untyped = if features.has(Feature::Btf) {
        Vec::new()
    } else {
        untyped::make(&parsed, path_of).map_err(|(path, error)| LoadError::Pin { path, error })?
    };
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    for map in &untyped {
        loader.map_pin_path(&map.name, map.path.as_path());
    }
    let mut ebpf = loader.load(object).map_err(LoadError::Object)?;
    for map in &untyped {
        map.loaded().map_err(|error| LoadError::Pin { path: map.path.clone(), error })?;
    }
    if let Some(name) = map_names().find(|name| ebpf.map(name).is_none()) {
        return Err(LoadError::Incomplete { name: name.to_owned() });
    }
    if !is_filtered {
        flow_filter::mark_everything(&mut ebpf).map_err(|error| LoadError::Object(error.into()))?;
        fs::rename(&unmarked, pins.map(maps::FLOW_FILTER)).map_err(pin_failed)?;
    }
    let kept = kept_programs(pins, features, log).unwrap_or_else(|error| {
        tracing::warn!(%error, "programs of a former agent are not looked for");
        KeptPrograms::none(pins)
    });
    Ok(Prepared { adoption, object: ebpf, kept })
}

/// The programs that are loaded already.
fn kept_programs(pins: &Pins, features: &Features, log: PacketLog) -> io::Result<KeptPrograms> {
    // Each agent reads what its own programs tell. And where tables are exchanged, next programs are attached beside former ones, which must
    // be others: the kernel has a program only once at a device.
    if log != PacketLog::Off || !pins.former_maps()?.is_empty() {
        return Ok(KeptPrograms::none(pins));
    }
    let number = |name| MapInfo::from_pin(pins.map(name)).map(|table| table.id()).map_err(io::Error::other);
    let tables: Vec<u32> = map_names().map(number).collect::<io::Result<_>>()?;
    let constants = constants(features, log).map(|(name, value, _)| (name, *value));
    let is_typed = features.has(Feature::Btf);
    Ok(KeptPrograms::of(pins, &Identity { object: object::HASH, is_typed, constants: &constants, tables: &tables }))
}

/// Whether there are flows, also such as are being carried over, but no filter in which their ends are marked.
fn has_unfiltered_flows(pins: &Pins) -> io::Result<bool> {
    if pins.map(maps::FLOW_FILTER).exists() {
        return Ok(false);
    }
    let former: Vec<String> = pins.former_maps()?.into_iter().map(|former| former.name).collect();
    let is_there = |name: &str| former.iter().any(|former| former == name) || pins.map(name).exists();
    Ok(layouts::tables_of_flows().any(is_there))
}

/// An error and its causes in one line. The verifier's log, which has thousands, is left to the debug log.
fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let line = error.to_string();
        let line = line.lines().next().unwrap_or_default();
        if !text.contains(line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(line);
        }
        next = error.source();
    }
    text
}
