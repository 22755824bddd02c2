//! docs/scenarios.md follows from the table.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use super::{
    row::{Mode, Row, Step},
    rows,
    rules::{Rule, Section},
};

/// If this is set, the file is written instead of compared.
const WRITE: &str = "PROXY_AGENT_WRITE_DOCS";

const INTRODUCTION: &str = "\
# What is promised of Services, and how it is tried

This file follows from the table of scenarios in `proxy-agent/tests/scenario_table`; a test compares them, and
`PROXY_AGENT_WRITE_DOCS=1 cargo test -p proxy-agent --test scenarios` writes it.

A scenario is a row of that table: Kubernetes objects, clients, and what must come of their connections, for IPv4 and IPv6, TCP, UDP
and SCTP, unless the row says otherwise. Objects go through the agent's own model and plan. One runner then executes each row in three
ways:

| mode | tables | packets and calls | command |
|---|---|---|---|
| host | in memory | single ones, through the pipeline as an ordinary function | `cargo test -p proxy-agent --test scenarios` |
| kernel | BPF maps | single packets, through the loaded programs by `BPF_PROG_TEST_RUN` | `cargo test -p proxy-agent --test root_scenarios kernel`, as root |
| sockets | BPF maps | real sockets in namespaces: a node with two endpoints, another one with two more, pods, clients outside; the agent is a process that reads manifests | `cargo test -p proxy-agent --test root_scenarios sockets`, as root |

Some things follow from the mode and not from the row. The kernel does not run hooks of sockets on demand, so clients that are served at their
sockets (a process of the node, a pod) take part in the modes host and sockets; a row that has no others is ignored in mode kernel. SCTP
takes no part in mode sockets, because many kernels have none; processes of the node reach no Service by it. Masquerading is
a bit of the mark in the modes host and kernel, and the address that the endpoint sees in mode sockets.

";

/// Compares the file with the table, or writes it.
pub fn check() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/scenarios.md");
    let expected = text();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, expected).expect("docs can be written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(found == expected, "docs/scenarios.md is not what the table says; {WRITE}=1 writes it. {differs:?}");
}

/// Every rule has a row, and every name is another one.
pub fn check_table() {
    let rows = rows::all();
    for rule in Rule::ALL {
        assert!(rows.iter().any(|row| row.rules.contains(rule)), "no row checks {rule:?}");
    }
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "names are unique");
    assert!(rows.len() >= 150, "there are only {} rows", rows.len());
    for row in &rows {
        assert!(row.unable(Mode::Host).is_none(), "{}: the host runs everything", row.name);
        let checks = |step: &Step| matches!(step, Step::Expect(..) | Step::Goes(..) | Step::Told(_));
        assert!(row.steps.iter().any(checks), "{}: nothing is expected", row.name);
        let rules: BTreeSet<Rule> = row.rules.iter().copied().collect();
        assert!(!rules.is_empty() && rules.len() == row.rules.len(), "{}: rules, each once", row.name);
    }
}

fn text() -> String {
    let rows = rows::all();
    let mut text = INTRODUCTION.to_owned();
    let count = |mode| rows.iter().filter(|row| row.unable(mode).is_none()).count();
    let (host, kernel, sockets) = (count(Mode::Host), count(Mode::Kernel), count(Mode::Sockets));
    writeln!(text, "{host} scenarios: {kernel} of them run in mode kernel, {sockets} in mode sockets.").expect(STRING);
    for section in Section::ALL {
        write!(text, "\n## {}\n\n| rule | scenarios |\n|---|---|\n", section.title()).expect(STRING);
        for rule in Rule::ALL.iter().filter(|rule| rule.section() == *section) {
            let numbers: Vec<String> =
                rows.iter().filter(|row| row.rules.contains(rule)).map(|row| row.number.to_string()).collect();
            writeln!(text, "| {} | {} |", rule.text(), numbers.join(", ")).expect(STRING);
        }
    }
    text.push_str("\n## Scenarios\n");
    for (topic, rows) in rows::topics() {
        write!(text, "\n### {topic}\n\n| | scenario | clients | for | kernel | sockets |\n|---|---|---|---|---|---|\n")
            .expect(STRING);
        for row in &rows {
            let clients: Vec<String> = row.clients().into_iter().map(super::cast::Client::name).collect();
            let mode = |mode| row.unable(mode).map_or("yes", super::row::Reason::text);
            let (kernel, sockets) = (mode(Mode::Kernel), mode(Mode::Sockets));
            let (number, name) = (row.number, row.name);
            writeln!(text, "| {number} | {name} | {} | {} | {kernel} | {sockets} |", clients.join(", "), limits(row))
                .expect(STRING);
        }
    }
    text
}

const STRING: &str = "a String takes everything";

/// Families and protocols, where not all.
fn limits(row: &Row) -> String {
    let mut limits = vec![];
    if let [family] = row.families[..] {
        limits.push(match family {
            super::cast::Family::V4 => "IPv4".to_owned(),
            super::cast::Family::V6 => "IPv6".to_owned(),
        });
    }
    if row.protocols != super::cast::PROTOCOLS {
        limits.extend(row.protocols.iter().map(ToString::to_string));
    }
    if limits.is_empty() { "all".to_owned() } else { limits.join(", ") }
}
