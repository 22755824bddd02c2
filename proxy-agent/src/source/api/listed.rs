//! Objects as they come out of the API: read into the model while the answer is decoded.

use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

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
        let json = Place::Object.deserialize(deserializer)?;
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

/// Reads an object without `metadata.managedFields`, which nobody asks for and which often is its larger half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The object itself.
    Object,
    /// Its metadata.
    Metadata,
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match (self, key.as_str()) {
                (Self::Object, "metadata") => drop(object.insert(key, map.next_value_seed(Self::Metadata)?)),
                (Self::Metadata, "managedFields") => drop(map.next_value::<IgnoredAny>()?),
                _ => drop(object.insert(key, map.next_value()?)),
            }
        }
        Ok(Value::Object(object))
    }

    // What is no map is no object either; whoever decodes it says so.

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_fields_are_left_out_where_the_api_has_them() {
        let text = json!({
            "kind": "Service",
            "metadata": { "name": "web", "labels": { "managedFields": "mine" }, "managedFields": [{ "manager": "a" }] },
            "spec": { "managedFields": [1] },
        });
        let read = Place::Object.deserialize(&text).expect("it is JSON");
        let mut expected = text;
        expected["metadata"].as_object_mut().expect("it is a map").remove("managedFields");
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_no_object_is_read_and_flawed() {
        for text in [r"null", r"true", r"-1", r"1", r"1.5", r#""text""#, r"[1, 2]", r#"{"metadata": 7}"#] {
            let listed: Listed<crate::model::Service> = serde_json::from_str(text).expect("it is JSON");
            assert!(listed.decoded.object.is_none() && !listed.decoded.flaws.is_empty(), "{text}");
        }
    }
}
