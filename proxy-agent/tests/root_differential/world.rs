//! Two nodes, each between a client and a backend: one where netfilter translates, one where the agent's programs do.

use std::{fmt::Write as _, net::IpAddr, path::Path, time::Instant};

use proxy_agent::{
    dataplane::AttachedHooks,
    plan::{Changes, FamilyChanges},
};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
};

use super::{
    addresses::{Addresses, Family, REFUSED, SERVED, UNSERVED},
    compare::canonical,
    packet::{self, ICMP, ICMP6, Ip, SYN, TCP, UDP},
    script::{Complaint, Conversation, Move, Side, Stranger, Trouble, What},
    support::{Netns, Node, eventually, patience, run},
    wire::Wire,
};

/// A node and its two cables. Fields are dropped in order.
struct World {
    client: Wire,
    backend: Wire,
    /// What each side got last.
    last: [Option<Vec<u8>>; 2],
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
        }
        // All errors of a node together; a setting of the namespace in newer kernels only.
        for (name, value) in [("net/ipv4/icmp_msgs_per_sec", "1000000"), ("net/ipv4/icmp_msgs_burst", "100000")] {
            if node.netns.enter(|| Path::new("/proc/sys").join(name).exists()) {
                node.netns.sysctl(name, value);
            }
        }
        Self { client, backend, last: [None, None], hooks: None, node }
    }

    /// The node that this project is for.
    fn ours(family: Family) -> Self {
        let mut world = Self::new(family);
        let (_, hooks) = world.node.start(&changes(family.addresses()));
        world.hooks = Some(hooks);
        // Both track connections, and put fragments together for it.
        track(&world.node.netns);
        world
    }

    fn netfilter(family: Family) -> Self {
        let world = Self::new(family);
        let netns = &world.node.netns;
        let addresses = family.addresses();
        let (name, frontend) = match addresses.cluster_ip {
            IpAddr::V4(address) => ("ip", address.to_string()),
            IpAddr::V6(address) => ("ip6", address.to_string()),
        };
        let backend = match addresses.backend {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let mut rules =
            format!("table {name} services {{\nchain translate {{\ntype nat hook prerouting priority dstnat;\n");
        for protocol in ["tcp", "udp"] {
            for (port, target) in SERVED {
                let matches = format!("{name} daddr {frontend} {protocol} dport {port}");
                writeln!(rules, "{matches} dnat to {backend}:{target}").expect("a string");
            }
        }
        rules += "}\nchain refuse {\ntype filter hook forward priority filter;\n";
        let unreachable = if name == "ip" { "icmp type" } else { "icmpv6 type" };
        writeln!(rules, "{name} daddr {frontend} tcp dport {REFUSED} reject with tcp reset").expect("a string");
        writeln!(rules, "{name} daddr {frontend} udp dport {REFUSED} reject with {unreachable} port-unreachable")
            .expect("a string");
        rules += "}\n}\n";
        run(netns.command("nft").arg(rules));
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

    /// Sends packets from one side; what comes out at the client and at the backend.
    fn exchange(&mut self, family: Family, from: Side, packets: &[Vec<u8>], mark: u32) -> [Vec<Vec<u8>>; 2] {
        for packet in packets {
            match from {
                Side::Client => self.client.send(packet),
                Side::Backend => self.backend.send(packet),
            }
        }
        // Packets do not overtake each other: what has not come before the markers will not come.
        self.send_markers(family, mark);
        let got = [&mut self.client, &mut self.backend].map(|wire| until_marker(wire, mark));
        for (last, got) in self.last.iter_mut().zip(&got) {
            if let Some(packet) = got.last() {
                *last = Some(packet.clone());
            }
        }
        got
    }
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
        packets.push(packet);
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

fn changes(addresses: &Addresses) -> Changes {
    let mut changes = Changes::default();
    for (number, protocol) in (0..).zip([Protocol::Tcp, Protocol::Udp]) {
        for (offset, (port, target)) in
            (0..).zip(SERVED.iter().map(|&(port, target)| (port, Some(target))).chain([(REFUSED, None)]))
        {
            let id = number * 3 + offset + 1;
            let service = ServiceId::new(id);
            let name = PortName::new("test", "web", &port.to_string(), protocol).expect("short names");
            changes.names.push((service, name));
            match (addresses.cluster_ip, addresses.backend) {
                (IpAddr::V4(frontend), IpAddr::V4(backend)) => {
                    serve(
                        &mut changes.v4,
                        id,
                        (frontend.octets(), port),
                        protocol,
                        target.map(|target| (backend.octets(), target)),
                    );
                }
                (IpAddr::V6(frontend), IpAddr::V6(backend)) => {
                    serve(
                        &mut changes.v6,
                        id,
                        (frontend.octets(), port),
                        protocol,
                        target.map(|target| (backend.octets(), target)),
                    );
                }
                _ => panic!("one family for both"),
            }
        }
    }
    changes
}

fn serve<F: proxy_common::Family>(
    changes: &mut FamilyChanges<F>,
    id: u32,
    frontend: (F::Address, u16),
    protocol: Protocol,
    backend: Option<(F::Address, u16)>,
) {
    let service = ServiceId::new(id);
    let list = match backend {
        Some((address, port)) => {
            let number = BackendId::new(id);
            let flags = Backend::<F::Address>::IN_CLUSTER_LIST;
            changes.backends.push((number, Backend::new(address, Port::new(port), flags, service)));
            changes.slots.push((id, vec![number]));
            SlotRange::new(id, 1)
        }
        None => SlotRange::EMPTY,
    };
    let entry = ServiceEntry::new(service, ServiceFlags::NONE, list, SlotRange::EMPTY);
    changes.services.push((ServiceKey::new(frontend.0, Port::new(frontend.1), protocol), entry));
}

/// Both nodes, and how far the client has come with its ports.
pub struct Worlds {
    family: Family,
    ours: World,
    netfilter: World,
    port: u16,
    mark: u32,
}

/// What a side of a TCP connection says next.
#[derive(Clone, Copy, Default)]
struct Sequences([u32; 2]);

impl Worlds {
    pub fn new(family: Family) -> Self {
        let [ours, netfilter] = [World::ours(family), World::netfilter(family)].map(|mut world| {
            world.wait_until_ready(family);
            world
        });
        Self { family, ours, netfilter, port: 10_000, mark: 0 }
    }

    /// Holds the conversation on both nodes; an error says what differs.
    pub fn compare(&mut self, conversation: &Conversation) -> Result<(), String> {
        self.port = if self.port == 65_000 { 10_000 } else { self.port + 1 };
        let mut sequences = Sequences([1000, 2_000_000_000]);
        for world in [&mut self.ours, &mut self.netfilter] {
            world.last = [None, None];
        }
        for (number, what) in conversation.moves.iter().enumerate() {
            let Some(packets) = self.render(conversation, what, &mut sequences) else { continue };
            self.mark += 1;
            let ours = self.ours.exchange(self.family, what.side, &packets, self.mark);
            let theirs = self.netfilter.exchange(self.family, what.side, &packets, self.mark);
            for (side, (ours, theirs)) in ["the client", "the backend"].into_iter().zip(ours.into_iter().zip(theirs)) {
                let addresses = self.family.addresses();
                let (ours, theirs) = (canonical(ours, addresses), canonical(theirs, addresses));
                if ours != theirs {
                    return Err(format!(
                        "move {number}: {what:?}\nsent {}\n{side} gets by our programs:\n{}by netfilter:\n{}",
                        hex(&packets),
                        hex(&ours),
                        hex(&theirs)
                    ));
                }
            }
        }
        Ok(())
    }

    /// The packets of a move; none if it is a complaint and there is nothing to complain about.
    fn render(&self, conversation: &Conversation, one: &Move, sequences: &mut Sequences) -> Option<Vec<Vec<u8>>> {
        let addresses = self.family.addresses();
        let client = (addresses.client, self.port);
        let service = (addresses.cluster_ip, conversation.port.0);
        let backend = (addresses.backend, conversation.port.1);
        let (from, to) = match one.side {
            Side::Client => (client, service),
            Side::Backend => (backend, client),
        };
        let (me, other) = match one.side {
            Side::Client => (0, 1),
            Side::Backend => (1, 0),
        };
        let icmp = if addresses.client.is_ipv4() { ICMP } else { ICMP6 };
        let ports = (from.1, to.1);
        let (source, destination, protocol, upper) = match &one.what {
            What::Tcp { flags, payload, options } => {
                let sequence = (sequences.0[me], sequences.0[other]);
                let length = u32::try_from(*payload).expect("segments are short");
                sequences.0[me] += length + u32::from(flags & (SYN | packet::FIN) != 0);
                (from.0, to.0, TCP, packet::tcp(ports, *flags, sequence, *options, &text(*payload)))
            }
            What::Udp { payload } => (from.0, to.0, UDP, packet::udp(ports, &text(*payload))),
            What::Error(complaint) => {
                let (by, upper) = self.complain(one.side, complaint)?;
                // Whoever sent the packet hears of it.
                let to = match one.side {
                    Side::Client => addresses.cluster_ip,
                    Side::Backend => addresses.client,
                };
                (by, to, icmp, upper)
            }
            What::Stranger(stranger) => self.stranger(*stranger, conversation),
        };
        let fragments = one.shape.fragments.filter(|_| !one.shape.dont_fragment || upper.len() > 1400);
        let options = if fragments.is_some() || matches!(one.what, What::Error(_)) { 0 } else { one.shape.options };
        let ip = Ip {
            source,
            destination,
            ttl: one.shape.ttl,
            class: one.shape.class,
            id: one.shape.id,
            dont_fragment: one.shape.dont_fragment,
            options,
        };
        let sum = match one.shape.sum {
            packet::Sum::None if protocol != UDP || source.is_ipv6() => packet::Sum::Right,
            sum => sum,
        };
        let mut whole = packet::build(&ip, protocol, upper, sum);
        match fragments {
            Some(eights) if whole.len() > 60 => {
                // The first fragment has the whole header (RFC 1858, RFC 7112).
                let least = if protocol == TCP { 60_usize.next_multiple_of(8) } else { 8 };
                Some(packet::fragments(&ip, &whole, protocol, (usize::from(eights) * 8).max(least)))
            }
            _ => {
                whole.truncate(whole.len() - one.shape.cut.min(whole.len() - 1));
                Some(vec![whole])
            }
        }
    }

    /// Who complains, and how.
    fn complain(&self, side: Side, complaint: &Complaint) -> Option<(IpAddr, Vec<u8>)> {
        let addresses = self.family.addresses();
        let (index, by) = match (side, complaint.by_router) {
            (Side::Client, true) => (0, addresses.outer_router),
            (Side::Client, false) => (0, addresses.client),
            (Side::Backend, true) => (1, addresses.inner_router),
            (Side::Backend, false) => (1, addresses.backend),
        };
        let got = self.netfilter.last[index].as_ref()?;
        // RFC 792 asks for eight bytes; netfilter drops errors with less. It corrects TCP's checksum in quotes that have the
        // whole header, the programs wherever it is quoted.
        let (upper, protocol) = match (got[0] >> 4, got[6]) {
            (4, _) => (usize::from(got[0] & 15) * 4, got[9]),
            // Destination options.
            (_, 60) => (48, got[40]),
            (_, protocol) => (40, protocol),
        };
        let mut quote = &got[..complaint.quote.max(upper + 8).min(got.len()).min(1200)];
        if protocol == TCP && (upper + 16..upper + 20).contains(&quote.len()) {
            quote = &quote[..upper + 15];
        }
        let (kind, code, rest) = match (self.family, complaint.about) {
            (Family::V4, Trouble::Unreachable) => (3, complaint.code, 0),
            (Family::V4, Trouble::TooBig) => (3, 4, 1300),
            (Family::V4, Trouble::TimeExceeded) => (11, 0, 0),
            (Family::V4, Trouble::Parameter) => (12, 0, 8 << 24),
            (Family::V6, Trouble::Unreachable) => (1, complaint.code, 0),
            (Family::V6, Trouble::TooBig) => (2, 0, 1300),
            (Family::V6, Trouble::TimeExceeded) => (3, 0, 0),
            (Family::V6, Trouble::Parameter) => (4, 0, 8),
        };
        Some((by, packet::icmp_error(kind, code, rest, quote)))
    }

    fn stranger(&self, stranger: Stranger, conversation: &Conversation) -> (IpAddr, IpAddr, u8, Vec<u8>) {
        let Addresses { client, backend, cluster_ip, .. } = *self.family.addresses();
        let (icmp, echo) = if client.is_ipv4() { (ICMP, 8) } else { (ICMP6, 128) };
        let target = conversation.port.1;
        let syn = |ports| (TCP, packet::tcp(ports, SYN, (1, 0), 1, b""));
        let datagram = |ports| (UDP, packet::udp(ports, b"who"));
        let ping = (icmp, packet::icmp_error(echo, 0, u32::from(self.port) << 16 | 1, b"who"));
        let (source, destination, (protocol, upper)) = match stranger {
            Stranger::TcpToUnserved => (client, cluster_ip, syn((self.port, UNSERVED))),
            Stranger::UdpToUnserved => (client, cluster_ip, datagram((self.port, UNSERVED))),
            Stranger::TcpToRefused => (client, cluster_ip, syn((self.port, REFUSED))),
            Stranger::UdpToRefused => (client, cluster_ip, datagram((self.port, REFUSED))),
            Stranger::TcpToBackend => (client, backend, syn((self.port, target))),
            Stranger::UdpToBackend => (client, backend, datagram((self.port, target))),
            Stranger::TcpFromBackend => (backend, client, syn((target, self.port))),
            Stranger::UdpFromBackend => (backend, client, datagram((target, self.port))),
            Stranger::Ping => (client, cluster_ip, ping),
            Stranger::PingBackend => (client, backend, ping),
            Stranger::Gre => (client, cluster_ip, (47, vec![0, 0, 8, 0, 1, 2, 3, 4])),
            Stranger::Nothing => (client, cluster_ip, (59, Vec::new())),
        };
        (source, destination, protocol, upper)
    }
}

fn text(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
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
