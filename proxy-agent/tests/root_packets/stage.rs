//! A client, a node and a backend, with routers between them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

use proxy_agent::{
    dataplane::AttachedHooks,
    plan::{Changes, FamilyChanges},
};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SettingsFlags,
    SlotRange,
};

use super::support::{Netns, Node, patience, settings, slowness};

pub const TARGET: u16 = 8080;
pub const NODE_PORT: u16 = 30080;
/// The nodePort of another Service with the same endpoint.
pub const OTHER_NODE_PORT: u16 = 30081;

/// IP family of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The address at an end of a link.
    fn address(self, link: usize, end: u8) -> IpAddr {
        let link = u8::try_from(link).expect("few links");
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, link, end).into(),
            Self::V6 => Ipv6Addr::new(0xfd77, u16::from(link), 0, 0, 0, 0, 0, u16::from(end)).into(),
        }
    }

    const fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    const fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// Where two routers are, with a narrow link between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routers {
    None,
    BeforeNode,
    BehindNode,
}

/// Traffic policy of the nodePort. The backend is on the node in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Cluster,
    Local,
}

/// What each test is about: both families under both policies. An emulated machine takes long to load the programs, so
/// there each family has one policy; how packets are translated depends on either alone.
pub fn variants() -> Vec<(Family, Policy)> {
    let of_each = [(Family::V4, Policy::Cluster), (Family::V6, Policy::Local)];
    let others = [(Family::V4, Policy::Local), (Family::V6, Policy::Cluster)];
    if slowness() == 1 { [of_each, others].concat() } else { of_each.into() }
}

/// MTU of the link between the routers.
pub const NARROW: u16 = 1300;

/// ```text
///   client ── (router ── router) ── node ── (router ── router) ── backend
/// ```
pub struct Stage {
    pub client: Netns,
    pub backend: Netns,
    node: Node,
    /// Address of the node towards the client.
    pub outside: IpAddr,
    pub client_address: IpAddr,
    pub backend_address: IpAddr,
    _routers: Vec<Netns>,
    hooks: AttachedHooks,
}

impl Stage {
    pub fn new(family: Family, routers: Routers, policy: Policy) -> Self {
        let (client, node, backend) = (Netns::new(), Node::default(), Netns::new());
        let between: Vec<Netns> = if routers == Routers::None { vec![] } else { vec![Netns::new(), Netns::new()] };
        let mut chain: Vec<&Netns> = vec![&client];
        let (at, narrow) = match routers {
            Routers::None => (1, None),
            Routers::BeforeNode => (3, Some(1)),
            Routers::BehindNode => (1, Some(2)),
        };
        chain.extend(&between);
        chain.insert(at, &node.netns);
        chain.push(&backend);
        connect(family, &chain, narrow);

        let last = chain.len() - 2;
        let outside = family.address(at - 1, 2);
        let [client_address, backend_address] = [family.address(0, 1), family.address(last, 2)];
        let (_, hooks) = node.start(&changes(backend_address, policy));
        node.serve_node_ports(outside);
        Self { client, backend, node, outside, client_address, backend_address, _routers: between, hooks }
    }

    /// The node's namespace.
    pub const fn node(&self) -> &Netns {
        &self.node.netns
    }

    /// Switches host routing on.
    pub fn host_routing(&mut self) {
        self.hooks.set_settings(&settings().with_flags(SettingsFlags::HOST_ROUTING)).expect("writes");
    }

    /// The nodePort as the client uses it.
    pub fn node_port(&self) -> SocketAddr {
        (self.outside, NODE_PORT).into()
    }

    pub fn other_node_port(&self) -> SocketAddr {
        (self.outside, OTHER_NODE_PORT).into()
    }

    /// The backend as those use it who know it.
    pub fn target(&self) -> SocketAddr {
        (self.backend_address, TARGET).into()
    }
}

/// A UDP socket of the namespace that waits for datagrams for as long as they may take.
pub fn udp(namespace: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((address, port)).expect("binds"));
    socket.set_read_timeout(Some(patience())).expect("sets");
    socket
}

/// Links between neighbours, addresses, routes and forwarding.
fn connect(family: Family, chain: &[&Netns], narrow: Option<usize>) {
    for (link, ends) in chain.windows(2).enumerate() {
        ends[0].veth("right", ends[1], "left");
        for (namespace, device, end) in [(ends[0], "right", 1), (ends[1], "left", 2)] {
            namespace.ip(&format!("addr add {}/{} dev {device}", family.address(link, end), family.prefix()));
            if narrow == Some(link) {
                namespace.ip(&format!("link set {device} mtu {NARROW}"));
            }
        }
    }
    let links = chain.len() - 1;
    for (position, namespace) in chain.iter().enumerate() {
        namespace.sysctl("net/ipv4/ip_forward", "1");
        if Path::new("/proc/sys/net/ipv6").exists() {
            namespace.sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        for link in 0..links {
            let via = if link + 1 < position {
                family.address(position - 1, 1)
            } else if link > position {
                family.address(position, 2)
            } else {
                continue;
            };
            let to = family.address(link, 0);
            namespace.ip(&format!("{} route add {to}/{} via {via}", family.option(), family.prefix()));
        }
    }
}

/// Two nodePorts for TCP and UDP.
fn changes(backend: IpAddr, policy: Policy) -> Changes {
    let mut changes = Changes::default();
    let services = [NODE_PORT, OTHER_NODE_PORT].map(|port| [Protocol::Tcp, Protocol::Udp].map(|of| (port, of)));
    for (number, (port, protocol)) in (1..).zip(services.into_iter().flatten()) {
        let id = ServiceId::new(number);
        changes.names.push((id, PortName::new("test", &number.to_string(), "", protocol).expect("short names")));
        match backend {
            IpAddr::V4(backend) => serve(&mut changes.v4, id, (port, protocol), backend.octets(), policy),
            IpAddr::V6(backend) => serve(&mut changes.v6, id, (port, protocol), backend.octets(), policy),
        }
    }
    changes
}

fn serve<F: proxy_common::Family>(
    changes: &mut FamilyChanges<F>,
    id: ServiceId,
    (port, protocol): (u16, Protocol),
    backend: F::Address,
    policy: Policy,
) {
    let number = BackendId::new(id.get());
    let lists = Backend::<F::Address>::IN_CLUSTER_LIST | Backend::<F::Address>::IN_LOCAL_LIST;
    changes.backends.push((number, Backend::new(backend, Port::new(TARGET), lists, id)));
    changes.slots.push((id.get(), vec![number]));
    let list = SlotRange::new(id.get(), 1);
    let flags = ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT);
    let flags = if policy == Policy::Local { flags.with(ServiceFlags::LOCAL) } else { flags };
    let key = ServiceKey::new(F::UNSPECIFIED, Port::new(port), protocol);
    changes.services.push((key, ServiceEntry::new(id, flags, list, list)));
}
