//! Maps and programs for kernels without type information.
//!
//! aya names the types of a map also where it could give the kernel none, and the kernel refuses such a map. So maps
//! are made here beforehand, and the loader finds them by their pins.
//!
//! A program's global functions are verified by themselves, for which the kernel looks up the type of their context among its own; one that has
//! none refuses them. Without the types of functions, all functions are verified with their callers.

use std::{io, os::fd::AsFd as _, path::PathBuf};

use aya_obj::{Map, Object, generated::bpf_map_type};

use super::{bpf, pins::unpin, programs::map_names};

/// The section with the types of functions, and the name under which nobody finds it. Both as long.
const FUNCTIONS: &[u8] = b".BTF.ext\0";
const HIDDEN: &[u8] = b".btf.off\0";

/// The object without the types of its functions.
pub(super) fn object(object: &[u8]) -> Vec<u8> {
    let mut object = object.to_owned();
    for at in 0..=object.len().saturating_sub(FUNCTIONS.len()) {
        if object[at..].starts_with(FUNCTIONS) {
            object[at..at + FUNCTIONS.len()].copy_from_slice(HIDDEN);
        }
    }
    object
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::object::OBJECT;

    #[test]
    fn functions_have_no_types_and_everything_else_is_there() {
        let typed = Object::parse(OBJECT).expect("the object is one");
        let untyped = Object::parse(&object(OBJECT)).expect("it still is");
        assert!(typed.btf_ext.is_some(), "otherwise this shows nothing");
        assert!(untyped.btf_ext.is_none());
        assert!(untyped.btf.is_some(), "maps need it");
        assert_eq!(untyped.programs.len(), typed.programs.len());
        assert_eq!(untyped.functions.len(), typed.functions.len());
        assert_eq!(untyped.maps.len(), typed.maps.len());
    }
}
