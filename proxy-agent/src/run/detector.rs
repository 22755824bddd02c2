//! From the configuration to the `settings` table: how pods are told from the outside, and what is
//! masqueraded.

use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use proxy_common::{Detector, FamilySettings, Settings, SettingsFlags};
use thiserror::Error;

use crate::{
    config::{Cidrs, DetectLocal, KubeProxy},
    dataplane::devices::PodDevices,
    model::Node,
};

/// Silence after which an answered UDP flow has ended, where none is configured: the kernel's
/// `nf_conntrack_udp_timeout_stream`.
const UDP_TIMEOUT: Duration = Duration::from_mins(2);

/// Something about the detector that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DetectorWarning {
    /// No prefix at all.
    #[error(
        "no cluster CIDR is given, so nothing tells pods from the outside, and nothing sent to a clusterIP is masqueraded because of its source"
    )]
    NoClusterCidr,
    /// `NodeCIDR` without the Node, or without its podCIDRs.
    #[error(
        "Node {node}: spec.podCIDRs are not known, and detectLocalMode is NodeCIDR: until they are, nothing sent to a clusterIP is masqueraded because of its source"
    )]
    NoNodeCidr {
        /// Name of the Node.
        node: String,
    },
    /// `NodeCIDR` with podCIDRs that cannot be used.
    #[error("Node {node}: spec.podCIDRs: {reason}")]
    BadNodeCidr {
        /// Name of the Node.
        node: String,
        /// What is wrong.
        reason: String,
    },
}

/// The devices that the configuration says pods live behind.
#[must_use]
pub fn pod_devices(config: &KubeProxy) -> PodDevices {
    match (config.detect, &config.bridge_interface, &config.interface_name_prefix) {
        (DetectLocal::BridgeInterface, Some(name), _) => PodDevices::Bridge(name.clone()),
        (DetectLocal::InterfaceNamePrefix, _, Some(prefix)) => PodDevices::Prefix(prefix.clone()),
        _ => PodDevices::None,
    }
}

/// The settings for this configuration, and for what is known of the Node called `node_name`.
#[must_use]
pub fn settings(config: &KubeProxy, node_name: &str, node: Option<&Node>) -> (Settings, Option<DetectorWarning>) {
    let (v4, v6, warning) = match config.detect {
        DetectLocal::ClusterCidr => {
            let Cidrs { v4, v6 } = config.cluster_cidrs;
            // One family without a prefix is what most clusters have, and no reason to warn.
            let warning = config.cluster_cidrs.is_empty().then_some(DetectorWarning::NoClusterCidr);
            (prefix4(v4), prefix6(v6), warning)
        }
        DetectLocal::NodeCidr => {
            let texts: Vec<String> = node.iter().flat_map(|node| &node.pod_cidrs).map(ToString::to_string).collect();
            let node = || node_name.to_owned();
            match Cidrs::from_list(texts.iter().map(String::as_str)) {
                Ok(cidrs) if cidrs.is_empty() => {
                    (prefix4(None), prefix6(None), Some(DetectorWarning::NoNodeCidr { node: node() }))
                }
                Ok(Cidrs { v4, v6 }) => (prefix4(v4), prefix6(v6), None),
                Err(reason) => {
                    (prefix4(None), prefix6(None), Some(DetectorWarning::BadNodeCidr { node: node(), reason }))
                }
            }
        }
        DetectLocal::BridgeInterface | DetectLocal::InterfaceNamePrefix => (
            FamilySettings::new(Detector::Device, [0; 4], [0; 4]),
            FamilySettings::new(Detector::Device, [0; 16], [0; 16]),
            None,
        ),
    };
    let flags = if config.masquerade_all { SettingsFlags::MASQUERADE_ALL } else { SettingsFlags::NONE };
    let udp_timeout = seconds(config.conntrack.udp_stream_timeout.unwrap_or(UDP_TIMEOUT));
    let settings = Settings::new(flags, 1 << config.masquerade_bit, udp_timeout, v4, v6);
    let half_closed = config.conntrack.tcp_close_wait_timeout.map(seconds);
    let settings = half_closed.map_or(settings, |timeout| settings.with_half_closed_timeout(timeout));
    let established = config.conntrack.tcp_established_timeout.map(seconds);
    let settings = established.map_or(settings, |timeout| settings.with_established_timeout(timeout));
    (settings, warning)
}

