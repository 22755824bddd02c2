//! Looks at what a former agent left pinned, and says what is used of it. Touches nothing.

use std::{fmt, io};

use aya::maps::{MapError, MapInfo};
use proxy_common::{LAYOUT_VERSION, maps};

use super::{
    layouts::{self, Fate, Filler, Shape},
    pins::Pins,
    programs::{LoadError, map_names},
    tables::read_settings_of_any_layout,
};

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

/// What is to become of what is pinned.
pub(super) struct Examined {
    pub(super) adoption: Adoption,
    /// The version of the pinned tables' layout.
    pub(super) layout: u32,
    /// What happens to each table that is pinned.
    pub(super) fates: Vec<(&'static str, Fate)>,
}

/// Compares what is pinned with what this version wants.
///
/// # Errors
/// The object lacks a table, or what is pinned cannot be read.
pub(super) fn examine(object: &aya_obj::Object, pins: &Pins) -> Result<Examined, LoadError> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in map_names() {
        let wanted = object.maps.get(name).ok_or_else(|| LoadError::Incomplete { name: name.to_owned() })?;
        let wanted = Shape {
            kind: wanted.map_type(),
            key_size: wanted.key_size(),
            value_size: wanted.value_size(),
            entries: wanted.max_entries(),
            flags: wanted.map_flags(),
        };
        match pinned_shape(pins, name)? {
            Some(pinned) => found.push((name, pinned, wanted)),
            None => missing.push(name),
        }
    }
    if found.is_empty() {
        return Ok(Examined { adoption: Adoption::New, layout: LAYOUT_VERSION, fates: Vec::new() });
    }
    let written = match read_settings_of_any_layout(&pins.map(maps::SETTINGS)) {
        Ok(Some((version, _))) => version,
        Ok(None) => u32::MAX,
        Err(error) if error.is_missing() => 0,
        Err(error) => return Err(error.into()),
    };
    // What is pinned without settings that an agent has written is new, and an agent ended before it had written anything.
    let layout = if written == 0 { LAYOUT_VERSION } else { written };
    let of_found =
        |&(name, pinned, wanted): &(&'static str, Shape, Shape)| (name, Fate::of(name, layout, pinned, wanted));
    let mut fates: Vec<(&'static str, Fate)> = found.iter().map(of_found).collect();
    for ((name, fate), (_, pinned, wanted)) in fates.iter().zip(&found) {
        match fate {
            Fate::Converted => tracing::info!("{name} of layout {layout} goes over: {wanted} instead of {pinned}"),
            Fate::Kept | Fate::Lost => {}
        }
    }
    let is_agents = |name: &str| Filler::of(name) == Filler::Agent;
    let of_agents = fates.iter().zip(&found).find(|((name, fate), _)| is_agents(name) && *fate == Fate::Lost);
    let reason = if !(layouts::OLDEST..=LAYOUT_VERSION).contains(&layout) {
        Some(format!("their layout has version {layout} and not {LAYOUT_VERSION}"))
    } else if let Some((_, (name, pinned, wanted))) = of_agents {
        Some(format!("{name} has {pinned}, and not {wanted}"))
    } else {
        // What was not there in the former agent's time is not missing.
        let was_there = |name: &str| maps::since(name) <= layout && written != 0;
        let failed = |error| LoadError::Pin { path: pins.root().to_owned(), error };
        // What has been set aside is in nobody's way, and will be made.
        let former: Vec<String> = pins.former_maps().map_err(failed)?.into_iter().map(|former| former.name).collect();
        let is_missing = |name: &str| is_agents(name) && was_there(name) && !former.iter().any(|former| former == name);
        let missing = missing.into_iter().find(|name| is_missing(name));
        missing.map(|name| format!("{name} is missing"))
    };
    if reason.is_some() {
        for (name, fate) in &mut fates {
            if Filler::of(name) != Filler::Programs {
                *fate = Fate::Lost;
            }
        }
    }
    let losses = fates.iter().filter(|(_, fate)| *fate == Fate::Lost);
    let losses = losses.filter_map(|(name, _)| Some(format!("{name} ({})", layouts::loss(name)?)));
    let losses: Vec<String> = losses.collect();
    if !losses.is_empty() && written != 0 {
        tracing::warn!("tables of layout {layout} that this version cannot use are made anew: {}", losses.join(", "));
    }
    let adoption = match reason {
        Some(reason) => Adoption::Replaced { reason },
        None if written == 0 => Adoption::New,
        None => Adoption::Adopted,
    };
    Ok(Examined { adoption, layout, fates })
}

/// What is pinned under the name of a table; `None` if nothing is.
fn pinned_shape(pins: &Pins, name: &str) -> Result<Option<Shape>, LoadError> {
    let path = pins.map(name);
    match MapInfo::from_pin(&path) {
        Ok(info) => Ok(Some(Shape {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(LoadError::Pin { path, error: io::Error::other(error) }),
    }
}

fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}
