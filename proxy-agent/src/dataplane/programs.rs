//! Creates or reopens the pinned maps, and loads the programs.
//!
//! Attaches nothing.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, MapInfo},
    programs::{CgroupSockAddr, ProgramError, SchedClassifier},
};
use proxy_common::{LAYOUT_VERSION, V4, V6, maps};

use super::{
    devices::LinkLayer,
    features::{Feature, Features},
    flow_tables::{self, FlowTableSize},
    pins::{Direction, Pins, SocketHook, unpin},
    tables::{SettingsTable, TableError, Writes},
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

/// What became of the tables that a former agent left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// There were none.
    New,
    /// They are used.
    Adopted,
    /// They were of no use and have been replaced by empty ones. Programs that a former agent attached go
    /// on with the old tables until they are replaced.
    Replaced {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Adoption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => formatter.write_str("new tables"),
            Self::Adopted => formatter.write_str("the tables of a former agent"),
            Self::Replaced { reason } => write!(formatter, "new tables instead of those that are there: {reason}"),
        }
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

/// The loaded programs. They go when this is dropped, but for those that are attached by then.
#[derive(Debug)]
pub(super) struct Programs {
    sockets: BTreeMap<SocketHook, OwnedFd>,
    classifiers: BTreeMap<&'static str, OwnedFd>,
}

impl Programs {
    /// The programs for the socket calls, as far as the kernel has their hooks.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (SocketHook, BorrowedFd<'_>)> {
        SocketHook::ALL.into_iter().filter_map(|hook| Some((hook, self.sockets.get(&hook)?.as_fd())))
    }

    /// The program for packets that pass a device in a direction.
    pub(super) fn classifier(&self, direction: Direction, link_layer: LinkLayer) -> Option<BorrowedFd<'_>> {
        self.classifiers.get(classifier_name(direction, link_layer)).map(OwnedFd::as_fd)
    }
}

/// The name of the program for packets that pass a device in a direction.
pub(super) const fn classifier_name(direction: Direction, link_layer: LinkLayer) -> &'static str {
    match (direction, link_layer) {
        (Direction::Ingress, LinkLayer::Ethernet | LinkLayer::Loopback) => "tc_ingress",
        (Direction::Egress, LinkLayer::Ethernet | LinkLayer::Loopback) => "tc_egress",
        (Direction::Ingress, LinkLayer::Ip) => "tc_ingress_l3",
        (Direction::Egress, LinkLayer::Ip) => "tc_egress_l3",
    }
}

/// The names of all pinned maps.
pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
    maps::FAMILY_MAPS.iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]).chain(maps::SHARED_MAPS)
}

/// A loader with the constants that the programs get on a kernel with these features.
///
/// As it is, it makes maps of its own; the agent's are made or opened by [`super::Dataplane::open`].
#[must_use]
pub fn loader(features: &Features, log: PacketLog) -> EbpfLoader<'static> {
    let has_set_retval: &u8 = if features.has(Feature::SetRetval) { &1 } else { &0 };
    let has_netns_cookie: &u8 = if features.has(Feature::NetnsCookie) { &1 } else { &0 };
    let log_level: &u8 = match log {
        PacketLog::Off => &0,
        PacketLog::Drops => &(aya_log::Level::Trace as u8),
    };
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_SET_RETVAL", has_set_retval, true);
    loader.override_global("HAS_NETNS_COOKIE", has_netns_cookie, true);
    loader.override_global(aya_log::LEVEL, log_level, false);
    loader
}

