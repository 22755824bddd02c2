//! The table `settings`: its one element, also that of former layouts.

use std::path::{Path, PathBuf};

use aya::{
    Pod,
    maps::{Array, MapData, MapError, MapInfo},
};
use proxy_common::{Detector, FamilySettings, Settings, SettingsFlags, maps};

use super::{TableError, hash::into_io, open_map};
use crate::dataplane::pins::Pins;

/// The `settings` table.
pub struct SettingsTable {
    path: PathBuf,
    array: Array<MapData, Settings>,
}

impl SettingsTable {
    /// Opens the pinned table.
    ///
    /// # Errors
    /// It is not there, or has another layout.
    pub fn open(pins: &Pins) -> Result<Self, TableError> {
        let path = pins.map(maps::SETTINGS);
        let array = open_array(&path)?;
        Ok(Self { path, array })
    }

    /// The settings.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self) -> Result<Settings, TableError> {
        read_array(&self.array, &self.path)
    }

    /// Replaces the settings.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn write(&mut self, settings: &Settings) -> Result<(), TableError> {
        self.array.set(0, settings, 0).map_err(|error| TableError::new(&self.path, "write", into_io(error)))
    }
}

/// What the table pinned at `path` holds, whichever layout it has: the version of all tables' layout, 0 if no agent has written
/// it, and the settings as they are written today. `None` if its element has a size that no layout had.
///
/// # Errors
/// Nothing is pinned there, or no array, or it cannot be read.
pub(in crate::dataplane) fn read_any(path: &Path) -> Result<Option<(u32, Settings)>, TableError> {
    const TODAY: usize = size_of::<Settings>();
    let info = MapInfo::from_pin(path).map_err(|error| failed(path, error))?;
    Ok(match usize::try_from(info.value_size()) {
        Ok(TODAY) => {
            let settings: Settings = read_array(&open_array(path)?, path)?;
            Some((settings.layout_version(), settings))
        }
        Ok(LAYOUT_3) => Some(of_layout_3(&read_array(&open_array(path)?, path)?)),
        _ => None,
    })
}

/// The size of the settings in layout 3, which had no timeout of established connections.
const LAYOUT_3: usize = 80;

fn of_layout_3(bytes: &[u8; LAYOUT_3]) -> (u32, Settings) {
    let word = |offset: usize| u32::from_ne_bytes(part(bytes, offset));
    let flags = [SettingsFlags::MASQUERADE_ALL, SettingsFlags::HOST_NAMESPACE_ONLY]
        .into_iter()
        .filter(|flag| word(4) & flag.bits() != 0)
        .fold(SettingsFlags::NONE, SettingsFlags::with);
    let detector = |number| match number {
        1 => Detector::Prefix,
        2 => Detector::Device,
        _ => Detector::None,
    };
    let v4 = FamilySettings::new(detector(word(40)), part(bytes, 32), part(bytes, 36));
    let v6 = FamilySettings::new(detector(word(76)), part(bytes, 44), part(bytes, 60));
    let settings = Settings::new(flags, word(16), word(24), v4, v6)
        .with_node_netns_cookie(u64::from_ne_bytes(part(bytes, 8)))
        .with_local_node_port_mark(word(20))
        .with_half_closed_timeout(word(28));
    (word(0), settings)
}

/// The bytes from an offset on. The layout is checked by the tests: an offset is never too large.
fn part<const N: usize>(bytes: &[u8; LAYOUT_3], offset: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[offset + index])
}

fn open_array<T: Pod>(path: &Path) -> Result<Array<MapData, T>, TableError> {
    open_map(path)?.try_into().map_err(|error| failed(path, error))
}

fn read_array<T: Pod>(array: &Array<MapData, T>, path: &Path) -> Result<T, TableError> {
    array.get(&0, 0).map_err(|error| TableError::new(path, "read", into_io(error)))
}

fn failed(path: &Path, error: MapError) -> TableError {
    TableError::new(path, "open", into_io(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are written one field after another, as layout 3 had them.
    #[test]
    fn settings_of_layout_3_become_those_of_today() {
        let mut bytes = Vec::new();
        bytes.extend([3_u32, 3].map(u32::to_ne_bytes).as_flattened());
        bytes.extend(77_u64.to_ne_bytes());
        bytes.extend([0x4000_u32, 0x8_0000, 30, 1800].map(u32::to_ne_bytes).as_flattened());
        bytes.extend([10, 1, 0, 0, 255, 255, 0, 0]);
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend([0xfd; 16]);
        bytes.extend([0xff; 16]);
        bytes.extend(2_u32.to_ne_bytes());
        let (layout, settings) = of_layout_3(&bytes.try_into().expect("80 bytes"));
        let expected = Settings::new(
            SettingsFlags::MASQUERADE_ALL.with(SettingsFlags::HOST_NAMESPACE_ONLY),
            0x4000,
            30,
            FamilySettings::new(Detector::Prefix, [10, 1, 0, 0], [255, 255, 0, 0]),
            FamilySettings::new(Detector::Device, [0xfd; 16], [0xff; 16]),
        );
        let expected =
            expected.with_node_netns_cookie(77).with_local_node_port_mark(0x8_0000).with_half_closed_timeout(1800);
        assert_eq!((layout, settings), (3, expected));
    }
}
