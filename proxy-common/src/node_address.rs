//! The `node_addresses` tables: the node's own addresses. That an address is in its table tells that what comes
//! from it comes from this node.

/// What an address of this node is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct NodeAddress {
    flags: u32,
}

impl NodeAddress {
    /// An address without nodePorts.
    pub const PLAIN: Self = Self { flags: 0 };
    /// An address that serves nodePorts (kube-proxy's `nodePortAddresses`). All of 127.0.0.0/8 goes by 127.0.0.1.
    pub const NODE_PORTS: Self = Self { flags: 1 };

    /// Whether nodePorts are served at the address.
    #[must_use]
    pub const fn serves_node_ports(self) -> bool {
        self.flags & Self::NODE_PORTS.flags != 0
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.flags
    }
}
