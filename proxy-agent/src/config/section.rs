//! Reading a configuration file section by section, so that every error is found in one go, each with
//! its field and line.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use serde_json::Value;
use thiserror::Error;

use super::values;
use crate::{
    near::near,
    yaml::{Content, Entry, Node, Syntax, documents},
};

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A flag's value.
    #[error("--{flag}: {reason}")]
    Flag {
        /// The flag without dashes.
        flag: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// A field of the file.
    #[error("line {line}: {field}: {reason}")]
    Field {
        /// Line in the file, counted from 1.
        line: u64,
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file itself.
    #[error("{0}")]
    File(String),
}

/// Reads the one document of a file's text with `read`, after a look at its version and kind. Returns the document as well.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub(super) fn document<T>(
    text: &str,
    version: &'static str,
    kind: &'static str,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> Result<(T, Node), Vec<ConfigError>> {
    let mut documents = documents(text, Syntax::Yaml);
    if documents.len() != 1 {
        return Err(vec![ConfigError::File(format!("one {kind} is needed, found {} documents", documents.len()))]);
    }
    let broken = |error: crate::yaml::SyntaxError| format!("line {}: {}", error.line, error.reason);
    let root = documents.remove(0).root.map_err(|error| vec![ConfigError::File(broken(error))])?;
    let mut errors = Vec::new();
    let value = Section::read(&root, &mut errors, |section| {
        for (key, expected) in [("apiVersion", version), ("kind", kind)] {
            match section.text(key) {
                Some(found) if found == expected => {}
                Some(found) => section.wrong(key, format!("{found:?} is not {expected}")),
                None => section.wrong(key, format!("is not {expected}")),
            }
        }
        read(section)
    });
    errors.sort_by_key(|error| match error {
        ConfigError::Field { line, .. } => *line,
        ConfigError::Flag { .. } | ConfigError::File(_) => 0,
    });
    if errors.is_empty() { Ok((value, root)) } else { Err(errors) }
}

/// A map of the file. Every field that is asked for counts as known.
pub(super) struct Section<'a> {
    node: &'a Node,
    path: String,
    known: Vec<&'static str>,
    errors: &'a mut Vec<ConfigError>,
}

impl<'a> Section<'a> {
    /// Reads the map `node` with `read`; fields that `read` did not ask for are errors.
    pub(super) fn read<T>(node: &'a Node, errors: &'a mut Vec<ConfigError>, read: impl FnOnce(&mut Self) -> T) -> T {
        Self::read_at(node, String::new(), errors, read)
    }

    /// A map within this one; an empty one if it is missing.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let missing = Node { line: self.node.line, content: Content::Mapping(Vec::new()) };
        let path = self.path(key);
        let node = self.value(key).map_or(&missing, |entry| &entry.value);
        Section::read_at(node, path, self.errors, read)
    }

    /// A string; `None` if missing or empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.scalar(key, "a string", Value::is_string)?.as_str().filter(|text| !text.is_empty())
    }

    /// A string in the syntax that `parse` reads.
    pub(super) fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        self.checked(key, parse(text))
    }

    /// A duration in Go's syntax; `None` if missing.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.parsed(key, values::duration)
    }

    /// A boolean; `None` if missing.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.scalar(key, "true or false", Value::is_boolean)?.as_bool()
    }

    /// A boolean, or a string, in the syntax that `parse` reads; `None` if missing.
    pub(super) fn word_or_boolean<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let is_either = |value: &Value| value.is_boolean() || value.is_string();
        let value = self.scalar(key, "true, false or a word", is_either)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let result = parse(&text);
        self.checked(key, result)
    }

    /// A whole number in `range`; `None` if missing.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.scalar(key, "a number", Value::is_number)?;
        let whole = number.as_i64().filter(|whole| range.contains(whole));
        if whole.is_none() {
            self.wrong(key, format!("{number} is not a whole number from {} to {}", range.start(), range.end()));
        }
        whole
    }

    /// A number; `None` if missing.
    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        self.scalar(key, "a number", Value::is_number)?.as_f64()
    }

    /// A list of strings; empty if missing.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<&'a str> {
        let Some(entry) = self.value(key) else { return Vec::new() };
        let texts: Option<Vec<_>> =
            entry.value.as_sequence().and_then(|nodes| nodes.iter().map(Node::as_str).collect());
        if texts.is_none() {
            self.wrong(key, format!("{} is not a list of strings", shown(&entry.value)));
        }
        texts.unwrap_or_default()
    }

    /// A field of any shape, which has no effect here.
    pub(super) fn ignored(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// A map from names to booleans.
    pub(super) fn switches(&mut self, key: &'static str) {
        let Some(entry) = self.value(key) else { return };
        let is_switch = |entry: &Entry| matches!(entry.value.content, Content::Scalar(Value::Bool(_)));
        match &entry.value.content {
            Content::Mapping(entries) if entries.iter().all(is_switch) => {}
            _ => self.wrong(key, format!("{} is not a map from names to true or false", shown(&entry.value))),
        }
    }

    /// Adds an error about `key`.
    pub(super) fn wrong(&mut self, key: &str, reason: impl Display) {
        let field = self.path(key);
        let line = self.node.line_of(key);
        self.errors.push(ConfigError::Field { line, field, reason: reason.to_string() });
    }

    /// The value, or an error about `key`.
    pub(super) fn checked<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.wrong(key, reason)).ok()
    }

    fn read_at<T>(
        node: &'a Node,
        path: String,
        errors: &'a mut Vec<ConfigError>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut section = Self { node, path, known: Vec::new(), errors };
        let value = read(&mut section);
        section.finish();
        value
    }

    fn scalar(&mut self, key: &'static str, what: &str, is: impl Fn(&Value) -> bool) -> Option<&'a Value> {
        let node = &self.value(key)?.value;
        match &node.content {
            Content::Scalar(value) if is(value) => Some(value),
            _ => {
                self.wrong(key, format!("{} is not {what}", shown(node)));
                None
            }
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.known.push(key);
        let node: &'a Node = self.node;
        let Content::Mapping(entries) = &node.content else { return None };
        entries.iter().find(|entry| entry.key == key && !entry.value.is_null())
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn finish(self) {
        let Content::Mapping(entries) = &self.node.content else {
            let field = if self.path.is_empty() { "document".to_owned() } else { self.path };
            let reason = format!("{} is not a map", shown(self.node));
            self.errors.push(ConfigError::Field { line: self.node.line, field, reason });
            return;
        };
        for entry in entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let field = self.path(&entry.key);
            let known = self.known.iter().map(|&known| (known.to_owned(), known.to_owned()));
            let reason = match near(&entry.key, known).as_slice() {
                [] => "is no field".to_owned(),
                near => format!("is no field; did you mean {}?", near.join(" or ")),
            };
            self.errors.push(ConfigError::Field { line: entry.line, field, reason });
        }
    }
}

/// A value as a message quotes it: as JSON, if it is not too long.
fn shown(node: &Node) -> String {
    const LONGEST: usize = 64;
    let text = node.to_json().to_string();
    match (text.len() > LONGEST, &node.content) {
        (false, _) => text,
        (true, Content::Scalar(_)) => format!("{}…", &text[..text.floor_char_boundary(LONGEST)]),
        (true, Content::Sequence(_)) => "this list".to_owned(),
        (true, Content::Mapping(_)) => "this map".to_owned(),
    }
}
