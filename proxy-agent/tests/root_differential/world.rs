//! Two nodes, each between a client and a backend: one where netfilter translates, one where the agent's programs do.

use std::{fmt::Write as _, net::IpAddr, path::Path, time::Instant};

use proxy_agent::dataplane::{
    AttachedHooks,
    tables::{HashTable, Writes},
};
use proxy_common::{NodeAddress, PlainAddress, V4, V6, maps};

use super::{
    addresses::{Addresses, Family},
    compare::{canonical, is_error, is_redirect, source},
    packet::{self, Ip, UDP},
    render::{Sequences, Speaker},
    rules,
    scene::{Masquerade, Scene},
    script::{Conversation, Move, Side},
    support::{Netns, Node, eventually, patience, run},
    wire::Wire,
};

/// A node and its two cables. Fields are dropped in order.
struct World {
    client: Wire,
    backend: Wire,
    /// What each side got last, but for errors.
    last: [Option<Vec<u8>>; 2],
    masquerade: Masquerade,
    hooks: Option<AttachedHooks>,
    node: Node,
}

impl World {
    fn new(family: Family) -> Self {
        let node = Node::default();
        let (client, backend) = (Wire::new(&node.netns, "outside"), Wire::new(&node.netns, "inside"));
        let addresses = family.addresses();
        let Addresses { outside, inside, prefix, .. } = addresses;
        let mut commands = Vec::new();
        for (device, address, wire) in [("outside", outside, &client), ("inside", inside, &backend)] {
            let no_detection = if address.is_ipv6() { " nodad" } else { "" };
            commands.push(format!("addr add {address}/{prefix} dev {device}{no_detection}"));
            for neighbour in [addresses.client, addresses.outer_router, addresses.backend, addresses.inner_router] {
                let is_there = [addresses.client, addresses.outer_router].contains(&neighbour) == (device == "outside");
                if is_there {
                    commands
                        .push(format!("neigh replace {neighbour} lladdr {} dev {device} nud permanent", wire.mac()));
                }
            }
        }
        // What nobody translates comes out at the backend.
        let plain = if addresses.backend.is_ipv4() { "-4" } else { "-6" };
        node.netns.ip_batch(&commands);
        node.netns.ip(&format!("{plain} route add default via {}", addresses.backend));
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/all/accept_source_route", "1"),
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            node.netns.sysctl(name, value);
        }
        for device in ["outside", "inside"] {
            node.netns.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0");
            node.netns.sysctl(&format!("net/ipv4/conf/{device}/send_redirects"), "0");
        }
        // All errors of a node together; a setting of the namespace in newer kernels only.
        for (name, value) in [("net/ipv4/icmp_msgs_per_sec", "1000000"), ("net/ipv4/icmp_msgs_burst", "100000")] {
            if node.netns.enter(|| Path::new("/proc/sys").join(name).exists()) {
                node.netns.sysctl(name, value);
            }
        }
        Self { client, backend, last: [None, None], masquerade: Masquerade::default(), hooks: None, node }
    }

    /// The node that this project is for.
    fn ours(family: Family) -> Self {
        let mut world = Self::new(family);
        let (_, hooks) = world.node.start(&rules::changes(family.addresses()));
        world.hooks = Some(hooks);
        match family.addresses().outside {
            IpAddr::V4(address) => serve_node_ports(&world.node, maps::NODE_ADDRESSES.name::<V4>(), address.octets()),
            IpAddr::V6(address) => serve_node_ports(&world.node, maps::NODE_ADDRESSES.name::<V6>(), address.octets()),
        }
        // Both track connections, and put fragments together for it.
        track(&world.node.netns);
        world
    }

    fn netfilter(family: Family) -> Self {
        let world = Self::new(family);
        let netns = &world.node.netns;
        run(netns.command("nft").arg(rules::netfilter(family.addresses())));
        track(netns);
        world
    }

    /// Waits until packets get through both ways, which IPv6 takes its time for on a new device.
    fn wait_until_ready(&mut self, family: Family) {
        eventually("markers get through", || {
            self.send_markers(family, 0);
            let got = [&mut self.client, &mut self.backend].map(|wire| std::iter::from_fn(|| wire.receive()).count());
            (!got.contains(&0)).then_some(())
        });
    }

    fn send_markers(&mut self, family: Family, mark: u32) {
        let Addresses { client, backend, .. } = *family.addresses();
        let marker = |source, destination| {
            let ip = Ip { source, destination, ttl: 64, class: 0, id: 0, dont_fragment: true, options: 0 };
            packet::build(&ip, UDP, packet::udp((1, 1), &mark.to_be_bytes()), packet::Sum::Right)
        };
        self.client.send(&marker(client, backend));
        self.backend.send(&marker(backend, client));
    }

    /// What a side says in this node's world; nothing if there is nothing to complain about, or nobody to answer.
    fn render(
        &self,
        speaker: Speaker<'_>,
        conversation: &Conversation,
        what: &Move,
        sequences: &mut Sequences,
    ) -> Option<Vec<Vec<u8>>> {
        let addresses = speaker.family.addresses();
        let seen = if speaker.scene.is_masqueraded() {
            self.masquerade.chosen().map(|port| (addresses.inside, port))
        } else {
            Some((addresses.client, speaker.port))
        };
        Speaker { seen, ..speaker }.render(conversation, what, sequences)
    }

    /// Sends packets from one side; what comes out on the client's wire and on the backend's.
    fn exchange(
        &mut self,
        family: Family,
        scene: Scene,
        from: Side,
        packets: &[Vec<u8>],
        mark: u32,
    ) -> [Vec<Vec<u8>>; 2] {
        let sender = match (from, scene) {
            (Side::Client, Scene::ClusterIp | Scene::NodePort) => &mut self.client,
            (Side::Client, Scene::Hairpin) | (Side::Backend, _) => &mut self.backend,
        };
        for packet in packets {
            sender.send(packet);
        }
        // Packets do not overtake each other: what has not come before the markers will not come.
        self.send_markers(family, mark);
        let got = [&mut self.client, &mut self.backend].map(|wire| until_marker(wire, mark));
        for (wire, packet) in
            got.iter().enumerate().flat_map(|(wire, got)| got.iter().map(move |packet| (wire, packet)))
        {
            // The node gives what it fragments a number of its own.
            let is_renumbered = scene.is_masqueraded() && packet[0] >> 4 == 6 && packet[6] == 44;
            if is_error(packet) || is_renumbered {
                continue;
            }
            // A client that is the backend knows by the sender who is meant.
            let is_clients = scene == Scene::Hairpin && source(packet) == family.addresses().cluster_ip;
            self.last[if is_clients { 0 } else { wire }] = Some(packet.clone());
        }
        got
    }
}

