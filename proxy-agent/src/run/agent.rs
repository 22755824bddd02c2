//! The agent of one node, from its configuration to the end of the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use proxy_common::{Counter, DropKey, PortName, ServiceId, Settings, Traffic};
use tokio::{runtime::Handle, sync::watch, task::JoinSet, time::sleep};
use tracing::{info, warn};

use super::{
    Engine, Observers, Progress, configuration, conntrack, detector, drive,
    hooks::{Configuration, keep},
    network, node_name,
};
use crate::{
    config::{Config, HostRouting, KubeProxy, Mode, Objects, RunFlags, SocketLb},
    dataplane::{
        self, Dataplane, OpenError, PacketLog, SocketHooks,
        devices::{Peers, Selection},
        mounts,
        nft::{self, Presence},
        pins::Pins,
        run_time::{self, RunTime},
        stranded,
        tables::{Counted, FlowTableUse, FreshnessTable, Tables},
    },
    error::one_line,
    freshness::Freshness,
    notices::{LogOnly, Notice, Notices, Reason, Subject},
    plan::Capacities,
    server::{
        Health, HealthCheckServers, Listening, Metrics, OnBusyPort, ServiceDrops, ServiceLabels, ServiceSeries,
        ServiceTraffic, Statistics, health_routes, listen, metrics_routes,
    },
    source::{
        self,
        api::{self, Events, LIST_SILENCE, Listeners, Liveness, Server},
        manifests::Manifests,
    },
};

/// From this verbosity on, each packet that is dropped or refused is logged.
const PACKET_LOG_VERBOSITY: u8 = 6;

/// Runs the agent until `stop`, or until a file that `flags` name asks for something else than `config`, and leaves everything
/// in the kernel as it is then. Tables are written where `writer` runs what blocks ([`writer`](super::writer)).
///
/// # Errors
/// Something that a person has to do something about, in one line.
pub async fn run(flags: &RunFlags, config: Config, writer: Handle, stop: impl Future<Output = ()>) -> Result<()> {
    tell(&config);
    let environment = std::env::var_os("NODE_NAME");
    let host = rustix::system::uname();
    let host = std::ffi::OsStr::new(host.nodename().to_str().unwrap_or_default());
    let node_name = node_name(config.node_name.as_deref(), environment.as_deref(), host)?;

    let reconfigured = configuration::changed(flags.clone(), config.clone());
    // What can be wrong with the configuration comes first, before anything in the kernel is touched.
    let objects = Source::open(&config).await?;
    let dataplane_config = dataplane_config(&config)?;
    protect(config.kube_proxy.oom_score_adj);
    // The thread that writes later: memory that opening took and gave back is used again by its thread only.
    let (dataplane, tables) = writer.spawn_blocking(move || open(&dataplane_config)).await??;
    let Dataplane { adoption, features: _, tables: plan_tables, node_addresses, sockets, freshness, hooks, packet_log } =
        dataplane;
    let former = former_settings(&tables);

    let health = Arc::new(Health::new(config.kube_proxy.sync_period));
    let metrics = Arc::new(Metrics::new(
        Arc::new(Counters { tables, pins: Pins::new(&config.bpffs_root) }),
        config.metrics_services.map(ServiceSeries).unwrap_or_default(),
    ));
    let mut tasks = JoinSet::new();
    let notices = objects.notices(&node_name, &mut tasks);
    serve(&config.kube_proxy, &health, &metrics, &*notices, &mut tasks).await?;
    tasks.spawn(note_freshness(freshness, Arc::clone(metrics.freshness())));
    if let Some(reader) = packet_log {
        tasks.spawn(reader.run());
    }
    let (updates, receiver) = source::channel();
    let (progress, watcher) = watch::channel(Progress::default());
    let addresses = network::Configuration::new(&config.kube_proxy);
    let (listening, health_check_addresses) = watch::channel(BTreeSet::new());
    tasks.spawn(network::follow(node_addresses, addresses, watcher.clone(), updates.clone(), listening));
    let listeners = Listeners { updates, freshness: Arc::clone(metrics.freshness()), notices: Arc::clone(&notices) };
    objects.start(&node_name, listeners, &mut tasks)?;
    let health_checks =
        HealthCheckServers::start(health_check_addresses, Arc::clone(&health), Arc::clone(&notices), &mut tasks);

    let (gone_backends, gone) = stranded::channel();
    let counted = Arc::clone(&metrics);
    stranded::start(sockets, gone, move |count| counted.sockets_destroyed(count))
        .context("no thread for UDP sockets")?;

    let Config { kube_proxy, socket_lb, kube_ovn, host_routing, .. } = config;
    let configuration = Configuration {
        kube_proxy,
        socket_lb,
        kube_ovn,
        host_routing: host_routing != HostRouting::Off,
        node_name: node_name.clone(),
        former,
        last: None,
    };
    // In a task of its own: attaching programs to hundreds of devices takes seconds, in which Services and a stop go on.
    let mut hooking = JoinSet::new();
    hooking.spawn(keep(hooks, adoption, configuration, Arc::clone(&health), watcher));
    info!("Node {node_name}: waiting for the lists of Services and EndpointSlices");
    let text = format!("proxy-agent {} serves Services on this node", env!("CARGO_PKG_VERSION"));
    notices.tell(Notice { subject: Subject::Node, reason: Reason::Starting, text });
    let engine = Engine::new(plan_tables, node_name, Capacities::default());
    let observers = Observers { health, metrics, gone_backends, health_checks, notices, progress };
    tokio::select! {
        ended = drive(engine, receiver, observers, writer, stop) => ended.map_err(Into::into),
        Some(ended) = hooking.join_next() => match ended {
            Ok(Ok(())) => bail!("nobody tells of the node any more"),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        },
        Err(error) = failed(&mut tasks) => Err(error),
        () = reconfigured => bail!("the configuration was changed; ending, to be started again with the new one"),
    }
}

