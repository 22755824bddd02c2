//! How the demo shows things in a terminal.

use std::{
    env,
    fmt::Write,
    io::{IsTerminal, stdout},
};

const BAR: usize = 48;

/// Starts a part of the demo.
pub(super) fn heading(text: &str) {
    if stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        println!("\n\u{1b}[1m{text}\u{1b}[0m");
    } else {
        println!("\n{text}");
    }
}

/// Rows under a header, in columns as wide as they must be; columns of numbers are right-aligned.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or_default()
    };
    let numeric = |column: usize| rows.iter().all(|row| row[column].chars().all(|c| c.is_ascii_digit()));
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        let mut row = String::from(" ");
        for (column, cell) in cells.iter().enumerate() {
            let width = width(column);
            let cell = if numeric(column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            row.extend([" ", &cell, " "]);
        }
        text += row.trim_end();
        text.push('\n');
    };
    line(header);
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// A bar for each name, as long as its share of the total.
pub(super) fn bars(counts: &[(&str, u32)]) -> String {
    let total = counts.iter().map(|(_, count)| count).sum::<u32>().max(1);
    let width = counts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, count) in counts {
        let length = *count as usize * BAR / total as usize;
        let percent = f64::from(*count) * 100.0 / f64::from(total);
        let bar = "█".repeat(length);
        writeln!(text, "  {name:<width$} {bar:<BAR$} {percent:5.1} %  {count}").expect("a String takes everything");
    }
    text
}

/// The first lines of a text, indented, and how many were left out.
pub(super) fn excerpt(text: &str, lines: usize) -> String {
    let mut shown = String::new();
    for line in text.lines().take(lines) {
        shown.extend(["  ", line, "\n"]);
    }
    let left = text.lines().count().saturating_sub(lines);
    if left > 0 {
        writeln!(shown, "  … {left} more lines").expect("a String takes everything");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_are_right_aligned() {
        let rows = [vec!["pod".to_owned(), "7".to_owned()], vec!["outside".to_owned(), "120".to_owned()]];
        assert_eq!(table(&["client", "n"], &rows), "  client     n\n  pod        7\n  outside  120\n");
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let text = bars(&[("a", 3), ("b", 1), ("c", 0)]);
        let lengths: Vec<_> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(lengths, [36, 12, 0]);
        assert!(text.contains("75.0 %"));
    }

    #[test]
    fn an_excerpt_says_what_it_leaves_out() {
        assert_eq!(excerpt("a\nb\nc\n", 2), "  a\n  b\n  … 1 more lines\n");
        assert_eq!(excerpt("a\nb\n", 2), "  a\n  b\n");
    }
}
