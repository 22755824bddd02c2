//! What both nodes are told to do: in netfilter's words, and as tables of the programs.

use std::{fmt::Write as _, net::IpAddr};

use proxy_agent::plan::{Changes, FamilyChanges};
use proxy_common::{
    Backend, BackendId, Port, PortName, Protocol, ServiceEntry, ServiceFlags, ServiceId, ServiceKey, SlotRange,
};

use super::{
    addresses::{Addresses, REFUSED, SERVED},
    scene::node_port,
};

/// What kube-proxy would make of the Service: a frontend's rules mark what is to be masqueraded, translate, or refuse.
pub fn netfilter(addresses: &Addresses) -> String {
    let name = if addresses.cluster_ip.is_ipv4() { "ip" } else { "ip6" };
    let (frontend, node, client) = (addresses.cluster_ip, addresses.outside, addresses.backend);
    let backend = match addresses.backend {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let mut rules =
        format!("table {name} services {{\nchain translate {{\ntype nat hook prerouting priority dstnat;\n");
    for protocol in ["tcp", "udp"] {
        for (port, target) in SERVED {
            let cluster_ip = format!("{name} daddr {frontend} {protocol} dport {port}");
            let node_port = format!("{name} daddr {node} {protocol} dport {}", node_port(port));
            for marked in [format!("{name} saddr {client} {cluster_ip}"), node_port.clone()] {
                writeln!(rules, "{marked} meta mark set meta mark or 0x4000").expect("a string");
            }
            for matches in [cluster_ip, node_port] {
                writeln!(rules, "{matches} dnat to {backend}:{target}").expect("a string");
            }
        }
    }
    rules += "}\nchain hide {\ntype nat hook postrouting priority srcnat;\n";
    rules += "meta mark and 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random\n";
    rules += "}\nchain refuse {\ntype filter hook forward priority filter;\n";
    let unreachable = if name == "ip" { "icmp type" } else { "icmpv6 type" };
    writeln!(rules, "{name} daddr {frontend} tcp dport {REFUSED} reject with tcp reset").expect("a string");
    writeln!(rules, "{name} daddr {frontend} udp dport {REFUSED} reject with {unreachable} port-unreachable")
        .expect("a string");
    rules + "}\n}\n"
}

/// The same for the programs. That a client which is its own backend is masqueraded, they know by themselves.
pub fn changes(addresses: &Addresses) -> Changes {
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
                    let backend = target.map(|target| (backend.octets(), target));
                    serve(&mut changes.v4, id, (frontend.octets(), port), protocol, backend);
                }
                (IpAddr::V6(frontend), IpAddr::V6(backend)) => {
                    let backend = target.map(|target| (backend.octets(), target));
                    serve(&mut changes.v6, id, (frontend.octets(), port), protocol, backend);
                }
                _ => panic!("one family for both"),
            }
        }
    }
    changes
}

/// A clusterIP and, if there is a backend, a nodePort under policy `Cluster`.
fn serve<F: proxy_common::Family>(
    changes: &mut FamilyChanges<F>,
    id: u32,
    frontend: (F::Address, u16),
    protocol: Protocol,
    backend: Option<(F::Address, u16)>,
) {
    let service = ServiceId::new(id);
    let mut entry = |key, flags, list| {
        changes.services.push((key, ServiceEntry::new(service, flags, list, SlotRange::EMPTY)));
    };
    let cluster_ip = ServiceKey::new(frontend.0, Port::new(frontend.1), protocol);
    let Some((address, port)) = backend else {
        entry(cluster_ip, ServiceFlags::NONE, SlotRange::EMPTY);
        return;
    };
    let list = SlotRange::new(id, 1);
    entry(cluster_ip, ServiceFlags::NONE, list);
    let external = ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT);
    entry(ServiceKey::new(F::UNSPECIFIED, Port::new(node_port(frontend.1)), protocol), external, list);
    let number = BackendId::new(id);
    let flags = Backend::<F::Address>::IN_CLUSTER_LIST;
    changes.backends.push((number, Backend::new(address, Port::new(port), flags, service)));
    changes.slots.push((id, vec![number]));
}
