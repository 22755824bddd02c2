//! The maps. Layouts, names and capacities come from `proxy_common`; the names here repeat those in
//! `proxy_common::maps` because an attribute takes only a literal, and the agent looks every one of them up by the
//! constant when it loads the object.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use proxy_common::{
    AffinityEntry, AffinityKey, Backend, BackendId, Decision, DropKey, Family, FilterRow, Flow, FlowFilterPlace,
    FlowKey, Fragment, FragmentKey, FrontendFilterPlace, NodeAddress, PortName, ServiceEntry, ServiceId, ServiceKey,
    Settings, SocketAffinityKey, SocketEntry, SocketKey, SourceRange, TRACES, Trace, TraceRate, Traffic, V4, V6,
    maps::{
        AFFINITY_CAPACITY, BACKENDS_CAPACITY, COUNTED_CAPACITY, COUNTERS_CAPACITY, DROPS_CAPACITY, EVENTS_BYTES,
        FLOWS_CAPACITY, FRAGMENTS_CAPACITY, NAMES_CAPACITY, NODE_ADDRESSES_CAPACITY, PEER_DEVICES_CAPACITY,
        POD_DEVICES_CAPACITY, SERVICES_CAPACITY, SLOTS_CAPACITY, SOCKET_AFFINITY_CAPACITY, SOCKETS_CAPACITY,
        SOURCE_RANGES_CAPACITY, TRAFFIC_CAPACITY, YOUNG_FLOWS_CAPACITY,
    },
};
use proxy_ebpf::tc::Work;

type A4 = [u8; 4];
type A6 = [u8; 16];

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const MAPPED: usize = BPF_F_MMAPABLE as usize;

pub(super) type Services<A> = HashMap<ServiceKey<A>, ServiceEntry, SERVICES_CAPACITY, ON_DEMAND>;
pub(super) type Slots = Array<BackendId, SLOTS_CAPACITY, MAPPED>;
pub(super) type Backends<A> = Array<Backend<A>, BACKENDS_CAPACITY, MAPPED>;
pub(super) type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>, FLOWS_CAPACITY>;
pub(super) type YoungFlows<A> = LruHashMap<FlowKey<A>, Flow<A>, YOUNG_FLOWS_CAPACITY>;
/// Where a TC program keeps what it knows of the packet it handles; see `super::stages`. Not pinned, nobody's business.
pub(super) type PacketWork<F> = PerCpuArray<Work<F>, 1>;
pub(super) type Sockets<A> = LruHashMap<SocketKey<A>, SocketEntry<A>, SOCKETS_CAPACITY>;
pub(super) type SourceRanges<A> = LpmTrie<SourceRange<A>, u32, SOURCE_RANGES_CAPACITY>;
pub(super) type NodeAddresses<A> = HashMap<A, NodeAddress, NODE_ADDRESSES_CAPACITY, ON_DEMAND>;
pub(super) type Affinity<A> = LruHashMap<AffinityKey<A>, AffinityEntry, AFFINITY_CAPACITY>;
pub(super) type SocketAffinity = LruHashMap<SocketAffinityKey, AffinityEntry, SOCKET_AFFINITY_CAPACITY>;
pub(super) type Events = RingBuf<Decision, EVENTS_BYTES>;
pub(super) type Fragments<A> = LruHashMap<FragmentKey<A>, Fragment<A>, FRAGMENTS_CAPACITY>;

