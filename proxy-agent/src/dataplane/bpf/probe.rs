//! Commands that ask what the kernel can do and leave nothing behind.

use std::{io, os::fd::OwnedFd};

use aya_obj::generated::{
    BPF_F_MMAPABLE, bpf_cmd, bpf_insn, bpf_map_type,
    bpf_prog_type::{BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_CGROUP_SOCK_ADDR},
};

use super::{Hook, Target, attached, call, count, create_map, new_descriptor, zeroed};

/// Loads a program for the cgroup's `hook` and unloads it again.
///
/// # Errors
/// `EPERM` without the right to load, `EINVAL` if the kernel does not know the hook or a helper that
/// the instructions call.
pub(crate) fn try_program(hook: Hook, instructions: &[bpf_insn]) -> io::Result<()> {
    load_program(hook, instructions).map(drop)
}

/// Loads a program for a socket hook, from hand-written instructions.
///
/// # Errors
/// What the kernel says, also if its verifier rejects the program.
pub(super) fn load_program(hook: Hook, instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = zeroed();
    let kind = match hook {
        Hook::BPF_CGROUP_INET_SOCK_RELEASE => BPF_PROG_TYPE_CGROUP_SOCK,
        _ => BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    };
    attr.__bindgen_anon_3.prog_type = kind as u32;
    attr.__bindgen_anon_3.expected_attach_type = hook as u32;
    attr.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = count(instructions);
    attr.__bindgen_anon_3.license = license.as_ptr() as u64;
    // SAFETY: instructions and licence are valid for reads and outlive the call; the command returns
    // a new descriptor.
    unsafe { new_descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

/// Whether programs can be attached to devices by TCX links (6.6).
pub(crate) fn knows_tcx() -> bool {
    // The loopback device has index 1 in every network namespace; asking changes nothing.
    attached(Target::DeviceFirst(1), Hook::BPF_TCX_INGRESS).is_ok()
}

/// Whether programs can be attached to cgroups by links (5.7).
pub(crate) fn knows_cgroup_link() -> bool {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = u32::MAX;
    attr.link_create.attach_type = Hook::BPF_CGROUP_INET4_CONNECT as u32;
    // SAFETY: the command follows no pointer; it fails, because -1 is no program.
    is_bad_descriptor(unsafe { call(bpf_cmd::BPF_LINK_CREATE, &mut attr) })
}

/// Whether many elements can be written in one call (5.6).
pub(crate) fn knows_batch_update() -> bool {
    let mut attr = zeroed();
    attr.batch.map_fd = u32::MAX;
    // SAFETY: the command fails before it follows a pointer, because -1 is no map.
    is_bad_descriptor(unsafe { call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) })
}

/// Whether arrays can be mapped into memory (5.5).
pub(crate) fn knows_mappable_arrays() -> bool {
    create_map(bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE).is_ok()
}

/// Whether there are ring buffers (5.8).
pub(crate) fn knows_ring_buffer() -> bool {
    // The smallest one: a page, which is 64 KiB on some machines.
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    create_map(bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0, 0, page, 0).is_ok()
}

/// A kernel that does not know a command says `EINVAL`; one that does looks for the object first.
fn is_bad_descriptor(result: io::Result<libc::c_long>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))
}
