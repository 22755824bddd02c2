//! The table `pods`: the names of the pods behind backends, for whoever reads the tables while the agent is down as well.
//!
//! No program reads it, so it is not part of the datapath's object: the agent makes it. It takes memory only for what is in it.

use std::os::fd::AsFd as _;

use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_HASH};
use proxy_common::{BackendId, maps};

use super::{HashTable, TableError, Writes};
use crate::{
    dataplane::{bpf, pins::Pins},
    model::IpFamily,
    plan::{BackendNumber, Pods},
};

/// Its name.
pub(in crate::dataplane) const NAME: &str = "pods";

/// The backend's number, then 4 or 6.
type Key = [u32; 2];
/// Its size in bytes.
const KEY_LEN: u32 = 8;
/// The name, padded with zeros; of a longer one, its beginning.
type Name = [u8; NAME_LEN as usize];

/// Names of pods have at most 63 bytes where controllers make them.
const NAME_LEN: u32 = 64;

/// Names that are written at once. They take much more memory than where they come from.
const AT_ONCE: usize = 1024;

/// The `pods` table.
pub struct PodTable(HashTable<Key, Name>);

impl PodTable {
    /// Opens the pinned table.
    ///
    /// # Errors
    /// It is not there, as after an agent that did not have it.
    pub fn open(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        HashTable::open(&pins.map(NAME), writes).map(Self)
    }

    /// Opens the pinned table, or makes it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_or_make(pins: &Pins, writes: Writes) -> Result<Self, TableError> {
        let path = pins.map(NAME);
        if !path.exists() {
            let room = u32::try_from(2 * maps::BACKENDS_CAPACITY).unwrap_or(u32::MAX);
            let made = bpf::create_map(BPF_MAP_TYPE_HASH, KEY_LEN, NAME_LEN, room, BPF_F_NO_PREALLOC);
            let pinned = made.and_then(|map| bpf::pin(map.as_fd(), &path));
            pinned.map_err(|error| TableError::new(&path, "make", error))?;
        }
        Self::open(pins, writes)
    }

    /// The name of the pod behind a backend.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn get(&self, backend: BackendNumber) -> Result<Option<String>, TableError> {
        Ok(self.0.get(&key(backend))?.map(|name| text(&name)))
    }

    /// Notes names, as far as there is memory for them, and returns how many it wrote or removed.
    ///
    /// # Errors
    /// The table cannot be read or written.
    pub fn write(&mut self, pods: &Pods<'_>) -> Result<usize, TableError> {
        let mut names: Vec<(Key, &str)>;
        let mut gone: Vec<Key> = Vec::new();
        match pods {
            Pods::All(pods) => {
                names = pods.iter().map(|&(number, pod)| (key(number), pod)).collect();
                names.sort_unstable();
                let mut are_noted = vec![false; names.len()];
                self.0.visit(|key, noted| match names.binary_search_by_key(&key, |(key, _)| *key) {
                    Ok(index) => are_noted[index] = name(names[index].1) == noted,
                    Err(_) => gone.push(key),
                })?;
                let mut are_noted = are_noted.into_iter();
                names.retain(|_| are_noted.next() == Some(false));
            }
            Pods::Some(pods) => {
                names = pods.iter().filter_map(|&(number, pod)| Some((key(number), pod?))).collect();
                gone.extend(pods.iter().filter(|(_, pod)| pod.is_none()).map(|(number, _)| key(*number)));
            }
        }
        gone.iter().try_for_each(|key| self.0.remove(key))?;
        for names in names.chunks(AT_ONCE) {
            let names: Vec<(Key, Name)> = names.iter().map(|&(key, pod)| (key, name(pod))).collect();
            // What is refused finds no memory; whoever reads sees no name.
            self.0.insert(&names)?;
        }
        Ok(names.len() + gone.len())
    }

    /// Forgets backends that are retired.
    ///
    /// # Errors
    /// The table cannot be written.
    pub(super) fn remove(&mut self, family: IpFamily, ids: &[BackendId]) -> Result<(), TableError> {
        ids.iter().try_for_each(|&id| self.0.remove(&key(BackendNumber { family, id })))
    }
}

const fn key(BackendNumber { family, id }: BackendNumber) -> Key {
    let family = match family {
        IpFamily::V4 => 4,
        IpFamily::V6 => 6,
    };
    [id.get(), family]
}

fn name(pod: &str) -> Name {
    let mut name = [0; NAME_LEN as usize];
    let end = pod.floor_char_boundary(name.len());
    name[..end].copy_from_slice(&pod.as_bytes()[..end]);
    name
}

fn text(name: &Name) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_to_what_there_is_room_for() {
        assert_eq!(text(&name("web-0")), "web-0");
        assert_eq!(text(&name("")), "");
        assert_eq!(text(&name(&"x".repeat(70))), "x".repeat(64));
    }

    #[test]
    fn both_families_have_the_same_numbers() {
        let key = |family| key(BackendNumber { family, id: BackendId::new(7) });
        assert_eq!((key(IpFamily::V4), key(IpFamily::V6)), ([7, 4], [7, 6]));
    }
}
