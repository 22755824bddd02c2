//! The skb as the pipeline's packet.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use proxy_ebpf::{
    Packet, Truncated,
    packet::{Change, Journey, ZeroChecksum},
};

use super::{
    config, direct,
    route::{self, Way},
};

/// The packet is addressed to the device that it came in on (`PACKET_HOST`).
const PACKET_HOST: u32 = 0;

/// Bytes of the packet on the stack, where fields of any size are read by one instruction each.
#[repr(align(8))]
struct Aligned<T>(MaybeUninit<T>);

/// A packet in a TC hook.
pub(super) struct Skb {
    context: TcContext,
}

impl Skb {
    #[inline(always)]
    pub(super) const fn new(raw: *mut __sk_buff) -> Self {
        Self { context: TcContext::new(raw) }
    }

    #[inline(always)]
    const fn raw(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    #[inline(always)]
    pub(super) fn send_back(&self) -> i32 {
        // SAFETY: the helper only notes the device; the kernel acts on it after the program ended.
        let action = unsafe { bpf_redirect(self.device(), 0) };
        i32::try_from(action).unwrap_or(TC_ACT_SHOT)
    }
}

#[inline(always)]
fn done(result: Result<(), i64>) -> Result<(), Truncated> {
    result.map_err(|_| Truncated)
}

impl Packet for Skb {
    #[inline(always)]
    fn size(&self) -> usize {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.raw()).len as usize }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(N)) else { return Err(Truncated) };
        let mut bytes = Aligned(MaybeUninit::<[u8; N]>::uninit());
        // SAFETY: the context is valid for as long as the program runs, and `bytes` has room for `N` bytes.
        match unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, bytes.0.as_mut_ptr().cast(), len) } {
            // SAFETY: the helper has written all of them.
            0 => Ok(unsafe { bytes.0.assume_init() }),
            _ => Err(Truncated),
        }
    }

    #[inline(always)]
    fn read_header<const N: usize, R>(
        &self,
        offset: usize,
        reader: impl FnOnce(&[u8; N]) -> R,
    ) -> Result<R, Truncated> {
        let mut header = direct::Room::uninit();
        // SAFETY: the context is valid for as long as the program runs.
        if !unsafe { direct::copy::<N>(self.raw(), offset, &mut header) } {
            let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(N)) else { return Err(Truncated) };
            // SAFETY: as above, and there is room for `N` bytes.
            if unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, header.as_mut_ptr().cast(), len) } != 0 {
                return Err(Truncated);
            }
        }
        // SAFETY: `N` bytes have been written, one way or the other.
        Ok(reader(unsafe { &*header.as_ptr().cast::<[u8; N]>() }))
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        done(self.context.store(offset, bytes, 0))
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[u32; N]) -> Result<(), Truncated> {
        done(self.context.store(offset, words, 0))
    }

    #[inline(always)]
    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        done(self.context.store(offset, bytes, u64::from(BPF_F_RECOMPUTE_CSUM)))
    }

    #[inline(always)]
    fn adjust_header_checksum(&mut self, offset: usize, difference: u32) -> Result<(), Truncated> {
        done(self.context.l3_csum_replace(offset, 0, u64::from(difference), 0))
    }

    #[inline(always)]
    fn adjust_transport_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        change: Change,
        zero: ZeroChecksum,
    ) -> Result<(), Truncated> {
        let pseudo = match change {
            Change::PseudoHeader => BPF_F_PSEUDO_HDR,
            Change::Segment => 0,
        };
        let mangled = match zero {
            ZeroChecksum::Absent => BPF_F_MARK_MANGLED_0,
            ZeroChecksum::Value => 0,
        };
        done(self.context.l4_csum_replace(offset, 0, u64::from(difference), u64::from(pseudo | mangled)))
    }

    #[inline(always)]
    fn checksum_is_pending(&mut self, scratch: usize) -> Result<bool, Truncated> {
        // The helper leaves the field alone for a change in the segment if the checksum is pending, and adds the
        // difference otherwise (inet_proto_csum_replace_by_diff). That is the only way to tell from here.
        const FIELD: [u8; 2] = [0x12, 0x34];
        self.store(scratch, &FIELD)?;
        self.adjust_transport_checksum(scratch, 1, Change::Segment, ZeroChecksum::Value)?;
        let after: [u8; 2] = self.load(scratch)?;
        Ok(after[0] == FIELD[0] && after[1] == FIELD[1])
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Result<(), Truncated> {
        let len = u32::try_from(len).map_err(|_| Truncated)?;
        // SAFETY: the context is valid; direct packet pointers, which the helper would invalidate, are never held.
        match unsafe { bpf_skb_change_tail(self.raw(), len, 0) } {
            0 => Ok(()),
            _ => Err(Truncated),
        }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.raw()).mark }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        self.context.set_mark(mark);
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.raw()).ifindex }
    }

    #[inline(always)]
    fn can_be_sent_on(&self) -> bool {
        // SAFETY: the context is valid for as long as the program runs.
        config::has_host_routing()
            && unsafe { (*self.raw()).pkt_type == PACKET_HOST && (*self.raw()).vlan_present == 0 }
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<u16> {
        // SAFETY: the context is valid for as long as the program runs.
        match unsafe { (*self.raw()).gso_size } {
            0 => None,
            size => Some(u16::try_from(size).unwrap_or(u16::MAX)),
        }
    }

    type Way = Way;

    #[inline(always)]
    fn way(&self, journey: &Journey) -> Option<Way> {
        route::look_up(self.raw(), journey)
    }

    #[inline(always)]
    fn send_on(&mut self, way: &Way) {
        route::send(&self.context, way);
    }
}
