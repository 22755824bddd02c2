//! Kubernetes objects as this program understands them, and the index of all of them.
//!
//! Owns: parsing of API objects into compact, validated types (an unusable part is named in a
//! [`Problem`] and left out, the rest is served), and the [`Index`] that joins Services with their
//! slices and says which Services a change affects. Never does IO, never decides which endpoint a
//! Service uses: that is [`plan`](crate::plan)'s.

mod address;
mod facts;
mod index;
mod node;
mod object;
mod parse;
mod problem;
mod service;
mod service_api;
mod slice;
mod slice_api;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod update;

pub use facts::NodeFacts;
pub use index::{Affected, Index};
pub use node::Node;
pub use object::{CreationTime, Kind, ObjectName};
pub use parse::Parsed;
pub(crate) use parse::{HEADLESS, SERVED_BY_ANOTHER};
pub use problem::{AddressClass, Problem, Reason};
pub use service::{
    Affinity, LoadBalancerAddress, LoadBalancerIpMode, Service, ServicePort, ServiceType, TrafficPolicy,
};
pub use slice::{Conditions, Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily};
pub use update::{Change, Update};
