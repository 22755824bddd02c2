//! What identifies an object.

use std::{cmp::Ordering, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The kinds of objects that this program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` Node.
    Node,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        })
    }
}

/// Namespace and name of an object; the namespace is empty for cluster-wide kinds.
///
/// Displayed as `namespace/name`, or `name` without a namespace. Ordered by namespace, then name.
/// Copies share one allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectName {
    text: Arc<str>,
    namespace_len: usize,
}

impl ObjectName {
    /// The object `name` in `namespace`; an empty namespace for cluster-wide kinds.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        let text = if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}").into() };
        Self { text, namespace_len: namespace.len() }
    }

    /// The namespace; empty for cluster-wide kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.text[..self.namespace_len]
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.namespace_len == 0 { &self.text } else { &self.text[self.namespace_len + 1..] }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ObjectName({self})")
    }
}

impl Ord for ObjectName {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.text, &other.text) && self.namespace_len == other.namespace_len {
            return Ordering::Equal;
        }
        (self.namespace(), self.name()).cmp(&(other.namespace(), other.name()))
    }
}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `metadata.creationTimestamp` in seconds since the epoch. An object that does not say counts as
/// younger than all that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreationTime(i64);

impl CreationTime {
    /// The object does not say when it was created.
    pub const UNKNOWN: Self = Self(i64::MAX);

    /// Created this many seconds after the epoch.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    pub(super) fn from_api(time: Option<&Time>) -> Self {
        time.map_or(Self::UNKNOWN, |time| Self(time.0.as_second()))
    }
}
