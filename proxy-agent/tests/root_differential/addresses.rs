//! Who has which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    pub const fn addresses(self) -> &'static Addresses {
        match self {
            Self::V4 => &V4,
            Self::V6 => &V6,
        }
    }
}

/// The client is outside of the node, the backend inside.
#[derive(Debug)]
pub struct Addresses {
    pub client: IpAddr,
    pub outside: IpAddr,
    pub inside: IpAddr,
    pub backend: IpAddr,
    /// Whose ports [`SERVED`] are a Service's.
    pub cluster_ip: IpAddr,
    /// Routers on either side, which complain about packets.
    pub outer_router: IpAddr,
    pub inner_router: IpAddr,
    pub prefix: u8,
}

static V4: Addresses = Addresses {
    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    outside: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    inside: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    backend: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    cluster_ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    outer_router: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99)),
    inner_router: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 99)),
    prefix: 24,
};

static V6: Addresses = Addresses {
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    outside: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    inside: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1)),
    backend: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
    cluster_ip: IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1)),
    outer_router: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99)),
    inner_router: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x99)),
    prefix: 64,
};

/// Ports of the Service and of its backend, over TCP and UDP. The second pair changes the address alone.
pub const SERVED: [(u16, u16); 2] = [(80, 8080), (8443, 8443)];
/// A port of the Service that has no endpoint.
pub const REFUSED: u16 = 81;
/// A port that is no Service's.
pub const UNSERVED: u16 = 82;
