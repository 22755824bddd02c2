//! From JSON to the model, by way of the API's types.

use std::fmt::Debug;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Deserialize as _, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use crate::model::{Change, EndpointSlice, Kind, Node, ObjectName, Parsed, Problem, Service, Update};

/// A kind of object that the sources deliver.
pub trait Object: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// The API's type.
    type Api: kube::Resource<DynamicType = ()> + DeserializeOwned;
    /// The kind.
    const KIND: Kind;
    /// `apiVersion` of the kind.
    const API_VERSION: &'static str;

    /// Reads the API's object.
    fn from_api(api: &Self::Api) -> Parsed<Self>;
    /// The change as an update.
    fn update(change: Change<Self>) -> Update;
    /// The object's name.
    fn name(&self) -> &ObjectName;
}

/// What became of an object in JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// The object's name.
    pub name: ObjectName,
    /// `None`: the object is not for this program (no flaw then), or unusable as a whole.
    pub object: Option<T>,
    /// Parts that cannot be used.
    pub flaws: Vec<Flaw>,
}

/// A part of an object that cannot be used.
///
/// Displayed in one line: `Service default/web: spec.ports[1].port: 0 is not between 1 and 65535`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind} {object}: {field}: {reason}")]
pub struct Flaw {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectName,
    /// Path of the field, as in `spec.ports[1].port`.
    pub field: String,
    /// Why it cannot be used.
    pub reason: String,
}

/// Reads an object, from [`Value`] or whatever else can be read more than once. An object that does not have the API's shape is a flaw, not
/// an error.
#[must_use]
pub fn decode<'a, T: Object>(json: impl Deserializer<'a> + Copy) -> Decoded<T> {
    // Almost all objects are sound, and finding out where one is not costs as much as reading it.
    match T::Api::deserialize(json) {
        Ok(api) => T::from_api(&api).into(),
        Err(_) => decode_value(&Value::deserialize(json).unwrap_or_default()),
    }
}

/// Reads an object that may not have the API's shape, and says where.
fn decode_value<T: Object>(json: &Value) -> Decoded<T> {
    match serde_path_to_error::deserialize::<_, T::Api>(json) {
        Ok(api) => T::from_api(&api).into(),
        Err(error) => {
            let object = name::<T>(json);
            let field = match error.path().to_string() {
                path if path == "." => "object".to_owned(),
                path => path,
            };
            let flaw = Flaw { kind: T::KIND, object: object.clone(), field, reason: error.inner().to_string() };
            Decoded { name: object, object: None, flaws: vec![flaw] }
        }
    }
}

/// The name of an object whose shape may be wrong anywhere.
fn name<T: Object>(json: &Value) -> ObjectName {
    let metadata = |key: &str| json.get("metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
    let namespace = match T::KIND {
        Kind::Service | Kind::EndpointSlice => metadata("namespace").unwrap_or("default"),
        Kind::Node => "",
    };
    ObjectName::new(namespace, metadata("name").unwrap_or("(without a name)"))
}

impl<T> From<Parsed<T>> for Decoded<T> {
    fn from(parsed: Parsed<T>) -> Self {
        let Parsed { name, object, problems } = parsed;
        Self { name, object, flaws: problems.into_iter().map(Flaw::from).collect() }
    }
}

impl From<Problem> for Flaw {
    fn from(problem: Problem) -> Self {
        let Problem { kind, object, field, reason } = problem;
        Self { kind, object, field, reason: reason.to_string() }
    }
}

impl Object for Service {
    type Api = core::Service;
    const KIND: Kind = Kind::Service;
    const API_VERSION: &'static str = "v1";

    fn from_api(api: &Self::Api) -> Parsed<Self> {
        Self::from_api(api)
    }

    fn update(change: Change<Self>) -> Update {
        Update::Service(change)
    }

    fn name(&self) -> &ObjectName {
        &self.name
    }
}

impl Object for EndpointSlice {
    type Api = discovery::EndpointSlice;
    const KIND: Kind = Kind::EndpointSlice;
    const API_VERSION: &'static str = "discovery.k8s.io/v1";

    fn from_api(api: &Self::Api) -> Parsed<Self> {
        Self::from_api(api)
    }

    fn update(change: Change<Self>) -> Update {
        Update::Slice(change)
    }

    fn name(&self) -> &ObjectName {
        &self.name
    }
}

impl Object for Node {
    type Api = core::Node;
    const KIND: Kind = Kind::Node;
    const API_VERSION: &'static str = "v1";

    fn from_api(api: &Self::Api) -> Parsed<Self> {
        Self::from_api(api)
    }

    fn update(change: Change<Self>) -> Update {
        Update::Node(change)
    }

    fn name(&self) -> &ObjectName {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shape_that_is_not_the_apis_names_object_and_field() {
        let decoded = decode::<Service>(&json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": "http"}]},
        }));
        assert_eq!(decoded.object, None);
        assert_eq!(
            decoded.flaws.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["Service shop/web: spec.ports[1].port: invalid type: string \"http\", expected i32"]
        );
    }

    #[test]
    fn broken_metadata_does_not_hide_the_name() {
        let decoded = decode::<EndpointSlice>(&json!({"metadata": {"name": "web-1", "labels": 7}}));
        assert_eq!(decoded.name, ObjectName::new("default", "web-1"));
        assert_eq!(decoded.flaws[0].field, "metadata.labels");
    }

    #[test]
    fn what_is_no_object_at_all_is_a_flaw_too() {
        for json in [json!(null), json!([1]), json!("x"), json!({"metadata": null, "spec": 1})] {
            let decoded = decode::<Node>(&json);
            assert_eq!(decoded.object, None, "{json}");
            assert_eq!(decoded.flaws.len(), 1, "{json}: {:?}", decoded.flaws);
        }
    }
}
