//! Objects as they come out of the API: read into the model while the answer is decoded.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use crate::source::{Decoded, Object, decode, json::Json};

/// An object of kind `T`, whatever its state. What is not needed is dropped at once, and an object
/// that cannot be decoded does not spoil the list it is in.
#[derive(Clone, Debug)]
pub(super) struct Listed<T> {
    /// The version only, which is all that kube's watcher asks for.
    metadata: ObjectMeta,
    /// What it means.
    pub(super) decoded: Decoded<T>,
}

impl<'de, T: Object> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let version = json.get("metadata").and_then(|metadata| metadata.get("resourceVersion"));
        let resource_version = version.and_then(Json::as_str).map(str::to_owned);
        let metadata = ObjectMeta { resource_version, ..ObjectMeta::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_read_and_flawed() {
        for text in [r"null", r"true", r"-1", r"1", r"1.5", r#""text""#, r"[1, 2]", r#"{"metadata": 7}"#] {
            let listed: Listed<crate::model::Service> = serde_json::from_str(text).expect("it is JSON");
            assert!(listed.decoded.object.is_none() && !listed.decoded.flaws.is_empty(), "{text}");
        }
    }
}
