//! Commands that ask what the kernel can do and leave nothing behind.

use std::{io, os::fd::OwnedFd};

use aya_obj::generated::{
    BPF_ADD, BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_F_MMAPABLE, BPF_JMP, BPF_K, BPF_MEM, BPF_MOV, BPF_ST, BPF_W, BPF_X,
    bpf_cmd, bpf_func_id, bpf_insn, bpf_map_type,
    bpf_prog_type::{self, BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_PROG_TYPE_SCHED_CLS},
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
    let kind = match hook {
        Hook::BPF_CGROUP_INET_SOCK_RELEASE => BPF_PROG_TYPE_CGROUP_SOCK,
        _ => BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    };
    load(kind, hook as u32, instructions)
}

fn load(kind: bpf_prog_type, attach_type: u32, instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = zeroed();
    attr.__bindgen_anon_3.prog_type = kind as u32;
    attr.__bindgen_anon_3.expected_attach_type = attach_type;
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

/// Whether TC programs can ask for MTUs (5.12, kernel commit 34b2021cc616).
pub(crate) fn knows_check_mtu() -> bool {
    let move_to =
        |register: u8, code: u32, source: u8, value: i32| instruction(BPF_ALU64 | code, (register, source), 0, value);
    let set = |register, value| move_to(register, BPF_MOV | BPF_K, 0, value);
    // mtu = 0; bpf_check_mtu(context, 0, &mtu, 0, 0); return 0
    let program = [
        instruction(BPF_ST | BPF_MEM | BPF_W, (10, 0), -4, 0),
        set(2, 0),
        move_to(3, BPF_MOV | BPF_X, 10, 0),
        move_to(3, BPF_ADD | BPF_K, 0, -4),
        set(4, 0),
        set(5, 0),
        instruction(BPF_JMP | BPF_CALL, (0, 0), 0, bpf_func_id::BPF_FUNC_check_mtu as i32),
        set(0, 0),
        instruction(BPF_JMP | BPF_EXIT, (0, 0), 0, 0),
    ];
    load(BPF_PROG_TYPE_SCHED_CLS, 0, &program).is_ok()
}

/// An instruction with destination and source registers, an offset and an immediate value.
fn instruction(code: u32, (destination, source): (u8, u8), off: i16, imm: i32) -> bpf_insn {
    #[expect(clippy::cast_possible_truncation, reason = "an operation code is one byte")]
    let code = code as u8;
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(destination, source), off, imm }
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
