//! The bpf(2) commands that aya does not offer: batch updates, replacing the program of any link,
//! queries and probes.
//!
//! Owns nothing and decides nothing: each function is one command with typed arguments. All `unsafe`
//! of the dataplane is in this folder and in [`super::mapped`].

mod link;
mod map;
mod netns;
mod probe;

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

pub(crate) use self::{
    link::{
        Hook, LinkTarget, Target, attach_program, attached, create_link, detach_link, detach_program, link_info,
        program_id, update_link,
    },
    map::{create_map, create_map_of_maps, set_inner_map, update_batch, visit_all},
    netns::{netns_cookie, netns_cookie_by_connecting},
    probe::{
        knows_batch_update, knows_cgroup_link, knows_check_mtu, knows_mappable_arrays, knows_ring_buffer, knows_tcx,
        try_program,
    },
};

/// Opens the object pinned at `path` (`BPF_OBJ_GET`).
///
/// # Errors
/// `ENOENT` if nothing is pinned there, or what the kernel says.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: `path` is NUL-terminated and outlives the call; BPF_OBJ_GET returns a new descriptor.
    unsafe { new_descriptor(bpf_cmd::BPF_OBJ_GET, &mut attr) }
}

/// Pins an object at `path`, which must not exist yet (`BPF_OBJ_PIN`).
///
/// # Errors
/// `EEXIST` if something is pinned there, or what the kernel says.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    // SAFETY: `path` is NUL-terminated and outlives the call, which only reads it.
    unsafe { call(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// The number that the kernel's structures want for a descriptor.
fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// A `bpf_attr` of zeros, which every command takes as "not set".
fn zeroed() -> bpf_attr {
    // SAFETY: the union consists of integers and arrays of integers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

/// The length of a slice as the kernel counts elements.
fn count<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

/// Calls bpf(2).
///
/// # Safety
/// Every pointer that `command` reads or writes through `attr` must be valid for it during the call.
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `attr` within the size given; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls bpf(2) for a command that returns a new descriptor.
///
/// # Safety
/// As [`call`], and `command` must return a descriptor that nobody else owns.
unsafe fn new_descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let descriptor = unsafe { call(command, attr) }?;
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the command returned a descriptor that is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
