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
/// Translated connections that are confirmed: [`FlowKey`](crate::FlowKey) → [`Flow`](crate::Flow). LRU hash.
pub const FLOWS: FamilyMap = FamilyMap { v4: "flows_v4", v6: "flows_v6", capacity: FLOWS_CAPACITY };
/// Connections that are not confirmed yet, of which [`FLOWS`] has none or a newer entry: the same key and value. LRU hash.
pub const YOUNG_FLOWS: FamilyMap =
    FamilyMap { v4: "young_flows_v4", v6: "young_flows_v6", capacity: YOUNG_FLOWS_CAPACITY };
/// Translated sockets: [`SocketKey`](crate::SocketKey) → [`SocketEntry`](crate::SocketEntry). LRU hash.
pub const SOCKETS: FamilyMap = FamilyMap { v4: "sockets_v4", v6: "sockets_v6", capacity: SOCKETS_CAPACITY };
/// Who may use a Service port: [`SourceRangeKey`](crate::SourceRangeKey) → [`ALLOWED`](crate::ALLOWED). LPM trie.
pub const SOURCE_RANGES: FamilyMap =
    FamilyMap { v4: "source_ranges_v4", v6: "source_ranges_v6", capacity: SOURCE_RANGES_CAPACITY };
/// The node's own addresses: address → [`NodeAddress`](crate::NodeAddress). Hash.
pub const NODE_ADDRESSES: FamilyMap =
    FamilyMap { v4: "node_addresses_v4", v6: "node_addresses_v6", capacity: NODE_ADDRESSES_CAPACITY };
/// Session affinity of what TC programs see: [`AffinityKey`](crate::AffinityKey) →
/// [`AffinityEntry`](crate::AffinityEntry). LRU hash.
pub const AFFINITY: FamilyMap = FamilyMap { v4: "affinity_v4", v6: "affinity_v6", capacity: AFFINITY_CAPACITY };
/// Session affinity of what socket hooks see: [`SocketAffinityKey`](crate::SocketAffinityKey) →
/// [`AffinityEntry`](crate::AffinityEntry). LRU hash.
pub const SOCKET_AFFINITY: FamilyMap =
    FamilyMap { v4: "socket_affinity_v4", v6: "socket_affinity_v6", capacity: SOCKET_AFFINITY_CAPACITY };
/// Datagrams in fragments: [`FragmentKey`](crate::FragmentKey) → [`Fragment`](crate::Fragment). LRU hash.
pub const FRAGMENTS: FamilyMap = FamilyMap { v4: "fragments_v4", v6: "fragments_v6", capacity: FRAGMENTS_CAPACITY };

/// The maps that exist once for each family.
pub const FAMILY_MAPS: [FamilyMap; 11] = [
    SERVICES,
    SLOTS,
    BACKENDS,
    FLOWS,
    YOUNG_FLOWS,
    SOCKETS,
    SOURCE_RANGES,
    NODE_ADDRESSES,
    AFFINITY,
    SOCKET_AFFINITY,
    FRAGMENTS,
];

/// [`ServiceId`](crate::ServiceId) → [`PortName`](crate::PortName). Hash.
pub const NAMES: &str = "names";
/// 0 → [`Settings`](crate::Settings). Array.
pub const SETTINGS: &str = "settings";
/// Interface index → 1, for the devices behind which pods live. Hash.
pub const POD_DEVICES: &str = "pod_devices";
/// Interface index → 1, for the devices to whose other end packets may be handed, past the device itself. Hash.
pub const PEER_DEVICES: &str = "peer_devices";
/// [`Counter`](crate::Counter) → number. Per-CPU array.
pub const COUNTERS: &str = "counters";
/// [`DropKey`](crate::DropKey) → how many packets and calls. LRU hash.
pub const DROPS: &str = "drops";