/// Does what takes more rights than running does (kube-proxy's `--init-only`).
///
/// # Errors
/// A file system is missing and cannot be mounted.
pub fn initialize(config: &Config) -> Result<()> {
    mounts::cgroup_root(config.cgroup_root.as_deref())?;
    mounts::bpffs_root(&config.bpffs_root)?;
    // The kernel's connection tracking, which has the limits, is there once a rule uses it.
    if let Err(error) = nft::install(1 << config.kube_proxy.masquerade_bit) {
        info!("{}", one_line(&error));
    }
    conntrack::apply(&config.kube_proxy.conntrack, Path::new("/"));
    Ok(())
}

/// Tells the kernel how soon to end the agent when memory is short.
fn protect(score: i16) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        info!("oom_score_adj cannot be set to {score}: {error}");
    }
}

/// Writes into the tables how old they may be, for whoever reads them. Once a second is enough.
async fn note_freshness(mut table: FreshnessTable, freshness: Arc<Freshness>) {
    let mut written = None;
    loop {
        let times = freshness.times();
        if written != Some(times) {
            if let Err(error) = table.write(&times) {
                warn!("{}", one_line(&error));
                return;
            }
            written = Some(times);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Waits for a task that dies. Those that end are no loss: the loop notices when nothing comes any more.
async fn failed(tasks: &mut JoinSet<()>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the agent died")?;
    }
    std::future::pending().await
}

fn tell(config: &Config) {
    if !config.ignored_flags.is_empty() {
        warn!("ignored, because the file that --config names decides: {}", config.ignored_flags.join(", "));
    }
    if !config.without_effect.is_empty() {
        info!("without effect here: {}", config.without_effect.join(", "));
    }
    let mode = config.kube_proxy.mode;
    if mode != Mode::Unset {
        info!("mode {} is served by eBPF programs, like every other mode", mode.name());
    }
}

fn dataplane_config(config: &Config) -> Result<dataplane::Config> {
    let devices = Selection::parse(config.devices.as_deref().unwrap_or_default())?;
    let packet_log = if config.verbosity < PACKET_LOG_VERBOSITY { PacketLog::Off } else { PacketLog::Drops };
    Ok(dataplane::Config {
        bpffs_root: config.bpffs_root.clone(),
        cgroup_root: config.cgroup_root.clone(),
        devices,
        socket_hooks: match config.socket_lb {
            SocketLb::All | SocketLb::HostNamespaceOnly => SocketHooks::Attached,
            SocketLb::Off => SocketHooks::Detached,
        },
        pod_devices: detector::pod_devices(&config.kube_proxy),
        peers: match config.host_routing {
            HostRouting::Off | HostRouting::On => Peers::Nobody,
            HostRouting::Peers => Peers::VirtualEthernet,
        },
        masquerade_mark: 1 << config.kube_proxy.masquerade_bit,
        packet_log,
        flow_table_size: config.flow_table_size.unwrap_or_default(),
    })
}

/// What a former agent wrote into the settings, if there was one.
fn former_settings(tables: &Tables) -> Option<Settings> {
    tables.settings.read().ok().filter(|settings| settings.layout_version() != 0)
}

/// Opens the dataplane, and the tables a second time, for reading.
fn open(config: &dataplane::Config) -> Result<(Dataplane, Tables), OpenError> {
    let dataplane = Dataplane::open(config)?;
    let tables = dataplane::read_tables(&config.bpffs_root)?;
    Ok((dataplane, tables))
}

async fn serve(
    config: &KubeProxy,
    health: &Arc<Health>,
    metrics: &Arc<Metrics>,
    notices: &dyn Notices,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let busy = if config.bind_address_hard_fail { OnBusyPort::Fail } else { OnBusyPort::Retry };
    if let Some(address) = config.healthz {
        let routes = health_routes(health, metrics);
        if let Listening::Later(error) = listen("the health server", address, routes, busy, tasks).await? {
            let text = format!("{error}; trying again until it can");
            notices.tell(Notice { subject: Subject::Node, reason: Reason::HealthServer, text });
        }
    }
    if let Some(address) = config.metrics {
        listen("the metrics server", address, metrics_routes(metrics), busy, tasks).await?;
    }
    Ok(())
}

/// Where objects come from, found to be there as far as that can be told.
enum Source {
    Manifests(Manifests),
    Api(kube::Client),
}

impl Source {
    async fn open(config: &Config) -> Result<Self> {
        match &config.objects {
            Objects::Manifests(folder) => Ok(Self::Manifests(Manifests::open(folder)?)),
            Objects::Api { kubeconfig, master } => {
                let KubeProxy { qps, burst, .. } = config.kube_proxy;
                let liveness = Liveness::default();
                let server = Server { kubeconfig: kubeconfig.clone(), master: master.clone(), qps, burst, liveness };
                Ok(Self::Api(api::connect(&server).await?))
            }
        }
    }

    /// Who tells people what they should know. Manifests have nobody to tell.
    fn notices(&self, node_name: &str, tasks: &mut JoinSet<()>) -> Arc<dyn Notices> {
        match self {
            Self::Manifests(_) => Arc::new(LogOnly),
            Self::Api(client) => Arc::new(Events::start(client, node_name, tasks)),
        }
    }

    /// Starts to send updates.
    fn start(self, node_name: &str, listeners: Listeners, tasks: &mut JoinSet<()>) -> Result<()> {
        match self {
            Self::Manifests(manifests) => manifests
                .start(listeners.updates)
                .map_err(|error| anyhow!("no thread for the folder of manifests: {error}")),
            Self::Api(client) => {
                api::start(&client, node_name, LIST_SILENCE, &listeners, tasks);
                Ok(())
            }
        }
    }
}

/// What is counted in the tables, and of the programs.
struct Counters {
    tables: Tables,
    pins: Pins,
}

impl Statistics for Counters {
    fn counters(&self) -> Vec<(Counter, u64)> {
        self.tables.counters.read().map(|counters| counters.into_iter().collect()).unwrap_or_default()
    }

    fn flow_tables(&self) -> Vec<FlowTableUse> {
        self.tables.flow_use().unwrap_or_default()
    }

    fn masquerading(&self) -> Option<bool> {
        nft::presence().ok().map(|presence| presence == Presence::Installed)
    }

    fn service_drops(&self) -> Vec<ServiceDrops> {
        let Ok((drops, names)) = self.tables.drops.all().and_then(|drops| Ok((drops, self.tables.names.all()?))) else {
            return Vec::new();
        };
        let of = |(key, count): (DropKey, u64)| {
            let service = key.service();
            let labels = names.get(&service).map(labels).unwrap_or_default();
            Some(ServiceDrops { service, labels, reason: key.reason()?, count })
        };
        drops.into_iter().filter_map(of).collect()
    }

    fn service_traffic(&self) -> Vec<ServiceTraffic> {
        let Ok((counted, names)) =
            self.tables.traffic.read().and_then(|counted| Ok((counted, self.tables.names.all()?)))
        else {
            return Vec::new();
        };
        let Counted { services, others } = counted;
        let of = |(service, traffic): (ServiceId, Traffic)| {
            let labels = names.get(&service).map(labels).unwrap_or_default();
            ServiceTraffic { service, labels, traffic }
        };
        services.into_iter().chain([(ServiceId::default(), others)]).map(of).collect()
    }

    fn run_times(&self) -> BTreeMap<String, RunTime> {
        run_time::run_times(&self.pins).unwrap_or_default()
    }
}

fn labels(name: &PortName) -> ServiceLabels {
    ServiceLabels {
        namespace: name.namespace().to_owned(),
        service: name.name().to_owned(),
        port: name.port().to_owned(),
        protocol: name.protocol().map(|protocol| protocol.name().to_owned()).unwrap_or_default(),
    }
}
