//! How old what the tables hold may be, as `status` shows it.

use std::io::{self, Write};

use serde::Serialize;

use crate::freshness::{KINDS, Times, age};

/// How old the tables may be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct AgesView {
    /// Since the tables were last in step with what was known.
    synced_seconds_ago: Option<u64>,
    sources: Vec<SourceView>,
}

/// How old what is known of a kind of object may be.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct SourceView {
    kind: String,
    /// Since a complete list or a change came.
    last_event_seconds_ago: Option<u64>,
    /// For how long nobody could list or watch.
    failing_seconds: Option<u64>,
}

impl AgesView {
    /// As it is at the time `now`, in seconds since 1970.
    pub(super) fn new(times: &Times, now: u64) -> Self {
        let sources = KINDS.iter().zip(&times.kinds).map(|(kind, times)| SourceView {
            kind: kind.to_string(),
            last_event_seconds_ago: age(times.heard, now),
            failing_seconds: age(times.failing, now),
        });
        Self { synced_seconds_ago: age(times.synced, now), sources: sources.collect() }
    }

    /// What somebody should look at while an agent runs, a sentence each.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.sources.iter().filter_map(|SourceView { kind, failing_seconds, .. }| {
            let seconds = (*failing_seconds)?;
            Some(format!(
                "{kind}s have not been listed or watched for {seconds}s: what is known of them stays in force"
            ))
        })
    }

    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let ago = |age: Option<u64>| age.map_or_else(|| "never".to_owned(), |age| format!("{age}s ago"));
        writeln!(out, "tables last in step: {}", ago(self.synced_seconds_ago))?;
        for SourceView { kind, last_event_seconds_ago, failing_seconds } in &self.sources {
            write!(out, "{kind}s: last event {}", ago(*last_event_seconds_ago))?;
            match failing_seconds {
                Some(seconds) => writeln!(out, ", NOT WATCHED for {seconds}s")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}