/// Whole seconds, rounded up, so that a short timeout is not none at all.
fn seconds(timeout: Duration) -> u32 {
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn prefix4(net: Option<Ipv4Net>) -> FamilySettings<[u8; 4]> {
    net.map_or_else(FamilySettings::default, |net| {
        FamilySettings::new(Detector::Prefix, net.network().octets(), net.netmask().octets())
    })
}

fn prefix6(net: Option<Ipv6Net>) -> FamilySettings<[u8; 16]> {
    net.map_or_else(FamilySettings::default, |net| {
        FamilySettings::new(Detector::Prefix, net.network().octets(), net.netmask().octets())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Conntrack, model::ObjectName};

    fn node(pod_cidrs: &[&str]) -> Node {
        Node {
            name: ObjectName::new("", "node-a"),
            zone: None,
            pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().expect("prefix")).collect(),
            addresses: Box::new([]),
            leaving: false,
        }
    }

    #[test]
    fn a_cluster_prefix_of_one_family_is_that_familys_detector() {
        let cluster_cidrs = Cidrs { v4: Some("10.244.0.0/16".parse().expect("prefix")), v6: None };
        let config = KubeProxy { cluster_cidrs, masquerade_all: true, masquerade_bit: 15, ..KubeProxy::default() };
        let (settings, warning) = settings(&config, "node-a", None);
        assert_eq!(warning, None);
        let expected = Settings::new(
            SettingsFlags::MASQUERADE_ALL,
            0x8000,
            120,
            FamilySettings::new(Detector::Prefix, [10, 244, 0, 0], [255, 255, 0, 0]),
            FamilySettings::new(Detector::None, [0; 16], [0; 16]),
        );
        assert_eq!(settings, expected);
    }

    #[test]
    fn without_a_prefix_nothing_is_detected_and_that_is_told() {
        let (settings, warning) = settings(&KubeProxy::default(), "node-a", None);
        assert_eq!(settings.v4().detector(), Detector::None);
        assert_eq!(settings.v6().detector(), Detector::None);
        assert_eq!(settings.masquerade_mark(), 0x4000);
        assert_eq!(warning, Some(DetectorWarning::NoClusterCidr));
    }

    #[test]
    fn the_nodes_prefixes_count_once_they_are_known() {
        let config = KubeProxy { detect: DetectLocal::NodeCidr, ..KubeProxy::default() };
        for unknown in [None, Some(node(&[]))] {
            let (settings, warning) = settings(&config, "node-a", unknown.as_ref());
            assert_eq!(settings.v4().detector(), Detector::None);
            assert_eq!(warning, Some(DetectorWarning::NoNodeCidr { node: "node-a".to_owned() }));
        }
        let known = node(&["10.244.3.0/24", "fd00:3::/64"]);
        let (settings, warning) = settings(&config, "node-a", Some(&known));
        assert_eq!(warning, None);
        assert_eq!(*settings.v4(), FamilySettings::new(Detector::Prefix, [10, 244, 3, 0], [255, 255, 255, 0]));
        assert_eq!(settings.v6().detector(), Detector::Prefix);
        assert_eq!(settings.v6().prefix()[..6], [0xfd, 0, 0, 3, 0, 0]);
        assert_eq!(settings.v6().mask()[..9], [255, 255, 255, 255, 255, 255, 255, 255, 0]);
    }

    #[test]
    fn detectors_by_device_name_their_devices() {
        let bridge = KubeProxy {
            detect: DetectLocal::BridgeInterface,
            bridge_interface: Some("cni0".to_owned()),
            ..KubeProxy::default()
        };
        assert_eq!(pod_devices(&bridge), PodDevices::Bridge("cni0".to_owned()));
        let (settings, warning) = settings(&bridge, "node-a", None);
        assert_eq!((settings.v4().detector(), settings.v6().detector()), (Detector::Device, Detector::Device));
        assert_eq!(warning, None);
        let prefix = KubeProxy {
            detect: DetectLocal::InterfaceNamePrefix,
            interface_name_prefix: Some("veth".to_owned()),
            ..KubeProxy::default()
        };
        assert_eq!(pod_devices(&prefix), PodDevices::Prefix("veth".to_owned()));
        assert_eq!(pod_devices(&KubeProxy::default()), PodDevices::None);
    }

    #[test]
    fn a_timeout_is_whole_seconds_and_never_none() {
        for (configured, seconds) in [(300, 1), (1000, 1), (1001, 2), (120_000, 120)] {
            let timeout = Some(Duration::from_millis(configured));
            let conntrack = Conntrack {
                udp_stream_timeout: timeout,
                tcp_close_wait_timeout: timeout,
                tcp_established_timeout: timeout,
                ..Conntrack::default()
            };
            let config = KubeProxy { conntrack, ..KubeProxy::default() };
            let (settings, _) = settings(&config, "node-a", None);
            assert_eq!(settings.udp_timeout(), seconds, "{configured} ms");
            assert_eq!(settings.half_closed_timeout(), seconds, "{configured} ms");
            assert_eq!(settings.established_timeout(), seconds, "{configured} ms");
        }
    }
}
