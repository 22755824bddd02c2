//! The pipeline on the host.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use proxy_agent::{
    explain::{Explanation, Question, explain},
    plan::{Capacities, FamilySnapshot, Tables as _, memory::MemoryTables},
};
use proxy_common::{Counter, DropReason, NodeAddress, Port, Settings, V4, V6};
use proxy_ebpf::{
    Packet as _, Verdict,
    host::{self, HostPacket, HostTables},
    socket,
    tc::TcFamily,
};

use crate::scenario_table::{
    cast::Family,
    control::Shared,
    packets::{Call, CallKind, CallVerdict, Datapath, Device, Packet, Passed},
    row::Mode,
};

const ETHERNET: usize = 14;
/// The device that leads to pods, where the detector tells devices.
const POD_DEVICE: u32 = 1;
const OTHER_DEVICE: u32 = 2;

/// Tables in memory, and the pipeline over them.
pub(crate) struct HostDatapath {
    tables: Shared<MemoryTables>,
    v4: HostTables<V4>,
    v6: HostTables<V6>,
}

impl Default for HostDatapath {
    fn default() -> Self {
        let tables = MemoryTables::new(Capacities::default().services);
        Self { tables: Shared::new(tables), v4: HostTables::default(), v6: HostTables::default() }
    }
}

impl Datapath for HostDatapath {
    type Tables = MemoryTables;
    const MODE: Mode = Mode::Host;

    fn tables(&self) -> Shared<MemoryTables> {
        self.tables.clone()
    }

    fn begin(&mut self, settings: &Settings) {
        (self.v4, self.v6) = (HostTables::default(), HostTables::default());
        (self.v4.settings, self.v6.settings) = (*settings, *settings);
        self.v4.pod_devices.insert(POD_DEVICE);
        self.v6.pod_devices.insert(POD_DEVICE);
    }

    fn set_addresses(&mut self, addresses: &BTreeMap<IpAddr, NodeAddress>) {
        self.v4.node_addresses.clear();
        self.v6.node_addresses.clear();
        for (&address, &kind) in addresses {
            match address {
                IpAddr::V4(address) => self.v4.node_addresses.insert(address.octets(), kind),
                IpAddr::V6(address) => self.v6.node_addresses.insert(address.octets(), kind),
            };
        }
    }

    fn written(&mut self) {
        let snapshot = self.tables.lock().snapshot().expect("memory can be read");
        copy(&mut self.v4, snapshot.v4);
        copy(&mut self.v6, snapshot.v6);
    }

    fn packet(&mut self, packet: Packet) -> Passed {
        match packet.family {
            Family::V4 => run(&mut self.v4, packet),
            Family::V6 => run(&mut self.v6, packet),
        }
    }

    fn device(&mut self, device: Device) -> u32 {
        index(device)
    }

    fn explain(&mut self, question: &Question) -> Explanation {
        let explanation = match question.destination {
            SocketAddr::V4(_) => explain(question, || self.v4.clone()),
            SocketAddr::V6(_) => explain(question, || self.v6.clone()),
        };
        explanation.expect("both ends are of one family")
    }

    fn call(&mut self, call: &Call) -> CallVerdict {
        match call.peer {
            SocketAddr::V4(_) => call_of(&mut self.v4, call),
            SocketAddr::V6(_) => call_of(&mut self.v6, call),
        }
    }

    fn drops(&mut self) -> BTreeMap<DropReason, u64> {
        let count = |reason| self.v4.counter(Counter::Drop(reason)) + self.v6.counter(Counter::Drop(reason));
        DropReason::ALL.into_iter().map(|reason| (reason, count(reason))).filter(|(_, count)| *count > 0).collect()
    }

    fn wait(&mut self, seconds: u32) {
        self.v4.now += seconds;
        self.v6.now += seconds;
    }
}

fn copy<F: proxy_common::Family>(tables: &mut HostTables<F>, snapshot: FamilySnapshot<F>) {
    let FamilySnapshot { services, slots, backends, source_ranges } = snapshot;
    (tables.services, tables.slots) = (services, slots);
    (tables.backends, tables.source_ranges) = (backends, source_ranges);
}

fn run<F: TcFamily>(tables: &mut HostTables<F>, packet: Packet) -> Passed {
    let Packet { hook, device, family: _, frame, mark } = packet;
    let mut packet = HostPacket::new(frame).with_mark(mark).on_device(index(device));
    match host::run(&mut packet, tables, hook, ETHERNET) {
        Verdict::Pass => Passed::On { frame: packet.bytes().to_vec(), mark: packet.mark() },
        Verdict::Drop(_) => Passed::Dropped,
        Verdict::Answer => Passed::Answered(packet.bytes().to_vec()),
        verdict @ (Verdict::SendOn | Verdict::Continue(_)) => panic!("{verdict:?} is nothing that ends here"),
    }
}

fn index(device: Device) -> u32 {
    if device == Device::Pods { POD_DEVICE } else { OTHER_DEVICE }
}

fn call_of<F: Addresses>(tables: &mut HostTables<F>, call: &Call) -> CallVerdict {
    let &Call { kind, cookie, namespace, protocol, peer } = call;
    let peer = (F::octets(peer.ip()), Port::new(peer.port()));
    let call = socket::Call { cookie, namespace: Some(namespace), protocol, peer };
    let verdict = match kind {
        CallKind::Connect => socket::connect(tables, &call),
        CallKind::Send => socket::sendmsg(tables, &call),
        CallKind::PeerName => socket::peer_name(tables, &call),
    };
    match verdict {
        socket::Verdict::Pass => CallVerdict::Pass,
        socket::Verdict::Rewrite((address, port)) => CallVerdict::Rewrite((F::ip(address), port.get()).into()),
        socket::Verdict::Refuse => CallVerdict::Refuse,
    }
}

/// A family whose addresses the standard library's can be.
trait Addresses: proxy_common::Family {
    fn octets(address: IpAddr) -> Self::Address;
    fn ip(address: Self::Address) -> IpAddr;
}

impl Addresses for V4 {
    fn octets(address: IpAddr) -> [u8; 4] {
        let IpAddr::V4(address) = address else { panic!("{address} is of IPv6") };
        address.octets()
    }

    fn ip(address: [u8; 4]) -> IpAddr {
        address.into()
    }
}

impl Addresses for V6 {
    fn octets(address: IpAddr) -> [u8; 16] {
        let IpAddr::V6(address) = address else { panic!("{address} is of IPv4") };
        address.octets()
    }

    fn ip(address: [u8; 16]) -> IpAddr {
        address.into()
    }
}
