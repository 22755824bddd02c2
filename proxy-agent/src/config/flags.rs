//! The flags of `proxy-agent run`, named as kube-proxy names them.

#![expect(clippy::doc_markdown, reason = "the comments of flags are shown as help, where backticks would be noise")]

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use super::{
    fields::{FieldFlags, as_flag, place},
    file::configuration,
    kube_proxy::KubeProxy,
    own::{HostRouting, Own, SocketLb, flow_table_size},
    section::{ConfigError, Section},
    values,
};
use crate::yaml::Node;

/// Flags of `proxy-agent run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunFlags {
    /// KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1). With it, the flags marked (*) are ignored.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the Kubernetes API server; overrides the one in the kubeconfig.
    #[arg(long, value_name = "URL", conflicts_with = "manifests")]
    pub master: Option<String>,
    /// Folder of Services, EndpointSlices and Nodes as YAML or JSON, instead of the Kubernetes API.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Name of this node. Default: $NODE_NAME, or else the host's name in lower case.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// File with settings that kube-proxy does not have (proxy-agent/v1alpha1). The flags below go before it.
    #[arg(long, value_name = "FILE")]
    pub agent_config: Option<PathBuf>,
    /// Whose connections are sent to a backend at the socket: `all` (default), `hostNamespaceOnly`, `off`.
    #[arg(long, value_name = "WHOSE")]
    pub socket_lb: Option<String>,
    /// Mark nodePort traffic under policy Local for Kube-OVN (bit 0x80000).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub kube_ovn: Option<String>,
    /// Let TC programs send packets of established flows that keep their source straight on, past netfilter (Linux 5.12); with `peers`, to pods
    /// also past their devices on the node.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL|peers")]
    pub host_routing: Option<String>,
    /// cgroup v2 folder whose processes are served at their sockets. Default: the root of the cgroup v2 mount.
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Folder on a BPF file system where maps and links are pinned. Default: /sys/fs/bpf/proxy-agent.
    #[arg(long, value_name = "DIR")]
    pub bpffs_root: Option<PathBuf>,
    /// Entries of the table of confirmed flows, in each family; a connection has two. Default: one for every 64 KiB of memory.
    #[arg(long, value_name = "ENTRIES")]
    pub flow_table_size: Option<String>,
    /// Network devices to serve, separated by commas. Default: all that qualify.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub devices: Option<Vec<String>>,
    /// How many Service ports have series of their own in metrics; all others share one. Default: 200.
    #[arg(long, value_name = "N")]
    pub metrics_services: Option<String>,
    /// Write the whole configuration that is in effect to this file, as v1alpha1, and end.
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove all programs, tables and rules of the agent from this node, and end.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cleanup: Option<String>,
    /// Do what takes more rights than running does: mount file systems and set the limits of conntrack; then end.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub init_only: Option<String>,
    /// Port for /healthz and /livez where the address has none, 0 for no such server (*). Deprecated in kube-proxy.
    #[arg(long, value_name = "PORT")]
    pub healthz_port: Option<String>,
    /// Port for /metrics and /proxyMode where the address has none, 0 for no such server (*). Deprecated in kube-proxy.
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<String>,
    /// kube-proxy's flags that stand for fields of its file.
    #[command(flatten)]
    pub fields: FieldFlags,
    /// Log verbosity as in Kubernetes: 4 shows each object, 6 everything. RUST_LOG refines it.
    #[arg(short = 'v', long = "v", value_name = "LEVEL")]
    pub verbosity: Option<String>,
}

/// What `proxy-agent run` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the agent.
    Run,
    /// `--write-config-to`.
    WriteConfig,
    /// `--cleanup`.
    CleanUp,
    /// `--init-only`.
    Initialize,
}

impl RunFlags {
    /// Those flags that a configuration file replaces, as far as they were given.
    #[must_use]
    pub fn replaced_by_file(&self) -> Vec<String> {
        let ports = [("healthz-port", &self.healthz_port), ("metrics-port", &self.metrics_port)];
        let ports = ports.into_iter().filter_map(|(name, port)| port.as_ref().map(|_| name));
        self.fields.given().chain(ports).map(|name| format!("--{name}")).collect()
    }

