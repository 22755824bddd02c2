//! What is booted, and what runs there.

use std::{cmp::Reverse, fmt};

use clap::ValueEnum;

/// The test programs that take long, and for how many seconds a guest with the newest kernel works on each. It need not be exact: they are
/// spread over the machines by it.
const LONG: [(&str, u32); 19] = [
    ("root_traffic", 200),
    ("root_carry", 170),
    ("root_dataplane", 160),
    ("root_hooks", 160),
    ("root_faults", 150),
    ("root_scenarios", 150),
    ("root_handover", 140),
    ("root_node", 130),
    ("root_paths", 120),
    ("root_tables", 100),
    ("root_packets", 80),
    ("root_settings", 60),
    ("root_trace", 60),
    ("root_cli", 50),
    ("root_external", 40),
    ("root_fallbacks", 40),
    ("root_mark", 40),
    ("root_programs", 40),
    ("root_verifier", 40),
];
/// What each of the others takes.
const SHORT: u32 = 15;

/// Measures how fast it is, which an emulated machine cannot tell. It runs there if it is named.
const BENCHMARK: &str = "root_bench";

/// On how many complete machines all are spread. Each boot takes as long as two starts of an agent.
const PARTS: usize = 6;

/// The test program for machines that lack something.
const NODE: &str = "root_node";

/// Something that a node can lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Lack {
    /// No nftables in the kernel.
    Nft,
    /// No IPv6, by the kernel's command line.
    Ipv6,
    /// Only first-version cgroups are mounted.
    Cgroup2,
    /// The kernel does not tell its types.
    Btf,
    /// No BPF file system is mounted.
    Bpffs,
    /// Locked memory is limited and the limit cannot be raised.
    Memlock,
}

impl Lack {
    const ALL: [Self; 6] = [Self::Nft, Self::Ipv6, Self::Cgroup2, Self::Btf, Self::Bpffs, Self::Memlock];

    /// What the tests know it by, in `PROXY_AGENT_NODE_LACKS`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nft => "without-nft",
            Self::Ipv6 => "without-ipv6",
            Self::Cgroup2 => "cgroup-v1",
            Self::Btf => "without-btf",
            Self::Bpffs => "without-bpffs",
            Self::Memlock => "low-memlock",
        }
    }

    /// What the kernel's command line says to bring it about.
    pub(super) const fn parameter(self) -> &'static str {
        match self {
            Self::Ipv6 => "ipv6.disable=1",
            Self::Nft | Self::Cgroup2 | Self::Btf | Self::Bpffs | Self::Memlock => "",
        }
    }
}

/// A run of a test program: those of its tests whose names contain the filter, which is its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) program: String,
    pub(super) filter: Option<String>,
}

/// Which test programs run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Selection {
    /// One of several parts of all, counted from 0.
    Part(usize),
    Quick,
    /// Programs by how their names begin, or tests by a part of theirs.
    Named(String),
    Exactly(Run),
    Node,
}

/// A virtual machine's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) lack: Option<Lack>,
    selection: Selection,
}

impl Boot {
    /// Complete machines that share all tests, then one for each thing that can be missing: they take less, and fill what is left at the end.
    pub(super) fn all() -> Vec<Self> {
        let complete = (0..PARTS).map(|part| Self { lack: None, selection: Selection::Part(part) });
        complete.chain(Lack::ALL.map(Self::without)).collect()
    }

    /// What shows that everything loads, attaches and carries traffic.
    pub(super) fn quick() -> Self {
        Self { lack: None, selection: Selection::Quick }
    }

    /// Test programs by how their names begin, or tests by a part of theirs.
    pub(super) fn only(name: &str) -> Self {
        Self { lack: None, selection: Selection::Named(name.to_owned()) }
    }

    /// One program with one argument.
    pub(super) fn exactly(program: &str, argument: &str) -> Self {
        let run = Run { program: program.to_owned(), filter: Some(argument.to_owned()) };
        Self { lack: None, selection: Selection::Exactly(run) }
    }

    /// A machine that lacks something.
    pub(super) fn without(lack: Lack) -> Self {
        Self { lack: Some(lack), selection: Selection::Node }
    }

