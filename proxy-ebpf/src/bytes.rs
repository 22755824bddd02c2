//! Fixed-size pieces of fixed-size headers, without a panic path (the kernel has none to take).
//!
//! Pieces move as a whole, not byte by byte: the compiler would otherwise keep each byte of an IPv6
//! address in a register or eight bytes of stack of its own.

/// The `N` bytes of `bytes` from `offset`; zeros if they do not all exist.
///
/// Callers pass constants, so the compiler resolves the bound.
#[inline(always)]
pub(crate) fn take<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// The same for 16 bytes that begin at a multiple of 8 of what is aligned to 8: as two words.
#[inline(always)]
pub(crate) fn take_words(bytes: &[u8], offset: usize) -> [u8; 16] {
    let word = |at| u64::from_ne_bytes(take(bytes, at));
    let (first, second) = (word(offset), word(offset + 8));
    let mut piece = [0; 16];
    put(&mut piece, 0, &first.to_ne_bytes());
    put(&mut piece, 8, &second.to_ne_bytes());
    piece
}

/// Writes `piece` into `bytes` at `offset`; nothing if it does not fit.
#[inline(always)]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], offset: usize, piece: &[u8; N]) {
    if let Some(place) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *place = *piece;
    }
}
