//! The kernel's routing, as TC programs may ask for it.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, bpf_redir_neigh,
        bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::{bpf_fib_lookup, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use proxy_ebpf::packet::Journey;

use super::maps::PEER_DEVICES;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A device and the neighbour behind it.
#[derive(Clone, Copy)]
pub(super) struct Way {
    device: u32,
    family: u8,
    neighbour: [u32; 4],
    addresses: EthernetAddresses,
}

/// What an Ethernet header begins with (IEEE 802.3 §3.2).
#[derive(Clone, Copy)]
#[repr(C)]
struct EthernetAddresses {
    destination: [u8; 6],
    source: [u8; 6],
}

/// Where the kernel would forward a packet to that comes from the skb's device. It is asked with the packet's length, so what
/// is too long leads nowhere; neither does what needs a neighbour that is not known yet.
#[inline(always)]
pub(super) fn look_up(raw: *mut __sk_buff, journey: &Journey) -> Option<Way> {
    // SAFETY: the structure consists of integers, for which zero is valid.
    let mut query: FibLookup = unsafe { core::mem::zeroed() };
    query.family = if journey.version == 4 { AF_INET } else { AF_INET6 };
    query.l4_protocol = journey.protocol;
    query.sport = u16::from_ne_bytes(journey.source_port.to_wire());
    query.dport = u16::from_ne_bytes(journey.destination_port.to_wire());
    query.__bindgen_anon_1.tot_len = journey.length;
    query.__bindgen_anon_2.flowinfo = u32::from_ne_bytes(journey.class);
    query.__bindgen_anon_3.ipv6_src = words(journey.source);
    query.__bindgen_anon_4.ipv6_dst = words(journey.destination);
    // SAFETY: the context is valid for as long as the program runs, the structure for the call, and its length is right.
    let result = unsafe {
        query.ifindex = (*raw).ifindex;
        bpf_fib_lookup(raw.cast(), &raw mut query, LENGTH, 0)
    };
    if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return None;
    }
    // SAFETY: whatever the helper wrote there, four words are four words.
    let neighbour = unsafe { query.__bindgen_anon_4.ipv6_dst };
    let addresses = EthernetAddresses { destination: query.dmac, source: query.smac };
    Some(Way { device: query.ifindex, family: query.family, neighbour, addresses })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "64 bytes")]
const LENGTH: i32 = size_of::<FibLookup>() as i32;

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "20 bytes")]
const NEIGHBOUR_LENGTH: i32 = size_of::<bpf_redir_neigh>() as i32;

/// Notes where the packet goes when the program says so: to the neighbour, or at once to the other end of the device that leads there, if the
/// agent says that it is in another network namespace. (Elsewhere the kernel would drop the packet.)
#[inline(always)]
pub(super) fn send(context: &TcContext, way: &Way) {
    if PEER_DEVICES.get_ptr(way.device).is_some() && context.store(0, &way.addresses, 0).is_ok() {
        // SAFETY: the helper only notes the device; the kernel acts on it after the program ended.
        let _ = unsafe { bpf_redirect_peer(way.device, 0) };
        return;
    }
    let mut to = bpf_redir_neigh {
        nh_family: u32::from(way.family),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: way.neighbour },
    };
    // SAFETY: the structure is valid for the call, and its length is right; the kernel copies it and acts after the program ended.
    let _ = unsafe { bpf_redirect_neigh(way.device, &raw mut to, NEIGHBOUR_LENGTH, 0) };
}

#[inline(always)]
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}
