//! The table of who gets which endpoints and who is masqueraded, row by row.

use proxy_common::{Detector, FlowFlags, ServiceFlags, SettingsFlags};
use proxy_ebpf::policy::{Client, List, Route, route};

/// Where a client is, and what can be known of it.
#[derive(Clone, Copy, Debug)]
struct Origin {
    detector: Detector,
    is_pod: bool,
    is_node: bool,
}

impl Client for Origin {
    fn detector(&self) -> Detector {
        self.detector
    }

    fn is_pod(&self) -> bool {
        assert_ne!(self.detector, Detector::None, "nobody is to be asked who cannot tell");
        self.is_pod
    }

    fn is_node(&self) -> bool {
        self.is_node
    }
}

const POD: Origin = Origin { detector: Detector::Prefix, is_pod: true, is_node: false };
const NODE: Origin = Origin { detector: Detector::Prefix, is_pod: false, is_node: true };
/// An address of the node within the pods' prefix, as that of a bridge: the detector comes first.
const BRIDGE: Origin = Origin { detector: Detector::Prefix, is_pod: true, is_node: true };
const OUTSIDE: Origin = Origin { detector: Detector::Device, is_pod: false, is_node: false };

const INTERNAL: ServiceFlags = ServiceFlags::NONE;
const EXTERNAL: ServiceFlags = ServiceFlags::EXTERNAL;
const NODE_PORT: ServiceFlags = ServiceFlags::EXTERNAL.with(ServiceFlags::NODE_PORT);

const MASQUERADE: FlowFlags = FlowFlags::MASQUERADE;
const NOTHING: FlowFlags = FlowFlags::NONE;

#[track_caller]
fn check(frontend: ServiceFlags, settings: SettingsFlags, client: Origin, list: List, flags: FlowFlags) {
    // What else a frontend may have changes no row.
    for extra in [ServiceFlags::NONE, ServiceFlags::AFFINITY, ServiceFlags::SOURCE_RANGES, ServiceFlags::NODE_ALLOWED] {
        assert_eq!(route(frontend.with(extra), settings, &client), Route { list, flags }, "{frontend:?} {client:?}");
    }
}

#[test]
fn a_cluster_ip_is_masqueraded_for_those_who_are_no_pods() {
    for (policy, list) in [(ServiceFlags::NONE, List::Cluster), (ServiceFlags::LOCAL, List::Local)] {
        let frontend = INTERNAL.with(policy);
        for (client, flags) in [(POD, NOTHING), (BRIDGE, NOTHING), (NODE, MASQUERADE), (OUTSIDE, MASQUERADE)] {
            check(frontend, SettingsFlags::NONE, client, list, flags);
            check(frontend, SettingsFlags::MASQUERADE_ALL, client, list, MASQUERADE);
        }
    }
}

/// A client of whom nothing can be told without a detector.
#[derive(Clone, Copy)]
struct Undetected {
    is_node: bool,
}

impl Client for Undetected {
    fn detector(&self) -> Detector {
        Detector::None
    }

    fn is_pod(&self) -> bool {
        false
    }

    fn is_node(&self) -> bool {
        self.is_node
    }
}

#[test]
fn without_a_detector_no_source_is_masqueraded_and_pods_are_outside() {
    for is_node in [true, false] {
        let client = Undetected { is_node };
        let internal = route(INTERNAL, SettingsFlags::NONE, &client);
        assert_eq!(internal, Route { list: List::Cluster, flags: NOTHING });
        let internal = route(INTERNAL, SettingsFlags::MASQUERADE_ALL, &client);
        assert_eq!(internal, Route { list: List::Cluster, flags: MASQUERADE });
    }
    let external = EXTERNAL.with(ServiceFlags::LOCAL);
    let route = |is_node| route(external, SettingsFlags::NONE, &Undetected { is_node });
    assert_eq!(route(true), Route { list: List::Cluster, flags: MASQUERADE });
    assert_eq!(route(false), Route { list: List::Local, flags: NOTHING });
}

#[test]
fn external_frontends_are_masqueraded_under_policy_cluster() {
    for frontend in [EXTERNAL, NODE_PORT] {
        for settings in [SettingsFlags::NONE, SettingsFlags::MASQUERADE_ALL, SettingsFlags::HOST_NAMESPACE_ONLY] {
            for client in [POD, BRIDGE, NODE, OUTSIDE] {
                check(frontend, settings, client, List::Cluster, MASQUERADE);
            }
        }
    }
}

#[test]
fn policy_local_keeps_the_source_of_those_outside_and_is_not_for_the_others() {
    for settings in [SettingsFlags::NONE, SettingsFlags::MASQUERADE_ALL] {
        for (frontend, outside) in [(EXTERNAL, NOTHING), (NODE_PORT, FlowFlags::LOCAL_NODE_PORT)] {
            let frontend = frontend.with(ServiceFlags::LOCAL);
            check(frontend, settings, OUTSIDE, List::Local, outside);
            check(frontend, settings, POD, List::Cluster, NOTHING);
            check(frontend, settings, BRIDGE, List::Cluster, NOTHING);
            check(frontend, settings, NODE, List::Cluster, MASQUERADE);
        }
    }
}
