//! What parsing an object gives, and what all parsers share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proxy_common::NAME_LEN;

use super::{Change, Kind, ObjectName, Problem, Reason, problem::quoted};

/// What became of an API object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The object's name.
    pub name: ObjectName,
    /// `None`: the object is not for this program (no problem then), or unusable as a whole.
    pub object: Option<T>,
    /// Parts that cannot be used, in the order of the fields.
    pub problems: Vec<Problem>,
}

impl<T> Parsed<T> {
    /// What an event "this object exists" means to the index: an object that is not for us, or not
    /// usable any more, is the same as none.
    #[must_use]
    pub fn into_change(self) -> (Change<T>, Vec<Problem>) {
        let Self { name, object, problems } = self;
        (object.map_or(Change::Delete(name), Change::Apply), problems)
    }
}

/// Collects the problems of one object.
pub(super) struct Problems {
    kind: Kind,
    object: ObjectName,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(kind: Kind, object: ObjectName) -> Self {
        Self { kind, object, list: Vec::new() }
    }

    pub(super) fn push(&mut self, field: impl Into<String>, reason: Reason) {
        self.list.push(Problem { kind: self.kind, object: self.object.clone(), field: field.into(), reason });
    }

    /// The value, or `None` and one problem more.
    pub(super) fn keep<T>(&mut self, result: Result<T, Reason>, field: impl FnOnce() -> String) -> Option<T> {
        result.map_err(|reason| self.push(field(), reason)).ok()
    }

    pub(super) fn finish<T>(self, object: Option<T>) -> Parsed<T> {
        Parsed { name: self.object, object, problems: self.list }
    }
}

/// The name of an object in a namespace; without one it is in `default`, as for `kubectl`.
pub(super) fn namespaced(metadata: &ObjectMeta) -> ObjectName {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    ObjectName::new(namespace, metadata.name.as_deref().unwrap_or_default())
}

/// A name that fits into the `names` table and comes out of it as it went in.
pub(super) fn table_name(name: &str) -> Result<&str, Reason> {
    name_of_at_most(NAME_LEN, name)
}

/// A name that is in no table: as long as a name of the API can be, which a slice's is.
pub(super) fn long_name(name: &str) -> Result<&str, Reason> {
    name_of_at_most(253, name)
}

fn name_of_at_most(len: usize, name: &str) -> Result<&str, Reason> {
    if name.len() > len {
        Err(Reason::TooLong(len))
    } else if name.contains(['\0', '/']) {
        Err(Reason::BadCharacter(quoted(name)))
    } else {
        Ok(name)
    }
}

/// Label of Services that another proxy serves, whatever its value (KEP-2447).
pub(crate) const SERVED_BY_ANOTHER: &str = "service.kubernetes.io/service-proxy-name";
/// Label of slices that no proxy needs, because their Service has no clusterIP. On a Service it means nothing.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Whether an object has a label, whatever its value.
pub(super) fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}