    /// What to do. If several things are asked for, the first of them in kube-proxy's order.
    ///
    /// # Errors
    /// A switch is neither true nor false.
    pub fn action(&self) -> Result<Action, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut read = Reader { errors: &mut errors };
        let cleanup = read.value("cleanup", self.cleanup.as_ref(), values::boolean);
        let init_only = read.value("init-only", self.init_only.as_ref(), values::boolean);
        match (self.write_config_to.is_some(), cleanup, init_only) {
            _ if !errors.is_empty() => Err(errors),
            (true, ..) => Ok(Action::WriteConfig),
            (false, Some(true), _) => Ok(Action::CleanUp),
            (false, _, Some(true)) => Ok(Action::Initialize),
            (false, ..) => Ok(Action::Run),
        }
    }

    /// The verbosity that the flag asks for, which counts with a file too.
    ///
    /// # Errors
    /// It is no number.
    pub fn verbosity(&self) -> Result<Option<u8>, ConfigError> {
        let level = self.verbosity.as_deref().map(values::verbosity).transpose();
        level.map_err(|reason| ConfigError::Flag { flag: "v", reason })
    }

    /// What the flags say of our own settings; a file does not replace it.
    ///
    /// # Errors
    /// Every flag with a wrong value.
    pub fn own(&self) -> Result<Own, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut read = Reader { errors: &mut errors };
        let own = Own {
            socket_lb: read.value("socket-lb", self.socket_lb.as_ref(), SocketLb::parse),
            kube_ovn: read.value("kube-ovn", self.kube_ovn.as_ref(), values::boolean),
            host_routing: read.value("host-routing", self.host_routing.as_ref(), HostRouting::parse),
            devices: self.devices.clone(),
            metrics_services: read.value("metrics-services", self.metrics_services.as_ref(), values::count),
            cgroup_root: self.cgroup_root.clone(),
            bpffs_root: self.bpffs_root.clone(),
            flow_table_size: read.value("flow-table-size", self.flow_table_size.as_ref(), flow_table_size),
        };
        if errors.is_empty() { Ok(own) } else { Err(errors) }
    }

    /// What the flags say of kube-proxy's configuration, used when there is no file.
    ///
    /// # Errors
    /// Every flag with a wrong value.
    pub fn kube_proxy(&self) -> Result<KubeProxy, Vec<ConfigError>> {
        self.kube_proxy_and_fields().map(|(config, _)| config)
    }

    /// The same, and the fields that the flags stand for.
    pub(super) fn kube_proxy_and_fields(&self) -> Result<(KubeProxy, Node), Vec<ConfigError>> {
        let (tree, mut errors) = self.fields.tree();
        let mut wrong = Vec::new();
        let mut config = Section::read(&tree, &mut wrong, configuration);
        errors.extend(wrong.into_iter().map(as_flag));
        errors.sort_by_key(place);

        let mut read = Reader { errors: &mut errors };
        config.verbosity = read.value("v", self.verbosity.as_ref(), values::verbosity);
        let healthz_port = read.value("healthz-port", self.healthz_port.as_ref(), port);
        let metrics_port = read.value("metrics-port", self.metrics_port.as_ref(), port);
        config.healthz = server(config.healthz, self.fields.get("healthz-bind-address"), healthz_port);
        config.metrics = server(config.metrics, self.fields.get("metrics-bind-address"), metrics_port);
        if errors.is_empty() { Ok((config, tree)) } else { Err(errors) }
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is not a port"))
}

/// Where a server listens: nowhere if its address is given as empty, or its port as 0; the port counts otherwise only for an
/// address without one.
fn server(address: Option<SocketAddr>, given: Option<&str>, port: Option<u16>) -> Option<SocketAddr> {
    let is_bare = given.is_some_and(|text| text.parse::<IpAddr>().is_ok());
    match (address, given, port) {
        (_, Some(""), _) | (_, _, Some(0)) => None,
        (Some(address), _, Some(port)) if is_bare => Some(SocketAddr::new(address.ip(), port)),
        (address, ..) => address,
    }
}

struct Reader<'a> {
    errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn value<T>(
        &mut self,
        flag: &'static str,
        text: Option<&String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text?) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.errors.push(ConfigError::Flag { flag, reason });
                None
            }
        }
    }
}
