//! What was tried and how it ended, as a table.

use std::{fmt, fs, path::Path};

use anyhow::Context;

/// Scenarios in the order in which they ran.
#[derive(Default)]
pub(super) struct Report(Vec<(&'static str, anyhow::Result<String>)>);

impl Report {
    /// `outcome`: what was seen, or what was wrong.
    pub(super) fn add(&mut self, scenario: &'static str, outcome: anyhow::Result<String>) {
        match &outcome {
            Ok(seen) => eprintln!("good: {scenario}: {seen}"),
            Err(error) => eprintln!("FAILED: {scenario}: {error:#}"),
        }
        self.0.push((scenario, outcome));
    }

    pub(super) fn has_failures(&self) -> bool {
        self.0.iter().any(|(_, outcome)| outcome.is_err())
    }

    pub(super) fn write(&self, file: &Path) -> anyhow::Result<()> {
        fs::write(file, self.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "| scenario | result | |\n|---|---|---|")?;
        for (scenario, outcome) in &self.0 {
            let (result, text) = match outcome {
                Ok(seen) => ("good", seen.clone()),
                Err(error) => ("**failed**", format!("{error:#}")),
            };
            writeln!(formatter, "| {scenario} | {result} | {} |", text.replace('\n', " ").replace('|', "\\|"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn one_failure_makes_the_report_one_of_failure() {
        let mut report = Report::default();
        report.add("first", Ok("3 of 3".to_owned()));
        assert!(!report.has_failures());
        report.add("second", Err(anyhow!("a | b\nc")));
        assert!(report.has_failures());
        assert_eq!(
            report.to_string(),
            "| scenario | result | |\n|---|---|---|\n| first | good | 3 of 3 |\n| second | **failed** | a \\| b c |\n"
        );
    }
}
