//! Socket calls: from the hook's context to the pipeline and back.

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use proxy_common::{Decided, DecidedAt, Decision, Family, Port, Protocol, ServiceId, V4, V6};
use proxy_ebpf::socket::{self, Call, Verdict};

use super::{config, maps::FamilyMaps, tables::KernelTables, trace};

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
    match decide::<V4, InSockaddrIn>(context, step) {
        Verdict::Pass => PROCEED,
        Verdict::Refuse => refuse(),
        Verdict::Rewrite((address, port)) => {
            // SAFETY: the context is valid for as long as the program runs; the kernel lets these hooks write the field.
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
    let words = words(raw);
    if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
        return match decide::<V4, InDisguise>(context, step) {
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
    match decide::<V6, InSockaddrIn6>(context, step) {
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

/// Where the context of a call has the peer's address.
trait Place<F: Family> {
    fn address(raw: *mut bpf_sock_addr) -> F::Address;

    /// The address that the socket of a call is connected to.
    fn peer(socket: *mut bpf_sock) -> F::Address;
}

struct InSockaddrIn;
struct InSockaddrIn6;
/// An IPv4 address in a `sockaddr_in6`.
struct InDisguise;

impl Place<V4> for InSockaddrIn {
    #[inline(always)]
    fn address(raw: *mut bpf_sock_addr) -> [u8; 4] {
        // SAFETY: the context is valid for as long as the program runs; `user_ip4` is in network order in memory.
        unsafe { (*raw).user_ip4 }.to_ne_bytes()
    }

    #[inline(always)]
    fn peer(socket: *mut bpf_sock) -> [u8; 4] {
        // SAFETY: the call's socket is valid for as long as the program runs; the word is in network order in memory.
        unsafe { (*socket).dst_ip4 }.to_ne_bytes()
    }
}

impl Place<V6> for InSockaddrIn6 {
    #[inline(always)]
    fn address(raw: *mut bpf_sock_addr) -> [u8; 16] {
        join(words(raw))
    }

    #[inline(always)]
    fn peer(socket: *mut bpf_sock) -> [u8; 16] {
        // SAFETY: the call's socket is valid for as long as the program runs; the words are in network order in memory.
        join(unsafe { [(*socket).dst_ip6[0], (*socket).dst_ip6[1], (*socket).dst_ip6[2], (*socket).dst_ip6[3]] })
    }
}

impl Place<V4> for InDisguise {
    #[inline(always)]
    fn address(raw: *mut bpf_sock_addr) -> [u8; 4] {
        // SAFETY: the context is valid for as long as the program runs; the words are in network order in memory.
        unsafe { (*raw).user_ip6[3] }.to_ne_bytes()
    }

    #[inline(always)]
    fn peer(socket: *mut bpf_sock) -> [u8; 4] {
        // The kernel keeps the address as IPv4's, too.
        InSockaddrIn::peer(socket)
    }
}

#[inline(always)]
fn words(raw: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: the context is valid for as long as the program runs; the words are in network order in memory.
    unsafe { [(*raw).user_ip6[0], (*raw).user_ip6[1], (*raw).user_ip6[2], (*raw).user_ip6[3]] }
}

#[inline(always)]
fn decide<F: FamilyMaps, P: Place<F>>(context: &SockAddrContext, step: Step) -> Verdict<F::Address> {
    let raw = context.sock_addr;
    let Some(protocol) = protocol(raw) else { return Verdict::Pass };
    // SAFETY: the context is a socket call's, for which the helper is allowed.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let call = Call { cookie, namespace: namespace(context), protocol, peer: (P::address(raw), port(raw)) };
    let mut tables = KernelTables::<F>::new();
    let (at, verdict) = match step {
        Step::Connect => (DecidedAt::Connect, socket::connect(&mut tables, &call)),
        Step::Send => match peer::<F, P>(raw).and_then(|peer| socket::connected(&mut tables, &call, peer)) {
            Some(to) => return Verdict::Rewrite(to),
            None => (DecidedAt::SendMsg, socket::sendmsg(&mut tables, &call)),
        },
        Step::PeerName => return socket::peer_name(&mut tables, &call),
    };
    if let Some((service, decided)) = tables.decided()
        && trace::is_on()
    {
        let to = match (decided, verdict) {
            (Decided::Begins, Verdict::Rewrite(to)) => to,
            _ => (F::UNSPECIFIED, Port::default()),
        };
        tell::<F, P>(raw, cookie, at, service, &to);
    }
    verdict
}

/// The peer that the socket is connected to, as the kernel knows it.
#[inline(always)]
fn peer<F: Family, P: Place<F>>(raw: *mut bpf_sock_addr) -> Option<(F::Address, Port)> {
    // SAFETY: the context is valid for as long as the program runs, and a call always has a socket.
    let socket = unsafe { (*raw).__bindgen_anon_1.sk };
    // SAFETY: as above.
    let port = Port::from_wire(unsafe { (*socket).dst_port }.to_ne_bytes());
    (port != Port::default()).then(|| (P::peer(socket), port))
}

/// Tells that a call begins something, or, if it goes nowhere, that it is refused. A function of its own that knows the call by the
/// context, which still has the peer's address: what it needs takes no room on the stack while something is decided.
#[inline(never)]
fn tell<F: Family, P: Place<F>>(
    raw: *mut bpf_sock_addr,
    cookie: u64,
    at: DecidedAt,
    service: ServiceId,
    to: &(F::Address, Port),
) {
    let Some(protocol) = protocol(raw) else { return };
    let decided = if to.1.get() == 0 { Decided::Refused } else { Decided::Begins };
    let peer = (P::address(raw), port(raw));
    let mut decision = Decision::new::<F>(at, decided, service, protocol.number(), &peer);
    decision.set_socket(cookie);
    decision.set_backend::<F>(to);
    trace::tell(&mut decision);
}

#[inline(always)]
fn protocol(raw: *mut bpf_sock_addr) -> Option<Protocol> {
    // SAFETY: the context is valid for as long as the program runs.
    let protocol = unsafe { (*raw).protocol };
    u8::try_from(protocol).ok().and_then(Protocol::from_number)
}

/// The cookie of the socket's network namespace, where the kernel tells it.
#[inline(always)]
fn namespace(context: &SockAddrContext) -> Option<u64> {
    // SAFETY: the agent set the constant because the kernel has the helper, for a socket call's context among others.
    config::has_netns_cookie().then(|| unsafe { bpf_get_netns_cookie(context.as_ptr()) })
}

/// `user_port` holds the port in network order in the first two bytes of memory.
#[inline(always)]
fn port(raw: *mut bpf_sock_addr) -> Port {
    // SAFETY: the context is valid for as long as the program runs.
    let bytes = unsafe { (*raw).user_port }.to_ne_bytes();
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
