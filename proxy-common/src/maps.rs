//! Names and capacities of the maps. A map is pinned under its name in the agent's bpffs directory.
//!
//! Kernel names of maps have at most 15 bytes (`BPF_OBJ_NAME_LEN`); longer ones are cut in `bpftool
//! map show` but not in the pin.

use crate::Family;

/// A map that exists once for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilyMap {
    v4: &'static str,
    v6: &'static str,
    capacity: usize,
}

impl FamilyMap {
    /// The name of the family's map.
    #[must_use]
    pub const fn name<F: Family>(&self) -> &'static str {
        if F::VERSION == 4 { self.v4 } else { self.v6 }
    }

    /// Entries the map has room for by default.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Frontends: [`ServiceKey`](crate::ServiceKey) → [`ServiceEntry`](crate::ServiceEntry). Hash.
pub const SERVICES: FamilyMap = FamilyMap { v4: "services_v4", v6: "services_v6", capacity: SERVICES_CAPACITY };
/// Backend numbers, contiguous per Service port: index → [`BackendId`](crate::BackendId). Array, mmap-able.
pub const SLOTS: FamilyMap = FamilyMap { v4: "slots_v4", v6: "slots_v6", capacity: SLOTS_CAPACITY };
/// Endpoints: [`BackendId`](crate::BackendId) → [`Backend`](crate::Backend). Array, mmap-able.
pub const BACKENDS: FamilyMap = FamilyMap { v4: "backends_v4", v6: "backends_v6", capacity: BACKENDS_CAPACITY };
/// Translated connections: [`FlowKey`](crate::FlowKey) → [`Flow`](crate::Flow). LRU hash.
pub const FLOWS: FamilyMap = FamilyMap { v4: "flows_v4", v6: "flows_v6", capacity: FLOWS_CAPACITY };
/// Translated sockets: [`SocketKey`](crate::SocketKey) → [`SocketEntry`](crate::SocketEntry). LRU hash.
pub const SOCKETS: FamilyMap = FamilyMap { v4: "sockets_v4", v6: "sockets_v6", capacity: SOCKETS_CAPACITY };

/// The maps that exist once for each family.
pub const FAMILY_MAPS: [FamilyMap; 5] = [SERVICES, SLOTS, BACKENDS, FLOWS, SOCKETS];

/// [`ServiceId`](crate::ServiceId) → [`PortName`](crate::PortName). Hash.
pub const NAMES: &str = "names";
/// 0 → [`Settings`](crate::Settings). Array.
pub const SETTINGS: &str = "settings";
/// Interface index → 1, for the devices behind which pods live. Hash.
pub const POD_DEVICES: &str = "pod_devices";
/// [`Counter`](crate::Counter) → number. Per-CPU array.
pub const COUNTERS: &str = "counters";

/// The maps that exist once.
pub const SHARED_MAPS: [&str; 4] = [NAMES, SETTINGS, POD_DEVICES, COUNTERS];

/// Frontends a node can have, per family.
pub const SERVICES_CAPACITY: usize = 131_072;
/// Slots, per family. A change needs old and new range at once, and each endpoint can be in two ranges.
pub const SLOTS_CAPACITY: usize = 1_048_576;
/// Endpoints, per family.
pub const BACKENDS_CAPACITY: usize = 262_144;
/// Flow entries, per family: two for each connection.
pub const FLOWS_CAPACITY: usize = 262_144;
/// Socket entries, per family.
pub const SOCKETS_CAPACITY: usize = 131_072;
/// Service ports with a name.
pub const NAMES_CAPACITY: usize = 131_072;
/// Devices behind which pods live.
pub const POD_DEVICES_CAPACITY: usize = 16_384;
/// Counters.
pub const COUNTERS_CAPACITY: usize = 64;
