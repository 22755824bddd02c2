//! Map commands.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::Pod;
use aya_obj::generated::{bpf_cmd, bpf_map_type};

use super::{call, count, new_descriptor, raw, zeroed};

/// Creates an unpinned map. Sizes in bytes.
///
/// # Errors
/// What the kernel says.
pub(crate) fn create_map(
    kind: bpf_map_type,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = kind as u32;
    attr.__bindgen_anon_1.key_size = key_size;
    attr.__bindgen_anon_1.value_size = value_size;
    attr.__bindgen_anon_1.max_entries = max_entries;
    attr.__bindgen_anon_1.map_flags = flags;
    // SAFETY: the command follows no pointer and returns a new descriptor.
    unsafe { new_descriptor(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Creates an array with one element that holds a map like `inner`.
///
/// # Errors
/// What the kernel says.
pub(crate) fn create_map_of_maps(inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = 4;
    attr.__bindgen_anon_1.max_entries = 1;
    attr.__bindgen_anon_1.inner_map_fd = raw(inner);
    // SAFETY: the command follows no pointer and returns a new descriptor.
    unsafe { new_descriptor(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Puts `inner` into the one element of an array of maps.
///
/// # Errors
/// What the kernel says.
pub(crate) fn set_inner_map(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    let key = 0_u32;
    let value = inner.as_fd().as_raw_fd();
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(outer);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(&key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(&value) as u64;
    // SAFETY: key and value are the four bytes that an array of maps has, and outlive the call.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Writes elements in one call (`BPF_MAP_UPDATE_BATCH`, since 5.6) and returns how many were written;
/// fewer than given with the error that stopped it.
///
/// `K` and `V` must be the map's key and value, and `map` a hash or an array.
pub(crate) fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> (usize, io::Result<()>) {
    let elements = keys.len().min(values.len());
    if elements == 0 {
        return (0, Ok(()));
    }
    let mut attr = zeroed();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = count(&keys[..elements]);
    // SAFETY: both slices hold `count` elements of the map's key and value size and outlive the call,
    // which only reads them.
    let result = unsafe { call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop);
    // SAFETY: `batch` is the member that the command reads and writes; all of it is integers.
    let written = unsafe { attr.batch.count } as usize;
    match result {
        Ok(()) => (elements, Ok(())),
        // An error before the first element leaves the count as it was.
        Err(error) => (if written >= elements { 0 } else { written }, Err(error)),
    }
}

/// Shows all elements of a hash map to `visit`, some thousands at a time (`BPF_MAP_LOOKUP_BATCH`, since 5.6). Elements that
/// come or go meanwhile may be shown or not; none is shown twice.
///
/// `K` and `V` must be the map's key and value.
///
/// # Errors
/// `EINVAL` on kernels without the command; otherwise what the kernel says.
pub(crate) fn visit_all<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    max_entries: u32,
    mut visit: impl FnMut(K, V),
) -> io::Result<()> {
    let mut room = usize::try_from(max_entries.clamp(1, 4096)).map_err(io::Error::other)?;
    // Where to go on: the kernel's 32-bit bucket number for hashes; 8 bytes are room enough for it.
    let mut position = 0_u64;
    let mut first = true;
    loop {
        let mut keys: Vec<MaybeUninit<K>> = vec![MaybeUninit::zeroed(); room];
        let mut values: Vec<MaybeUninit<V>> = vec![MaybeUninit::zeroed(); room];
        let mut next = 0_u64;
        let mut attr = zeroed();
        attr.batch.map_fd = raw(map);
        attr.batch.in_batch = if first { 0 } else { std::ptr::from_ref(&position) as u64 };
        attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = count(&keys);
        // SAFETY: the vectors have room for `count` keys and values of the map's sizes; position and
        // next are at least the four bytes that a hash map uses; all outlive the call.
        let result = unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let end = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket has more elements than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < (1 << 20) => {
                room *= 4;
                continue;
            }
            Err(error) => return Err(error),
        };
        // SAFETY: `batch` is the member that the command reads and writes; all of it is integers.
        let read = unsafe { attr.batch.count } as usize;
        for (key, value) in keys.iter().zip(&values).take(read) {
            // SAFETY: the vectors were zeroed and the kernel wrote elements of plain data over them;
            // `Pod` types are valid for every bit pattern.
            let (key, value) = unsafe { (key.assume_init(), value.assume_init()) };
            visit(key, value);
        }
        if end {
            return Ok(());
        }
        position = next;
        first = false;
    }
}
