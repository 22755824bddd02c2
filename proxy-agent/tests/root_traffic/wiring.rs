//! How pods are connected to the node, as one network plugin or another does it.

use std::net::{IpAddr, SocketAddr};

use super::{Family, Netns};

#[path = "wireguard.rs"]
mod wireguard;

use self::wireguard::Side;

/// How pods are connected to the node. Their addresses are the same everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wiring {
    /// A link with a prefix of its own for each pod.
    #[default]
    Links,
    /// As Calico does it: a link for each pod and a route to its address alone; the pod's next hop is no address of the node.
    Routed,
    /// As Flannel does it: all pods on one bridge. What they say to each other never reaches the node's routing.
    Bridged,
    /// Backends live on another node, behind VXLAN.
    Overlay,
    /// As [`Self::Links`], in VLANs: behind one tag (IEEE 802.1Q), but for the client outside and a backend, who are behind two
    /// (802.1ad).
    Vlans,
    /// As [`Self::Links`], but each link is a `WireGuard` tunnel: packets have no link-layer header.
    Tunnels,
}

/// Two namespaces and the names of the devices by which they reach each other.
type Ends<'a> = [(&'a Netns, &'a str); 2];

impl Wiring {
    /// Connects the client outside to the node.
    pub fn outside(self, ends: Ends<'_>) {
        match self {
            Self::Vlans => vlan(ends, &TWO_TAGS),
            Self::Tunnels => tunnel(ends, 0),
            Self::Links | Self::Routed | Self::Bridged | Self::Overlay => veth(ends),
        }
    }

    /// Connects a pod to its node.
    fn pod(self, ends: Ends<'_>, number: u8) {
        match self {
            Self::Vlans if number == BACKENDS[1] => vlan(ends, &TWO_TAGS),
            Self::Vlans => vlan(ends, &ONE_TAG),
            Self::Tunnels => tunnel(ends, number),
            Self::Links | Self::Routed | Self::Bridged | Self::Overlay => veth(ends),
        }
    }
}

fn veth([(one, device), (other, other_device)]: Ends<'_>) {
    one.veth(device, other, other_device);
}

