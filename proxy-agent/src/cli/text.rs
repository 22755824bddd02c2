//! How addresses and Services are written.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use proxy_common::{Port, PortName, ServiceId};

/// An address of either family as the standard library's.
pub(super) trait IntoIp {
    /// The address.
    fn into_ip(self) -> IpAddr;
}

impl IntoIp for [u8; 4] {
    fn into_ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl IntoIp for [u8; 16] {
    fn into_ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

/// `10.0.0.1` or `fd00::1`.
pub(super) fn address(address: impl IntoIp) -> String {
    address.into_ip().to_string()
}

/// Address and port as the standard library's.
pub(super) fn socket_address((address, port): (impl IntoIp, Port)) -> SocketAddr {
    SocketAddr::new(address.into_ip(), port.get())
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub(super) fn endpoint(endpoint: (impl IntoIp, Port)) -> String {
    socket_address(endpoint).to_string()
}

/// `namespace/name:port`, or the number if the id has no name.
pub(super) fn service(id: ServiceId, names: &BTreeMap<ServiceId, PortName>) -> String {
    match names.get(&id) {
        Some(name) if name.port().is_empty() => format!("{}/{}", name.namespace(), name.name()),
        Some(name) => format!("{}/{}:{}", name.namespace(), name.name(), name.port()),
        None => format!("#{}", id.get()),
    }
}
