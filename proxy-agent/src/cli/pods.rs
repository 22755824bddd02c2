//! The names of the pods behind backends.

use proxy_common::BackendId;

use crate::{dataplane::tables::PodTable, model::IpFamily, plan::BackendNumber};

/// Who knows names of pods.
pub(super) trait PodNames {
    /// The name of the pod behind a backend; none if that cannot be known.
    fn pod(&self, family: IpFamily, backend: BackendId) -> Option<String>;
}

impl PodNames for Option<PodTable> {
    fn pod(&self, family: IpFamily, id: BackendId) -> Option<String> {
        self.as_ref()?.get(BackendNumber { family, id }).ok()?
    }
}

impl<P: PodNames> PodNames for &P {
    fn pod(&self, family: IpFamily, id: BackendId) -> Option<String> {
        (**self).pod(family, id)
    }
}

/// Names for tests.
#[cfg(test)]
impl PodNames for std::collections::BTreeMap<u32, &str> {
    fn pod(&self, _: IpFamily, id: BackendId) -> Option<String> {
        self.get(&id.get()).map(|&name| name.to_owned())
    }
}
