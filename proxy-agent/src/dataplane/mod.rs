//! Kernel features, maps, programs, links, devices, cgroup and nftables: everything of the agent that
//! touches the kernel.
//!
//! Decides nothing about Services: what the tables hold comes from [`crate::plan`].
//!
//! [`Dataplane::open`] finds out what the kernel can do, creates or adopts the pinned tables and loads
//! programs; nothing that packets or sockets meet has changed by then. [`Hooks::attach`] changes it.
//! Dropping any of this takes nothing away: only [`cleanup()`] does.

mod adoption;
mod anchors;
mod bpf;
pub mod carry;
mod cgroup;
mod cleanup;
pub mod devices;
pub mod diagnosis;
mod drain;
pub mod features;
mod flow_filter;
pub mod flow_tables;
mod former;
mod frontends;
mod grace;
mod hooks;
mod ipv6;
mod kept;
mod kube_proxy;
mod layouts;
mod loaded;
pub mod lock;
mod mapped;
mod memlock;
pub mod mounts;
mod netns;
pub mod network;
pub mod nft;
pub mod object;
pub mod others;
mod packet_log;
pub mod pins;
pub mod pod_namespace;
mod programs;
mod realtime;
pub mod run_time;
mod served;
pub mod status;
pub mod stranded;
pub mod tables;
mod tc;
pub mod trace;
mod untyped;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{
    adoption::Adoption,
    cgroup::CgroupError,
    cleanup::{CleanupError, Removed, cleanup},
    drain::{DrainError, Drained, drain},
    hooks::{AttachError, AttachedHooks, HandoverStep, Hooks},
    kube_proxy::{kube_proxy_rules, remove_kube_proxy, virtual_servers},
    packet_log::PacketLogReader,
    programs::{LoadError, PacketLog, loader},
    tc::DeviceError,
};
use self::{
    devices::{Peers, PodDevices, Selection, SelectionError},
    features::{Feature, FeatureError, Features},
    flow_tables::FlowTableSize,
    former::{FormerTables, Writers},
    frontends::FormerFrontends,
    hooks::DeviceTable,
    loaded::Programs,
    lock::{Lock, LockError},
    memlock::LimitError,
    mounts::MountError,
    pins::Pins,
    programs::Prepared,
    tables::{FreshnessTable, KernelTables, NodeAddressTables, SettingsTable, SocketTables, TableError, Writes},
};
use crate::freshness::Times;

/// Where things are, and which devices count.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of pins, on a BPF file system; see [`pins::DEFAULT_ROOT`].
    pub bpffs_root: PathBuf,
    /// The cgroup whose processes are served; the root of the cgroup v2 hierarchy if there is none.
    pub cgroup_root: Option<PathBuf>,
    /// Which devices get programs.
    pub devices: Selection,
    /// Whether there shall be programs at the cgroup's hooks.
    pub socket_hooks: SocketHooks,
    /// Behind which devices pods live.
    pub pod_devices: PodDevices,
    /// To the other end of which devices packets are handed.
    pub peers: Peers,
    /// The mark bit that asks for masquerading.
    pub masquerade_mark: u32,
    /// What the programs tell of packets.
    pub packet_log: PacketLog,
    /// How many flows there is room for.
    pub flow_table_size: FlowTableSize,
}

/// Whether there are programs at the cgroup's hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketHooks {
    /// There are.
    #[default]
    Attached,
    /// There are none, and those of a former agent are taken away.
    Detached,
}

