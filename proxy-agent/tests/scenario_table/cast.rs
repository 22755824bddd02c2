//! Who takes part in the scenarios, and under which addresses.
//!
//! ```text
//!   crowd 192.0.2.100 …, outside 192.0.2.2 ─── eth0 ┐
//!   pods C, D ── the node that has them 192.0.3.2 ── eth1 ┤
//!                                                    ├─ the node ── pod1, pod2 (clients), pod11, pod12 (A, B)
//!   the rest of the world 192.0.4.2 ────────── eth2 ┤
//!   another node 192.0.5.2 ────────────────── eth3 ┘
//! ```
//! Pod N has `10.1.N.2`, on a link of its own. IPv6 likewise: `2001:db8:2::2` and `fd01:N::2`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use proxy_common::Protocol;

/// Name of the node whose agent is tried.
pub const NODE: &str = "node-1";
/// Name of the other node.
pub const OTHER_NODE: &str = "node-2";
/// The zone of the node.
pub const ZONE: &str = "zone-a";
/// How many hosts the crowd has.
pub const CROWD: u32 = 24;

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The address of this family; each text is of its own.
    pub fn pick(self, v4: &str, v6: &str) -> IpAddr {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
        .parse()
        .expect("a well-formed address")
    }
}

/// The protocols, in the order in which they are tried.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// A pod that can be behind a Service: A and B on the node, C and D on the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pod {
    A,
    B,
    C,
    D,
}

pub use Pod::{A, B, C, D};

impl Pod {
    pub const ALL: [Self; 4] = [A, B, C, D];

    /// Its number among all pods.
    pub const fn number(self) -> u8 {
        match self {
            A => 11,
            B => 12,
            C => 21,
            D => 22,
        }
    }

    /// The node that it is on.
    pub const fn node(self) -> &'static str {
        match self {
            A | B => NODE,
            C | D => OTHER_NODE,
        }
    }

    pub fn ip(self, family: Family) -> IpAddr {
        pod_ip(self.number(), family)
    }

    /// The node's address on the way to the pod: the source of what is masqueraded.
    pub fn gateway(self, family: Family) -> IpAddr {
        match self {
            A | B => pod_gateway(self.number(), family),
            C | D => family.pick("192.0.3.1", "2001:db8:3::1"),
        }
    }

    /// The pod with this address.
    pub fn at(address: IpAddr) -> Option<Self> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        Self::ALL.into_iter().find(|pod| pod.ip(family) == address)
    }
}

/// Numbers of the pods that are clients only.
pub const ORDINARY_POD: u8 = 1;
pub const SANDBOXED_POD: u8 = 2;

pub fn pod_ip(number: u8, family: Family) -> IpAddr {
    family.pick(&format!("10.1.{number}.2"), &format!("fd01:{number}::2"))
}

/// The address of a pod's node on the link to the pod.
pub fn pod_gateway(number: u8, family: Family) -> IpAddr {
    family.pick(&format!("10.1.{number}.1"), &format!("fd01:{number}::1"))
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A host outside the cluster.
    Outside,
    /// Many hosts outside the cluster; each try is another one's.
    Crowd,
    /// A process of another node.
    OtherNode,
    /// A process of the node, served at its socket.
    Node,
    /// An ordinary pod on the node, served at its socket.
    Pod,
    /// A pod on the node whose sockets the hooks do not see.
    Sandboxed,
    /// A pod that may be a backend too. The hooks do not see its sockets.
    From(Pod),
    /// The same, served at its socket.
    AtSocket(Pod),
}

impl Client {
    /// Whether the hooks see its sockets.
    pub const fn is_at_socket(self) -> bool {
        matches!(self, Self::Node | Self::Pod | Self::AtSocket(_))
    }

    /// Whether its packets enter the node by a device that leads to a pod.
    pub fn is_behind_pod_device(self) -> bool {
        match self {
            Self::Pod | Self::Sandboxed => true,
            Self::From(pod) | Self::AtSocket(pod) => pod.node() == NODE,
            Self::Outside | Self::Crowd | Self::OtherNode | Self::Node => false,
        }
    }

