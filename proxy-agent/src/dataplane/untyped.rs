//! Maps for kernels that take no type information.
//!
//! aya names the types of a map also where it could give the kernel none, and the kernel refuses such a map. So maps
//! are made here beforehand, and the loader finds them by their pins.

use std::{io, os::fd::AsFd as _, path::PathBuf};

use aya_obj::{Map, Object, generated::bpf_map_type};

use super::{bpf, pins::unpin, programs::map_names};

/// A map that the loader can open by its pin.
pub(super) struct UntypedMap {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Whether the pin is for the loader only.
    is_temporary: bool,
}

impl UntypedMap {
    /// Removes the pin, if it was for the loader only.
    pub(super) fn loaded(&self) -> io::Result<()> {
        if self.is_temporary { unpin(&self.path) } else { Ok(()) }
    }
}

/// Makes and pins those of the object's maps that are not pinned yet at the paths given.
///
/// # Errors
/// The path at which the kernel refuses a map or a pin, and what it says.
pub(super) fn make(
    object: &Object,
    path_of: impl Fn(&str) -> PathBuf,
) -> Result<Vec<UntypedMap>, (PathBuf, io::Error)> {
    let typed = object.maps.iter().filter(|(_, map)| matches!(map, Map::Btf(_)));
    let make = |(name, map): (&String, &Map)| {
        let path = path_of(name);
        let is_temporary = !map_names().any(|shared| shared == name);
        if is_temporary {
            unpin(&path).map_err(|error| (path.clone(), error))?;
        }
        if !path.exists() {
            pin_new(map, &path).map_err(|error| (path.clone(), error))?;
        }
        Ok(UntypedMap { name: name.clone(), path, is_temporary })
    };
    typed.map(make).collect()
}

fn pin_new(map: &Map, path: &std::path::Path) -> io::Result<()> {
    let kind = bpf_map_type::try_from(map.map_type()).map_err(|_| io::ErrorKind::Unsupported)?;
    let map = bpf::create_map(kind, map.key_size(), map.value_size(), map.max_entries(), map.map_flags())?;
    bpf::pin(map.as_fd(), path)
}
