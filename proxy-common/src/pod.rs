//! Marks the shared types as plain data for aya.

use crate::{
    Backend, BackendId, Flow, FlowKey, PortName, ServiceEntry, ServiceId, ServiceKey, Settings, SocketEntry, SocketKey,
};

macro_rules! plain_data {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: the type is `Copy` and `repr(C)`, has no padding bytes (asserted in
            // tests/layout.rs) and holds only integers and byte arrays, so every bit pattern is valid.
            unsafe impl aya::Pod for $type {}
        )*
    };
}

plain_data! {
    Backend<[u8; 4]>, Backend<[u8; 16]>, BackendId,
    Flow<[u8; 4]>, Flow<[u8; 16]>, FlowKey<[u8; 4]>, FlowKey<[u8; 16]>,
    PortName, ServiceEntry, ServiceId, ServiceKey<[u8; 4]>, ServiceKey<[u8; 16]>, Settings,
    SocketEntry<[u8; 4]>, SocketEntry<[u8; 16]>, SocketKey<[u8; 4]>, SocketKey<[u8; 16]>,
}
