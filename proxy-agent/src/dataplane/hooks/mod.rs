//! Attaches the programs, and keeps them on the devices that come and go.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use proxy_common::{Settings, SettingsFlags};

mod device_table;
mod handover;

pub(super) use self::device_table::DeviceTable;
pub use self::handover::HandoverStep;
use super::{
    SocketHooks,
    anchors::Anchors,
    cgroup::{self, CgroupError},
    devices::{Devices, Peers, PodDevices, Selection, WatchError, Watcher},
    features::{Feature, Features},
    former::FormerTables,
    frontends::FormerFrontends,
    loaded::Programs,
    lock::{Lock, LockError},
    mounts::{self, MountError},
    netns,
    nft::Masquerading,
    pins::{Direction, Pins, SocketHook},
    programs::{LoadError, map_names},
    served::{ServedDevices, Tools},
    tables::{FRESHNESS, PODS, SettingsTable, TableError},
};
use crate::error::one_line;

/// Why the programs cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The cgroup refuses.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel refuses programs that devices of this node need.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Devices cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// A table cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The BPF file system is gone and cannot be mounted again.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Another agent has taken the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory of pins cannot be read.
    #[error("cannot read {path}: {error}")]
    Pins {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// The loaded programs and where they belong. Dropping this detaches nothing.
pub struct Hooks {
    pub(super) programs: Programs,
    pub(super) pins: Pins,
    pub(super) features: Arc<Features>,
    pub(super) cgroup_root: PathBuf,
    pub(super) sockets: SocketHooks,
    pub(super) selection: Selection,
    pub(super) pod_devices: PodDevices,
    pub(super) masquerade_mark: u32,
    pub(super) settings: SettingsTable,
    pub(super) peers: Peers,
    pub(super) pod_table: DeviceTable,
    pub(super) peer_table: DeviceTable,
    pub(super) former: FormerTables,
    pub(super) frontends: FormerFrontends,
    pub(super) lock: Arc<Lock>,
}

impl Hooks {
    /// Writes the settings, makes the nftables table, and attaches the programs to all devices that qualify and, unless there
    /// shall be none, to the cgroup, replacing those of a former agent in place. From now on the tables count.
    ///
    /// # Errors
    /// The cgroup refuses, the kernel refuses programs that the devices need, or devices cannot be watched. That a device
    /// refuses its programs, or the kernel the nftables table, is logged, and tried again later.
    pub async fn attach(self, settings: &Settings) -> Result<AttachedHooks, AttachError> {
        self.attach_and_tell(settings, |step| tracing::debug!(?step, "tables are exchanged")).await
    }

    /// The same; where programs take the place of others with other tables, tells of each step that has been done.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub async fn attach_and_tell(
        mut self,
        settings: &Settings,
        mut tell: impl FnMut(HandoverStep) + Send,
    ) -> Result<AttachedHooks, AttachError> {
        let watcher = Watcher::start().await?;
        // What takes long comes before anything is replaced.
        for index in self.selection.select(watcher.devices()) {
            if let Some(device) = watcher.devices().get(&index) {
                self.programs.require(device.link_layer)?;
            }
        }
        let netns_cookie = netns::cookie(&self.features);
        if netns_cookie.is_none() && settings.flags().contains(SettingsFlags::HOST_NAMESPACE_ONLY) {
            tracing::warn!(
                "this kernel does not tell network namespaces apart at sockets (that takes Linux 5.7), so pods are served there too"
            );
        }
        if settings.flags().contains(SettingsFlags::HOST_ROUTING) && !self.features.has(Feature::HostRouting) {
            tracing::warn!("hostRouting has no effect on this kernel: it takes Linux {}", Feature::HostRouting.since());
        }
        self.write_settings(settings, netns_cookie)?;
        let masquerading = Masquerading::install(self.masquerade_mark);
        let served = ServedDevices::left_behind(&self.pins)
            .map_err(|error| AttachError::Pins { path: self.pins.links(), error })?;
        let mut hooks = AttachedHooks {
            served,
            hooks: self,
            netns_cookie,
            watcher,
            masquerading,
            anchors: Anchors::default(),
            verified: Instant::now(),
        };
        hooks.sync_tables();
        // Sockets are served before packets: a flow that a packet began would be taken for that of a socket which gets the
        // same port soon after and reaches the endpoint by itself. Where sockets shall not be served any more, packets are first.
        hooks.hooks.former.begin()?;
        hooks.replace_sockets(&mut tell)?;
        hooks.replace_devices(&mut tell)?;
        hooks.detach_sockets()?;
        hooks.hooks.programs.replaced_others();
        hooks.hold();
        Ok(hooks)
    }
}

impl Hooks {
    /// Writes the settings, and which network namespace is the node's.
    fn write_settings(&mut self, settings: &Settings, netns_cookie: Option<u64>) -> Result<(), TableError> {
        let settings = netns_cookie.map_or(*settings, |cookie| settings.with_node_netns_cookie(cookie));
        self.settings.write(&settings)
    }
}

