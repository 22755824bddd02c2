//! The flags of `proxy-agent run`, named as kube-proxy names them.

#![expect(clippy::doc_markdown, reason = "the comments of flags are shown as help, where backticks would be noise")]

use std::path::PathBuf;

use clap::Args;

use super::{
    kube_proxy::{DetectLocal, HEALTHZ_PORT, KubeProxy, METRICS_PORT},
    own::{Own, SocketLb},
    section::ConfigError,
    values::{self, NodePortAddresses},
};

/// Flags of `proxy-agent run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunFlags {
    /// KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1). With it, the flags marked (*) are ignored.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kubeconfig file (*). Without it and --manifests: the pod's service account.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the Kubernetes API server; overrides the one in the kubeconfig.
    #[arg(long, value_name = "URL", conflicts_with = "manifests")]
    pub master: Option<String>,
    /// Folder of Services, EndpointSlices and Nodes as YAML or JSON, instead of the Kubernetes API.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Name of this node. Default: $NODE_NAME, or else the host's name in lower case.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Prefixes of the pods' addresses, at most one for each family, separated by a comma (*).
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// How pods are told from the outside (*): ClusterCIDR (default), NodeCIDR, BridgeInterface, InterfaceNamePrefix.
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// Bridge of the pods, for --detect-local-mode BridgeInterface (*).
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// Beginning of the names of the pods' devices, for --detect-local-mode InterfaceNamePrefix (*).
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Masquerade everything that is sent to a clusterIP and translated by a TC program (*).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub masquerade_all: Option<String>,
    /// Bit of the packet mark that asks for masquerading, 0 to 31 (*). Default: 14.
    #[arg(long, value_name = "BIT")]
    pub iptables_masquerade_bit: Option<String>,
    /// On which of the node's addresses nodePorts are served, prefixes separated by commas, or `primary` (*). Default: all.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Whether the node's own processes reach nodePorts on loopback addresses (*). Default: true.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub iptables_localhost_nodeports: Option<String>,
    /// Where /healthz and /livez listen (*). Empty: nowhere. Default: 0.0.0.0:10256.
    #[arg(long, value_name = "ADDRESS")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics and /proxyMode listen (*). Empty: nowhere. Default: 127.0.0.1:10249.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_bind_address: Option<String>,
    /// File with settings that kube-proxy does not have (proxy-agent/v1alpha1). The flags below go before it.
    #[arg(long, value_name = "FILE")]
    pub agent_config: Option<PathBuf>,
    /// Whose connections are sent to a backend at the socket: `all` (default), `hostNamespaceOnly`, `off`.
    #[arg(long, value_name = "WHOSE")]
    pub socket_lb: Option<String>,
    /// Mark nodePort traffic under policy Local for Kube-OVN (bit 0x80000).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub kube_ovn: Option<String>,
    /// cgroup v2 folder whose processes are served at their sockets. Default: the root of the cgroup v2 mount.
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Folder on a BPF file system where maps and links are pinned. Default: /sys/fs/bpf/proxy-agent.
    #[arg(long, value_name = "DIR")]
    pub bpffs_root: Option<PathBuf>,
    /// Network devices to serve, separated by commas. Default: all that qualify.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub devices: Option<Vec<String>>,
    /// Log verbosity as in Kubernetes: 4 shows each object, 6 everything. RUST_LOG refines it.
    #[arg(short = 'v', long = "v", value_name = "LEVEL")]
    pub verbosity: Option<String>,
}

