//! What the plan could not do, in words for the person who runs the cluster.

use std::{fmt, net::SocketAddr};

use proxy_common::{Protocol, V4, V6, maps};

use crate::model::{IpFamily, ObjectName};

/// A Service, or a frontend of one, that is not served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PlanProblem {
    /// Two Services claim one frontend, and the other one is older.
    #[error("Service {service}: {}/{protocol} belongs to the older Service {winner}", place(*.frontend))]
    Clash {
        /// The Service that goes without.
        service: ObjectName,
        /// Address and port; the address is unspecified if the port is one of each node.
        frontend: SocketAddr,
        /// Transport protocol.
        protocol: Protocol,
        /// The Service that is served there.
        winner: ObjectName,
    },
    /// A table has no room for the Service. It is tried again when room is made.
    #[error("Service {service}: no room in table {table}")]
    NoRoom {
        /// The Service.
        service: ObjectName,
        /// The table.
        table: FullTable,
    },
}

/// A table that has no room for what a Service needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FullTable {
    /// `services`: frontends.
    Services(IpFamily),
    /// `slots`.
    Slots(IpFamily),
    /// `backends`.
    Backends(IpFamily),
    /// `source_ranges`.
    SourceRanges(IpFamily),
    /// `names`: ids of Service ports.
    Names,
}

impl fmt::Display for FullTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (map, family) = match *self {
            Self::Services(family) => (maps::SERVICES, family),
            Self::Slots(family) => (maps::SLOTS, family),
            Self::Backends(family) => (maps::BACKENDS, family),
            Self::SourceRanges(family) => (maps::SOURCE_RANGES, family),
            Self::Names => return formatter.write_str(maps::NAMES),
        };
        formatter.write_str(match family {
            IpFamily::V4 => map.name::<V4>(),
            IpFamily::V6 => map.name::<V6>(),
        })
    }
}

/// A frontend as a person knows it.
fn place(frontend: SocketAddr) -> String {
    if frontend.ip().is_unspecified() { format!("nodePort {}", frontend.port()) } else { frontend.to_string() }
}

/// That a table lacks room, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) table: FullTable,
    /// How many entries are wanted that it has no room for; a lower bound.
    pub(super) missing: usize,
}
