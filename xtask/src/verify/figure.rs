//! What is told of each program.

use super::measurement::{Measurement, STACK_LIMIT};
use crate::demo::report;

/// A figure that has a table of its own in the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Instructions processed.
    Processed,
    /// Size in instructions.
    Size,
    /// Stack in bytes.
    Stack,
}

impl Figure {
    /// All figures, in the order of their tables.
    pub(super) const ALL: [Self; 3] = [Self::Processed, Self::Size, Self::Stack];

    /// The heading of the figure's table.
    pub(super) const fn heading(self) -> &'static str {
        match self {
            Self::Processed => "## Instructions processed",
            Self::Size => "## Size in instructions",
            Self::Stack => "## Stack in bytes",
        }
    }

    /// The figure for a program.
    pub(super) fn cell(self, measurement: &Measurement) -> String {
        match self {
            Self::Processed => {
                format!("{} ({})", measurement.processed, percent(measurement.processed, measurement.limit))
            }
            Self::Size => measurement.instructions.to_string(),
            Self::Stack if measurement.deepest_chain.is_none() => format!("≥ {}", measurement.stack()),
            Self::Stack => measurement.stack().to_string(),
        }
    }

    /// The number in a cell, to be compared with another one.
    pub(super) fn number(cell: &str) -> Option<u32> {
        cell.trim_start_matches("≥ ").split(' ').next()?.parse().ok()
    }
}

/// A kernel's programs, for a person at a terminal.
pub(super) fn overview(measurements: &[Measurement]) -> String {
    let rows: Vec<Vec<String>> = measurements
        .iter()
        .map(|measurement| {
            let Measurement { kernel: _, program, processed, limit, instructions, frames, deepest_chain: _ } =
                measurement;
            let frames: Vec<String> = frames.iter().map(ToString::to_string).collect();
            vec![
                program.clone(),
                processed.to_string(),
                percent(*processed, *limit),
                instructions.to_string(),
                (instructions * 8).to_string(),
                Figure::Stack.cell(measurement),
                percent(measurement.stack(), STACK_LIMIT),
                frames.join("+"),
            ]
        })
        .collect();
    report::table(&["program", "processed", "of limit", "instructions", "bytes", "stack", "of limit", "frames"], &rows)
}

/// A share in percent, with one decimal.
fn percent(part: u32, whole: u32) -> String {
    format!("{:.1} %", f64::from(part) * 100.0 / f64::from(whole.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_can_be_compared() {
        let known = Measurement {
            kernel: "6.18.44".to_owned(),
            program: "tc_egress".to_owned(),
            processed: 68_474,
            limit: 1_000_000,
            instructions: 1709,
            frames: vec![8, 256],
            deepest_chain: Some(288),
        };
        let cells = Figure::ALL.map(|figure| figure.cell(&known));
        assert_eq!(cells, ["68474 (6.8 %)", "1709", "288"]);
        assert_eq!(cells.each_ref().map(|cell| Figure::number(cell)), [Some(68_474), Some(1709), Some(288)]);

        let unknown = Measurement { deepest_chain: None, ..known };
        let cell = Figure::Stack.cell(&unknown);
        assert_eq!((cell.as_str(), Figure::number(&cell)), ("≥ 256", Some(256)));
        assert_eq!(Figure::number("many"), None);
    }
}
