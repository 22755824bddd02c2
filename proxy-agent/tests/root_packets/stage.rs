//! A client, a node and a backend, with routers between them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Deref,
    path::Path,
};

use proxy_agent::{
    dataplane::{
        AttachedHooks,
        devices::Peers,
        tables::{HashTable, Writes},
    },
    plan::{Changes, FamilyChanges},
};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SettingsFlags,
    SlotRange, maps,
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
    const ALL: [Self; 2] = [Self::V4, Self::V6];

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

/// The policy of each family's nodePorts.
pub type Policies = [(Family, Policy); 2];

/// Both families under both policies. An emulated machine takes long to load the programs, so there each family has one policy; how
/// packets are translated depends on either alone.
pub fn everything(routers: Routers, test: impl Fn(&Stage<'_>)) {
    let policies: [Policies; 2] = [
        [(Family::V4, Policy::Cluster), (Family::V6, Policy::Local)],
        [(Family::V4, Policy::Local), (Family::V6, Policy::Cluster)],
    ];
    for policies in if slowness() == 1 { &policies[..] } else { &policies[..1] } {
        let network = Network::new(routers, *policies);
        network.stages().iter().for_each(&test);
    }
}

/// MTU of the link between the routers.
pub const NARROW: u16 = 1300;

/// ```text
///   client ── (router ── router) ── node ── (router ── router) ── backend
/// ```
pub struct Network {
    pub client: Netns,
    pub backend: Netns,
    node: Node,
    /// Between client and backend.
    links: usize,
    /// The link between client and node that the node is at.
    outside: usize,
    policies: Policies,
    _routers: Vec<Netns>,
    hooks: AttachedHooks,
}

impl Network {
    pub fn new(routers: Routers, policies: Policies) -> Self {
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
        connect(&chain, narrow);

        let (links, outside) = (chain.len() - 1, at - 1);
        let (_, hooks) = node.start(&changes(links, policies));
        for (family, _) in policies {
            node.serve_node_ports(family.address(outside, 2));
        }
        Self { client, backend, node, links, outside, policies, _routers: between, hooks }
    }

    /// The node's namespace.
    pub const fn node(&self) -> &Netns {
        &self.node.netns
    }

    /// Has packets that are sent on handed to the other ends of these devices, as the agent does with `hostRouting: peers`.
    pub fn hand_to_peers(&self) {
        let path = self.node.pins.path().join(maps::PEER_DEVICES);
        let mut table: HashTable<u32, u32> = HashTable::open(&path, Writes::Single).expect("pinned");
        let peers = Peers::VirtualEthernet.select(self.hooks.devices());
        let entries: Vec<(u32, u32)> = peers.into_iter().map(|device| (device, 1)).collect();
        assert_eq!(entries.len(), 2, "towards client and backend");
        assert_eq!(table.insert(&entries).expect("writes"), Vec::<u32>::new());
    }

    /// Switches host routing on.
    pub fn host_routing(&mut self) {
        self.hooks.set_settings(&settings().with_flags(SettingsFlags::HOST_ROUTING)).expect("writes");
    }

    /// The network as each family sees it.
    pub fn stages(&self) -> [Stage<'_>; 2] {
        self.policies.map(|(family, policy)| Stage {
            network: self,
            policy,
            outside: family.address(self.outside, 2),
            client_address: family.address(0, 1),
            backend_address: family.address(self.links - 1, 2),
        })
    }
}

/// A network as a family sees it.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub network: &'a Network,
    pub policy: Policy,
    /// Address of the node towards the client.
    outside: IpAddr,
    pub client_address: IpAddr,
    pub backend_address: IpAddr,
}

impl Stage<'_> {
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

impl Deref for Stage<'_> {
    type Target = Network;

    fn deref(&self) -> &Network {
        self.network
    }
}

/// A UDP socket of the namespace that waits for datagrams for as long as they may take.
pub fn udp(namespace: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((address, port)).expect("binds"));
    socket.set_read_timeout(Some(patience())).expect("sets");
    socket
}

/// Links between neighbours, addresses of both families, routes and forwarding.
fn connect(chain: &[&Netns], narrow: Option<usize>) {
    for (link, ends) in chain.windows(2).enumerate() {
        ends[0].veth("right", ends[1], "left");
        for (namespace, device, end) in [(ends[0], "right", 1), (ends[1], "left", 2)] {
            for family in Family::ALL {
                namespace.ip(&format!("addr add {}/{} dev {device}", family.address(link, end), family.prefix()));
            }
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
        for (family, link) in Family::ALL.into_iter().flat_map(|family| (0..links).map(move |link| (family, link))) {
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

/// Two nodePorts for TCP and UDP, of each family; the backend is at the end of the last link.
fn changes(links: usize, policies: Policies) -> Changes {
    let mut changes = Changes::default();
    let services = [NODE_PORT, OTHER_NODE_PORT].map(|port| [Protocol::Tcp, Protocol::Udp].map(|of| (port, of)));
    for (number, (port, protocol)) in (1..).zip(services.into_iter().flatten()) {
        let id = ServiceId::new(number);
        changes.names.push((id, PortName::new("test", &number.to_string(), "", protocol).expect("short names")));
        for (family, policy) in policies {
            match family.address(links - 1, 2) {
                IpAddr::V4(backend) => serve(&mut changes.v4, id, (port, protocol), backend.octets(), policy),
                IpAddr::V6(backend) => serve(&mut changes.v6, id, (port, protocol), backend.octets(), policy),
            }
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