    /// The device by which its packets enter the node, if that is a pod's.
    pub fn device(self) -> Option<String> {
        let number = match self {
            Self::Pod => ORDINARY_POD,
            Self::Sandboxed => SANDBOXED_POD,
            Self::From(pod) | Self::AtSocket(pod) if pod.node() == NODE => pod.number(),
            _ => return None,
        };
        Some(format!("pod{number}"))
    }

    /// Its address. That of a process of the node is the one that it has on the way to the rest of the world.
    pub fn ip(self, family: Family, number: u32) -> IpAddr {
        match self {
            Self::Outside => family.pick("192.0.2.2", "2001:db8:2::2"),
            Self::Crowd => crowd_ip(number, family),
            Self::OtherNode => family.pick("192.0.5.2", "2001:db8:5::2"),
            Self::Node => family.pick("192.0.4.1", "2001:db8:4::1"),
            Self::Pod => pod_ip(ORDINARY_POD, family),
            Self::Sandboxed => pod_ip(SANDBOXED_POD, family),
            Self::From(pod) | Self::AtSocket(pod) => pod.ip(family),
        }
    }

    /// In a word or two, for the documentation.
    pub fn name(self) -> String {
        match self {
            Self::Outside => "outside".into(),
            Self::Crowd => "crowd outside".into(),
            Self::OtherNode => "other node".into(),
            Self::Node => "node".into(),
            Self::Pod => "pod".into(),
            Self::Sandboxed => "sandboxed pod".into(),
            Self::From(pod) => format!("backend {pod:?}"),
            Self::AtSocket(pod) => format!("backend {pod:?} at its socket"),
        }
    }
}

/// The address of a host of the crowd.
pub fn crowd_ip(number: u32, family: Family) -> IpAddr {
    let last = 100 + number % CROWD;
    family.pick(&format!("192.0.2.{last}"), &format!("2001:db8:2::{last}"))
}

/// The node's own addresses.
pub fn node_addresses() -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    for family in Family::ALL {
        addresses.extend(NodeAddress::ALL.map(|address| address.ip(family)));
        let pods = [ORDINARY_POD, SANDBOXED_POD, A.number(), B.number()];
        addresses.extend(pods.map(|number| pod_gateway(number, family)));
    }
    addresses
}

/// The source that the kernel gives to what the node sends to an address that is not near.
pub fn node_source(destination: IpAddr) -> IpAddr {
    Client::Node.ip(if destination.is_ipv4() { Family::V4 } else { Family::V6 }, 0)
}

/// An address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAddress {
    /// Towards clients outside. The Node object has it as its `InternalIP`.
    Primary,
    /// Towards the other node.
    Inner,
    /// Towards the rest of the world.
    Outer,
    /// Towards another node without endpoints.
    Side,
}

impl NodeAddress {
    pub const ALL: [Self; 4] = [Self::Primary, Self::Inner, Self::Outer, Self::Side];

    pub fn ip(self, family: Family) -> IpAddr {
        match self {
            Self::Primary => family.pick("192.0.2.1", "2001:db8:2::1"),
            Self::Inner => family.pick("192.0.3.1", "2001:db8:3::1"),
            Self::Outer => family.pick("192.0.4.1", "2001:db8:4::1"),
            Self::Side => family.pick("192.0.5.1", "2001:db8:5::1"),
        }
    }
}

/// What clients connect to, by the number of the Service in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    pub frontend: Frontend,
    pub service: u8,
    pub port: u16,
}

/// Which of a Service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    ClusterIp,
    ExternalIp,
    /// The address that the load balancer got.
    Balancer,
    /// The nodePort of the port, at an address of the node.
    NodePort(NodeAddress),
    /// The nodePort at 127.0.0.1 or `::1`.
    Loopback,
    /// The nodePort at another address of 127.0.0.0/8; at `::1` for IPv6, which has no other.
    OtherLoopback,
    /// The nodePort at 0.0.0.0 or `::`.
    Unspecified,
    /// The nodePort at the address of another node.
    OtherNodesPort,
    /// The nodePort at an address that the node gets in the course of the row.
    NewAddress,
    /// An address of the Services' range that belongs to nobody.
    Nobody,
    /// The port at the address of a pod, without any Service.
    Direct(Pod),
}