/// Protocol and number of each VLAN, the outermost first.
type Tags = [(&'static str, u16)];
const ONE_TAG: [(&str, u16); 1] = [("802.1Q", 100)];
const TWO_TAGS: [(&str, u16); 2] = [("802.1ad", 200), ("802.1Q", 201)];

/// VLAN devices on a pair that has no addresses.
fn vlan(ends: Ends<'_>, tags: &Tags) {
    let carriers = ends.map(|(_, device)| carrier(device));
    ends[0].0.veth(&carriers[0], ends[1].0, &carriers[1]);
    for ((namespace, device), mut lower) in ends.into_iter().zip(carriers) {
        let mut commands = Vec::new();
        for (above, (protocol, number)) in (1..).zip(tags) {
            let upper = if above == tags.len() { device.to_owned() } else { format!("{device}-{above}") };
            commands.push(format!("link add link {lower} name {upper} type vlan proto {protocol} id {number}"));
            commands.push(format!("link set {upper} up"));
            lower = upper;
        }
        namespace.ip_batch(&commands);
    }
}

/// A tunnel over a pair that has addresses of its own.
fn tunnel(ends: Ends<'_>, number: u8) {
    let carriers = ends.map(|(_, device)| carrier(device));
    ends[0].0.veth(&carriers[0], ends[1].0, &carriers[1]);
    let at =
        |end: u8| SocketAddr::new([172, 16, number, end].into(), 51_000 + 256 * u16::from(end) + u16::from(number));
    let sides = [(Side::One, at(1), at(2)), (Side::Other, at(2), at(1))];
    for ((side, here, there), ((namespace, device), carrier)) in sides.into_iter().zip(ends.into_iter().zip(carriers)) {
        namespace.ip_batch(&[
            format!("addr add {}/24 dev {carrier}", here.ip()),
            format!("link add {device} type wireguard"),
        ]);
        namespace.enter(|| wireguard::configure(device, side, here.port(), there));
        namespace.ip(&format!("link set {device} up"));
    }
}

/// The name of the device that another one is on.
fn carrier(device: &str) -> String {
    format!("{device}-link")
}

/// Numbers of the pods that are clients, and of those that are backends.
pub const CLIENTS: [u8; 2] = [1, 2];
pub const BACKENDS: [u8; 3] = [11, 12, 13];

/// The node's end of a pod's link, where its address means nothing to anybody else.
const LINK_LOCAL: &str = "fe80::ecee:eeff:feee:eeee";

/// What pods are connected to.
pub struct Fabric<'a> {
    pub wiring: Wiring,
    pub families: &'static [Family],
    pub node: &'a Netns,
    /// The other node of [`Wiring::Overlay`].
    pub other_node: Option<Netns>,
}

impl<'a> Fabric<'a> {
    /// Prepares the node.
    pub fn new(wiring: Wiring, families: &'static [Family], node: &'a Netns) -> Self {
        let other_node = match wiring {
            Wiring::Links | Wiring::Vlans | Wiring::Tunnels => None,
            Wiring::Routed => {
                // The node answers for the pods' next hop because it has a route to it.
                node.sysctl("net/ipv4/conf/default/proxy_arp", "1");
                node.ip_batch(&["route add default via 192.0.2.2".to_owned()]);
                None
            }
            Wiring::Bridged => {
                let mut commands =
                    vec!["link add pods type bridge forward_delay 0".to_owned(), "link set pods up".to_owned()];
                commands.extend(families.iter().map(|family| match family {
                    Family::V4 => "addr add 10.1.0.1/16 dev pods".to_owned(),
                    Family::V6 => "addr add fd01::1/16 dev pods nodad".to_owned(),
                }));
                node.ip_batch(&commands);
                None
            }
            Wiring::Overlay => Some(overlay(families, node)),
        };
        Self { wiring, families, node, other_node }
    }

    /// A backend's namespace, on the other node if there is one.
    pub fn backend(&self, number: u8) -> Netns {
        match &self.other_node {
            Some(other) => self.linked(other, number),
            None => self.pod(number),
        }
    }

    /// A pod's namespace on the node.
    pub fn pod(&self, number: u8) -> Netns {
        match self.wiring {
            Wiring::Links | Wiring::Overlay | Wiring::Vlans | Wiring::Tunnels => self.linked(self.node, number),
            Wiring::Routed => self.routed(number),
            Wiring::Bridged => self.bridged(number),
        }
    }

    /// The node's address that a backend sees for what is masqueraded.
    pub fn gateway(&self, family: Family, number: u8) -> IpAddr {
        let wiring = match self.wiring {
            // Clients live on the node itself.
            Wiring::Overlay if CLIENTS.contains(&number) => Wiring::Links,
            wiring => wiring,
        };
        let text = match (wiring, family) {
            (Wiring::Links | Wiring::Vlans | Wiring::Tunnels, Family::V4) => format!("10.1.{number}.1"),
            (Wiring::Links | Wiring::Vlans | Wiring::Tunnels, Family::V6) => format!("fd01:{number}::1"),
            (Wiring::Routed, Family::V4) => "192.0.2.1".to_owned(),
            (Wiring::Routed, Family::V6) => "2001:db8::1".to_owned(),
            (Wiring::Bridged, Family::V4) => "10.1.0.1".to_owned(),
            (Wiring::Bridged, Family::V6) => "fd01::1".to_owned(),
            (Wiring::Overlay, Family::V4) => "10.1.255.1".to_owned(),
            (Wiring::Overlay, Family::V6) => "fd01:255::1".to_owned(),
        };
        text.parse().expect("a well-formed address")
    }

    fn linked(&self, node: &Netns, number: u8) -> Netns {
        let namespace = Netns::new();
        let device = format!("pod{number}");
        self.wiring.pod([(node, &device), (&namespace, "eth0")], number);
        let (mut at_node, mut at_pod) = (Vec::new(), Vec::new());
        if self.wiring == Wiring::Overlay {
            // What the tunnel leaves of 1500 bytes.
            at_node.push(format!("link set {device} mtu 1450"));
            at_pod.push("link set eth0 mtu 1450".to_owned());
        }
        for family in self.families {
            let (network, length) = match family {
                Family::V4 => (format!("10.1.{number}."), "24"),
                Family::V6 => (format!("fd01:{number}::"), "64 nodad"),
            };
            at_node.push(format!("addr add {network}1/{length} dev {device}"));
            at_pod.push(format!("addr add {network}2/{length} dev eth0"));
            at_pod.push(format!("route add default via {network}1"));
        }
        node.ip_batch(&at_node);
        namespace.ip_batch(&at_pod);
        namespace
    }

    fn routed(&self, number: u8) -> Netns {
        let namespace = Netns::new();
        let device = format!("pod{number}");
        self.node.veth(&device, &namespace, "eth0");
        let (mut at_node, mut at_pod) = (Vec::new(), Vec::new());
        for family in self.families {
            match family {
                Family::V4 => {
                    at_node.push(format!("route add 10.1.{number}.2/32 dev {device}"));
                    at_pod.push(format!("addr add 10.1.{number}.2/32 dev eth0"));
                    at_pod.push("route add 169.254.1.1 dev eth0 scope link".to_owned());
                    at_pod.push("route add default via 169.254.1.1 dev eth0".to_owned());
                }
                Family::V6 => {
                    at_node.push(format!("addr add {LINK_LOCAL}/64 dev {device} nodad"));
                    at_node.push(format!("route add fd01:{number}::2/128 dev {device}"));
                    at_pod.push(format!("addr add fd01:{number}::2/128 dev eth0 nodad"));
                    at_pod.push(format!("route add default via {LINK_LOCAL} dev eth0"));
                }
            }
        }
        self.node.ip_batch(&at_node);
        namespace.ip_batch(&at_pod);
        namespace
    }

    fn bridged(&self, number: u8) -> Netns {
        let namespace = Netns::new();
        let device = format!("pod{number}");
        self.node.veth(&device, &namespace, "eth0");
        self.node.ip_batch(&[
            format!("link set {device} master pods"),
            // As Flannel sets it. Where netfilter sees bridged packets, a pod's answer to itself goes back to its own port.
            format!("link set {device} type bridge_slave hairpin on"),
        ]);
        let mut at_pod = Vec::new();
        for family in self.families {
            let (address, length, gateway) = match family {
                Family::V4 => (format!("10.1.{number}.2"), "16", "10.1.0.1"),
                Family::V6 => (format!("fd01:{number}::2"), "16 nodad", "fd01::1"),
            };
            at_pod.push(format!("addr add {address}/{length} dev eth0"));
            at_pod.push(format!("route add default via {gateway}"));
        }
        namespace.ip_batch(&at_pod);
        namespace
    }
}

/// Another node on a link of its own, and a tunnel to it by which the nodes reach each other's pods.
fn overlay(families: &[Family], node: &Netns) -> Netns {
    let other = Netns::new();
    node.veth("underlay", &other, "eth0");
    for (namespace, device, here, there) in [(node, "underlay", 1, 2), (&other, "eth0", 2, 1)] {
        let mut commands = vec![
            format!("addr add 172.16.0.{here}/24 dev {device}"),
            format!(
                "link add overlay type vxlan id 1 local 172.16.0.{here} remote 172.16.0.{there} dstport 8472 dev {device}"
            ),
            "link set overlay up".to_owned(),
        ];
        for family in families {
            let pods: &[u8] = if here == 1 { &BACKENDS } else { &CLIENTS };
            match family {
                Family::V4 => {
                    commands.push(format!("addr add 10.1.255.{here}/24 dev overlay"));
                    commands.extend(pods.iter().map(|pod| format!("route add 10.1.{pod}.0/24 via 10.1.255.{there}")));
                }
                Family::V6 => {
                    commands.push(format!("addr add fd01:255::{here}/64 dev overlay nodad"));
                    commands.extend(pods.iter().map(|pod| format!("route add fd01:{pod}::/64 via fd01:255::{there}")));
                }
            }
        }
        namespace.ip_batch(&commands);
    }
    for family in families {
        let (forwarding, gateway) = match family {
            Family::V4 => ("net/ipv4/ip_forward", "10.1.255.1"),
            Family::V6 => ("net/ipv6/conf/all/forwarding", "fd01:255::1"),
        };
        other.sysctl(forwarding, "1");
        other.ip_batch(&[format!("route add default via {gateway}")]);
    }
    other
}
