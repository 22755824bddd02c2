//! How addresses and Services are written.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

use proxy_common::{Port, PortName, ServiceId};

/// A time between two looks, as people write it.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|&seconds| seconds > 0)
        .ok_or_else(|| "it is a whole number of seconds from 1 on".to_owned())
}

/// How many of something, as people write it.
pub(super) fn number(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("it is a whole number from 1 to {}", u32::MAX))
}

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
