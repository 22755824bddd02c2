//! Which endpoints of a Service port a node uses.
//!
//! The rules of kube-proxy's `pkg/proxy/topology.go`: terminating endpoints after KEP-1669, hints
//! after KEP-2433 and KEP-3015. Pure; knows endpoints by their state alone.

use crate::model::{Conditions, Hints};

/// Where the choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Zone of the node, if it has one.
    pub zone: Option<&'a str>,
}

/// An endpoint of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// State.
    pub conditions: Conditions,
    /// Whether it is on this node.
    pub local: bool,
    /// For whom it is meant.
    pub hints: Option<&'a Hints>,
}

/// The rules that hold for the endpoints of one Service port at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    cluster: ClusterRule<'a>,
    local: LocalRule,
}

/// Which endpoints the cluster list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClusterRule<'a> {
    Ready,
    ReadyForNode(&'a str),
    ReadyForZone(&'a str),
    ServingAndTerminating,
}

/// Which of this node's endpoints the local list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LocalRule {
    Ready,
    ServingAndTerminating,
}

impl<'a> Choice<'a> {
    /// The rules for a Service port that has these endpoints and no others.
    pub fn among<'c>(candidates: impl Iterator<Item = Candidate<'c>>, place: Place<'a>) -> Self {
        let mut seen = Seen::default();
        for candidate in candidates.filter(|candidate| candidate.conditions.ready) {
            seen.ready(candidate, place);
        }
        let cluster = match (seen, place.zone) {
            (Seen { any: false, .. }, _) => ClusterRule::ServingAndTerminating,
            (Seen { without_node_hint: false, for_node: true, .. }, _) => ClusterRule::ReadyForNode(place.node),
            (Seen { without_zone_hint: false, for_zone: true, .. }, Some(zone)) => ClusterRule::ReadyForZone(zone),
            _ => ClusterRule::Ready,
        };
        let local = if seen.local { LocalRule::Ready } else { LocalRule::ServingAndTerminating };
        Self { cluster, local }
    }

    /// Whether the endpoint is among those for traffic policy `Cluster`.
    #[must_use]
    pub fn is_in_cluster_list(&self, candidate: Candidate<'_>) -> bool {
        let Candidate { conditions, local: _, hints } = candidate;
        match self.cluster {
            ClusterRule::Ready => conditions.ready,
            ClusterRule::ReadyForNode(node) => conditions.ready && is_for_node(hints, node),
            ClusterRule::ReadyForZone(zone) => conditions.ready && is_for_zone(hints, zone),
            ClusterRule::ServingAndTerminating => conditions.is_serving_and_terminating(),
        }
    }

    /// Whether the endpoint is among those for traffic policy `Local`.
    #[must_use]
    pub fn is_in_local_list(&self, candidate: Candidate<'_>) -> bool {
        let Candidate { conditions, local, hints: _ } = candidate;
        local
            && match self.local {
                LocalRule::Ready => conditions.ready,
                LocalRule::ServingAndTerminating => conditions.is_serving_and_terminating(),
            }
    }
}

/// What the ready endpoints have in common.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, gathered in one pass")]
struct Seen {
    any: bool,
    local: bool,
    without_node_hint: bool,
    for_node: bool,
    without_zone_hint: bool,
    for_zone: bool,
}

impl Seen {
    fn ready(&mut self, candidate: Candidate<'_>, place: Place<'_>) {
        let Candidate { conditions: _, local, hints } = candidate;
        self.any = true;
        self.local |= local;
        self.without_node_hint |= hints.is_none_or(|hints| hints.nodes.is_empty());
        self.without_zone_hint |= hints.is_none_or(|hints| hints.zones.is_empty());
        self.for_node |= is_for_node(hints, place.node);
        self.for_zone |= place.zone.is_some_and(|zone| is_for_zone(hints, zone));
    }
}

fn is_for_node(hints: Option<&Hints>, node: &str) -> bool {
    hints.is_some_and(|hints| hints.nodes.iter().any(|hint| **hint == *node))
}

fn is_for_zone(hints: Option<&Hints>, zone: &str) -> bool {
    hints.is_some_and(|hints| hints.zones.iter().any(|hint| **hint == *zone))
}
