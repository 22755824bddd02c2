//! kube-proxy's configuration as far as it has an effect here, with kube-proxy's defaults.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::values::{Cidrs, NodePortAddresses};

/// Port of `/healthz`.
pub(super) const HEALTHZ_PORT: u16 = 10256;
/// Port of `/metrics`.
pub(super) const METRICS_PORT: u16 = 10249;

/// What the file `--config` names asks for, or the flags of the same meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct KubeProxy {
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `clientConnection.qps`: requests a second that the API client keeps to.
    pub qps: f64,
    /// `clientConnection.burst`: requests the API client may make at once.
    pub burst: u32,
    /// `hostnameOverride`.
    pub hostname_override: Option<String>,
    /// `healthzBindAddress`; `None` if there shall be no such server.
    pub healthz: Option<SocketAddr>,
    /// `metricsBindAddress`; `None` if there shall be no such server.
    pub metrics: Option<SocketAddr>,
    /// `bindAddress`, unless it is unspecified: the node's primary address of its family.
    pub bind_address: Option<IpAddr>,
    /// `bindAddressHardFail`: a server that cannot listen ends the agent.
    pub bind_address_hard_fail: bool,
    /// `mode`.
    pub mode: Mode,
    /// `nodePortAddresses`.
    pub node_port_addresses: NodePortAddresses,
    /// `iptables.localhostNodePorts`: whether the node's own processes reach nodePorts on loopback addresses.
    pub localhost_node_ports: bool,
    /// `detectLocalMode`.
    pub detect: DetectLocal,
    /// `clusterCIDR`.
    pub cluster_cidrs: Cidrs,
    /// `detectLocal.bridgeInterface`.
    pub bridge_interface: Option<String>,
    /// `detectLocal.interfaceNamePrefix`.
    pub interface_name_prefix: Option<String>,
    /// The mode's `masqueradeBit`, 0 to 31.
    pub masquerade_bit: u8,
    /// The mode's `masqueradeAll`.
    pub masquerade_all: bool,
    /// The mode's `syncPeriod`.
    pub sync_period: Duration,
    /// `oomScoreAdj`, -1000 to 1000.
    pub oom_score_adj: i16,
    /// `conntrack`.
    pub conntrack: Conntrack,
    /// `logging.verbosity`.
    pub verbosity: Option<u8>,
}

impl KubeProxy {
    /// The same, but for [`Conntrack::tcp_be_liberal`], which is on.
    pub(super) const fn with_liberal_conntrack(mut self) -> Self {
        self.conntrack.tcp_be_liberal = true;
        self
    }
}

/// kube-proxy's `conntrack`: limits and timeouts of the kernel's connection tracking. `None`: left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// `maxPerCore`: connections for each CPU; 0: the limit is left as it is.
    pub max_per_core: u32,
    /// `min`: connections at least.
    pub min: u32,
    /// `tcpEstablishedTimeout`: idle time of TCP connections.
    pub tcp_established_timeout: Option<Duration>,
    /// `tcpCloseWaitTimeout`: idle time of TCP connections that one side has closed.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// `tcpBeLiberal`: whether segments outside the window are tracked.
    pub tcp_be_liberal: bool,
    /// `udpTimeout`: silence after which an unanswered UDP flow has ended.
    pub udp_timeout: Option<Duration>,
    /// `udpStreamTimeout`: silence after which an answered UDP flow has ended.
    pub udp_stream_timeout: Option<Duration>,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: 32 * 1024,
            min: 128 * 1024,
            tcp_established_timeout: Some(Duration::from_hours(24)),
            tcp_close_wait_timeout: Some(Duration::from_hours(1)),
            tcp_be_liberal: false,
            udp_timeout: None,
            udp_stream_timeout: None,
        }
    }
}

/// kube-proxy's `mode`. There is only one here; it decides which section of the file counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// None given.
    #[default]
    Unset,
    /// `iptables`.
    Iptables,
    /// `ipvs`.
    Ipvs,
    /// `nftables`.
    Nftables,
}

/// kube-proxy's `detectLocalMode`: how pods of this cluster are told from the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's prefix.
    #[default]
    ClusterCidr,
    /// By the node's prefix.
    NodeCidr,
    /// By the bridge that packets come from.
    BridgeInterface,
    /// By the beginning of the name of the device that packets come from.
    InterfaceNamePrefix,
}

impl Default for KubeProxy {
    fn default() -> Self {
        let [healthz, metrics] = default_addresses(Ipv4Addr::UNSPECIFIED.into());
        Self {
            kubeconfig: None,
            qps: 5.0,
            burst: 10,
            hostname_override: None,
            healthz: Some(healthz),
            metrics: Some(metrics),
            bind_address: None,
            bind_address_hard_fail: false,
            mode: Mode::default(),
            node_port_addresses: NodePortAddresses::default(),
            localhost_node_ports: true,
            detect: DetectLocal::default(),
            cluster_cidrs: Cidrs::default(),
            bridge_interface: None,
            interface_name_prefix: None,
            masquerade_bit: 14,
            masquerade_all: false,
            sync_period: Duration::from_secs(30),
            oom_score_adj: -999,
            conntrack: Conntrack::default(),
            verbosity: None,
        }
    }
}

impl Mode {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Unset),
            "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            "nftables" => Ok(Self::Nftables),
            _ => Err(format!("{text:?} is none of iptables, ipvs, nftables")),
        }
    }

    /// The mode as kube-proxy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unset => "",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }
}

impl DetectLocal {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            _ => Err(format!("{text:?} is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix")),
        }
    }
}

/// Where `/healthz` and `/metrics` listen by default, for a `bindAddress`.
pub(super) fn default_addresses(bind: IpAddr) -> [SocketAddr; 2] {
    let (everywhere, loopback): (IpAddr, IpAddr) = match bind {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
    };
    [SocketAddr::new(everywhere, HEALTHZ_PORT), SocketAddr::new(loopback, METRICS_PORT)]
}
