//! On which of the node's addresses nodePorts are served.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use proxy_common::NodeAddress;

use crate::{config::NodePortAddresses, server::ALL_ADDRESSES};

/// The tables of the node's addresses.
///
/// `primary` are the Node's addresses as the API has them, the preferred ones first; none means that they are not known.
/// Without any prefix, or primary address but loopback, of its family, an address serves nodePorts: kube-proxy's `NodePortAddresses` of
/// pkg/proxy/util, and its `newProxyServer`.
#[must_use]
pub fn node_addresses(
    own: &BTreeSet<IpAddr>,
    configured: &NodePortAddresses,
    primary: &[IpAddr],
    localhost: Localhost,
) -> BTreeMap<IpAddr, NodeAddress> {
    let serves = |address: IpAddr| match configured {
        NodePortAddresses::All => true,
        NodePortAddresses::Primary => match primary.iter().find(|primary| primary.is_ipv4() == address.is_ipv4()) {
            Some(primary) => primary.is_loopback() || *primary == address,
            None => !primary.is_empty(),
        },
        NodePortAddresses::Prefixes(prefixes) => {
            let mut of_family = prefixes.iter().filter(|prefix| is_of_family(prefix, address)).peekable();
            of_family.peek().is_none() || of_family.any(|prefix| prefix.contains(&address))
        }
    };
    let kind = |address| if serves(address) { NodeAddress::NODE_PORTS } else { NodeAddress::PLAIN };
    let others = own.iter().filter(|address| !address.is_loopback());
    let mut addresses: BTreeMap<IpAddr, NodeAddress> = others.map(|&address| (address, kind(address))).collect();
    if localhost == Localhost::Served {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let chosen = loopback.into_iter().filter(|&address| serves(address));
        addresses.extend(chosen.map(|address| (address, NodeAddress::NODE_PORTS)));
    }
    addresses
}

/// The addresses on which health check ports of Services listen; `None` while that cannot be known because the Node is not.
///
/// Those that `nodePortAddresses` selects, by kube-proxy's rules for its health check server: of a family without a
/// prefix, or with a prefix of length zero, all. Link-local addresses of IPv6 are left out, as they mean nothing
/// without their device.
#[must_use]
pub(super) fn health_check_addresses(
    own: &BTreeSet<IpAddr>,
    configured: &NodePortAddresses,
    primary: Option<&[IpAddr]>,
) -> Option<BTreeSet<IpAddr>> {
    let selected = |any: IpAddr| -> Vec<IpAddr> {
        let is_of_family = |address: &&IpAddr| address.is_ipv4() == any.is_ipv4();
        let own = own.iter().filter(is_of_family).filter(|address| !is_link_local(**address)).copied();
        match configured {
            NodePortAddresses::All => vec![any],
            NodePortAddresses::Primary => {
                let primary = primary.unwrap_or_default();
                match primary.iter().find(is_of_family) {
                    Some(primary) if primary.is_loopback() => vec![any],
                    Some(primary) => own.filter(|address| address == primary).collect(),
                    None if primary.is_empty() => Vec::new(),
                    None => vec![any],
                }
            }
            NodePortAddresses::Prefixes(prefixes) => {
                let prefixes: Vec<_> = prefixes.iter().filter(|prefix| self::is_of_family(prefix, any)).collect();
                if prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.prefix_len() == 0) {
                    vec![any]
                } else {
                    own.filter(|address| prefixes.iter().any(|prefix| prefix.contains(address))).collect()
                }
            }
        }
    };
    if *configured == NodePortAddresses::Primary && primary.is_none() {
        return None;
    }
    Some(ALL_ADDRESSES.into_iter().flat_map(selected).collect())
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether nodePorts are served on loopback addresses, to the node's own processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Localhost {
    /// kube-proxy's `localhostNodePorts: true`.
    Served,
    /// Not.
    NotServed,
}

