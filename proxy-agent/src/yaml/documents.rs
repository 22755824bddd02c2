use serde::de::IgnoredAny;
use serde_saphyr::{Options, Spanned, from_str_with_options};
use thiserror::Error;

use super::{Content, Node};

/// How a text separates its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Lines beginning with `---`.
    Yaml,
    /// One JSON value after the other.
    Json,
}

/// One document of a text. A broken one does not affect those beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Place in the text, counted from 1. Documents without content are not counted.
    pub number: usize,
    /// What is in it.
    pub root: Result<Node, SyntaxError>,
}

/// A document that is not YAML or JSON.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct SyntaxError {
    /// Line in the file, counted from 1.
    pub line: u64,
    /// What the parser said, in one line.
    pub reason: String,
}

/// The documents of `text` that have any content.
#[must_use]
pub fn documents(text: &str, syntax: Syntax) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let chunks = match syntax {
        Syntax::Yaml => yaml_chunks(text),
        Syntax::Json => json_chunks(text),
    };
    chunks
        .into_iter()
        .map(|chunk| chunk.and_then(|chunk| parse(&chunk)))
        .filter(|root| !root.as_ref().is_ok_and(Node::is_null))
        .enumerate()
        .map(|(index, root)| Document { number: index + 1, root })
        .collect()
}

/// A part of a text that begins after `lines_before` lines.
struct Chunk<'a> {
    text: &'a str,
    lines_before: u64,
}

fn parse(chunk: &Chunk<'_>) -> Result<Node, SyntaxError> {
    match from_str_with_options::<Spanned<Content>>(chunk.text, options()) {
        Ok(spanned) => {
            let mut node = Node::from(spanned);
            node.shift(chunk.lines_before);
            Ok(node)
        }
        Err(error) => {
            let error = error.without_snippet();
            let line = error.location().map_or(1, |location| location.line().max(1));
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            Err(SyntaxError { line: line + chunk.lines_before, reason })
        }
    }
}

/// No limit on size: a folder of manifests is its owner's, and can hold a large cluster. Aliases are
/// limited, so that a few lines cannot unfold to gigabytes.
fn options() -> Options {
    serde_saphyr::options! {
        budget: None,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    }
}

/// Cuts before each `---` line. Such a line cannot be inside a value (YAML 1.2, section 9.1.2).
fn yaml_chunks(text: &str) -> Vec<Result<Chunk<'_>, SyntaxError>> {
    let mut chunks = Vec::new();
    let mut begin = 0;
    let mut lines_before = 0;
    let mut position = 0;
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        if is_document_start(line) && position > begin {
            chunks.push(Chunk { text: &text[begin..position], lines_before });
            (begin, lines_before) = (position, number);
        }
        position += line.len();
    }
    chunks.push(Chunk { text: &text[begin..], lines_before });
    chunks.into_iter().filter(|chunk| has_content(chunk.text)).map(Ok).collect()
}

fn is_document_start(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether there is more than comments, directives and markers.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with(['#', '%']) || line == "...")
    })
}

/// JSON is YAML, so values are only told apart here; the lines come from the YAML parser.
fn json_chunks(text: &str) -> Vec<Result<Chunk<'_>, SyntaxError>> {
    let mut chunks = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut begin = 0;
    while let Some(value) = values.next() {
        let before = &text[..begin];
        let lines_before = before.matches('\n').count() as u64;
        match value {
            Ok(IgnoredAny) => {
                chunks.push(Ok(Chunk { text: &text[begin..values.byte_offset()], lines_before }));
                begin = values.byte_offset();
            }
            Err(error) => {
                chunks.push(Err(SyntaxError { line: error.line() as u64, reason: error.to_string() }));
                break;
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use serde_json::json;

    use super::*;

    fn roots(text: &str, syntax: Syntax) -> Vec<Result<serde_json::Value, u64>> {
        documents(text, syntax)
            .into_iter()
            .map(|document| document.root.map(|node| node.to_json()).map_err(|error| error.line))
            .collect()
    }

    #[test]
    fn empty_documents_and_comments_count_for_nothing() {
        let text = "# nothing\n---\n---\n# still nothing\n---\na: 1\n--- # comment\nb: [x, \"2\"]\n...\n---\n";
        let found = documents(text, Syntax::Yaml);
        assert_eq!(found.iter().map(|document| document.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(roots(text, Syntax::Yaml), [Ok(json!({"a": 1})), Ok(json!({"b": ["x", "2"]}))]);
    }

    #[test]
    fn a_broken_document_leaves_its_neighbours_alone() {
        let text = "a: 1\n---\nb: [1\nc: }\n---\nd: 4\n";
        let found = roots(text, Syntax::Yaml);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], Ok(json!({"a": 1})));
        assert!(matches!(found[1], Err(3 | 4)), "{found:?}");
        assert_eq!(found[2], Ok(json!({"d": 4})));
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_are_accepted() {
        let text = "\u{feff}a: 1\r\n---\r\nb: 2\r\n";
        assert_eq!(roots(text, Syntax::Yaml), [Ok(json!({"a": 1})), Ok(json!({"b": 2}))]);
    }

    #[test]
    fn json_values_follow_each_other() {
        let text = "{\n\t\"a\": 1}\n{\"b\":\n\t{\"c\": [true, null]}}";
        assert_eq!(roots(text, Syntax::Json), [Ok(json!({"a": 1})), Ok(json!({"b": {"c": [true, null]}}))]);
        let second = documents(text, Syntax::Json).remove(1).root.expect("is JSON");
        assert_eq!(second.line_of("b.c"), 4);
        assert_eq!(roots("{\"a\": 1}\n{\"b\"", Syntax::Json), [Ok(json!({"a": 1})), Err(2)]);
    }

    #[test]
    fn lines_are_counted_from_the_start_of_the_file() {
        let text = "a: 1\n---\nspec:\n  # where\n  ports:\n    - port: 80\n    - port: 81\n      name: x\n";
        let node = documents(text, Syntax::Yaml).remove(1).root.expect("is YAML");
        assert_eq!(node.line_of("spec"), 3);
        assert_eq!(node.line_of("spec.ports"), 5);
        assert_eq!(node.line_of("spec.ports[1]"), 7);
        assert_eq!(node.line_of("spec.ports[1].name"), 8);
        assert_eq!(node.line_of("spec.ports[1].protocol"), 7, "the deepest part that exists");
        assert_eq!(node.line_of("metadata.name"), 3, "the document");
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        assert_eq!(roots("a: 1\na: 2\n", Syntax::Yaml), [Err(2)]);
    }

    #[test]
    fn an_alias_bomb_is_an_error() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(text, "a{level}: &a{level} [{aliases}]").expect("a String takes everything");
        }
        assert!(roots(&text, Syntax::Yaml)[0].is_err());
    }
}
