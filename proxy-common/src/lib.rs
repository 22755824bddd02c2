//! Layout of everything that the datapath and the agent share: map keys and values, map names and
//! capacities, verdicts and counters.
//!
//! Nothing here behaves: types have constructors, getters and arithmetic on themselves, no more.
//! Every struct is `repr(C)` with explicit padding, and its size is asserted in a test, because the
//! agent, the kernel programs and `bpftool` must agree on each byte.
//!
//! Byte order: addresses are arrays in network order, as on the wire. Ports are numbers in host
//! order, so that a table dump reads `"port": 80`.
#![no_std]

mod affinity;
mod backend;
mod counter;
mod decision;
mod family;
mod filter;
mod flow;
mod fragment;
pub mod maps;
mod name;
mod net;
mod node_address;
#[cfg(feature = "user")]
mod pod;
mod service;
mod settings;
mod socket;
mod source_range;
mod traffic;

pub use affinity::{AffinityEntry, AffinityKey, SocketAffinityKey};
pub use backend::{Backend, BackendId};
pub use counter::{Counter, DropKey, DropReason, FamilyFlows};
pub use decision::{Decided, DecidedAt, Decision, TRACES, Trace, TraceRate};
pub use family::{Family, V4, V6};
pub use filter::{FilterPlace, FilterRow, FlowFilterPlace, FrontendFilterPlace};
pub use flow::{Direction, Flow, FlowFlags, FlowKey, FlowTable, TcpState};
pub use fragment::{Fragment, FragmentKey};
pub use name::{NAME_LEN, PortName};
pub use net::{Port, Protocol};
pub use node_address::NodeAddress;
#[cfg(feature = "user")]
pub use pod::PlainAddress;
pub use service::{ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange};
pub use settings::{Detector, FamilySettings, Settings, SettingsFlags};
pub use socket::{SocketEntry, SocketKey};
pub use source_range::{ALLOWED, SourceRange, SourceRangeKey};
pub use traffic::Traffic;

/// Version of every layout in this crate together. An agent that finds pinned tables of an older version converts those that
/// have changed since ([`maps::since`]); those of a newer one it cannot use.
pub const LAYOUT_VERSION: u32 = 6;

/// Mark bit that asks for masquerading (kube-proxy's `masqueradeBit`, default 14).
pub const DEFAULT_MASQUERADE_MARK: u32 = 0x4000;

/// Mark bit by which other components ask for a packet to be dropped (KUBE-MARK-DROP).
pub const DROP_MARK: u32 = 0x8000;
