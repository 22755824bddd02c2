//! YAML and JSON text as trees that know their line numbers, so that a message can say where.
//!
//! Owns splitting a file into documents and finding the line of a field. Knows nothing of what the
//! documents mean, and never reads a file.

mod documents;
mod tree;

pub use documents::{Document, Syntax, SyntaxError, documents};
pub use tree::{Content, Entry, Node};
