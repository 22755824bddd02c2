//! Entry points and what the kernel lends them. Decisions are made in the pipeline, not here.

#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand the context over by value")]

mod config;
mod direct;
mod maps;
mod route;
mod skb;
mod sock;
mod sock_addr;
mod stages;
mod tables;
mod trace;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, classifier},
    programs::{SockAddrContext, SockContext, TcContext},
};

use self::{sock_addr::Step, stages::Hook};

/// Offset of the IP header on Ethernet devices.
const ETHERNET: usize = 14;
/// Offset of the IP header on devices without a link-layer header.
const RAW: usize = 0;

#[classifier]
pub(crate) fn tc_ingress(context: TcContext) -> i32 {
    stages::run::<ETHERNET>(&context, Hook::Ingress)
}

#[classifier]
pub(crate) fn tc_egress(context: TcContext) -> i32 {
    stages::run::<ETHERNET>(&context, Hook::Egress)
}

#[classifier]
pub(crate) fn tc_ingress_l3(context: TcContext) -> i32 {
    stages::run::<RAW>(&context, Hook::Ingress)
}

#[classifier]
pub(crate) fn tc_egress_l3(context: TcContext) -> i32 {
    stages::run::<RAW>(&context, Hook::Egress)
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(context: SockAddrContext) -> i32 {
    sock_addr::v4(&context, Step::Connect)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(context: SockAddrContext) -> i32 {
    sock_addr::v6(&context, Step::Connect)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(context: SockAddrContext) -> i32 {
    sock_addr::v4(&context, Step::Send)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(context: SockAddrContext) -> i32 {
    sock_addr::v6(&context, Step::Send)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(context: SockAddrContext) -> i32 {
    sock_addr::v4(&context, Step::PeerName)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(context: SockAddrContext) -> i32 {
    sock_addr::v6(&context, Step::PeerName)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(context: SockAddrContext) -> i32 {
    // Keeps the map in the object; costs one instruction.
    core::hint::black_box(&maps::NAMES);
    sock_addr::v4(&context, Step::PeerName)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(context: SockAddrContext) -> i32 {
    sock_addr::v6(&context, Step::PeerName)
}

#[cgroup_sock(sock_release)]
pub(crate) fn sock_release(context: SockContext) -> i32 {
    sock::release(&context)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The licence that the kernel checks before it lends out helpers that are for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
