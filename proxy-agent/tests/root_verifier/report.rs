//! Reads what the verifier reports at the end of its work (`BPF_LOG_STATS`, since Linux 5.2).

use anyhow::Context as _;

/// The end of a verifier's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many instructions it has looked at.
    pub processed: u32,
    /// How many it looks at before it gives up.
    pub limit: u32,
    /// The frame of each function in bytes, in the order in which they are in the program.
    pub frames: Vec<u32>,
    /// What the deepest chain of calls takes in bytes, as this kernel rounds frames. Kernels after 6.18 tell.
    pub deepest_chain: Option<u32>,
}

impl Report {
    /// Reads a log.
    ///
    /// # Errors
    /// It does not end in a report, because the verifier has refused the program for instance.
    pub fn read(log: &str) -> anyhow::Result<Self> {
        Self::find(log).with_context(|| format!("no report of the verifier in its log:\n{log}"))
    }

    fn find(log: &str) -> Option<Self> {
        let after = |start: &str| log.lines().rev().find_map(|line| line.strip_prefix(start));
        let (processed, rest) = after("processed ")?.split_once(" insns (limit ")?;
        let (limit, _) = rest.split_once(')')?;
        let stack = after("stack depth ")?;
        let (frames, deepest_chain) = match stack.split_once("max ") {
            Some((frames, deepest_chain)) => (frames, Some(deepest_chain.trim().parse().ok()?)),
            None => (stack, None),
        };
        let frames: Option<Vec<u32>> = if frames.is_empty() {
            // Since 7.3 each function has a line of its own.
            let functions = log.lines().filter_map(|line| line.strip_prefix("subprog "));
            functions.map(|line| line.rsplit_once(" stack ")?.1.trim().parse().ok()).collect()
        } else {
            frames.split('+').map(|frame| frame.trim().parse().ok()).collect()
        };
        Some(Self { processed: processed.parse().ok()?, limit: limit.parse().ok()?, frames: frames?, deepest_chain })
    }
}

/// As Linux 5.10, 7.2 and 7.3 write it.
pub fn reports_of_old_and_new_kernels_are_read() {
    let old = "verification time 912 usec\n\
        stack depth 8+96+256\n\
        processed 2806 insns (limit 1000000) max_states_per_insn 4 total_states 117 peak_states 116 mark_read 22\n";
    assert_eq!(
        Report::read(old).expect("complete"),
        Report { processed: 2806, limit: 1_000_000, frames: vec![8, 96, 256], deepest_chain: None }
    );
    let new = "verification time 84020 usec\n\
        stack depth 8+96+256 max 272\n\
        insns processed 357+12+9\n\
        processed 378 insns (limit 1000000) max_states_per_insn 1 total_states 27 peak_states 27 mark_read 0\n\n";
    assert_eq!(
        Report::read(new).expect("complete"),
        Report { processed: 378, limit: 1_000_000, frames: vec![8, 96, 256], deepest_chain: Some(272) }
    );
    let newest = "verification time 45147 usec\n\
        stack depth max 144\n\
        subprog 0 (connect4) main insns_self 1000 insns_total 1186 stack 144\n\
        subprog 1 (choose) static insns_self 186 insns_total 186 stack 0\n\
        processed 1186 insns (limit 1000000) max_states_per_insn 4 total_states 94 peak_states 93 mark_read 0\n";
    assert_eq!(
        Report::read(newest).expect("complete"),
        Report { processed: 1186, limit: 1_000_000, frames: vec![144, 0], deepest_chain: Some(144) }
    );
}

/// A program that was refused has figures, but no stack.
pub fn a_log_without_a_report_is_an_error() {
    let refused = "R1 invalid mem access 'scalar'\nprocessed 12 insns (limit 1000000) max_states_per_insn 0\n";
    let error = Report::read(refused).expect_err("incomplete").to_string();
    assert!(error.contains("invalid mem access"), "{error}");
}
