//! From a document to the objects it defines.

use std::sync::Arc;

use serde_json::Value;
use tracing::debug;

use crate::{
    model::{EndpointSlice, Kind, Node, ObjectName, Service},
    source::{Decoded, Flaw, Object, decode},
    yaml::{self, Document},
};

/// An object that a file defines.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    Node(Arc<Node>),
}

impl Item {
    /// What tells the object from others.
    pub(super) fn key(&self) -> (Kind, &ObjectName) {
        match self {
            Self::Service(service) => (Kind::Service, &service.name),
            Self::Slice(slice) => (Kind::EndpointSlice, &slice.name),
            Self::Node(node) => (Kind::Node, &node.name),
        }
    }
}

/// A kind of object that an [`Item`] can be.
pub(super) trait Defined: Object {
    fn into_item(self) -> Item;
    fn of_item(item: &Item) -> Option<&Arc<Self>>;
}

impl Defined for Service {
    fn into_item(self) -> Item {
        Item::Service(Arc::new(self))
    }

    fn of_item(item: &Item) -> Option<&Arc<Self>> {
        if let Item::Service(service) = item { Some(service) } else { None }
    }
}

impl Defined for EndpointSlice {
    fn into_item(self) -> Item {
        Item::Slice(Arc::new(self))
    }

    fn of_item(item: &Item) -> Option<&Arc<Self>> {
        if let Item::Slice(slice) = item { Some(slice) } else { None }
    }
}

impl Defined for Node {
    fn into_item(self) -> Item {
        Item::Node(Arc::new(self))
    }

    fn of_item(item: &Item) -> Option<&Arc<Self>> {
        if let Item::Node(node) = item { Some(node) } else { None }
    }
}

/// What a file's documents define.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// Objects that can be used, in the order of the text.
    pub(super) items: Vec<Item>,
    /// What cannot be used, each with its line and document.
    pub(super) warnings: Vec<String>,
    /// Whether a document is no YAML at all, so that nobody knows what it defines.
    pub(super) broken: bool,
}

impl Contents {
    /// Reads the documents. `file` is how messages name the file.
    pub(super) fn of(file: &str, documents: &[Document]) -> Self {
        let mut contents = Self::default();
        for Document { number, root } in documents {
            match root {
                Ok(root) => Reader { file, document: *number, contents: &mut contents }.read(root),
                Err(error) => {
                    let line = error.line;
                    contents.warnings.push(format!("{file}:{line} (document {number}): {error}"));
                    contents.broken = true;
                }
            }
        }
        contents
    }
}

struct Reader<'a> {
    file: &'a str,
    document: usize,
    contents: &'a mut Contents,
}

impl Reader<'_> {
    fn read(&mut self, root: &yaml::Node) {
        let text = |key: &str| root.get(key).and_then(yaml::Node::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind.is_empty() {
            self.warn(root, "kind", "kind: is missing");
        } else if version.is_empty() {
            self.warn(root, "kind", &format!("{kind}: apiVersion: is missing"));
        } else if let Some(single) = kind.strip_suffix("List") {
            self.read_list(root, version, single);
        } else {
            self.read_object(root, version, kind);
        }
    }

    /// `List`, whose items say what they are, or a list of one kind, such as `ServiceList`.
    fn read_list(&mut self, root: &yaml::Node, version: &str, single: &str) {
        if single.is_empty() && version != "v1" {
            self.ignore(root, version, "List");
            return;
        }
        let items = root.get("items").and_then(yaml::Node::as_sequence).unwrap_or_default();
        for item in items {
            if single.is_empty() { self.read(item) } else { self.read_object(item, version, single) }
        }
    }

    fn read_object(&mut self, root: &yaml::Node, version: &str, kind: &str) {
        match kind {
            "Service" => self.define::<Service>(root, version),
            "EndpointSlice" => self.define::<EndpointSlice>(root, version),
            "Node" => self.define::<Node>(root, version),
            _ => self.ignore(root, version, kind),
        }
    }

    fn define<T: Defined>(&mut self, root: &yaml::Node, version: &str) {
        if version != T::API_VERSION {
            if group(version) == group(T::API_VERSION) {
                let reason = format!("{}: apiVersion: {version} is not {}", T::KIND, T::API_VERSION);
                self.warn(root, "apiVersion", &reason);
            } else {
                self.ignore(root, version, &T::KIND.to_string());
            }
            return;
        }
        let json = root.to_json();
        let Decoded { name, object, mut flaws } = decode::<T>(&json);
        if object.is_none() && flaws.is_empty() && lacks_cluster_ip(T::KIND, &json) {
            let reason = "is missing, and without an API server nobody assigns one".to_owned();
            flaws.push(Flaw { kind: T::KIND, object: name, field: "spec.clusterIP".to_owned(), reason });
        }
        for flaw in flaws {
            self.warn(root, &flaw.field, &flaw.to_string());
        }
        self.contents.items.extend(object.map(T::into_item));
    }

    fn ignore(&self, root: &yaml::Node, version: &str, kind: &str) {
        debug!("{}:{}: {kind} of {version} is of no use here", self.file, root.line);
    }

    fn warn(&mut self, root: &yaml::Node, field: &str, text: &str) {
        let (file, document, line) = (self.file, self.document, root.line_of(field));
        self.contents.warnings.push(format!("{file}:{line} (document {document}): {text}"));
    }
}

fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether this is a Service that would have a clusterIP, had it gone through an API server.
fn lacks_cluster_ip(kind: Kind, json: &Value) -> bool {
    let spec = json.get("spec");
    let field = |key: &str| spec.and_then(|spec| spec.get(key));
    let empty = |key: &str| field(key).and_then(Value::as_str).is_none_or(str::is_empty);
    kind == Kind::Service
        && empty("clusterIP")
        && field("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && field("type").and_then(Value::as_str) != Some("ExternalName")
}
