//! A table in Markdown with a row for each program and a column for each kernel series.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

use super::series::Series;

/// What is in the cell of a program that a kernel cannot load.
const NOTHING: &str = "–";

/// The cells of a kernel series by program.
pub(super) type Column = BTreeMap<String, String>;

/// The table. A program has a row as long as a kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table(pub(super) BTreeMap<Series, Column>);

impl Table {
    /// Reads a table: a line of headings, a line of dashes, a line for each program. No line is a table without columns.
    ///
    /// # Errors
    /// A heading is no series, or a row has other columns than the headings.
    pub(super) fn parse(lines: &[String]) -> anyhow::Result<Self> {
        let Some((headings, rows)) = lines.split_first() else { return Ok(Self::default()) };
        let headings: Vec<Series> =
            cells(headings).into_iter().skip(1).map(str::parse).collect::<anyhow::Result<_>>()?;
        let mut columns: BTreeMap<Series, Column> = headings.iter().map(|&series| (series, Column::new())).collect();
        for row in rows.iter().skip(1) {
            let cells = cells(row);
            ensure!(cells.len() == headings.len() + 1, "a row with other columns than the headings: {row}");
            let program = cells[0].trim_matches('`');
            for (series, cell) in headings.iter().zip(&cells[1..]).filter(|(_, cell)| **cell != NOTHING) {
                let column = columns.get_mut(series).context("a heading without a column")?;
                column.insert(program.to_owned(), (*cell).to_owned());
            }
        }
        Ok(Self(columns))
    }

    /// The table as lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let programs: BTreeSet<&str> = self.0.values().flat_map(BTreeMap::keys).map(String::as_str).collect();
        let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
        let headings = row("program", self.0.keys().map(Series::to_string).collect());
        let dashes = format!("|---|{}", "--:|".repeat(self.0.len()));
        let rows = programs.into_iter().map(|program| {
            let cell = |column: &Column| column.get(program).map_or(NOTHING, String::as_str).to_owned();
            row(&format!("`{program}`"), self.0.values().map(cell).collect())
        });
        [headings, dashes].into_iter().chain(rows).collect()
    }
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [&str; 4] = [
        "| program | 5.10 | 6.18 |",
        "|---|--:|--:|",
        "| `connect4` | 352 | 357 (0.0 %) |",
        "| `getpeername4` | – | 67 |",
    ];

    fn table(text: &[&str]) -> anyhow::Result<Table> {
        Table::parse(&text.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let table = table(&TEXT).expect("sound");
        assert_eq!(table.lines(), TEXT);
        let old = &table.0[&"5.10".parse().expect("a series")];
        assert_eq!(old.get("connect4").map(String::as_str), Some("352"));
        assert_eq!(old.get("getpeername4"), None);
    }

    #[test]
    fn kernels_are_in_order_and_programs_that_no_kernel_has_are_left_out() {
        let mut table = table(&TEXT).expect("sound");
        table.0.remove(&"6.18".parse().expect("a series"));
        table.0.insert("5.4".parse().expect("a series"), [("connect4".to_owned(), "9".to_owned())].into());
        assert_eq!(table.lines(), ["| program | 5.4 | 5.10 |", "|---|--:|--:|", "| `connect4` | 9 | 352 |"]);
    }

    #[test]
    fn a_table_that_somebody_broke_is_an_error() {
        assert_eq!(table(&[]).expect("no table yet"), Table::default());
        assert!(table(&["| program | kernel |"]).is_err());
        assert!(table(&["| program | 5.10 |", "|---|--:|", "| `connect4` | 1 | 2 |"]).is_err());
    }
}
