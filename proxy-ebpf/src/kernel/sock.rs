//! Sockets that are closed: from the hook's context to the pipeline.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_socket_cookie, programs::SockContext};
use proxy_common::{Port, Protocol, V4, V6};
use proxy_ebpf::socket::{self, Call};

use super::{
    maps::FamilyMaps,
    sock_addr::{MAPPED, join},
    tables::KernelTables,
};

/// The only value that the kernel does not take for a refusal; at this hook it asks for none.
const PROCEED: i32 = 1;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// A socket is closed for good: no process has it any more.
#[inline(always)]
pub(super) fn release(context: &SockContext) -> i32 {
    let raw = context.sock;
    // SAFETY: the context is valid for as long as the program runs.
    let (family, protocol, port) = unsafe { ((*raw).family, (*raw).protocol, (*raw).dst_port) };
    let port = Port::from_wire(port.to_ne_bytes());
    // Most sockets are listeners or of other kinds.
    if port == Port::default() {
        return PROCEED;
    }
    let Some(protocol) = u8::try_from(protocol).ok().and_then(Protocol::from_number) else { return PROCEED };
    match family {
        AF_INET => {
            // SAFETY: as above; the word is in network order in memory.
            let address = unsafe { (*raw).dst_ip4 }.to_ne_bytes();
            forget::<V4>(context, protocol, (address, port));
        }
        AF_INET6 => {
            // SAFETY: as above; the words are in network order in memory.
            let words = unsafe { [(*raw).dst_ip6[0], (*raw).dst_ip6[1], (*raw).dst_ip6[2], (*raw).dst_ip6[3]] };
            if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
                forget::<V4>(context, protocol, (words[3].to_ne_bytes(), port));
            } else {
                forget::<V6>(context, protocol, (join(words), port));
            }
        }
        _ => {}
    }
    PROCEED
}

#[inline(always)]
fn forget<F: FamilyMaps>(context: &SockContext, protocol: Protocol, peer: (F::Address, Port)) {
    // SAFETY: the context is a socket's, for which the helper is allowed.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let call = Call { cookie, namespace: None, protocol, peer };
    socket::release(&mut KernelTables::<F>::new(), &call);
}
