//! The cookie of a network namespace: the number by which a socket hook knows it.

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{
    BPF_ADD, BPF_ALU64, BPF_ANY, BPF_CALL, BPF_DW, BPF_EXIT, BPF_IMM, BPF_JMP, BPF_K, BPF_LD, BPF_MEM, BPF_MOV,
    BPF_PSEUDO_MAP_FD, BPF_STX, BPF_X, bpf_cmd, bpf_func_id, bpf_insn, bpf_map_type,
};

use super::{Hook, Target, call, create_link, create_map, probe::load_program, raw, zeroed};

/// The cookie of this thread's network namespace (`SO_NETNS_COOKIE`, since 5.14, commit e8b9eab99232).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels; otherwise what the kernel says.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    option(&UdpSocket::bind("127.0.0.1:0")?, libc::SO_NETNS_COOKIE)
}

/// The same on kernels whose sockets do not tell it, but whose connect hooks do (`bpf_get_netns_cookie`, since 5.7): a
/// program of a few instructions is attached to `cgroup`, in which this process must be, for the moment in which a socket is
/// connected to a loopback address. No packet is sent.
///
/// # Errors
/// What the kernel says; `NotFound` if the process is not in the cgroup.
pub(crate) fn netns_cookie_by_connecting(cgroup: BorrowedFd<'_>) -> io::Result<u64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let key = option(&socket, libc::SO_COOKIE)?;
    let map = create_map(bpf_map_type::BPF_MAP_TYPE_LRU_HASH, 8, 8, 1024, 0)?;
    let program = load_program(Hook::BPF_CGROUP_INET4_CONNECT, &noting_cookies(map.as_fd()))?;
    let link = create_link(program.as_fd(), Target::Cgroup(cgroup), Hook::BPF_CGROUP_INET4_CONNECT)?;
    let connected = socket.connect("127.0.0.1:9");
    drop(link);
    connected?;
    lookup(map.as_fd(), key)
}

/// `map[socket cookie] = cookie of its network namespace; return 1`.
fn noting_cookies(map: BorrowedFd<'_>) -> [bpf_insn; 16] {
    const CONTEXT: u8 = 6;
    let call = |function: bpf_func_id| instruction(BPF_JMP | BPF_CALL, 0, 0, 0, function as i32);
    let copy = |to, from| instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
    let set = |to, value| instruction(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
    let add = |to, value| instruction(BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, value);
    let store = |offset| instruction(BPF_STX | BPF_MEM | BPF_DW, 10, 0, offset, 0);
    [
        copy(CONTEXT, 1),
        call(bpf_func_id::BPF_FUNC_get_socket_cookie),
        store(-8),
        copy(1, CONTEXT),
        call(bpf_func_id::BPF_FUNC_get_netns_cookie),
        store(-16),
        #[expect(clippy::cast_possible_truncation, reason = "the constant is 1")]
        instruction(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD as u8, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        copy(2, 10),
        add(2, -8),
        copy(3, 10),
        add(3, -16),
        set(4, BPF_ANY.cast_signed()),
        call(bpf_func_id::BPF_FUNC_map_update_elem),
        set(0, 1),
        instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]
}

fn instruction(code: u32, destination: u8, source: u8, offset: i16, immediate: i32) -> bpf_insn {
    #[expect(clippy::cast_possible_truncation, reason = "an operation code is one byte")]
    let code = code as u8;
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(destination, source),
        off: offset,
        imm: immediate,
    }
}

fn lookup(map: BorrowedFd<'_>, key: u64) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(&key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_mut(&mut value) as u64;
    // SAFETY: key and value are the eight bytes that the map has, and outlive the call.
    unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(value)
}

/// A socket option that is a number of 64 bits.
fn option(socket: &UdpSocket, name: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: `value` is valid for writes of `length` bytes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
