//! Constants that the agent sets before it loads the programs. The verifier sees their values, and so
//! never looks at branches that the running kernel could not take.

use aya_ebpf::Global;

/// 1 if the kernel has `bpf_set_retval` (5.18, kernel commit b44123b4a3dc).
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// 1 if the kernel has `bpf_get_netns_cookie` for socket calls (5.7, kernel commit f318903c0bf4).
#[unsafe(no_mangle)]
static HAS_NETNS_COOKIE: Global<u8> = Global::new(0);

/// 1 if the kernel's `bpf_fib_lookup` goes by a packet's length (5.12, kernel commit e1850ea9bd9e); it has `bpf_redirect_neigh`
/// (5.10, kernel commit b4ab31414970) and `bpf_redirect_peer` then (5.10, kernel commit 9aa1206e8f48).
#[unsafe(no_mangle)]
static HAS_HOST_ROUTING: Global<u8> = Global::new(0);

/// 1 if the kernel has `bpf_ktime_get_coarse_ns` (5.11, kernel commit d05512618056).
#[unsafe(no_mangle)]
static HAS_COARSE_CLOCK: Global<u8> = Global::new(0);

/// 1 if the processor reads words that are not aligned, and the kernel knows (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
#[unsafe(no_mangle)]
static READS_UNALIGNED: Global<u8> = Global::new(0);

#[inline(always)]
pub(super) fn reads_unaligned() -> bool {
    READS_UNALIGNED.load() != 0
}

#[inline(always)]
pub(super) fn has_coarse_clock() -> bool {
    HAS_COARSE_CLOCK.load() != 0
}

#[inline(always)]
pub(super) fn has_host_routing() -> bool {
    HAS_HOST_ROUTING.load() != 0
}

#[inline(always)]
pub(super) fn has_netns_cookie() -> bool {
    HAS_NETNS_COOKIE.load() != 0
}

#[inline(always)]
pub(super) fn has_set_retval() -> bool {
    HAS_SET_RETVAL.load() != 0
}