    /// What runs, of the programs that there are.
    pub(super) fn runs(&self, programs: &[&str]) -> Vec<Run> {
        let run = |program: &str, filter: Option<&str>| Run {
            program: program.to_owned(),
            filter: filter.map(str::to_owned),
        };
        match &self.selection {
            Selection::Part(part) => spread(programs)[*part].iter().map(|program| run(program, None)).collect(),
            Selection::Named(name) => {
                let named: Vec<_> = programs.iter().filter(|program| program.starts_with(&**name)).collect();
                if named.is_empty() {
                    programs.iter().map(|program| run(program, Some(name))).collect()
                } else {
                    named.into_iter().map(|program| run(program, None)).collect()
                }
            }
            Selection::Exactly(run) => vec![run.clone()],
            Selection::Node => vec![run(NODE, None)],
            Selection::Quick => vec![
                run("root_features", None),
                run("root_programs", None),
                run("root_verifier", None),
                run("root_hooks", None),
                run("root_traffic", Some("every_client")),
                run("root_traffic", Some("no_endpoint")),
                run("root_traffic", Some("restarting")),
            ],
        }
    }
}

/// For how long a guest works on a program, about.
fn seconds(name: &str) -> u32 {
    LONG.iter().find(|(long, _)| *long == name).map_or(SHORT, |(_, seconds)| *seconds)
}

/// The programs of each complete machine: the longest first, each where there is least to do yet.
fn spread<'a>(programs: &[&'a str]) -> [Vec<&'a str>; PARTS] {
    let mut programs: Vec<&str> = programs.iter().copied().filter(|program| *program != BENCHMARK).collect();
    programs.sort_by_key(|program| Reverse(seconds(program)));
    let mut parts = [const { (0, Vec::new()) }; PARTS];
    for program in programs {
        let (least, first) = parts.iter().enumerate().map(|(part, (sum, _))| (*sum, part)).min().unwrap_or_default();
        parts[first].0 = least + seconds(program);
        parts[first].1.push(program);
    }
    parts.map(|(_, programs)| programs)
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.lack, &self.selection) {
            (Some(lack), _) => write!(f, "-{}", lack.name()),
            (None, Selection::Part(part)) => write!(f, "-{}of{PARTS}", part + 1),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    const PROGRAMS: [&str; 4] = ["root_bench", "root_hooks", "root_node", "root_traffic"];

    #[test]
    fn a_name_begins_those_of_programs_or_is_a_part_of_tests_names() {
        let program = Boot::only("root_hooks").runs(&PROGRAMS);
        assert_eq!(program, [Run { program: "root_hooks".to_owned(), filter: None }]);
        assert_eq!(Boot::only("root").runs(&PROGRAMS).len(), PROGRAMS.len());
        let part = Boot::only("hairpin").runs(&PROGRAMS);
        assert_eq!(part.len(), PROGRAMS.len());
        assert!(part.iter().all(|run| run.filter.as_deref() == Some("hairpin")));
    }

    #[test]
    fn the_parts_are_everything_once() {
        let parts = Boot::all().into_iter().filter(|boot| boot.lack.is_none());
        let mut runs: Vec<String> = parts.flat_map(|boot| boot.runs(&PROGRAMS)).map(|run| run.program).collect();
        runs.sort();
        assert_eq!(runs, PROGRAMS[1..], "all but the benchmark");
    }

    #[test]
    fn there_are_programs_of_these_names() {
        let tests = workspace::root().join("proxy-agent/tests");
        for (name, _) in LONG {
            assert!(tests.join(name).is_dir() || tests.join(format!("{name}.rs")).is_file(), "{name}");
        }
    }

    #[test]
    fn machines_have_about_as_much_to_do() {
        let short = (0..10).map(|number| format!("root_{number}")).collect::<Vec<_>>();
        let programs: Vec<&str> = LONG.iter().map(|(name, _)| *name).chain(short.iter().map(String::as_str)).collect();
        let sums = spread(&programs).map(|part| part.iter().map(|name| seconds(name)).sum::<u32>());
        let (least, most) = (sums.iter().min(), sums.iter().max());
        assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 3 * SHORT), "{sums:?}");
    }

    #[test]
    fn a_program_can_run_for_something_else_than_its_tests() {
        let boot = Boot::exactly("root_hooks", "--something");
        let run = Run { program: "root_hooks".to_owned(), filter: Some("--something".to_owned()) };
        assert_eq!(boot.runs(&PROGRAMS), [run]);
    }

    #[test]
    fn machines_that_lack_something_run_the_tests_made_for_them() {
        for boot in Boot::all().iter().filter(|boot| boot.lack.is_some()) {
            assert_eq!(boot.runs(&PROGRAMS), [Run { program: NODE.to_owned(), filter: None }]);
        }
    }
}
