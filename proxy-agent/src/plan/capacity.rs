//! How much the tables hold, and how much of it is used.

use proxy_common::maps;

/// How much the tables of a family hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Frontends, per family.
    pub services: usize,
    /// Slots, per family.
    pub slots: usize,
    /// Backends, per family; the number 0 is never used.
    pub backends: usize,
    /// Source ranges, per family.
    pub source_ranges: usize,
    /// Service ports.
    pub names: usize,
}

impl Default for Capacities {
    /// Those of [`maps`].
    fn default() -> Self {
        Self {
            services: maps::SERVICES.capacity(),
            slots: maps::SLOTS.capacity(),
            backends: maps::BACKENDS.capacity(),
            source_ranges: maps::SOURCE_RANGES.capacity(),
            names: maps::NAMES_CAPACITY,
        }
    }
}

/// How much of the tables is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4's tables.
    pub v4: FamilyUsage,
    /// IPv6's tables.
    pub v6: FamilyUsage,
    /// Service ports with an id.
    pub names: usize,
}

/// How much of the tables of one family is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyUsage {
    /// Frontends.
    pub services: usize,
    /// Slots.
    pub slots: u32,
    /// Backends.
    pub backends: usize,
    /// Source ranges.
    pub source_ranges: usize,
}