fn serve_node_ports<A: PlainAddress + Ord + std::fmt::Debug>(node: &Node, table: &str, address: A) {
    let path = node.pins.path().join(table);
    let mut addresses: HashTable<A, NodeAddress> = HashTable::open(&path, Writes::Single).expect("pinned");
    let refused = addresses.insert(&[(address, NodeAddress::NODE_PORTS)]).expect("writes");
    assert_eq!(refused, Vec::<A>::new());
}

fn until_marker(wire: &mut Wire, mark: u32) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let start = Instant::now();
    while start.elapsed() < patience() {
        let Some(packet) = wire.receive() else { continue };
        let is_marker = packet.len() <= 52 && packet.ends_with(&mark.to_be_bytes());
        if is_marker {
            return packets;
        }
        // Told now and then, not each time.
        if !is_redirect(&packet) {
            packets.push(packet);
        }
    }
    panic!("the marker does not come; before it came {packets:?}");
}

/// Tracks connections as a node with a firewall does.
fn track(netns: &Netns) {
    let rules =
        "table inet track { chain watch { type filter hook prerouting priority -150; ct state new counter; }; }";
    run(netns.command("nft").arg(rules));
    for (name, value) in [("nf_conntrack_tcp_be_liberal", "1"), ("nf_conntrack_checksum", "0")] {
        netns.sysctl(&format!("net/netfilter/{name}"), value);
    }
}

/// Both nodes, and how far the client has come with its ports.
pub struct Worlds {
    family: Family,
    ours: World,
    netfilter: World,
    port: u16,
    mark: u32,
}

impl Worlds {
    pub fn new(family: Family) -> Self {
        let [ours, netfilter] = [World::ours(family), World::netfilter(family)].map(|mut world| {
            world.wait_until_ready(family);
            world
        });
        Self { family, ours, netfilter, port: 10_000, mark: 0 }
    }

    pub const fn family(&self) -> Family {
        self.family
    }

    /// Holds the conversation on both nodes; an error says what differs.
    pub fn compare(&mut self, scene: Scene, conversation: &Conversation) -> Result<(), String> {
        self.port = if self.port == 65_000 { 10_000 } else { self.port + 1 };
        let (family, port) = (self.family, self.port);
        let addresses = family.addresses();
        let mut sequences = Sequences::default();
        for world in [&mut self.ours, &mut self.netfilter] {
            world.last = [None, None];
            world.masquerade = Masquerade::default();
        }
        for (number, what) in conversation.moves.iter().enumerate() {
            let before = sequences;
            let mut say = |world: &World| {
                sequences = before;
                // What the masquerade makes of packets is different each time; all else is not.
                let heard = if scene.is_masqueraded() { world } else { &self.netfilter };
                let last = heard.last[what.side.index()].as_deref();
                let speaker = Speaker { family, scene, port, seen: None, last };
                world.render(speaker, conversation, what, &mut sequences)
            };
            let (ours, theirs) = match (say(&self.ours), say(&self.netfilter)) {
                (Some(ours), Some(theirs)) => (ours, theirs),
                (None, None) => continue,
                _ => return Err(format!("move {number}: {what:?}\nonly one of the nodes has sent something before")),
            };
            self.mark += 1;
            let sent = hex(&ours);
            let [ours, theirs] = [(&mut self.ours, ours), (&mut self.netfilter, theirs)].map(|(world, packets)| {
                world.masquerade.begin(what.side, &what.what);
                let mut got = world.exchange(family, scene, what.side, &packets, self.mark);
                if scene.is_masqueraded() {
                    got.iter_mut().flatten().for_each(|packet| world.masquerade.hide(packet, addresses, port));
                }
                got
            });
            for (side, (ours, theirs)) in ["the client", "the backend"].into_iter().zip(ours.into_iter().zip(theirs)) {
                let (ours, theirs) = (canonical(ours, addresses), canonical(theirs, addresses));
                if ours != theirs {
                    return Err(format!(
                        "move {number}: {what:?}\nsent {sent}\n{side} gets by our programs:\n{}by netfilter:\n{}",
                        hex(&ours),
                        hex(&theirs)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn hex(packets: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for packet in packets {
        for byte in packet.iter().take(160) {
            write!(text, "{byte:02x}").expect("a string");
        }
        writeln!(text, " ({} bytes)", packet.len()).expect("a string");
    }
    text
}