#[btf_map(name = "services_v4")]
static SERVICES_V4: Services<A4> = Services::new();
#[btf_map(name = "services_v6")]
static SERVICES_V6: Services<A6> = Services::new();
#[btf_map(name = "slots_v4")]
static SLOTS_V4: Slots = Slots::new();
#[btf_map(name = "slots_v6")]
static SLOTS_V6: Slots = Slots::new();
#[btf_map(name = "backends_v4")]
static BACKENDS_V4: Backends<A4> = Backends::new();
#[btf_map(name = "backends_v6")]
static BACKENDS_V6: Backends<A6> = Backends::new();
#[btf_map(name = "flows_v4")]
static FLOWS_V4: Flows<A4> = Flows::new();
#[btf_map(name = "flows_v6")]
static FLOWS_V6: Flows<A6> = Flows::new();
#[btf_map(name = "young_flows_v4")]
static YOUNG_FLOWS_V4: YoungFlows<A4> = YoungFlows::new();
#[btf_map(name = "young_flows_v6")]
static YOUNG_FLOWS_V6: YoungFlows<A6> = YoungFlows::new();
#[btf_map(name = "sockets_v4")]
static SOCKETS_V4: Sockets<A4> = Sockets::new();
#[btf_map(name = "sockets_v6")]
static SOCKETS_V6: Sockets<A6> = Sockets::new();
#[btf_map(name = "source_ranges_v4")]
static SOURCE_RANGES_V4: SourceRanges<A4> = SourceRanges::new();
#[btf_map(name = "source_ranges_v6")]
static SOURCE_RANGES_V6: SourceRanges<A6> = SourceRanges::new();
#[btf_map(name = "node_addresses_v4")]
static NODE_ADDRESSES_V4: NodeAddresses<A4> = NodeAddresses::new();
#[btf_map(name = "node_addresses_v6")]
static NODE_ADDRESSES_V6: NodeAddresses<A6> = NodeAddresses::new();
#[btf_map(name = "affinity_v4")]
static AFFINITY_V4: Affinity<A4> = Affinity::new();
#[btf_map(name = "affinity_v6")]
static AFFINITY_V6: Affinity<A6> = Affinity::new();
#[btf_map(name = "socket_affinity_v4")]
static SOCKET_AFFINITY_V4: SocketAffinity = SocketAffinity::new();
#[btf_map(name = "socket_affinity_v6")]
static SOCKET_AFFINITY_V6: SocketAffinity = SocketAffinity::new();
#[btf_map(name = "fragments_v4")]
static FRAGMENTS_V4: Fragments<A4> = Fragments::new();
#[btf_map(name = "fragments_v6")]
static FRAGMENTS_V6: Fragments<A6> = Fragments::new();

#[btf_map(name = "work_v4")]
static WORK_V4: PacketWork<V4> = PacketWork::new();
#[btf_map(name = "work_v6")]
static WORK_V6: PacketWork<V6> = PacketWork::new();

// No program reads this one; it is defined here so that it is created and described like the others. The linker keeps
// it because an entry point mentions it.
#[btf_map(name = "names")]
pub(super) static NAMES: HashMap<ServiceId, PortName, NAMES_CAPACITY, ON_DEMAND> = HashMap::new();
#[btf_map(name = "settings")]
pub(super) static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map(name = "pod_devices")]
pub(super) static POD_DEVICES: HashMap<u32, u32, POD_DEVICES_CAPACITY, ON_DEMAND> = HashMap::new();
#[btf_map(name = "peer_devices")]
pub(super) static PEER_DEVICES: HashMap<u32, u32, PEER_DEVICES_CAPACITY, ON_DEMAND> = HashMap::new();
#[btf_map(name = "counters")]
pub(super) static COUNTERS: PerCpuArray<u64, COUNTERS_CAPACITY> = PerCpuArray::new();
#[btf_map(name = "flow_filter")]
pub(super) static FLOW_FILTER: Array<FilterRow, { FlowFilterPlace::ROWS }> = Array::new();
#[btf_map(name = "frontend_filter")]
pub(super) static FRONTEND_FILTER: Array<FilterRow, { FrontendFilterPlace::ROWS }, MAPPED> = Array::new();
#[btf_map(name = "drops")]
pub(super) static DROPS: LruHashMap<DropKey, u64, DROPS_CAPACITY> = LruHashMap::new();

#[btf_map(name = "counted")]
pub(super) static COUNTED: Array<u32, COUNTED_CAPACITY, MAPPED> = Array::new();
#[btf_map(name = "traffic")]
pub(super) static TRAFFIC: PerCpuArray<Traffic, TRAFFIC_CAPACITY> = PerCpuArray::new();
#[btf_map(name = "traces")]
pub(super) static TRACES_TABLE: Array<Trace, TRACES> = Array::new();
#[btf_map(name = "trace_rates")]
pub(super) static TRACE_RATES: PerCpuArray<TraceRate, TRACES> = PerCpuArray::new();
// A ring buffer has one reader, so there is one for each.
#[btf_map(name = "events_0")]
pub(super) static EVENTS_0: Events = Events::new();
#[btf_map(name = "events_1")]
pub(super) static EVENTS_1: Events = Events::new();
#[btf_map(name = "events_2")]
pub(super) static EVENTS_2: Events = Events::new();
#[btf_map(name = "events_3")]
pub(super) static EVENTS_3: Events = Events::new();

