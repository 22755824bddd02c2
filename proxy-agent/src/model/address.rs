//! Addresses, prefixes, ports and protocols out of API text.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proxy_common::{Port, Protocol};

use super::{AddressClass, Reason, problem::quoted};

/// Parses an address as the API server does: leading zeros in IPv4 octets are decimal
/// (`ParseIPSloppy` of k8s.io/utils, for objects older than Go 1.17), v4-mapped IPv6 is IPv4.
pub(super) fn address(text: &str) -> Result<IpAddr, Reason> {
    let parsed: Option<IpAddr> = text.parse().ok().or_else(|| sloppy(text).map(IpAddr::V4));
    match parsed {
        Some(address) => Ok(address.to_canonical()),
        None if text.is_empty() => Err(Reason::Missing),
        None => Err(Reason::NotAnAddress(quoted(text))),
    }
}

/// An address that an endpoint can have.
pub(super) fn endpoint_address(text: &str) -> Result<IpAddr, Reason> {
    let address = address(text)?;
    match class(address) {
        None | Some(AddressClass::Loopback) => Ok(address),
        Some(class) => Err(Reason::UnusableAddress { address, class }),
    }
}

/// An address that clients of a Service can be told to use.
pub(super) fn frontend_address(text: &str) -> Result<IpAddr, Reason> {
    let address = address(text)?;
    match class(address) {
        None => Ok(address),
        Some(class) => Err(Reason::UnusableAddress { address, class }),
    }
}

/// A prefix in CIDR notation, host bits cleared; surrounding blanks are allowed, as in kube-proxy.
pub(super) fn prefix(text: &str) -> Result<IpNet, Reason> {
    let bad = || Reason::NotAPrefix(quoted(text));
    let (start, length) = text.trim().split_once('/').ok_or_else(bad)?;
    let start = address(start).map_err(|_| bad())?;
    let length = length.parse().map_err(|_| bad())?;
    Ok(IpNet::new(start, length).map_err(|_| bad())?.trunc())
}

/// A port number other than 0.
pub(super) fn port(number: i32) -> Result<Port, Reason> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(Port::new(number)),
        _ => Err(Reason::NotAPort(number)),
    }
}

/// A protocol by its API name; TCP if there is none.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, Reason> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Reason::UnknownProtocol(quoted(other))),
    }
}

fn class(address: IpAddr) -> Option<AddressClass> {
    if address.is_unspecified() {
        Some(AddressClass::Unspecified)
    } else if address.is_loopback() {
        Some(AddressClass::Loopback)
    } else if address.is_multicast() {
        Some(AddressClass::Multicast)
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some(AddressClass::Broadcast)
    } else {
        None
    }
}

/// Four decimal octets of which some have leading zeros.
fn sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}
