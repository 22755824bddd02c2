//! What a client may use: from a frontend's flags and the client's origin to a list of backends and what is done to
//! the packets.
//!
//! This is the table of what kube-proxy does with clusterIPs, external addresses and nodePorts under both traffic
//! policies. Knows nothing of packets, sockets or tables.

use proxy_common::{Backend, Detector, DropReason, FlowFlags, ServiceEntry, ServiceFlags, SettingsFlags, SlotRange};

/// Where a connection comes from. Asked only as far as it matters.
pub trait Client {
    /// How pods are told from others.
    fn detector(&self) -> Detector;

    /// Whether the client is a pod of this cluster, as far as the detector can tell.
    fn is_pod(&self) -> bool;

    /// Whether the client is this node itself.
    fn is_node(&self) -> bool;
}

/// Which of a frontend's two lists of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum List {
    /// Backends in the whole cluster.
    #[default]
    Cluster = 0,
    /// Backends on this node.
    Local = 1,
}

impl List {
    /// Whether the backend is in the list now.
    #[inline(always)]
    #[must_use]
    pub fn has<A: Copy>(self, backend: &Backend<A>) -> bool {
        backend.has(match self {
            Self::Cluster => Backend::<A>::IN_CLUSTER_LIST,
            Self::Local => Backend::<A>::IN_LOCAL_LIST,
        })
    }

    /// The list's backends.
    ///
    /// # Errors
    /// [`DropReason::NoEndpoint`]: nothing usable anywhere, the client is to be told.
    /// [`DropReason::NoLocalEndpoint`]: this list is empty and the other is not, so what comes is to be dropped without a word.
    #[inline(always)]
    pub fn of(self, service: &ServiceEntry) -> Result<SlotRange, DropReason> {
        let range = match self {
            Self::Cluster => service.cluster(),
            Self::Local => service.local(),
        };
        if !range.is_empty() {
            Ok(range)
        } else if service.cluster().is_empty() && service.local().is_empty() {
            Err(DropReason::NoEndpoint)
        } else {
            Err(DropReason::NoLocalEndpoint)
        }
    }
}

/// What becomes of a client's connections to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the backend is chosen from.
    pub list: List,
    /// What the flow's packets are marked with. Whatever the route, a backend that reaches itself is masqueraded.
    pub flags: FlowFlags,
}

/// The route of `client` to a frontend.
#[inline(always)]
pub fn route<C: Client>(frontend: ServiceFlags, settings: SettingsFlags, client: &C) -> Route {
    let is_external = frontend.contains(ServiceFlags::EXTERNAL);
    let is_local = frontend.contains(ServiceFlags::LOCAL);
    if !is_external {
        let list = if is_local { List::Local } else { List::Cluster };
        let masquerades = settings.contains(SettingsFlags::MASQUERADE_ALL)
            || (client.detector() != Detector::None && !client.is_pod());
        return Route { list, flags: if masquerades { FlowFlags::MASQUERADE } else { FlowFlags::NONE } };
    }
    if !is_local {
        return Route { list: List::Cluster, flags: FlowFlags::MASQUERADE };
    }
    // From inside the cluster it is as if the clusterIP had been used.
    if client.is_pod() {
        Route { list: List::Cluster, flags: FlowFlags::NONE }
    } else if client.is_node() {
        Route { list: List::Cluster, flags: FlowFlags::MASQUERADE }
    } else if frontend.contains(ServiceFlags::NODE_PORT) {
        Route { list: List::Local, flags: FlowFlags::LOCAL_NODE_PORT }
    } else {
        Route { list: List::Local, flags: FlowFlags::NONE }
    }
}
