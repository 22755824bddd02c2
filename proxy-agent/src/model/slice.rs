//! An `EndpointSlice` as far as a node needs to know it.

use std::{fmt, net::IpAddr, sync::Arc, time::SystemTime};

use proxy_common::{Port, Protocol};

use super::ObjectName;

/// Some of the endpoints of one Service, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service that the endpoints are of.
    pub service: ObjectName,
    /// Family of all addresses.
    pub family: IpFamily,
    /// Ports that each of the endpoints has; no two with the same name and protocol.
    pub ports: Box<[EndpointPort]>,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// When the newest change happened of which this slice is the outcome
    /// (`endpoints.kubernetes.io/last-change-trigger-time`).
    pub last_change_trigger: Option<SystemTime>,
}

impl EndpointSlice {
    /// Whether the two give the same endpoints to the same Service.
    pub(super) fn serves_as(&self, other: &Self) -> bool {
        let Self { name, service, family, ports, endpoints, last_change_trigger: _ } = self;
        *name == other.name
            && *service == other.service
            && *family == other.family
            && *ports == other.ports
            && *endpoints == other.endpoints
    }
}

/// A port of the endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service's port it belongs to; empty for an unnamed one.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where the endpoints listen; never 0.
    pub port: Port,
}

/// An endpoint: one of the places where a Service is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address. Of several the first is used, as kube-proxy does: the API says they are equal.
    pub address: IpAddr,
    /// State.
    pub conditions: Conditions,
    /// Name of the node it runs on, if known. Endpoints of one slice share the text.
    pub node: Option<Arc<str>>,
    /// Name of the pod that it is, in the namespace of its slice (`targetRef`); `None` if it is none, or nobody says.
    pub pod: Option<Box<str>>,
    /// For whom it is meant, if the slice says so. Endpoints of one slice share equal hints.
    pub hints: Option<Arc<Hints>>,
}

/// State of an endpoint, with the API's meaning of what is unset filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// It takes new connections. Unset: true.
    pub ready: bool,
    /// It answers, whether or not it is terminating. Unset: true.
    pub serving: bool,
    /// It is about to go. Unset: false.
    pub terminating: bool,
}

impl Conditions {
    /// Nothing set.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };

    /// Of use while a Service has no ready endpoint (KEP-1669).
    #[must_use]
    pub const fn is_serving_and_terminating(self) -> bool {
        self.serving && self.terminating
    }
}

/// For whom an endpoint is meant (KEP-2433, KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// Zones.
    pub zones: Box<[Box<str>]>,
    /// Names of nodes.
    pub nodes: Box<[Box<str>]>,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `IPv4` or `IPv6`, as Kubernetes writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
