//! Clients that are not there.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::support::Netns;

/// How many SYNs there are, and how many datagrams: a third of what the tables of young flows have room for. More would cost those that are
/// just being made, as README.md says; that connections survive it is shown by `root_flood`.
pub const COUNT: u16 = 1500;

/// Sends SYNs and datagrams to a Service from addresses to which no answer leads back.
pub fn from_invented_clients(outside: &Netns, service: SocketAddr, seed: u16) {
    // All of the network is the client's own, as far as it knows; nobody else knows.
    outside.ip("route replace local 198.18.0.0/15 dev lo");
    outside.enter(|| {
        for number in 0..COUNT {
            let [high, low] = number.wrapping_add(seed).to_be_bytes();
            let client = SocketAddr::from((Ipv4Addr::from([198, 18, high, low]), 0));
            let syn = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None);
            let syn = syn.expect("there are sockets");
            bind(&syn, &client).expect("the address is its own");
            assert_eq!(connect(&syn, &service), Err(rustix::io::Errno::INPROGRESS));
            let datagram = UdpSocket::bind(client).expect("the address is its own");
            datagram.send_to(b"flood", service).expect("sends");
        }
    });
}
