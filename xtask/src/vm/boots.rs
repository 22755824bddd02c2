//! What is booted, and what runs there.

use std::fmt;

use clap::ValueEnum;

/// Test programs that have a machine of their own, the longest first.
const ALONE: [&str; 3] = ["root_faults", "root_traffic", "root_node"];

/// Measures how fast it is, which an emulated machine cannot tell. It runs there if it is named.
const BENCHMARK: &str = "root_bench";

/// On how many machines the others are spread. Each boot takes as long as two starts of an agent.
const PARTS: usize = 4;

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
    /// One that has a machine of its own.
    Alone(&'static str),
    /// One of several parts of the others, counted from 0.
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
    /// Complete machines that share all tests, then one for each thing that can be missing. What takes longest begins first, so that it is
    /// not left at the end.
    pub(super) fn all() -> Vec<Self> {
        let parts = (0..PARTS).map(Selection::Part);
        let complete = parts.chain(ALONE.map(Selection::Alone)).map(|selection| Self { lack: None, selection });
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
            Selection::Alone(name) => {
                programs.iter().filter(|program| *program == name).map(|name| run(name, None)).collect()
            }
            Selection::Part(part) => {
                let others = programs.iter().filter(|program| !ALONE.contains(program) && **program != BENCHMARK);
                others.skip(*part).step_by(PARTS).map(|program| run(program, None)).collect()
            }
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

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.lack, &self.selection) {
            (Some(lack), _) => write!(f, "-{}", lack.name()),
            (None, Selection::Alone(name)) => write!(f, "-{name}"),
            (None, Selection::Part(part)) => write!(f, "-{}of{PARTS}", part + 1),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
