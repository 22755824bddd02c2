//! How the commands print: columns, JSON or YAML.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

pub(super) const HEADING: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Red.on_default().bold();

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// The same with everything that is known.
    Wide,
    /// JSON for programs.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How much of a view is shown as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What most questions are about.
    Usual,
    /// Everything.
    Wide,
}

/// What a command shows. As text it may contain ANSI styles, which whoever prints it removes where nobody would see them.
pub(super) trait View: Serialize {
    /// For people.
    fn write_text(&self, detail: Detail, out: &mut dyn Write) -> io::Result<()>;
}

/// Something that is printed a line for each row.
pub(super) trait Rows {
    /// The headings of the columns, and of those that only [`Detail::Wide`] has.
    const HEADINGS: (&'static [&'static str], &'static [&'static str]);

    /// The cells, as many in each row as there are headings.
    fn rows(&self, detail: Detail) -> Vec<Vec<String>>;
}

impl<R: Rows + Serialize> View for R {
    fn write_text(&self, detail: Detail, out: &mut dyn Write) -> io::Result<()> {
        let (usual, more) = R::HEADINGS;
        let headings = match detail {
            Detail::Usual => usual.to_vec(),
            Detail::Wide => [usual, more].concat(),
        };
        writeln!(out, "{}", columns(&headings, self.rows(detail)))
    }
}

impl Output {
    /// Prints the view.
    pub(super) fn print(self, view: &impl View, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Table => view.write_text(Detail::Usual, out),
            Self::Wide => view.write_text(Detail::Wide, out),
            Self::Json => {
                serde_json::to_writer_pretty(&mut *out, view)?;
                writeln!(out)
            }
            Self::Yaml => {
                let text = serde_saphyr::to_string(view).map_err(io::Error::other)?;
                out.write_all(text.as_bytes())
            }
        }
    }
}

impl Output {
    /// Prints one of many views, of which nobody knows how many there will be: as JSON, on a line of its own.
    pub(super) fn print_line(self, view: &impl View, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Json => {
                serde_json::to_writer(&mut *out, view)?;
                writeln!(out)
            }
            Self::Yaml => {
                writeln!(out, "---")?;
                self.print(view, out)
            }
            Self::Table | Self::Wide => self.print(view, out),
        }
    }
}

/// Headings and rows as text, in columns as wide as they need to be and without lines: easy to read, to search and to cut.
pub(super) fn columns(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut lines = table.lines().map(|line| line.trim_end().to_owned());
    let heading = lines.next().map(|line| format!("{HEADING}{line}{HEADING:#}"));
    heading.into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

/// Writes headings and the rows that `rows` gives, which is called twice: first for the widths. Holds one row at a time.
/// Cells are of characters as wide as one column.
pub(super) fn stream<I: Iterator<Item = Vec<String>>>(
    headings: &[&str],
    rows: impl Fn() -> I,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.len());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    writeln!(out, "{HEADING}{}{HEADING:#}", line(&mut headings.iter().copied()))?;
    rows().try_for_each(|row| writeln!(out, "{}", line(&mut row.iter().map(String::as_str))))
}

/// Something that somebody should look at.
pub(super) fn warning(text: &str) -> String {
    format!("{WARNING}{text}{WARNING:#}")
}

/// The text, or a dash where there is none.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map(|text| text.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// A text without styles, as tests compare it.
#[cfg(test)]
pub(super) fn plain(view: &impl View, detail: Detail) -> String {
    let mut out = anstream::StripStream::new(Vec::new());
    view.write_text(detail, &mut out).expect("memory can be written");
    String::from_utf8(out.into_inner()).expect("text")
}

/// Asserts that docs/commands.md names every field of the view, and of what is in it.
#[cfg(test)]
pub(super) fn assert_documented(view: &impl Serialize) {
    fn fields(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
            serde_json::Value::Object(values) => {
                for (name, value) in values {
                    found.push(name.clone());
                    // What these hold are counts by name, and not fields.
                    if !["drops", "counters"].contains(&name.as_str()) {
                        fields(value, found);
                    }
                }
            }
            _ => {}
        }
    }
    let documentation = include_str!("../../../docs/commands.md");
    let mut found = Vec::new();
    fields(&serde_json::to_value(view).expect("serializes"), &mut found);
    assert!(!found.is_empty());
    for field in found {
        assert!(documentation.contains(&format!("`{field}`")), "docs/commands.md does not know the field {field}");
    }
}