const fn to(frontend: Frontend) -> To {
    To { frontend, service: 0, port: 80 }
}

pub const CLUSTER_IP: To = to(Frontend::ClusterIp);
pub const EXTERNAL_IP: To = to(Frontend::ExternalIp);
pub const BALANCER: To = to(Frontend::Balancer);
pub const NODE_PORT: To = to(Frontend::NodePort(NodeAddress::Primary));
pub const LOOPBACK: To = to(Frontend::Loopback);
pub const OTHER_LOOPBACK: To = to(Frontend::OtherLoopback);
pub const UNSPECIFIED: To = to(Frontend::Unspecified);
pub const OTHER_NODES_PORT: To = to(Frontend::OtherNodesPort);
pub const NEW_ADDRESS: To = to(Frontend::NewAddress);
pub const NOBODY: To = to(Frontend::Nobody);

/// The nodePort at an address of the node.
pub const fn node_port(address: NodeAddress) -> To {
    to(Frontend::NodePort(address))
}

/// A pod without any Service between.
pub const fn direct(pod: Pod) -> To {
    To { frontend: Frontend::Direct(pod), service: 0, port: super::objects::TARGET }
}

impl To {
    /// The same of another Service of the row.
    pub const fn of(self, service: u8) -> Self {
        Self { service, ..self }
    }

    /// The same for another port.
    pub const fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    pub fn address(self, row: u16, family: Family) -> SocketAddr {
        let node_port = || node_port_of(row, self.service, self.port);
        let at = |ip: IpAddr| SocketAddr::new(ip, node_port());
        match self.frontend {
            Frontend::ClusterIp => SocketAddr::new(cluster_ip(row, self.service, family), self.port),
            Frontend::ExternalIp => SocketAddr::new(external_ip(row, self.service, family), self.port),
            Frontend::Balancer => SocketAddr::new(balancer_ip(row, self.service, family), self.port),
            Frontend::NodePort(address) => at(address.ip(family)),
            Frontend::Loopback => at(family.pick("127.0.0.1", "::1")),
            Frontend::OtherLoopback => at(family.pick("127.7.8.9", "::1")),
            Frontend::Unspecified => at(family.pick("0.0.0.0", "::")),
            Frontend::OtherNodesPort => at(Client::OtherNode.ip(family, 0)),
            Frontend::NewAddress => at(virtual_ip("203.0", "2001:db8:a:", row, 0, family)),
            Frontend::Nobody => SocketAddr::new(cluster_ip(row, NOBODYS, family), self.port),
            Frontend::Direct(pod) => SocketAddr::new(pod.ip(family), self.port),
        }
    }
}

pub fn cluster_ip(row: u16, service: u8, family: Family) -> IpAddr {
    virtual_ip("10.96", "fd96:", row, service, family)
}

pub fn external_ip(row: u16, service: u8, family: Family) -> IpAddr {
    virtual_ip("198.18", "2001:db8:e:", row, service, family)
}

pub fn balancer_ip(row: u16, service: u8, family: Family) -> IpAddr {
    virtual_ip("198.19", "2001:db8:f:", row, service, family)
}

fn virtual_ip(v4: &str, v6: &str, row: u16, service: u8, family: Family) -> IpAddr {
    assert!(row < 1000 && service <= NOBODYS, "no address is set apart for Service {service} of row {row}");
    let host = row / 250 * 50 + 10 + u16::from(service);
    family.pick(&format!("{v4}.{}.{host}", row % 250), &format!("{v6}:{row}:{host}"))
}

/// The number of a Service that no row has.
const NOBODYS: u8 = 39;

/// The nodePort of a Service's port; of ports 80 to 83, for three Services a row.
pub fn node_port_of(row: u16, service: u8, port: u16) -> u16 {
    assert!(service < 3 && (80..84).contains(&port), "no nodePort is set apart for port {port} of Service {service}");
    20_000 + row * 12 + u16::from(service) * 4 + (port - 80)
}
