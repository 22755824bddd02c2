//! Counts tests from what the test harness prints.

use std::fmt;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Count {
    /// Adds the tests of another run.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }

    /// Adds what a line of output tells: `test result: ok. 5 passed; 0 failed; 1 ignored; …` at the
    /// end of each test binary. Other lines tell nothing.
    pub(crate) fn note(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for (number, what) in counts.split("; ").filter_map(|count| count.split_once(' ')) {
            let Ok(number) = number.parse::<u32>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_summed() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s",
            "test result: FAILED. 7 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            count.note(line);
        }
        assert_eq!(count, Count { passed: 9, failed: 3, skipped: 1 });
        assert_eq!(count.to_string(), "9 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn what_a_test_prints_is_not_a_result() {
        let mut count = Count::default();
        count.note("the test result: ok. 2 passed");
        count.note("5 passed; 1 failed");
        assert_eq!(count, Count::default());
    }
}
