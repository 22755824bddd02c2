//! Socket calls: from the hook's context to the pipeline and back.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use proxy_common::{Port, Protocol, V4, V6};
use proxy_ebpf::socket::{self, Call, Verdict};

use super::{config, maps::FamilyMaps, tables::KernelTables};

/// What the application does.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Connects.
    Connect,
    /// Sends a datagram without having connected.
    Send,
    /// Receives a datagram, or asks for its peer's name.
    PeerName,
}

const PROCEED: i32 = 1;
const FAIL: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// A call with a `sockaddr_in`.
#[inline(always)]
pub(super) fn v4(context: &SockAddrContext, step: Step) -> i32 {
    let raw = context.sock_addr;
    // SAFETY: the context is valid for as long as the program runs; `user_ip4` is in network order in memory.
    let address = unsafe { (*raw).user_ip4 }.to_ne_bytes();
    match decide::<V4>(context, step, address) {
        Verdict::Pass => PROCEED,
        Verdict::Refuse => refuse(),
        Verdict::Rewrite((address, port)) => {
            // SAFETY: as above; the kernel lets these hooks write the field.
            unsafe { (*raw).user_ip4 = u32::from_ne_bytes(address) };
            set_port(raw, port);
            PROCEED
        }
    }
}

/// A call with a `sockaddr_in6`; `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2) is IPv4 in disguise.
#[inline(always)]
pub(super) fn v6(context: &SockAddrContext, step: Step) -> i32 {
    let raw = context.sock_addr;
    // SAFETY: the context is valid for as long as the program runs; the words are in network order in memory.
    let words = unsafe { [(*raw).user_ip6[0], (*raw).user_ip6[1], (*raw).user_ip6[2], (*raw).user_ip6[3]] };
    if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
        return match decide::<V4>(context, step, words[3].to_ne_bytes()) {
            Verdict::Pass => PROCEED,
            Verdict::Refuse => refuse(),
            Verdict::Rewrite((address, port)) => {
                // SAFETY: as above; the kernel lets these hooks write the field.
                unsafe { (*raw).user_ip6[3] = u32::from_ne_bytes(address) };
                set_port(raw, port);
                PROCEED
            }
        };
    }
    match decide::<V6>(context, step, join(words)) {
        Verdict::Pass => PROCEED,
        Verdict::Refuse => refuse(),
        Verdict::Rewrite((address, port)) => {
            let words = split(address);
            // SAFETY: as above; the kernel lets these hooks write the fields.
            unsafe {
                (*raw).user_ip6[0] = words[0];
                (*raw).user_ip6[1] = words[1];
                (*raw).user_ip6[2] = words[2];
                (*raw).user_ip6[3] = words[3];
            }
            set_port(raw, port);
            PROCEED
        }
    }
}

/// Third word of an IPv4-mapped IPv6 address.
pub(super) const MAPPED: u32 = 0x0000_ffff_u32.to_be();

#[inline(always)]
fn decide<F: FamilyMaps>(context: &SockAddrContext, step: Step, address: F::Address) -> Verdict<F::Address> {
    let raw = context.sock_addr;
    // SAFETY: the context is valid for as long as the program runs.
    let (protocol, port) = unsafe { ((*raw).protocol, (*raw).user_port) };
    let Some(protocol) = u8::try_from(protocol).ok().and_then(Protocol::from_number) else { return Verdict::Pass };
    // SAFETY: the context is a socket call's, for which the helper is allowed.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let call = Call { cookie, namespace: namespace(context), protocol, peer: (address, port_of(port)) };
    let mut tables = KernelTables::<F>::new();
    match step {
        Step::Connect => socket::connect(&mut tables, &call),
        Step::Send => socket::sendmsg(&mut tables, &call),
        Step::PeerName => socket::peer_name(&mut tables, &call),
    }
}

/// The cookie of the socket's network namespace, where the kernel tells it.
#[inline(always)]
fn namespace(context: &SockAddrContext) -> Option<u64> {
    // SAFETY: the agent set the constant because the kernel has the helper, for a socket call's context among others.
    config::has_netns_cookie().then(|| unsafe { bpf_get_netns_cookie(context.as_ptr()) })
}

/// `user_port` holds the port in network order in the first two bytes of memory.
#[inline(always)]
fn port_of(user_port: u32) -> Port {
    let bytes = user_port.to_ne_bytes();
    Port::from_wire([bytes[0], bytes[1]])
}

#[inline(always)]
fn set_port(raw: *mut bpf_sock_addr, port: Port) {
    let [high, low] = port.to_wire();
    // SAFETY: the context is valid for as long as the program runs; the kernel lets these hooks write the field.
    unsafe { (*raw).user_port = u32::from_ne_bytes([high, low, 0, 0]) };
}

#[inline(always)]
fn refuse() -> i32 {
    if config::has_set_retval() {
        // SAFETY: the agent set the constant because the kernel has the helper.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    // Without the helper the application gets EPERM.
    FAIL
}

#[inline(always)]
pub(super) fn join(words: [u32; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    let mut index = 0;
    while index < 4 {
        let bytes = words[index].to_ne_bytes();
        address[index * 4] = bytes[0];
        address[index * 4 + 1] = bytes[1];
        address[index * 4 + 2] = bytes[2];
        address[index * 4 + 3] = bytes[3];
        index += 1;
    }
    address
}

#[inline(always)]
fn split(address: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    let mut index = 0;
    while index < 4 {
        words[index] = u32::from_ne_bytes([
            address[index * 4],
            address[index * 4 + 1],
            address[index * 4 + 2],
            address[index * 4 + 3],
        ]);
        index += 1;
    }
    words
}