impl RunFlags {
    /// Those flags that a configuration file replaces, as far as they were given.
    #[must_use]
    pub fn replaced_by_file(&self) -> Vec<&'static str> {
        [
            ("--kubeconfig", self.kubeconfig.is_some()),
            ("--cluster-cidr", self.cluster_cidr.is_some()),
            ("--detect-local-mode", self.detect_local_mode.is_some()),
            ("--pod-bridge-interface", self.pod_bridge_interface.is_some()),
            ("--pod-interface-name-prefix", self.pod_interface_name_prefix.is_some()),
            ("--masquerade-all", self.masquerade_all.is_some()),
            ("--iptables-masquerade-bit", self.iptables_masquerade_bit.is_some()),
            ("--nodeport-addresses", self.nodeport_addresses.is_some()),
            ("--iptables-localhost-nodeports", self.iptables_localhost_nodeports.is_some()),
            ("--healthz-bind-address", self.healthz_bind_address.is_some()),
            ("--metrics-bind-address", self.metrics_bind_address.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
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
            devices: self.devices.clone(),
            cgroup_root: self.cgroup_root.clone(),
            bpffs_root: self.bpffs_root.clone(),
        };
        if errors.is_empty() { Ok(own) } else { Err(errors) }
    }

    /// What the flags say of kube-proxy's configuration, used when there is no file.
    ///
    /// # Errors
    /// Every flag with a wrong value.
    pub fn kube_proxy(&self) -> Result<KubeProxy, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut read = Reader { errors: &mut errors };
        let defaults = KubeProxy::default();
        let bit = |text: &str| match text.parse::<u8>() {
            Ok(bit @ 0..=31) => Ok(bit),
            _ => Err(format!("{text:?} is not a whole number from 0 to 31")),
        };
        let listen =
            |port| move |text: &str| if text.is_empty() { Ok(None) } else { values::listen(text, port).map(Some) };
        let detect = read.value("detect-local-mode", self.detect_local_mode.as_ref(), DetectLocal::parse);
        let node_port_addresses = NodePortAddresses::from_list(self.nodeport_addresses.as_deref().unwrap_or_default());
        let config = KubeProxy {
            kubeconfig: self.kubeconfig.clone(),
            node_port_addresses: node_port_addresses.unwrap_or_else(|reasons| {
                for reason in reasons {
                    read.wrong("nodeport-addresses", reason);
                }
                defaults.node_port_addresses.clone()
            }),
            localhost_node_ports: read
                .value("iptables-localhost-nodeports", self.iptables_localhost_nodeports.as_ref(), values::boolean)
                .unwrap_or(defaults.localhost_node_ports),
            detect: detect.unwrap_or_default(),
            cluster_cidrs: read.value("cluster-cidr", self.cluster_cidr.as_ref(), values::cidrs).unwrap_or_default(),
            bridge_interface: read.value("pod-bridge-interface", self.pod_bridge_interface.as_ref(), values::device),
            interface_name_prefix: read.value(
                "pod-interface-name-prefix",
                self.pod_interface_name_prefix.as_ref(),
                values::device,
            ),
            masquerade_all: read
                .value("masquerade-all", self.masquerade_all.as_ref(), values::boolean)
                .unwrap_or(defaults.masquerade_all),
            masquerade_bit: read
                .value("iptables-masquerade-bit", self.iptables_masquerade_bit.as_ref(), bit)
                .unwrap_or(defaults.masquerade_bit),
            healthz: read
                .value("healthz-bind-address", self.healthz_bind_address.as_ref(), listen(HEALTHZ_PORT))
                .unwrap_or(defaults.healthz),
            metrics: read
                .value("metrics-bind-address", self.metrics_bind_address.as_ref(), listen(METRICS_PORT))
                .unwrap_or(defaults.metrics),
            verbosity: read.value("v", self.verbosity.as_ref(), values::verbosity),
            ..defaults
        };
        match config.detect {
            DetectLocal::BridgeInterface if self.pod_bridge_interface.is_none() => {
                read.wrong("detect-local-mode", "BridgeInterface needs --pod-bridge-interface");
            }
            DetectLocal::InterfaceNamePrefix if self.pod_interface_name_prefix.is_none() => {
                read.wrong("detect-local-mode", "InterfaceNamePrefix needs --pod-interface-name-prefix");
            }
            _ => {}
        }
        if errors.is_empty() { Ok(config) } else { Err(errors) }
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
                self.wrong(flag, reason);
                None
            }
        }
    }

    fn wrong(&mut self, flag: &'static str, reason: impl Into<String>) {
        self.errors.push(ConfigError::Flag { flag, reason: reason.into() });
    }
}
