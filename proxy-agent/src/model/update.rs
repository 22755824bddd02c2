//! What the index is told: by the sources of objects, and by whoever watches this node's network.

use super::{EndpointSlice, Kind, Node, NodeFacts, ObjectName, Service};

/// A change to the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// The object exists and looks like this.
    Apply(T),
    /// The object does not exist, or is no longer for this program.
    Delete(ObjectName),
    /// The complete list: what is not in it does not exist.
    Reset(Vec<T>),
}

/// A change of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Services changed.
    Service(Change<Service>),
    /// Slices changed.
    Slice(Change<EndpointSlice>),
    /// Nodes changed; only the node that this program runs on counts.
    Node(Change<Node>),
    /// This node's addresses or routes changed: all of them as they are now.
    Facts(NodeFacts),
}

impl Update {
    /// The kind of object that it is about; `None` if it is about the node's network.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        match self {
            Self::Service(_) => Some(Kind::Service),
            Self::Slice(_) => Some(Kind::EndpointSlice),
            Self::Node(_) => Some(Kind::Node),
            Self::Facts(_) => None,
        }
    }
}