/// Row of marks → [`FilterRow`](crate::FilterRow), for the ends of flows. Array.
pub const FLOW_FILTER: &str = "flow_filter";
/// Row of marks → [`FilterRow`](crate::FilterRow), for frontends. Array, mmap-able.
pub const FRONTEND_FILTER: &str = "frontend_filter";
/// [`ServiceId`](crate::ServiceId) → its element of `traffic`, or 0. Array, mmap-able.
pub const COUNTED: &str = "counted";
/// Element → [`Traffic`](crate::Traffic); 0 is of all that have none of their own. Per-CPU array.
pub const TRAFFIC: &str = "traffic";
/// Number of somebody who follows decisions → [`Trace`](crate::Trace). Array.
pub const TRACES: &str = "traces";
/// The same number → [`TraceRate`](crate::TraceRate). Per-CPU array.
pub const TRACE_RATES: &str = "trace_rates";
/// What each of those is told: [`Decision`](crate::Decision). Ring buffers.
pub const EVENTS: [&str; crate::TRACES] = ["events_0", "events_1", "events_2", "events_3"];

/// The maps that exist once.
pub const SHARED_MAPS: [&str; 16] = [
    NAMES,
    SETTINGS,
    POD_DEVICES,
    PEER_DEVICES,
    COUNTERS,
    DROPS,
    FLOW_FILTER,
    FRONTEND_FILTER,
    COUNTED,
    TRAFFIC,
    TRACES,
    TRACE_RATES,
    EVENTS[0],
    EVENTS[1],
    EVENTS[2],
    EVENTS[3],
];

/// The version of the layout ([`LAYOUT_VERSION`](crate::LAYOUT_VERSION)) since which the table of this name has been what it is
/// now: keys, values and what they mean. Tables that are older have to be converted.
///
/// A change of one table's layout takes a new version for all, and this table's entry here.
#[must_use]
pub fn since(name: &str) -> u32 {
    match name {
        FRONTEND_FILTER | PEER_DEVICES => 6,
        FLOW_FILTER | COUNTED | TRAFFIC | TRACES | TRACE_RATES => 5,
        _ if EVENTS.contains(&name) => 5,
        SETTINGS => 4,
        _ if name == YOUNG_FLOWS.v4 || name == YOUNG_FLOWS.v6 => 4,
        _ => 3,
    }
}

/// Frontends a node can have, per family.
pub const SERVICES_CAPACITY: usize = 131_072;
/// Slots, per family. A change needs old and new range at once, and each endpoint can be in two ranges.
pub const SLOTS_CAPACITY: usize = 1_048_576;
/// Endpoints, per family.
pub const BACKENDS_CAPACITY: usize = 262_144;
/// Flow entries, per family: two for each connection.
pub const FLOWS_CAPACITY: usize = 262_144;
/// Flow entries of connections that are not confirmed, per family: two for each.
pub const YOUNG_FLOWS_CAPACITY: usize = FLOWS_CAPACITY / 4;
/// Socket entries, per family.
pub const SOCKETS_CAPACITY: usize = 131_072;
/// Service ports with a name.
pub const NAMES_CAPACITY: usize = 131_072;
/// Devices behind which pods live.
pub const POD_DEVICES_CAPACITY: usize = 16_384;
/// Devices to whose other end packets may be handed.
pub const PEER_DEVICES_CAPACITY: usize = POD_DEVICES_CAPACITY;
/// Counters.
pub const COUNTERS_CAPACITY: usize = 64;
/// Source ranges of all Service ports, per family.
pub const SOURCE_RANGES_CAPACITY: usize = 131_072;
/// Addresses of the node, per family.
pub const NODE_ADDRESSES_CAPACITY: usize = 16_384;
/// Clients of Service ports with session affinity, per family.
pub const AFFINITY_CAPACITY: usize = 65_536;
/// Network namespaces that use Service ports with session affinity, per family.
pub const SOCKET_AFFINITY_CAPACITY: usize = 65_536;
/// Datagrams in fragments that are on their way at a time, per family.
pub const FRAGMENTS_CAPACITY: usize = 16_384;
/// Service ports for which something was dropped, times reasons.
pub const DROPS_CAPACITY: usize = 16_384;
/// Service ports that can have an element of `traffic`: all numbers, from 0 on.
pub const COUNTED_CAPACITY: usize = NAMES_CAPACITY + 1;
/// Elements of `traffic`: 160 KiB for each CPU.
pub const TRAFFIC_CAPACITY: usize = 4_096;
/// Bytes of each ring buffer of decisions: a power of two, and whole pages on every machine.
pub const EVENTS_BYTES: usize = 131_072;
