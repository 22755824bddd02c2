//! A Node as far as it concerns the program that runs on it.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Kind, ObjectName, Parsed, Reason, address, parse::Problems};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler is about to remove the node.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name; the namespace is empty.
    pub name: ObjectName,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
    /// `spec.podCIDRs`, host bits cleared.
    pub pod_cidrs: Box<[IpNet]>,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`, internal ones first.
    pub addresses: Box<[IpAddr]>,
    /// Whether the Node is being deleted, or tainted `ToBeDeletedByClusterAutoscaler`.
    pub leaving: bool,
}

impl Node {
    /// Reads the API's object.
    #[must_use]
    pub fn from_api(node: &api::Node) -> Parsed<Self> {
        let api::Node { metadata, spec, status } = node;
        let name = ObjectName::new("", metadata.name.as_deref().unwrap_or_default());
        let mut problems = Problems::new(Kind::Node, name.clone());
        if name.name().is_empty() {
            problems.push("metadata.name", Reason::Missing);
            return problems.finish(None);
        }
        let zone = metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        let taints = spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let leaving =
            metadata.deletion_timestamp.is_some() || taints.into_iter().any(|taint| taint.key == TO_BE_DELETED_TAINT);
        let pod_cidrs = spec.as_ref().map(|spec| pod_cidrs(spec, &mut problems)).unwrap_or_default();
        let addresses = status.as_ref().map(|status| addresses(status, &mut problems)).unwrap_or_default();
        problems.finish(Some(Self {
            name,
            zone: zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
            pod_cidrs,
            addresses,
            leaving,
        }))
    }
}

fn pod_cidrs(spec: &api::NodeSpec, problems: &mut Problems) -> Box<[IpNet]> {
    let several = spec.pod_cidrs.as_deref().unwrap_or_default();
    let single = spec.pod_cidr.as_ref().filter(|text| several.is_empty() && !text.is_empty());
    let single = single.map(|text| ("spec.podCIDR".to_owned(), text));
    let several = several.iter().enumerate().map(|(index, text)| (format!("spec.podCIDRs[{index}]"), text));
    let texts = single.into_iter().chain(several);
    texts.filter_map(|(field, text)| problems.keep(address::prefix(text), || field)).collect()
}

fn addresses(status: &api::NodeStatus, problems: &mut Problems) -> Box<[IpAddr]> {
    let mut addresses = Vec::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (index, api::NodeAddress { address, type_ }) in status.addresses.iter().flatten().enumerate() {
            if type_ != wanted {
                continue;
            }
            let field = || format!("status.addresses[{index}].address");
            let Some(address) = problems.keep(address::frontend_address(address), field) else { continue };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses.into()
}