/// The programs, attached. Dropping this detaches nothing.
pub struct AttachedHooks {
    hooks: Hooks,
    netns_cookie: Option<u64>,
    watcher: Watcher,
    masquerading: Masquerading,
    served: ServedDevices,
    anchors: Anchors,
    /// When it was last looked whether everything is still where it was put.
    verified: Instant,
}

/// How often it is looked at most whether everything is still where it was put. (It is, after each wait for the devices, so
/// every half minute at least.)
const VERIFY: Duration = Duration::from_secs(1);

impl AttachedHooks {
    /// Waits for a change of the devices, or half a minute, and brings everything in step. To be called again and again; nothing is
    /// lost if the future is dropped.
    ///
    /// # Errors
    /// Devices can no longer be watched.
    pub async fn follow(&mut self) -> Result<(), WatchError> {
        match self.watcher.changed().await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "watching network devices anew");
                self.watcher = Watcher::start().await?;
            }
        }
        self.sync_tables();
        self.sync_devices();
        self.masquerading.keep(self.hooks.masquerade_mark);
        if self.verified.elapsed() >= VERIFY {
            if let Err(error) = self.verify() {
                tracing::warn!("what is attached and pinned cannot be looked after: {}", one_line(&error));
            }
            self.verified = Instant::now();
        }
        Ok(())
    }

    /// Replaces the settings, as when the Node's prefixes become known.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<(), TableError> {
        self.hooks.write_settings(settings, self.netns_cookie)
    }

    /// The devices with programs, by index.
    pub fn attached_devices(&self) -> impl Iterator<Item = u32> {
        self.served.indexes()
    }

    /// The devices of this network namespace.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        self.watcher.devices()
    }

    /// Looks whether everything is still where it was put, and puts back what is not.
    fn verify(&mut self) -> Result<(), AttachError> {
        let root = self.hooks.pins.root().to_owned();
        let unusable = |error| AttachError::Pins { path: root.clone(), error };
        if !mounts::is_bpffs(&root)? {
            tracing::warn!("{} is gone from the BPF file system; making it again", root.display());
            mounts::bpffs_root(&root)?;
            self.hooks.lock = Arc::new(Lock::take(&root)?);
        }
        self.hooks.pins.make_directories().map_err(unusable)?;
        for path in self.anchors.restore().map_err(unusable)? {
            tracing::warn!("somebody removed the pin {}; made again", path.display());
        }
        let made = self.attach_sockets(&SocketHook::ALL)?;
        if !made.is_empty() {
            let hooks: Vec<&str> = made.iter().map(|hook| hook.name()).collect();
            tracing::warn!("somebody detached the programs of {} from the cgroup; attached again", hooks.join(", "));
        }
        let Self { hooks: Hooks { programs, pins, features, .. }, watcher, anchors, served, .. } = self;
        served.verify(watcher.devices(), Tools { programs, pins, features, anchors });
        self.hold();
        Ok(())
    }

    /// Keeps what is pinned now from going with its pins.
    fn hold(&mut self) {
        let pins = &self.hooks.pins;
        let maps = map_names().chain([FRESHNESS, PODS]).map(|name| pins.map(name));
        let sockets = SocketHook::ALL.into_iter().flat_map(|hook| [pins.socket_link(hook), pins.socket_program(hook)]);
        let devices =
            self.served.indexes().flat_map(|index| Direction::ALL.map(|direction| pins.device_link(index, direction)));
        for path in maps.chain(sockets).chain(devices) {
            self.anchors.hold(path);
        }
    }

    fn attach_sockets(&self, hooks: &[SocketHook]) -> Result<Vec<SocketHook>, CgroupError> {
        let Hooks { programs, cgroup_root, sockets, pins, features, .. } = &self.hooks;
        match sockets {
            SocketHooks::Attached => cgroup::attach(programs, hooks, cgroup_root, pins, features),
            SocketHooks::Detached => Ok(Vec::new()),
        }
    }

    fn detach_sockets(&self) -> Result<(), CgroupError> {
        let Hooks { cgroup_root, sockets, pins, .. } = &self.hooks;
        match sockets {
            SocketHooks::Attached => Ok(()),
            SocketHooks::Detached => cgroup::detach(cgroup_root, pins),
        }
    }

    /// Attaches programs to the devices that should have them, and takes them from the others.
    fn sync_devices(&mut self) {
        let Self { hooks, watcher, anchors, served, .. } = self;
        let Hooks { programs, pins, features, selection, .. } = hooks;
        let removed = watcher.take_removed();
        let wanted = selection.select(watcher.devices());
        served.sync(&wanted, &removed, watcher.devices(), Tools { programs, pins, features, anchors });
    }

    /// Brings the tables of devices in step.
    fn sync_tables(&mut self) {
        let Self { hooks, watcher, .. } = self;
        hooks.pod_table.sync(hooks.pod_devices.select(watcher.devices()));
        hooks.peer_table.sync(hooks.peers.select(watcher.devices()));
    }
}
