//! Source and destination as people write them.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use proxy_common::{Port, Protocol, ServiceFlags, ServiceId, ServiceKey, V4, V6};

use super::AskError;
use crate::{
    cli::{CommandError, Names, ServiceSelector},
    dataplane::tables::{FamilyTables, TableError, Tables},
    explain::IpFamily,
};

/// A client: its address, and its port if that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) address: IpAddr,
    pub(super) port: Option<Port>,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { address: address.ip().to_canonical(), port: Some(Port::new(address.port())) });
        }
        let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let address = address
            .map_err(|_| "it is an address, or an address and a port: 10.0.0.1, 10.0.0.1:4000 or [fd00::1]:4000")?;
        Ok(Self { address: address.to_canonical(), port: None })
    }
}

/// Where a client connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Address(SocketAddr),
    Service(ServiceSelector),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "it is an address and a port, 10.96.0.1:80 or [fd00::1]:80, or a Service's port, [NAMESPACE/]NAME[:PORT]";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port())));
        }
        let is_address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        if is_address || text.starts_with(|first: char| first.is_ascii_digit()) && !text.contains(char::is_alphabetic) {
            return Err(EXPECTED.to_owned());
        }
        text.parse().map(Self::Service).map_err(|_| EXPECTED.to_owned())
    }
}

/// A frontend of a Service.
type Found = (SocketAddr, Protocol, ServiceFlags, ServiceId);

impl Destination {
    /// The address and protocol that are meant: of a Service, those of its clusterIP in the client's family, or of whatever
    /// frontend it has. The protocol is TCP if nothing else says which.
    pub(super) fn resolve(
        &self,
        protocol: Option<Protocol>,
        client: IpAddr,
        tables: &Tables,
        names: &Names,
    ) -> Result<(SocketAddr, Protocol), AskError> {
        let selector = match self {
            Self::Address(address) => return Ok((*address, protocol.unwrap_or(Protocol::Tcp))),
            Self::Service(selector) => selector,
        };
        let number = selector.port().and_then(|port| port.parse::<u16>().ok());
        let by_number = || selector.any_port().ids(names);
        let ids = selector.ids(names).or_else(|unknown| number.map_or(Err(unknown), |_| by_number()));
        let ids = ids.map_err(CommandError::from)?;
        let mut found = if client.is_ipv4() { frontends::<V4>(&tables.v4)? } else { frontends::<V6>(&tables.v6)? };
        found.retain(|(address, with, _, id)| {
            ids.contains(id)
                && protocol.is_none_or(|protocol| protocol == *with)
                // A port that is named by its number is the frontend's.
                && number.is_none_or(|number| number == address.port() || names.get(id).is_some_and(|name| Some(name.port()) == selector.port()))
        });
        let is_external = |flags: ServiceFlags| flags.contains(ServiceFlags::EXTERNAL);
        found.sort_by_key(|(address, protocol, flags, _)| (is_external(*flags), *protocol, *address));
        let ports: Vec<String> =
            found.iter().filter(|found| !is_external(found.2)).map(|found| found.0.port().to_string()).collect();
        match found.as_slice() {
            [] => Err(CommandError::Nothing(format!(
                "{selector} has no frontend of the client's IP version and this protocol"
            ))
            .into()),
            [_, second, ..] if !is_external(second.2) => Err(CommandError::Nothing(format!(
                "{selector} has several ports: say which, {}, and the protocol with --proto",
                ports.join(" or ")
            ))
            .into()),
            [(address, protocol, ..), ..] => Ok((*address, *protocol)),
        }
    }
}

/// All frontends with an address of their own.
fn frontends<F: IpFamily<Address: proxy_common::PlainAddress>>(
    tables: &FamilyTables<F>,
) -> Result<Vec<Found>, TableError> {
    let mut found = Vec::new();
    tables.services.visit(|key: ServiceKey<F::Address>, entry| {
        let address = SocketAddr::new(F::ip(key.address()), key.port().get());
        if let Some(protocol) = key.protocol().filter(|_| !address.ip().is_unspecified()) {
            found.push((address, protocol, entry.flags(), entry.id()));
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_with_or_without_a_port() {
        let of = |text: &str| {
            text.parse::<Source>().map(|Source { address, port }| (address.to_string(), port.map(Port::get)))
        };
        assert_eq!(of("10.0.0.1"), Ok(("10.0.0.1".to_owned(), None)));
        assert_eq!(of("10.0.0.1:4000"), Ok(("10.0.0.1".to_owned(), Some(4000))));
        assert_eq!(of("fd00::1"), Ok(("fd00::1".to_owned(), None)));
        assert_eq!(of("[fd00::1]:4000"), Ok(("fd00::1".to_owned(), Some(4000))));
        assert_eq!(of("::ffff:10.0.0.1"), Ok(("10.0.0.1".to_owned(), None)), "IPv4 in disguise");
        for wrong in ["", "10.0.0", "web", "10.0.0.1:99999"] {
            assert!(of(wrong).is_err_and(|error| error.contains("10.0.0.1:4000")), "{wrong}");
        }
    }

    #[test]
    fn a_destination_is_an_address_and_port_or_a_service() {
        let of = |text: &str| text.parse::<Destination>();
        assert!(matches!(of("10.96.0.1:80"), Ok(Destination::Address(_))));
        assert!(matches!(of("[fd00::1]:80"), Ok(Destination::Address(_))));
        assert!(matches!(of("shop/web:http"), Ok(Destination::Service(_))));
        assert!(matches!(of("web"), Ok(Destination::Service(_))));
        for wrong in ["10.96.0.1", "fd00::1", "10.96.0.1:99999", "a/b/c", ""] {
            assert!(of(wrong).is_err_and(|error| error.contains("[NAMESPACE/]NAME[:PORT]")), "{wrong}");
        }
    }
}
