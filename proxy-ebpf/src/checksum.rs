//! The Internet checksum (RFC 1071) and differences of it (RFC 1624).
//!
//! Byte order: the sum is taken over 16-bit words *as they lie in memory*, read in the machine's own
//! order. One's complement addition commutes with swapping bytes (RFC 1071 §2 B), so a sum of native
//! words, stored natively, is the right checksum on the wire on every machine, and it is the form in
//! which the kernel's helpers take a difference. Nothing in this file swaps bytes.

/// Sum of the 16-bit words of `bytes`, of which there are fewer than 2^16; an odd last byte is padded with zero.
/// Folded to 16 bits, so that thousands of sums can be added without overflow.
#[inline(always)]
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = 0_u64;
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    if let Some(&[first, second]) = rest.first_chunk() {
        [last[0], last[1]] = [first, second];
        last[2] = rest.get(2).copied().unwrap_or(0);
    } else if let Some(&first) = rest.first() {
        last[0] = first;
    }
    u32::from(fold(narrow(total + u64::from(u32::from_ne_bytes(last)))))
}

/// What must be added to a checksum's sum when `from` became `to`: the sum of `to` minus that of `from`,
/// in one's complement.
#[inline(always)]
#[must_use]
pub fn difference(from: &[u8], to: &[u8]) -> u32 {
    (!sum(from) & 0xffff) + sum(to)
}

/// A sum of 32-bit words, folded to 32 bits. A 32-bit one's complement sum folds to the same 16 bits as the sum
/// of its halves.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folded twice, the sum fits 32 bits")]
const fn narrow(sum: u64) -> u32 {
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    ((once & 0xffff_ffff) + (once >> 32)) as u32
}

/// Folds a sum to 16 bits.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "folded twice, the sum fits 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum field for a sum over everything else.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u32) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The checksum field `field` after a change of `difference`.
#[inline(always)]
#[must_use]
pub fn adjusted(field: [u8; 2], difference: u32) -> [u8; 2] {
    finish(u32::from(!u16::from_ne_bytes(field)) + u32::from(fold(difference)))
}
