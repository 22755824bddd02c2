//! Reads headers where they lie, without a helper: most of them are in the linear part of the skb.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::bindings::__sk_buff;
use proxy_ebpf::packet::HEADER_MAX;

use super::config;

/// Room for a header.
pub(super) type Room = MaybeUninit<[u64; HEADER_MAX / 8]>;

/// The verifier has to know a bound for an offset. No header that is read so begins behind this one.
const LAST_OFFSET: usize = 0x3fff;

/// Copies `N` bytes from `offset` to `room`, if they are in the linear part of the packet; says whether they are.
///
/// # Safety
/// `raw` is the context of the program that runs.
#[inline(always)]
pub(super) unsafe fn copy<const N: usize>(raw: *mut __sk_buff, offset: usize, room: &mut Room) -> bool {
    const { assert!(N <= HEADER_MAX) };
    if !config::reads_unaligned() || offset > LAST_OFFSET {
        return false;
    }
    // SAFETY: the context is valid for as long as the program runs. What looks like 32 bits is a pointer, as the verifier knows.
    let (data, end) = unsafe { ((*raw).data as usize, (*raw).data_end as usize) };
    let start = data + offset;
    if start + N > end {
        return false;
    }
    let words = room.as_mut_ptr().cast::<u64>();
    // SAFETY: from `start` on there are `N` bytes of the packet, as has just been seen, and there is room for as many. A loop would
    // stay a loop.
    unsafe {
        if N >= 8 {
            words.write(word(start));
        }
        if N >= 16 {
            words.add(1).write(word(start + 8));
        }
        if N >= 24 {
            words.add(2).write(word(start + 16));
        }
        if N >= 32 {
            words.add(3).write(word(start + 24));
        }
        if N >= 40 {
            words.add(4).write(word(start + 32));
        }
        let (rest, from) = (words.add(N / 8), start + N / 8 * 8);
        if N & 4 != 0 {
            rest.cast::<u32>().write(half(from));
        }
        if N & 2 != 0 {
            rest.cast::<u16>().add((N & 4) / 2).write(quarter(from + (N & 4)));
        }
        if N & 1 != 0 {
            rest.cast::<u8>().add(N & 6).write(*((from + (N & 6)) as *const u8));
        }
    }
    true
}

// In assembler, because the packet is not aligned, for which the compiler would read it byte by byte. Callers know that so many
// bytes of the packet are there.

#[inline(always)]
unsafe fn word(from: usize) -> u64 {
    let value;
    // SAFETY: reads 8 bytes, which are there.
    unsafe {
        asm!("{value} = *(u64 *)({from} + 0)", value = out(reg) value, from = in(reg) from, options(nostack, readonly));
    }
    value
}

#[inline(always)]
unsafe fn half(from: usize) -> u32 {
    let value;
    // SAFETY: reads 4 bytes, which are there.
    unsafe {
        asm!("{value} = *(u32 *)({from} + 0)", value = out(reg) value, from = in(reg) from, options(nostack, readonly));
    }
    value
}

#[inline(always)]
unsafe fn quarter(from: usize) -> u16 {
    let value;
    // SAFETY: reads 2 bytes, which are there.
    unsafe {
        asm!("{value} = *(u16 *)({from} + 0)", value = out(reg) value, from = in(reg) from, options(nostack, readonly));
    }
    value
}
