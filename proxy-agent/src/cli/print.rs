//! Printing rows in columns.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

/// Something that is printed a line for each row.
pub(super) trait Rows {
    /// The headings of the columns.
    const HEADINGS: &'static [&'static str];

    /// The cells, as many in each row as there are headings.
    fn rows(&self) -> Vec<Vec<String>>;
}

/// Prints headings and rows.
pub(super) fn table<R: Rows>(rows: &R, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", columns(R::HEADINGS, rows.rows()))
}

/// Headings and rows as text, in columns as wide as they need to be, without lines or colours: easy to
/// read, to search and to cut.
pub(super) fn columns(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