fn is_of_family(prefix: &IpNet, address: IpAddr) -> bool {
    prefix.addr().is_ipv4() == address.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn own() -> BTreeSet<IpAddr> {
        ["127.0.0.1", "::1", "192.0.2.1", "10.0.0.1", "2001:db8::1", "fe80::1"].map(ip).into()
    }

    fn serving(configured: &NodePortAddresses, primary: &[IpAddr], localhost: Localhost) -> Vec<String> {
        let addresses = node_addresses(&own(), configured, primary, localhost);
        addresses.iter().filter(|(_, kind)| kind.serves_node_ports()).map(|(address, _)| address.to_string()).collect()
    }

    #[test]
    fn all_addresses_serve_unless_something_else_is_configured() {
        let all = serving(&NodePortAddresses::All, &[], Localhost::Served);
        assert_eq!(all, ["10.0.0.1", "127.0.0.1", "192.0.2.1", "::1", "2001:db8::1", "fe80::1"]);
        let without = serving(&NodePortAddresses::All, &[], Localhost::NotServed);
        assert_eq!(without, ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fe80::1"]);
    }

    #[test]
    fn prefixes_select_and_none_of_a_family_is_all_of_it() {
        let prefixes = NodePortAddresses::Prefixes(vec!["10.0.0.0/8".parse().expect("a prefix")]);
        assert_eq!(serving(&prefixes, &[], Localhost::Served), ["10.0.0.1", "::1", "2001:db8::1", "fe80::1"]);
        let loopback = NodePortAddresses::Prefixes(vec!["127.0.0.0/8".parse().expect("a prefix")]);
        assert!(serving(&loopback, &[], Localhost::Served).contains(&"127.0.0.1".to_owned()));
    }

    #[test]
    fn the_primary_address_is_the_first_of_its_family_that_the_node_has() {
        let primary = ["192.0.2.1", "10.0.0.1", "2001:db8::1"].map(ip);
        let served = serving(&NodePortAddresses::Primary, &primary, Localhost::Served);
        assert_eq!(served, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(serving(&NodePortAddresses::Primary, &[], Localhost::Served), [""; 0]);
        let of_one_family = serving(&NodePortAddresses::Primary, &primary[..1], Localhost::NotServed);
        assert_eq!(of_one_family, ["192.0.2.1", "2001:db8::1", "fe80::1"], "all of the other family");
        let loopback = ["127.0.0.1", "192.0.2.1", "2001:db8::1"].map(ip);
        let served = serving(&NodePortAddresses::Primary, &loopback, Localhost::NotServed);
        assert_eq!(
            served,
            ["10.0.0.1", "192.0.2.1", "2001:db8::1"],
            "all of a family whose primary address is loopback"
        );
    }

    fn listening(configured: &NodePortAddresses, primary: Option<&[IpAddr]>) -> Option<Vec<String>> {
        let addresses = health_check_addresses(&own(), configured, primary)?;
        Some(addresses.iter().map(ToString::to_string).collect())
    }

    fn prefixes(texts: &[&str]) -> NodePortAddresses {
        NodePortAddresses::Prefixes(texts.iter().map(|text| text.parse().expect("a prefix")).collect())
    }

    #[test]
    fn health_checks_listen_where_node_ports_are_served() {
        let words = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(listening(&NodePortAddresses::All, None), words(&["0.0.0.0", "::"]));
        assert_eq!(listening(&prefixes(&["10.0.0.0/8"]), None), words(&["10.0.0.1", "::"]));
        assert_eq!(listening(&prefixes(&["127.0.0.0/8", "::/0"]), None), words(&["127.0.0.1", "::"]));
        assert_eq!(listening(&prefixes(&["0.0.0.0/0", "fe80::/10"]), None), words(&["0.0.0.0"]));
        assert_eq!(listening(&prefixes(&["198.51.100.0/24", "2001:db8::/32"]), None), words(&["2001:db8::1"]));
        assert_eq!(listening(&NodePortAddresses::Primary, None), None, "the Node is not known");
        let primary = ["192.0.2.1", "10.0.0.1", "2001:db8::7"].map(ip);
        assert_eq!(listening(&NodePortAddresses::Primary, Some(&primary)), words(&["192.0.2.1"]));
        assert_eq!(listening(&NodePortAddresses::Primary, Some(&primary[..1])), words(&["192.0.2.1", "::"]));
        assert_eq!(listening(&NodePortAddresses::Primary, Some(&[])), words(&[]));
        let loopback = ["127.0.0.1", "192.0.2.1", "2001:db8::1"].map(ip);
        assert_eq!(listening(&NodePortAddresses::Primary, Some(&loopback)), words(&["0.0.0.0", "2001:db8::1"]));
    }

    #[test]
    fn addresses_that_serve_nothing_are_still_the_nodes_own() {
        let addresses = node_addresses(&own(), &NodePortAddresses::Primary, &[], Localhost::NotServed);
        let own = own();
        let expected = own.iter().filter(|address| !address.is_loopback());
        assert!(addresses.keys().eq(expected));
    }
}