/// Opens the maps pinned in the agent's directory, or creates and pins them, and loads the programs.
///
/// Pinned maps are used if all of them are of this version's layout. If one is not, all are replaced,
/// because they refer to each other. Tables of flows that only have another size than `size` are set aside, for
/// [`flow_tables::FormerFlows`].
///
/// # Errors
/// The kernel refuses a map or program, or a pin cannot be read or removed.
pub(super) fn load(
    object: &[u8],
    pins: &Pins,
    features: &Features,
    log: PacketLog,
    size: FlowTableSize,
) -> Result<(Adoption, Programs, Ebpf), LoadError> {
    let mut parsed = aya_obj::Object::parse(object).map_err(|error| LoadError::Object(error.into()))?;
    let mut loader = loader(features, log);
    for (name, entries) in size.tables() {
        let map = parsed.maps.get_mut(name).ok_or_else(|| LoadError::Incomplete { name: name.to_owned() })?;
        map.set_max_entries(entries);
        loader.map_max_entries(name, entries);
    }
    let adoption = examine(&parsed, pins)?;
    let failed = |(path, error)| LoadError::Pin { path, error };
    match adoption {
        Adoption::New | Adoption::Adopted => {
            let writes = if features.has(Feature::BatchUpdate) { Writes::Batched } else { Writes::Single };
            flow_tables::set_aside(pins, size, writes).map_err(failed)?;
        }
        Adoption::Replaced { .. } => {
            let former = map_names().map(|name| pins.former_map(name));
            for path in map_names().map(|name| pins.map(name)).chain(former) {
                unpin(&path).map_err(|error| LoadError::Pin { path, error })?;
            }
        }
    }
    let paths: Vec<(&str, PathBuf)> = map_names().map(|name| (name, pins.map(name))).collect();
    let untyped = if features.has(Feature::Btf) {
        Vec::new()
    } else {
        untyped::make(&parsed, pins).map_err(|(path, error)| LoadError::Pin { path, error })?
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
    let programs = load_programs(&mut ebpf, features)?;
    Ok((adoption, programs, ebpf))
}

/// What is to become of the pinned maps.
fn examine(object: &aya_obj::Object, pins: &Pins) -> Result<Adoption, LoadError> {
    let mut found = false;
    for name in map_names() {
        let wanted = object.maps.get(name).ok_or_else(|| LoadError::Incomplete { name: name.to_owned() })?;
        let path = pins.map(name);
        let info = match MapInfo::from_pin(&path) {
            Ok(info) => info,
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(LoadError::Pin { path, error: io::Error::other(error) }),
        };
        found = true;
        let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
        // Flows go over into a table of another size.
        let entries = if is_resizable(name) { wanted.max_entries() } else { info.max_entries() };
        let pinned = [kind, info.key_size(), info.value_size(), entries, info.map_flags()];
        let wanted =
            [wanted.map_type(), wanted.key_size(), wanted.value_size(), wanted.max_entries(), wanted.map_flags()];
        if pinned != wanted {
            let reason = format!("{name} has type, key size, value size, entries, flags {pinned:?} and not {wanted:?}");
            return Ok(Adoption::Replaced { reason });
        }
    }
    if !found {
        return Ok(Adoption::New);
    }
    let version = match SettingsTable::open(pins) {
        Ok(settings) => settings.read()?.layout_version(),
        Err(error) if error.is_missing() => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(match version {
        LAYOUT_VERSION => Adoption::Adopted,
        // A former agent ended before it had written anything.
        0 => Adoption::New,
        other => Adoption::Replaced { reason: format!("their layout has version {other} and not {LAYOUT_VERSION}") },
    })
}

fn is_resizable(name: &str) -> bool {
    [maps::FLOWS, maps::YOUNG_FLOWS].iter().any(|map| [map.name::<V4>(), map.name::<V6>()].contains(&name))
}

fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}

fn load_programs(ebpf: &mut Ebpf, features: &Features) -> Result<Programs, LoadError> {
    let mut programs = Programs { sockets: BTreeMap::new(), classifiers: BTreeMap::new() };
    for hook in SocketHook::ALL {
        if features.has(hook.feature()) {
            let program = load_program(ebpf, hook.name(), |program| {
                let program: &mut CgroupSockAddr = program.try_into()?;
                program.load()?;
                Ok(program.fd()?.as_fd().try_clone_to_owned()?)
            })?;
            programs.sockets.insert(hook, program);
        }
    }
    for direction in Direction::ALL {
        for link_layer in [LinkLayer::Ethernet, LinkLayer::Ip] {
            let name = classifier_name(direction, link_layer);
            let program = load_program(ebpf, name, |program| {
                let program: &mut SchedClassifier = program.try_into()?;
                program.load()?;
                Ok(program.fd()?.as_fd().try_clone_to_owned()?)
            })?;
            programs.classifiers.insert(name, program);
        }
    }
    Ok(programs)
}

/// How often a program whose verification was interrupted is loaded again, and after what time.
const LOAD_ATTEMPTS: u32 = 20;
const LOAD_PAUSE: Duration = Duration::from_millis(10);

/// The verifier gives up with EAGAIN when a signal is pending (kernel commit c3494801cd17); libbpf tries again, too.
fn is_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EAGAIN))
}

fn load_program(
    ebpf: &mut Ebpf,
    name: &str,
    load: impl Fn(&mut aya::programs::Program) -> Result<OwnedFd, ProgramError>,
) -> Result<OwnedFd, LoadError> {
    let program = ebpf.program_mut(name).ok_or_else(|| LoadError::Incomplete { name: name.to_owned() })?;
    let mut loaded = load(program);
    for _ in 0..LOAD_ATTEMPTS {
        if !loaded.as_ref().is_err_and(is_interrupted) {
            break;
        }
        thread::sleep(LOAD_PAUSE);
        loaded = load(program);
    }
    loaded.map_err(|error| {
        if let ProgramError::LoadError { verifier_log, .. } = &error {
            tracing::debug!(program = name, "the verifier says: {verifier_log}");
        }
        LoadError::Program { name: name.to_owned(), error }
    })
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
