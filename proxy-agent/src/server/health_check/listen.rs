//! Sockets that listen on a port of an address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};
use thiserror::Error;
use tokio::net::TcpListener;

/// Every address of the node, in both families.
pub const ALL_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// An address cannot be listened on.
#[derive(Debug, Error)]
#[error("{address}: {error}")]
pub(super) struct PortError {
    address: SocketAddr,
    error: io::Error,
}

/// Listens on `port` of the address. `None` for `::` on a node without IPv6.
///
/// The address need not be usable yet, as an IPv6 address is not until nobody else is found to have it.
///
/// # Errors
/// The address cannot be listened on.
pub(super) fn listen_on(address: IpAddr, port: u16) -> Result<Option<TcpListener>, PortError> {
    let address = SocketAddr::new(address, port);
    match listener(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if is_without_ipv6(address, &error) => Ok(None),
        Err(error) => Err(PortError { address, error }),
    }
}

fn is_without_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    address.is_ipv6()
        && address.ip().is_unspecified()
        && error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Each family by itself, whatever `net.ipv6.bindv6only` says.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    } else {
        sockopt::set_ip_freebind(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_a_missing_family_is_left_out() {
        let missing = io::Error::from(Errno::AFNOSUPPORT);
        let [v4, v6] = ALL_ADDRESSES.map(|address| SocketAddr::new(address, 80));
        assert!(is_without_ipv6(v6, &missing));
        assert!(!is_without_ipv6(v4, &missing));
        assert!(!is_without_ipv6(SocketAddr::from((Ipv6Addr::LOCALHOST, 80)), &missing));
        assert!(!is_without_ipv6(v6, &io::Error::from(Errno::ADDRINUSE)));
    }

    #[tokio::test]
    async fn the_families_do_not_take_each_others_ports() {
        let [v4, v6] = ALL_ADDRESSES;
        let listener = listen_on(v4, 0).expect("a free port").expect("IPv4 is there");
        let port = listener.local_addr().expect("an address").port();
        listen_on(v6, port).expect("IPv4 has this port, IPv6 does not");
        let error = listen_on(v4, port).expect_err("IPv4 has this port").to_string();
        assert!(error.starts_with(&format!("0.0.0.0:{port}: ")), "{error}");
    }

    #[tokio::test]
    async fn an_address_need_not_be_there_yet() {
        let address = IpAddr::from([203, 0, 113, 1]);
        let listener = listen_on(address, 0).expect("it is nobody's").expect("IPv4 is there");
        assert_eq!(listener.local_addr().expect("an address").ip(), address);
    }
}
