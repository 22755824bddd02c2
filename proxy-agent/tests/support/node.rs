//! A node for the dataplane: a namespace, a cgroup and a directory of pins.

use std::{fmt::Debug, net::IpAddr};

use proxy_agent::{
    dataplane::{
        AttachedHooks, Config, Dataplane, PacketLog, SocketHooks,
        devices::{Peers, PodDevices, Selection},
        features::Features,
        flow_tables::FlowTableSize,
        tables::{HashTable, KernelTables, Writes},
    },
    plan::{Changes, Refused},
};
use proxy_common::{
    DEFAULT_MASQUERADE_MARK, Detector, FamilySettings, NodeAddress, PlainAddress, Settings, SettingsFlags, V4, V6, maps,
};

use super::{Cgroup, Netns, Pins};

/// Where one agent is at home. Two of them do not touch each other.
#[derive(Debug, Default)]
pub struct Node {
    /// The namespace of the node.
    pub netns: Netns,
    /// The processes that the node serves.
    pub cgroup: Cgroup,
    /// The agent's pins.
    pub pins: Pins,
}

impl Node {
    /// The configuration of an agent here.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            bpffs_root: self.pins.path().to_owned(),
            cgroup_root: Some(self.cgroup.path().to_owned()),
            devices: Selection::Automatic,
            socket_hooks: SocketHooks::Attached,
            pod_devices: PodDevices::None,
            peers: Peers::Nobody,
            masquerade_mark: DEFAULT_MASQUERADE_MARK,
            packet_log: PacketLog::Off,
            flow_table_size: FlowTableSize::of_memory(0),
        }
    }

    /// Opens and attaches a dataplane with these tables.
    #[track_caller]
    pub fn start(&self, changes: &Changes) -> (KernelTables, AttachedHooks) {
        self.start_with(&Features::probe().expect("root may load programs"), changes)
    }

    /// The same with the features of an older kernel. Returned hooks no longer follow devices.
    #[track_caller]
    pub fn start_with(&self, features: &Features, changes: &Changes) -> (KernelTables, AttachedHooks) {
        use proxy_agent::plan::Tables as _;
        let dataplane =
            Dataplane::open_with(&self.config(), features.clone()).unwrap_or_else(|error| panic!("{error}"));
        let Dataplane { mut tables, hooks, .. } = dataplane;
        let refused = tables.apply(changes).expect("the tables can be written");
        assert_eq!(refused, Refused::default());
        let hooks =
            self.netns.block_on(async || hooks.attach(&settings()).await.unwrap_or_else(|error| panic!("{error}")));
        (tables, hooks)
    }

    /// Serves nodePorts at this address. The dataplane was started before.
    #[track_caller]
    pub fn serve_node_ports(&self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.add_address(maps::NODE_ADDRESSES.name::<V4>(), address.octets()),
            IpAddr::V6(address) => self.add_address(maps::NODE_ADDRESSES.name::<V6>(), address.octets()),
        }
    }

    #[track_caller]
    fn add_address<A: PlainAddress + Ord + Debug>(&self, table: &str, address: A) {
        let path = self.pins.path().join(table);
        let mut addresses: HashTable<A, NodeAddress> = HashTable::open(&path, Writes::Single).expect("pinned");
        let refused = addresses.insert(&[(address, NodeAddress::NODE_PORTS)]).expect("writes");
        assert_eq!(refused, Vec::<A>::new());
    }
}

/// Settings without a detector.
#[must_use]
pub fn settings() -> Settings {
    Settings::new(
        SettingsFlags::NONE,
        DEFAULT_MASQUERADE_MARK,
        30,
        FamilySettings::new(Detector::None, [0; 4], [0; 4]),
        FamilySettings::new(Detector::None, [0; 16], [0; 16]),
    )
}
