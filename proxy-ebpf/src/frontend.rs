//! Which frontend a destination is.
//!
//! Owns the rule that an exact address comes before a nodePort, and where nodePorts are served.

use proxy_common::{Family, Port, Protocol, ServiceEntry, ServiceKey};

use crate::tables::Tables;

/// Where a nodePort is being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// Loopback addresses, and at sockets the unspecified one, are the node's: a call in the node's own network namespace.
    IsTheNode,
    /// They are nobody's: a packet, whoever sent it, or a call in a pod's network namespace, where they mean the pod.
    IsNobody,
}

/// The frontend at `destination`.
#[inline(always)]
pub fn find<F: Family, T: Tables<F>>(
    tables: &T,
    destination: (F::Address, Port),
    protocol: Protocol,
    loopback: Loopback,
) -> Option<ServiceEntry> {
    if let Some(service) = exact(tables, destination, protocol) {
        return Some(service);
    }
    // Much is sent to the node's own addresses and little to its nodePorts, so the port is asked for first.
    let service = node_port(tables, destination.1, protocol)?;
    serves_node_ports(tables, destination.0, loopback).then_some(service)
}

/// The frontend with this very address.
#[inline(always)]
pub fn exact<F: Family, T: Tables<F>>(
    tables: &T,
    destination: (F::Address, Port),
    protocol: Protocol,
) -> Option<ServiceEntry> {
    // The entries with the unspecified address are nodePorts, not what is served at that address.
    if destination.0 == F::UNSPECIFIED {
        return None;
    }
    tables.service(&ServiceKey::new(destination.0, destination.1, protocol))
}

/// The nodePort, wherever it is served.
#[inline(always)]
pub fn node_port<F: Family, T: Tables<F>>(tables: &T, port: Port, protocol: Protocol) -> Option<ServiceEntry> {
    tables.service(&ServiceKey::new(F::UNSPECIFIED, port, protocol))
}

/// Whether nodePorts are served at the address.
#[inline(always)]
pub fn serves_node_ports<F: Family, T: Tables<F>>(tables: &T, address: F::Address, loopback: Loopback) -> bool {
    let address = if address == F::UNSPECIFIED || F::is_loopback(address) {
        if loopback == Loopback::IsNobody {
            return false;
        }
        F::LOOPBACK
    } else {
        address
    };
    tables.node_address(&address).is_some_and(proxy_common::NodeAddress::serves_node_ports)
}
