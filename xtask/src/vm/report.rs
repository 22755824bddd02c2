//! What a guest tells: how its programs ended, and whether it came to its own end.

use crate::test::Count;

/// How it went on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) count: Count,
    /// Why the machine counts as failed although no test may have.
    pub(super) complaint: Option<String>,
    /// All that was printed.
    pub(super) lines: Vec<String>,
}

impl Outcome {
    /// The complaint about a machine that was booted for its tests.
    pub(super) fn complaint_of_tests(&self) -> Option<&str> {
        let nothing_run = self.count == Count::default();
        self.complaint.as_deref().or(nothing_run.then_some("no test was run"))
    }
}

/// Gathers what the guest prints.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    count: Count,
    /// Programs that ended with another code than 0.
    failed: Vec<String>,
    running: Option<String>,
    finished: bool,
    lines: Vec<String>,
}

impl Report {
    pub(super) fn note(&mut self, line: &str) {
        self.count.note(line);
        self.lines.push(line.to_owned());
        let Some(guest) = line.strip_prefix("guest: ") else { return };
        if let Some(name) = guest.strip_prefix("running ") {
            self.running = Some(name.to_owned());
        } else if let Some((name, code)) = guest.split_once(" ended with ") {
            self.running = None;
            if code != "0" {
                self.failed.push(format!("{name} ended with {code}"));
            }
        } else if guest == "finished" {
            self.finished = true;
        }
    }

    /// The end. `console` is what the kernel printed last.
    pub(super) fn outcome(self, console: &str) -> Outcome {
        let Self { count, failed, running, finished, lines } = self;
        let complaint = if !finished {
            let during = running.map(|name| format!(" during {name}")).unwrap_or_default();
            Some(format!("the guest did not finish: it stopped or its time was up{during}\n{console}"))
        } else if !failed.is_empty() && count.failed == 0 {
            Some(failed.join(", "))
        } else {
            None
        };
        Outcome { count, complaint, lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut report = Report::default();
        for line in lines {
            report.note(line);
        }
        report.outcome("kernel panic")
    }

    const PASSED: &str = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";

    #[test]
    fn a_guest_that_finishes_is_counted() {
        let outcome = outcome(&["guest: running a", PASSED, "guest: a ended with 0", "guest: finished"]);
        assert_eq!(outcome.complaint_of_tests(), None);
        assert_eq!(outcome.count.to_string(), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_guest_that_does_not_finish_is_a_failure() {
        let complaint = outcome(&["guest: running a", PASSED]).complaint.expect("it did not finish");
        assert!(complaint.starts_with("the guest did not finish"), "{complaint}");
        assert!(complaint.contains("during a") && complaint.ends_with("kernel panic"), "{complaint}");
    }

    #[test]
    fn a_program_that_crashes_is_a_failure() {
        let outcome = outcome(&["guest: running a", "guest: a ended with 139", "guest: finished"]);
        assert_eq!(outcome.complaint_of_tests(), Some("a ended with 139"));
    }

    #[test]
    fn no_test_run_is_a_failure_of_tests_only() {
        let lines = ["guest: running a", "42", "guest: a ended with 0", "guest: finished"];
        let outcome = outcome(&lines);
        assert_eq!(outcome.complaint_of_tests(), Some("no test was run"));
        assert_eq!(outcome.complaint, None);
        assert_eq!(outcome.lines, lines);
    }
}
