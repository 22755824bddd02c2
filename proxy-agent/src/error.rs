//! How errors are shown.

use std::error::Error;

/// An error and its causes in one line, each said once.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut line = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default().trim();
        if !line.contains(text) {
            line = if line.is_empty() { text.to_owned() } else { format!("{line}: {text}") };
        }
        cause = error.source();
    }
    line
}
