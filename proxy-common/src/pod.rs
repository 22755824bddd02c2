//! Marks the shared types as plain data for aya.

use crate::{
    AffinityEntry, AffinityKey, Backend, BackendId, Decision, DropKey, Flow, FlowKey, Fragment, FragmentKey,
    NodeAddress, PortName, ServiceEntry, ServiceId, ServiceKey, Settings, SocketAffinityKey, SocketEntry, SocketKey,
    SourceRange, Trace, TraceRate, Traffic,
};

mod sealed {
    pub trait Sealed {}
}

/// The address types of the families: those for which the generic types are plain data.
///
/// Implemented for `[u8; 4]` and `[u8; 16]` only.
pub trait PlainAddress: aya::Pod + sealed::Sealed {}

impl sealed::Sealed for [u8; 4] {}
impl sealed::Sealed for [u8; 16] {}
impl PlainAddress for [u8; 4] {}
impl PlainAddress for [u8; 16] {}

macro_rules! plain_data {
    ($($type:ty),* $(,)?; $($generic:ident),* $(,)?) => {
        $(
            // SAFETY: the type is `Copy` and `repr(C)`, has no padding bytes (asserted in
            // tests/layout.rs) and holds only integers and byte arrays, so every bit pattern is valid.
            unsafe impl aya::Pod for $type {}
        )*
        $(
            // SAFETY: as above; `PlainAddress` is sealed, and the layout is asserted for both addresses.
            unsafe impl<A: PlainAddress> aya::Pod for $generic<A> {}
        )*
    };
}

plain_data! {
    AffinityEntry, BackendId, Decision, DropKey, NodeAddress, PortName, ServiceEntry, ServiceId, Settings, SocketAffinityKey,
    Trace, TraceRate, Traffic;
    AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, ServiceKey, SocketEntry, SocketKey, SourceRange,
}
