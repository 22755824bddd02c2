//! What is so on this node.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use crate::{
    config::{Config, RunFlags},
    dataplane::{
        self,
        features::{FeatureError, Features},
        lock,
        mounts::{self, MountError},
        nft::{self, NftError},
        others,
    },
};

/// Everything that findings follow from.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) features: Result<Features, FeatureError>,
    /// Lines that say what is wrong with the configuration, or the parts of it that matter here.
    pub(super) config: Result<Servers, Vec<String>>,
    /// Where cgroup v2 is mounted.
    pub(super) cgroup2: Result<bool, MountError>,
    /// Whether the kernel has `nf_tables`.
    pub(super) nf_tables: Result<bool, NftError>,
    /// `net.ipv4.ip_forward`, if it can be read.
    pub(super) forwarding: Option<bool>,
    /// Process ids of kube-proxys.
    pub(super) kube_proxies: Vec<u32>,
    /// What kube-proxy left in the kernel.
    pub(super) rules: Vec<String>,
    /// Names of programs of others that serve Services.
    pub(super) programs: io::Result<Vec<String>>,
    /// Process id of an agent that runs already.
    pub(super) agent: Option<u32>,
}

/// What is to listen where.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// What, where, and what the system says if that is not possible.
    pub(super) listening: Vec<(&'static str, SocketAddr, Option<io::Error>)>,
    /// Fields or flags that mean nothing here.
    pub(super) without_effect: Vec<String>,
}

impl Facts {
    /// Looks at the node.
    pub(super) fn gather(flags: &RunFlags) -> Self {
        let config = Config::load(flags);
        let agent = config.as_ref().ok().and_then(|config| lock::holder(&config.bpffs_root).ok().flatten());
        Self {
            features: Features::probe(),
            config: config
                .map(|config| servers(&config))
                .map_err(|errors| errors.to_string().lines().map(str::to_owned).collect()),
            cgroup2: mounts::has_cgroup2(),
            nf_tables: nft::presence().map(|presence| presence != nft::Presence::Unsupported),
            forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").ok().map(|text| text.trim() == "1"),
            kube_proxies: processes("kube-proxy"),
            rules: rules(),
            programs: others::service_programs(),
            agent,
        }
    }
}

fn servers(config: &Config) -> Servers {
    let servers = [("health", config.kube_proxy.healthz), ("metrics", config.kube_proxy.metrics)];
    let listening = servers.into_iter().filter_map(|(what, address)| {
        let address = address?;
        // Whatever could listen there now could also in a moment; nothing is accepted.
        Some((what, address, TcpListener::bind(address).err()))
    });
    Servers { listening: listening.collect(), without_effect: config.without_effect.clone() }
}

/// Processes whose command has this name (`/proc/PID/comm`), as far as they can be seen.
fn processes(name: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let id = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let id = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read_to_string(entry.path().join("comm")).ok()?;
        (command.trim_end() == name).then_some(id)
    };
    entries.filter_map(id).collect()
}

/// What kube-proxy's modes leave in the kernel.
fn rules() -> Vec<String> {
    let mut found: Vec<String> = dataplane::kube_proxy_rules().unwrap_or_default();
    if dataplane::virtual_servers() > 0 {
        found.push("IPVS services".to_owned());
    }
    if Path::new("/sys/class/net/kube-ipvs0").exists() {
        found.push("the device kube-ipvs0".to_owned());
    }
    found
}
