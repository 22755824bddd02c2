//! Tests of the model: objects as the API has them go in, whole values come out.

mod address;
mod index;
mod node;
mod service;
mod slice;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Problem;

/// An API object as JSON.
fn api<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("the test wrote an API object")
}

/// The problems, each as it is displayed.
fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Replaces parts of a JSON object: each pair is a path, as in `/spec/type`, and a value.
fn with(mut json: Value, parts: &[(&str, Value)]) -> Value {
    for (path, value) in parts {
        let (parent, key) = path.rsplit_once('/').expect("a path has a slash");
        match json.pointer_mut(parent).expect("the parent exists") {
            Value::Object(fields) => {
                fields.insert(key.to_owned(), value.clone());
            }
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value.clone(),
            _ => panic!("{parent} has no parts"),
        }
    }
    json
}
