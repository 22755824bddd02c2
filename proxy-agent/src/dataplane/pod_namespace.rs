//! Which network namespace an address is in.

use std::{
    net::{IpAddr, UdpSocket},
    thread,
};

use super::{bpf, netns, stranded::each_namespace};

/// The cookie of the network namespace that has the address, among those of processes that this one can see, its own left
/// out. `None` if none has it, or the kernel does not tell cookies (before 5.14).
#[must_use]
pub fn cookie_of(address: IpAddr) -> Option<u64> {
    // A thread of its own, because it stays where it was last.
    let search = move || {
        let own = bpf::netns_cookie().ok()?;
        let mut found = None;
        // What cannot be entered is not looked at.
        drop(each_namespace(|| {
            // Only who has an address can bind a socket to it.
            let cookie = UdpSocket::bind((address, 0)).ok().and_then(|_| bpf::netns_cookie().ok());
            found = cookie.filter(|cookie| *cookie != own);
            found.is_none()
        }));
        found
    };
    thread::spawn(search).join().ok().flatten()
}

/// The cookie of the calling thread's network namespace; `None` if socket hooks do not know it (before 5.7). Before 5.14 a program
/// has to be attached for a moment to find out, which takes the rights for that.
#[must_use]
pub fn own_cookie() -> Option<u64> {
    bpf::netns_cookie().or_else(|_| netns::by_connecting()).ok()
}
