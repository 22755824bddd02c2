//! How each feature is asked for. Leaves nothing behind.

use std::io;

use aya_obj::generated::{
    BPF_ADD, BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_JLT, BPF_JMP, BPF_K, BPF_MOV, bpf_func_id, bpf_insn,
};

use super::Feature;
use crate::dataplane::bpf::{self, Hook};

/// Loads the simplest program that there is.
///
/// # Errors
/// `EPERM` without the right to load programs, `ENOSYS` without the system call.
pub(super) fn any_program() -> io::Result<()> {
    bpf::try_program(Hook::BPF_CGROUP_INET4_CONNECT, &accept())
}

/// Whether the running kernel has the feature.
pub(super) fn has(feature: Feature) -> bool {
    let connect = |program: &[bpf_insn]| bpf::try_program(Hook::BPF_CGROUP_INET4_CONNECT, program).is_ok();
    match feature {
        Feature::SocketHooks => bpf::try_program(Hook::BPF_CGROUP_UDP4_SENDMSG, &accept()).is_ok(),
        Feature::ReceiveHooks => bpf::try_program(Hook::BPF_CGROUP_UDP4_RECVMSG, &accept()).is_ok(),
        Feature::Btf => aya::features().btf().is_some(),
        Feature::BoundedLoops => connect(&counting_loop()),
        Feature::MappableArrays => bpf::knows_mappable_arrays(),
        Feature::BatchUpdate => bpf::knows_batch_update(),
        Feature::CgroupLink => bpf::knows_cgroup_link(),
        // Called with the context, which the first register holds.
        Feature::NetnsCookie => connect(&calling(bpf_func_id::BPF_FUNC_get_netns_cookie)),
        Feature::PeerNameHooks => bpf::try_program(Hook::BPF_CGROUP_INET4_GETPEERNAME, &accept()).is_ok(),
        Feature::RingBuffer => bpf::knows_ring_buffer(),
        Feature::ReleaseHook => {
            let program = calling(bpf_func_id::BPF_FUNC_get_socket_cookie);
            bpf::try_program(Hook::BPF_CGROUP_INET_SOCK_RELEASE, &program).is_ok()
        }
        // Nothing tells of it, but this helper came with the same release (as libbpf has it).
        Feature::CgroupMemory | Feature::CoarseClock => connect(&calling(bpf_func_id::BPF_FUNC_ktime_get_coarse_ns)),
        Feature::HostRouting => bpf::knows_check_mtu(),
        Feature::SetRetval => connect(&set_retval()),
        Feature::Tcx => bpf::knows_tcx(),
    }
}

/// `return 1`.
fn accept() -> [bpf_insn; 2] {
    [set(0, 1), exit()]
}

/// Calls a helper, with the arguments as they are when the program starts, and accepts.
fn calling(helper: bpf_func_id) -> [bpf_insn; 3] {
    [call(helper), set(0, 1), exit()]
}

/// `for (r0 = 0; r0 < 4; r0++); return 1`.
fn counting_loop() -> [bpf_insn; 5] {
    let again = bpf_insn { off: -2, ..instruction(BPF_JMP | BPF_JLT | BPF_K, 0, 4) };
    [set(0, 0), instruction(BPF_ALU64 | BPF_ADD | BPF_K, 0, 1), again, set(0, 1), exit()]
}

/// `bpf_set_retval(-1); return 0`.
fn set_retval() -> [bpf_insn; 4] {
    [set(1, -1), call(bpf_func_id::BPF_FUNC_set_retval), set(0, 0), exit()]
}

fn set(register: u8, value: i32) -> bpf_insn {
    instruction(BPF_ALU64 | BPF_MOV | BPF_K, register, value)
}

fn call(helper: bpf_func_id) -> bpf_insn {
    instruction(BPF_JMP | BPF_CALL, 0, helper as i32)
}

fn exit() -> bpf_insn {
    instruction(BPF_JMP | BPF_EXIT, 0, 0)
}

/// An instruction with a destination register and an immediate value.
fn instruction(code: u32, destination: u8, immediate: i32) -> bpf_insn {
    #[expect(clippy::cast_possible_truncation, reason = "an operation code is one byte")]
    let code = code as u8;
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(destination, 0),
        off: 0,
        imm: immediate,
    }
}
