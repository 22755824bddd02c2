//! Objects as they come out of the API: read into the model while the answer is decoded.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::source::{Decoded, Object, decode};

/// An object of kind `T`, whatever its state. What is not needed is dropped at once, and an object
/// that cannot be decoded does not spoil the list it is in.
#[derive(Clone, Debug)]
pub(super) struct Listed<T> {
    /// Name, namespace and version only.
    metadata: ObjectMeta,
    /// What it means.
    pub(super) decoded: Decoded<T>,
}

impl<'de, T: Object> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        let text = |key: &str| Some(json.get("metadata")?.get(key)?.as_str()?.to_owned());
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, decoded: decode(&json) })
    }
}

impl<T: Object> Resource for Listed<T> {
    type DynamicType = ();
    type Scope = <T::Api as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::Api::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::Api::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::Api::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::Api::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
