//! `docs/verifier.md`: text by hand, tables by `cargo xtask verify --write`.

use std::{collections::BTreeSet, fs, ops::Range};

use anyhow::Context;

use super::{
    figure::Figure,
    measurement::Measurement,
    series::Series,
    table::{Column, Table},
};
use crate::workspace;

/// Where it is, from the workspace's root.
pub(super) const PATH: &str = "docs/verifier.md";

/// By how many percent of what is documented a figure may differ. Compilers differ by a little, also without a change of the
/// programs.
const TOLERANCE: u64 = 10;

/// The file's lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Documentation(Vec<String>);

impl Documentation {
    /// Reads the file.
    pub(super) fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(workspace::root().join(PATH)).with_context(|| format!("cannot read {PATH}"))?;
        Ok(Self(text.lines().map(str::to_owned).collect()))
    }

    /// Writes the file.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let text = self.0.join("\n") + "\n";
        fs::write(workspace::root().join(PATH), text).with_context(|| format!("cannot write {PATH}"))
    }

    /// Whether there are figures for a kernel series.
    pub(super) fn knows(&self, series: Series) -> anyhow::Result<bool> {
        for figure in Figure::ALL {
            if self.table(figure)?.0.contains_key(&series) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces a kernel's figures.
    pub(super) fn replace(&mut self, series: Series, measurements: &[Measurement]) -> anyhow::Result<()> {
        for figure in Figure::ALL {
            let mut table = self.table(figure)?;
            table.0.insert(series, column(figure, measurements));
            let place = self.place(figure)?;
            self.0.splice(place, table.lines());
        }
        Ok(())
    }

    /// What is measured and not what is documented, in a sentence each.
    pub(super) fn differences(&self, series: Series, measurements: &[Measurement]) -> anyhow::Result<Vec<String>> {
        let mut differences = Vec::new();
        for figure in Figure::ALL {
            let documented = self.table(figure)?.0.remove(&series).unwrap_or_default();
            let measured = column(figure, measurements);
            let programs: BTreeSet<&String> = documented.keys().chain(measured.keys()).collect();
            for program in programs {
                let (was, is) = (documented.get(program), measured.get(program));
                if !agree(was, is) {
                    let text = |cell: Option<&String>| cell.map_or("nothing", String::as_str).to_owned();
                    let heading = figure.heading().trim_start_matches("## ");
                    differences.push(format!(
                        "{heading}, {program} on Linux {series}: {}, documented {}",
                        text(is),
                        text(was)
                    ));
                }
            }
        }
        Ok(differences)
    }

    fn table(&self, figure: Figure) -> anyhow::Result<Table> {
        Table::parse(&self.0[self.place(figure)?]).with_context(|| format!("{PATH}, {}", figure.heading()))
    }

    /// The lines of a figure's table: the first ones with a bar below its heading.
    fn place(&self, figure: Figure) -> anyhow::Result<Range<usize>> {
        let heading = self.0.iter().position(|line| line == figure.heading());
        let heading = heading.with_context(|| format!("{PATH} has no heading {}", figure.heading()))?;
        let section = &self.0[heading + 1..];
        let end = section.iter().position(|line| line.starts_with('#')).unwrap_or(section.len());
        let is_row = |line: &String| line.starts_with('|');
        let start = section[..end].iter().position(is_row);
        let start = start.with_context(|| format!("{PATH} has no table under {}", figure.heading()))?;
        let rows = section[start..end].iter().take_while(|line| is_row(line)).count();
        let start = heading + 1 + start;
        Ok(start..start + rows)
    }
}

fn column(figure: Figure, measurements: &[Measurement]) -> Column {
    measurements.iter().map(|measurement| (measurement.program.clone(), figure.cell(measurement))).collect()
}

fn agree(documented: Option<&String>, measured: Option<&String>) -> bool {
    let number = |cell: Option<&String>| cell.and_then(|cell| Figure::number(cell)).map(u64::from);
    match (number(documented), number(measured)) {
        (Some(documented), Some(measured)) => documented.abs_diff(measured) * 100 <= documented * TOLERANCE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title

## Instructions processed
Words about it.

| program | 5.10 |
|---|--:|
| `connect4` | 352 (0.0 %) |

More words.

## Size in instructions

| program | 5.10 |
|---|--:|
| `connect4` | 340 |

## Stack in bytes

| program | 5.10 |
|---|--:|
| `connect4` | 96 |
";

    fn documentation() -> Documentation {
        Documentation(TEXT.lines().map(str::to_owned).collect())
    }

    fn series(text: &str) -> Series {
        text.parse().expect("a series")
    }

    fn measured(program: &str, processed: u32) -> Measurement {
        Measurement {
            kernel: "6.18.44".to_owned(),
            program: program.to_owned(),
            processed,
            limit: 1_000_000,
            instructions: 340,
            frames: vec![88],
            deepest_chain: Some(96),
        }
    }

    #[test]
    fn a_kernel_gets_a_column_and_the_rest_stays() {
        let mut documentation = documentation();
        assert!(!documentation.knows(series("6.18")).expect("sound"));
        documentation
            .replace(series("6.18"), &[measured("connect4", 357), measured("tc_egress", 8474)])
            .expect("sound");
        assert!(documentation.knows(series("6.18")).expect("sound"));
        let expected = TEXT
            .replace("| program | 5.10 |\n|---|--:|", "| program | 5.10 | 6.18 |\n|---|--:|--:|")
            .replace("| 352 (0.0 %) |", "| 352 (0.0 %) | 357 (0.0 %) |\n| `tc_egress` | – | 8474 (0.8 %) |")
            .replace("| 340 |", "| 340 | 340 |\n| `tc_egress` | – | 340 |")
            .replace("| 96 |", "| 96 | 96 |\n| `tc_egress` | – | 96 |");
        assert_eq!(documentation.0.join("\n") + "\n", expected);
        // Once more changes nothing.
        let before = documentation.clone();
        documentation
            .replace(series("6.18"), &[measured("connect4", 357), measured("tc_egress", 8474)])
            .expect("sound");
        assert_eq!(documentation, before);
    }

    #[test]
    fn a_tenth_more_or_less_is_no_difference() {
        let differences =
            |processed| documentation().differences(series("5.10"), &[measured("connect4", processed)]).expect("sound");
        assert_eq!(differences(387), [""; 0]);
        assert_eq!(differences(317), [""; 0]);
        assert_eq!(
            differences(388),
            ["Instructions processed, connect4 on Linux 5.10: 388 (0.0 %), documented 352 (0.0 %)"]
        );
        assert_eq!(differences(316).len(), 1);
    }

    #[test]
    fn programs_that_came_or_went_are_differences() {
        let differences = documentation().differences(series("5.10"), &[measured("connect5", 352)]).expect("sound");
        assert_eq!(differences.len(), 6, "{differences:?}");
        assert_eq!(differences[0], "Instructions processed, connect4 on Linux 5.10: nothing, documented 352 (0.0 %)");
        assert_eq!(differences[1], "Instructions processed, connect5 on Linux 5.10: 352 (0.0 %), documented nothing");
    }

    #[test]
    fn a_section_without_its_table_is_an_error() {
        let missing = Documentation(vec![Figure::Processed.heading().to_owned(), Figure::Size.heading().to_owned()]);
        let error = missing.knows(series("6.18")).expect_err("no table").to_string();
        assert_eq!(error, "docs/verifier.md has no table under ## Instructions processed");
    }
}