/// Which static is which family's.
pub(super) trait FamilyMaps: Family {
    fn services() -> &'static Services<Self::Address>;
    fn slots() -> &'static Slots;
    fn backends() -> &'static Backends<Self::Address>;
    fn flows() -> &'static Flows<Self::Address>;
    fn young_flows() -> &'static YoungFlows<Self::Address>;
    fn sockets() -> &'static Sockets<Self::Address>;
    fn source_ranges() -> &'static SourceRanges<Self::Address>;
    fn node_addresses() -> &'static NodeAddresses<Self::Address>;
    fn affinity() -> &'static Affinity<Self::Address>;
    fn socket_affinity() -> &'static SocketAffinity;
    fn fragments() -> &'static Fragments<Self::Address>;
    fn work() -> &'static PacketWork<Self>;
}

impl FamilyMaps for V4 {
    #[inline(always)]
    fn services() -> &'static Services<A4> {
        &SERVICES_V4
    }

    #[inline(always)]
    fn slots() -> &'static Slots {
        &SLOTS_V4
    }

    #[inline(always)]
    fn backends() -> &'static Backends<A4> {
        &BACKENDS_V4
    }

    #[inline(always)]
    fn flows() -> &'static Flows<A4> {
        &FLOWS_V4
    }

    #[inline(always)]
    fn young_flows() -> &'static YoungFlows<A4> {
        &YOUNG_FLOWS_V4
    }

    #[inline(always)]
    fn sockets() -> &'static Sockets<A4> {
        &SOCKETS_V4
    }

    #[inline(always)]
    fn source_ranges() -> &'static SourceRanges<A4> {
        &SOURCE_RANGES_V4
    }

    #[inline(always)]
    fn node_addresses() -> &'static NodeAddresses<A4> {
        &NODE_ADDRESSES_V4
    }

    #[inline(always)]
    fn affinity() -> &'static Affinity<A4> {
        &AFFINITY_V4
    }

    #[inline(always)]
    fn socket_affinity() -> &'static SocketAffinity {
        &SOCKET_AFFINITY_V4
    }

    #[inline(always)]
    fn fragments() -> &'static Fragments<A4> {
        &FRAGMENTS_V4
    }

    #[inline(always)]
    fn work() -> &'static PacketWork<V4> {
        &WORK_V4
    }
}

impl FamilyMaps for V6 {
    #[inline(always)]
    fn services() -> &'static Services<A6> {
        &SERVICES_V6
    }

    #[inline(always)]
    fn slots() -> &'static Slots {
        &SLOTS_V6
    }

    #[inline(always)]
    fn backends() -> &'static Backends<A6> {
        &BACKENDS_V6
    }

    #[inline(always)]
    fn flows() -> &'static Flows<A6> {
        &FLOWS_V6
    }

    #[inline(always)]
    fn young_flows() -> &'static YoungFlows<A6> {
        &YOUNG_FLOWS_V6
    }

    #[inline(always)]
    fn sockets() -> &'static Sockets<A6> {
        &SOCKETS_V6
    }

    #[inline(always)]
    fn source_ranges() -> &'static SourceRanges<A6> {
        &SOURCE_RANGES_V6
    }

    #[inline(always)]
    fn node_addresses() -> &'static NodeAddresses<A6> {
        &NODE_ADDRESSES_V6
    }

    #[inline(always)]
    fn affinity() -> &'static Affinity<A6> {
        &AFFINITY_V6
    }

    #[inline(always)]
    fn socket_affinity() -> &'static SocketAffinity {
        &SOCKET_AFFINITY_V6
    }

    #[inline(always)]
    fn fragments() -> &'static Fragments<A6> {
        &FRAGMENTS_V6
    }

    #[inline(always)]
    fn work() -> &'static PacketWork<V6> {
        &WORK_V6
    }
}
