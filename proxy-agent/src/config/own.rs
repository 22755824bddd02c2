//! What can be configured and kube-proxy does not have: a file of its own (`--agent-config`), whose fields are flags too.

use std::path::PathBuf;

use super::{
    section::{ConfigError, Section, document},
    values,
};
use crate::dataplane::flow_tables::FlowTableSize;

const API_VERSION: &str = "proxy-agent/v1alpha1";
const KIND: &str = "AgentConfiguration";

/// Our own settings, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// `socketLB`: whose sockets are served by the hooks of the cgroup.
    pub socket_lb: Option<SocketLb>,
    /// `kubeOvn`: whether nodePort traffic under policy Local is marked as Kube-OVN expects it.
    pub kube_ovn: Option<bool>,
    /// `hostRouting`: whether TC programs send packets of confirmed flows on by themselves, and how.
    pub host_routing: Option<HostRouting>,
    /// `devices`: names or patterns of the devices that get the TC programs.
    pub devices: Option<Vec<String>>,
    /// `metricsServices`: how many Service ports have series of their own in metrics.
    pub metrics_services: Option<u32>,
    /// `cgroupRoot`: the cgroup v2 folder whose processes are served at their sockets.
    pub cgroup_root: Option<PathBuf>,
    /// `bpffsRoot`: the folder where maps and links are pinned.
    pub bpffs_root: Option<PathBuf>,
    /// `flowTableSize`: entries of the table of confirmed flows, in each family.
    pub flow_table_size: Option<FlowTableSize>,
}

/// Whose connections are sent to a backend at the socket. All others are left to the TC programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketLb {
    /// Everybody's below the cgroup.
    #[default]
    All,
    /// Those of the node's own network namespace.
    HostNamespaceOnly,
    /// Nobody's: no program is attached to the cgroup.
    Off,
}

impl SocketLb {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "hostNamespaceOnly" => Ok(Self::HostNamespaceOnly),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is none of all, hostNamespaceOnly, off")),
        }
    }
}

/// Whether TC programs send packets of confirmed flows on by themselves, past netfilter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostRouting {
    /// They do not.
    #[default]
    Off,
    /// They send them out of the device that routing names (`bpf_redirect_neigh`).
    On,
    /// The same, and to pods past that device, too: straight to its other end (`bpf_redirect_peer`).
    Peers,
}

impl HostRouting {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match (text, values::boolean(text)) {
            ("peers", _) => Ok(Self::Peers),
            (_, Ok(true)) => Ok(Self::On),
            (_, Ok(false)) => Ok(Self::Off),
            _ => Err(format!("{text:?} is none of true, false, peers")),
        }
    }
}

impl Own {
    /// These settings, and where they say nothing those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let Self {
            socket_lb,
            kube_ovn,
            host_routing,
            devices,
            metrics_services,
            cgroup_root,
            bpffs_root,
            flow_table_size,
        } = self;
        Self {
            socket_lb: socket_lb.or(other.socket_lb),
            kube_ovn: kube_ovn.or(other.kube_ovn),
            host_routing: host_routing.or(other.host_routing),
            devices: devices.or(other.devices),
            metrics_services: metrics_services.or(other.metrics_services),
            cgroup_root: cgroup_root.or(other.cgroup_root),
            bpffs_root: bpffs_root.or(other.bpffs_root),
            flow_table_size: flow_table_size.or(other.flow_table_size),
        }
    }
}

/// Reads the text of the file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn parse(text: &str) -> Result<Own, Vec<ConfigError>> {
    document(text, API_VERSION, KIND, own).map(|(own, _)| own)
}

fn own(root: &mut Section<'_>) -> Own {
    let devices = root.texts("devices");
    Own {
        socket_lb: root.parsed("socketLB", SocketLb::parse),
        kube_ovn: root.boolean("kubeOvn"),
        host_routing: root.word_or_boolean("hostRouting", HostRouting::parse),
        devices: (!devices.is_empty()).then(|| devices.into_iter().map(str::to_owned).collect()),
        metrics_services: root
            .integer("metricsServices", 0..=i64::from(u32::MAX))
            .and_then(|number| u32::try_from(number).ok()),
        cgroup_root: root.text("cgroupRoot").map(PathBuf::from),
        bpffs_root: root.text("bpffsRoot").map(PathBuf::from),
        flow_table_size: root
            .integer("flowTableSize", i64::from(FlowTableSize::MIN)..=i64::from(FlowTableSize::MAX))
            .and_then(|entries| FlowTableSize::new(u32::try_from(entries).ok()?)),
    }
}

/// The size that a flag names.
///
/// # Errors
/// It is no number, or out of range.
pub(super) fn flow_table_size(text: &str) -> Result<FlowTableSize, String> {
    let entries = text.parse().ok().and_then(FlowTableSize::new);
    entries
        .ok_or_else(|| format!("{text:?} is not a whole number from {} to {}", FlowTableSize::MIN, FlowTableSize::MAX))
}
