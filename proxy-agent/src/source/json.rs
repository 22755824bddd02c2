//! JSON as the API sends it, read once and without copies of its texts.
//!
//! An object is decoded from a form that stays, because what is wrong with it is looked for only once that something is wrong is known.
//! [`Value`](serde_json::Value) would be such a form, but has an allocation for each key and each text.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Number};

/// An object of the API without `metadata.managedFields`, which nobody asks for and which often is its larger half; or whatever
/// else is there in its place.
///
/// Texts are borrowed from what is read, but for those with escapes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'de> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'de, str>),
    List(Vec<Self>),
    /// In the order in which the keys came; a key can be there twice.
    Map(Vec<(Cow<'de, str>, Self)>),
}

impl Json<'_> {
    /// What a map has under this key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(map) = self else { return None };
        map.iter().find_map(|(other, value)| (other == key).then_some(value))
    }

    /// A text.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Place::Object.deserialize(deserializer)
    }
}

/// Where in an object a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The object itself.
    Object,
    /// Its metadata.
    Metadata,
    /// Anywhere else.
    Field,
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        // As many as most of the API's maps have: the text does not say how many there are.
        let mut map = Vec::with_capacity(8);
        while let Some(key) = access.next_key_seed(Self::Field)? {
            let Json::Text(key) = key else { return Err(A::Error::custom("a key is no text")) };
            let place = match (self, &*key) {
                (Self::Metadata, "managedFields") => {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                (Self::Object, "metadata") => Self::Metadata,
                _ => Self::Field,
            };
            map.push((key, access.next_value_seed(place)?));
        }
        Ok(Json::Map(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = access.next_element_seed(Self::Field)? {
            list.push(element);
        }
        Ok(Json::List(list))
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        // JSON has no number that is none.
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text)))
    }
}

impl<'de> Deserializer<'de> for &'de Json<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Json::Null => visitor.visit_unit(),
            Json::Bool(value) => visitor.visit_bool(*value),
            Json::Number(number) => number.deserialize_any(visitor),
            Json::Text(text) => visitor.visit_borrowed_str(text),
            Json::List(list) => visitor.visit_seq(SeqDeserializer::new(list.iter())),
            Json::Map(map) => visitor.visit_map(MapDeserializer::new(map.iter().map(|(key, value)| (&**key, value)))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        enum identifier
    }
}

impl<'a> IntoDeserializer<'a, Error> for &'a Json<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// All that `json` has, read from it once more.
    fn again(json: &Json<'_>) -> Value {
        Value::deserialize(json).expect("a value is read from any JSON")
    }

    #[test]
    fn managed_fields_are_left_out_where_the_api_has_them() {
        let object = json!({
            "kind": "Service",
            "metadata": { "name": "web", "labels": { "managedFields": "mine" }, "managedFields": [{ "manager": "a" }] },
            "spec": { "managedFields": [1], "metadata": { "managedFields": [2] } },
        });
        let text = object.to_string();
        let read: Json<'_> = serde_json::from_str(&text).expect("it is JSON");
        let mut expected = object;
        expected["metadata"].as_object_mut().expect("it is a map").remove("managedFields");
        assert_eq!(again(&read), expected);
    }

    #[test]
    fn every_kind_of_value_is_read_as_it_is() {
        let text = r#"{"a": null, "b": [true, false, []], "c": -1, "d": 18446744073709551615, "e": 1.5, "f": "ü", "g": "\"\n\u00fc", "\t": {}}"#;
        let read: Json<'_> = serde_json::from_str(text).expect("it is JSON");
        assert_eq!(again(&read), serde_json::from_str::<Value>(text).expect("it is JSON"));
    }

    #[test]
    fn texts_are_borrowed_where_they_have_no_escapes() {
        let read: Json<'_> =
            serde_json::from_str(r#"{"plain": "text", "es\u0063aped": "te\u0078t"}"#).expect("it is JSON");
        let Json::Map(map) = &read else { panic!("{read:?}") };
        let borrowed = |text: &Cow<'_, str>| matches!(text, Cow::Borrowed(_));
        let is_borrowed = |(key, value): &(Cow<'_, str>, Json<'_>)| match value {
            Json::Text(value) => (borrowed(key), borrowed(value)),
            other => panic!("{other:?}"),
        };
        assert_eq!(map.iter().map(is_borrowed).collect::<Vec<_>>(), [(true, true), (false, false)]);
    }
}