/// Why the dataplane cannot be used: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel cannot run it.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// A file system is missing.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A device that the user named does not exist.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// Another agent is running.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Maps or programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The directories of pins cannot be made.
    #[error("cannot make directories in {path}: {error}")]
    Pins {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// The kernel's side of the agent, ready to be filled and attached.
pub struct Dataplane {
    /// What became of the tables that a former agent left. Adopted tables can be attached at once; new ones
    /// should be filled first.
    pub adoption: Adoption,
    /// What the kernel can do.
    pub features: Arc<Features>,
    /// The tables, for the plan.
    pub tables: KernelTables,
    /// The tables of the node's own addresses, to be kept in step with its network.
    pub node_addresses: NodeAddressTables,
    /// What the socket hooks noted, for [`stranded`].
    pub sockets: SocketTables,
    /// How old the tables may be, for whoever reads them.
    pub freshness: FreshnessTable,
    /// The programs, to be attached.
    pub hooks: Hooks,
    /// What the programs tell of packets, if [`Config::packet_log`] asks for it.
    pub packet_log: Option<PacketLogReader>,
}

impl Dataplane {
    /// Opens everything with the features that the running kernel has.
    ///
    /// # Errors
    /// Rights, a file system, a feature or a device named by the user is missing, another agent is running, or the kernel refuses maps
    /// or programs.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_with(config, Features::probe()?)
    }

    /// Opens everything, using no more than the given features.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(config: &Config, features: Features) -> Result<Self, OpenError> {
        let Config {
            bpffs_root,
            cgroup_root,
            devices,
            socket_hooks,
            pod_devices,
            peers,
            masquerade_mark,
            packet_log,
            flow_table_size,
        } = config;
        features.require()?;
        tracing::info!("{features}");
        if let Some(absence) = ipv6::absence() {
            tracing::info!("{absence}: only IPv4 is served");
        }
        if realtime::is_realtime(Path::new("/")) {
            tracing::warn!(
                "the kernel has PREEMPT_RT, which is not supported: packets may be sent to the wrong endpoint"
            );
        }
        let cgroup_root = mounts::cgroup_root(cgroup_root.as_deref())?;
        mounts::bpffs_root(bpffs_root)?;
        devices.check(|name| status::device_index(name).is_some())?;
        let lock = Arc::new(Lock::take(bpffs_root)?);
        let limit = memlock::lift();
        anchors::make_room();
        let pins = Pins::new(bpffs_root);
        pins.make_directories().map_err(|error| OpenError::Pins { path: bpffs_root.clone(), error })?;
        let prepared = programs::prepare(&pins, &features, *packet_log, *flow_table_size);
        let loaded = prepared.and_then(|Prepared { adoption, object, kept }| {
            Ok((adoption, Programs::load(object, kept, &features, *packet_log)?))
        });
        let (adoption, mut programs) = loaded.map_err(|error| match limit {
            Err(limit) if error.is_denied() && !features.has(Feature::CgroupMemory) => {
                FeatureError::from(LimitError { release: features.release().to_owned(), limit }).into()
            }
            _ => OpenError::from(error),
        })?;
        match &adoption {
            Adoption::Replaced { .. } => tracing::warn!("{adoption}"),
            Adoption::New | Adoption::Adopted => tracing::info!("using {adoption}"),
        }
        let packet_log = match packet_log {
            PacketLog::Off => None,
            PacketLog::Drops => PacketLogReader::new(programs.object_mut()),
        };
        let writes = if features.has(Feature::BatchUpdate) { Writes::Batched } else { Writes::Single };
        let mut former = FormerTables::open(&pins, writes)?;
        former.copy(Writers::Agent)?;
        let frontends = FormerFrontends::open(&pins, writes)?;
        frontends.copy(&pins, writes)?;
        let features = Arc::new(features);
        let hooks = Hooks {
            programs,
            features: Arc::clone(&features),
            cgroup_root,
            sockets: *socket_hooks,
            selection: devices.clone(),
            pod_devices: pod_devices.clone(),
            masquerade_mark: *masquerade_mark,
            settings: SettingsTable::open(&pins)?,
            peers: *peers,
            pod_table: DeviceTable::open(&pins, proxy_common::maps::POD_DEVICES, writes)?,
            peer_table: DeviceTable::open(&pins, proxy_common::maps::PEER_DEVICES, writes)?,
            former,
            frontends: frontends.clone(),
            lock,
            pins: pins.clone(),
        };
        let node_addresses = NodeAddressTables::open(&pins, writes)?;
        let sockets = SocketTables::open(&pins, writes)?;
        let tables = KernelTables::open(&pins, writes, frontends)?;
        let freshness = FreshnessTable::open_or_make(&pins)?;
        Ok(Self { adoption, features, tables, node_addresses, sockets, freshness, hooks, packet_log })
    }
}

/// How old the tables that are pinned in the agent's directory may be.
///
/// # Errors
/// Nothing is pinned there, or by an agent that did not tell.
pub fn read_freshness(bpffs_root: &Path) -> Result<Times, TableError> {
    FreshnessTable::open(&Pins::new(bpffs_root))?.read()
}

/// Opens the tables that are pinned in the agent's directory, for reading; no agent need be running.
///
/// # Errors
/// Nothing is pinned there, or tables of another layout.
pub fn read_tables(bpffs_root: &Path) -> Result<tables::Tables, TableError> {
    tables::Tables::open(&Pins::new(bpffs_root))
}
