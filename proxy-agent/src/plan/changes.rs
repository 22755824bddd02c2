//! What the plan asks of the tables, and what it learns from them: the seam between the pure part of
//! the agent and the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use proxy_common::{Backend, BackendId, Family, PortName, ServiceEntry, ServiceId, ServiceKey, SourceRangeKey, V4, V6};

use super::Pods;

/// Writes that take the tables from what is installed to what is desired.
///
/// The order of the fields is the order of the writes, so that a packet never sees half a change:
/// names and backends, slots, source ranges, services, removals of services, then (after every program
/// that might still read them has finished) the retired backends, source ranges and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names to write before any service uses their id.
    pub names: Vec<(ServiceId, PortName)>,
    /// IPv4's tables.
    pub v4: FamilyChanges<V4>,
    /// IPv6's tables.
    pub v6: FamilyChanges<V6>,
    /// Names to remove, last of all.
    pub retired_names: Vec<ServiceId>,
    /// Nothing to write: endpoints of UDP ports that no slice of their Service has any more, or whose port is
    /// gone. Once the changes are applied, nobody tells sockets that are connected to them, unless somebody
    /// looks for them.
    pub gone_backends: Vec<GoneBackend>,
}

/// An endpoint of a UDP port that flows may still go to, and should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoneBackend {
    /// The Service port. Its id may be about to be retired.
    pub service: ServiceId,
    /// The number that the endpoint had.
    pub backend: BackendId,
    /// Address and port of the endpoint.
    pub address: SocketAddr,
}

/// The part of [`Changes`] that is one family's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyChanges<F: Family> {
    /// Backends to write: new ones, which no slot names yet, and such whose flags alone change, in place.
    pub backends: Vec<(BackendId, Backend<F::Address>)>,
    /// Runs of slots to write, each with its first index; no service names them yet.
    pub slots: Vec<(u32, Vec<BackendId>)>,
    /// Source ranges to insert. Those of a Service port that has none yet, before its frontends ask for them.
    pub source_ranges: Vec<SourceRangeKey<F::Address>>,
    /// Frontends to insert or to flip to their new ranges.
    pub services: Vec<(ServiceKey<F::Address>, ServiceEntry)>,
    /// Frontends to remove.
    pub removed_services: Vec<ServiceKey<F::Address>>,
    /// Backends to clear after a grace period.
    pub retired_backends: Vec<BackendId>,
    /// Source ranges to remove after a grace period.
    pub removed_source_ranges: Vec<SourceRangeKey<F::Address>>,
}

impl<F: Family> Default for FamilyChanges<F> {
    fn default() -> Self {
        Self {
            backends: Vec::new(),
            slots: Vec::new(),
            source_ranges: Vec::new(),
            services: Vec::new(),
            removed_services: Vec::new(),
            retired_backends: Vec::new(),
            removed_source_ranges: Vec::new(),
        }
    }
}

impl<F: Family> FamilyChanges<F> {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            backends,
            slots,
            source_ranges,
            services,
            removed_services,
            retired_backends,
            removed_source_ranges,
        } = self;
        backends.is_empty()
            && slots.is_empty()
            && source_ranges.is_empty()
            && services.is_empty()
            && removed_services.is_empty()
            && retired_backends.is_empty()
            && removed_source_ranges.is_empty()
    }
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { names, v4, v6, retired_names, gone_backends: _ } = self;
        names.is_empty() && v4.is_empty() && v6.is_empty() && retired_names.is_empty()
    }
}

/// What the tables hold: read once at start to adopt what a former agent left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The `names` table.
    pub names: BTreeMap<ServiceId, PortName>,
    /// IPv4's tables.
    pub v4: FamilySnapshot<V4>,
    /// IPv6's tables.
    pub v6: FamilySnapshot<V6>,
}

impl Snapshot {
    /// Whether the `backends` table still has the endpoint.
    #[must_use]
    pub fn holds(&self, gone: &GoneBackend) -> bool {
        match gone.address.ip() {
            IpAddr::V4(address) => self.v4.holds(gone, address.octets()),
            IpAddr::V6(address) => self.v6.holds(gone, address.octets()),
        }
    }
}

impl<F: Family> FamilySnapshot<F> {
    fn holds(&self, gone: &GoneBackend, address: F::Address) -> bool {
        let endpoint = (address, gone.address.port(), gone.service);
        let is_it =
            |backend: &Backend<F::Address>| (backend.address(), backend.port().get(), backend.service()) == endpoint;
        self.backends.get(&gone.backend).is_some_and(is_it)
    }
}

/// The part of [`Snapshot`] that is one family's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilySnapshot<F: Family> {
    /// The `services` table.
    pub services: BTreeMap<ServiceKey<F::Address>, ServiceEntry>,
    /// The slots that services name, by index.
    pub slots: BTreeMap<u32, BackendId>,
    /// The backends that are not free.
    pub backends: BTreeMap<BackendId, Backend<F::Address>>,
    /// The `source_ranges` table.
    pub source_ranges: BTreeSet<SourceRangeKey<F::Address>>,
}

impl<F: Family> Default for FamilySnapshot<F> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
        }
    }
}

/// Frontends that a full table refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// IPv4's.
    pub v4: Vec<ServiceKey<[u8; 4]>>,
    /// IPv6's.
    pub v6: Vec<ServiceKey<[u8; 16]>>,
}

/// The kernel's tables as the plan sees them.
pub trait Tables {
    /// Why a write or read failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Reads everything.
    ///
    /// # Errors
    /// A table cannot be read.
    fn snapshot(&self) -> Result<Snapshot, Self::Error>;

    /// Carries out the changes in the order that [`Changes`] states, including the wait before the
    /// retired backends are cleared. Frontends for which there is no room are returned, not an error.
    ///
    /// # Errors
    /// A write failed for another reason than a full table; what came before it is in place.
    fn apply(&mut self, changes: &Changes) -> Result<Refused, Self::Error>;

    /// Notes which pods are behind backends, for people: no packet depends on it, and what cannot be noted is left out. The names of
    /// retired backends go with them.
    fn name_pods(&mut self, _: &Pods<'_>) {}

    /// When the last changes were in force, where that was before [`Self::apply`] had tidied up and returned.
    fn in_force(&self) -> Option<Instant> {
        None
    }
}
