//! How many instructions the pipeline takes on the host for one packet, as Valgrind counts them: the same on a busy machine.
//!
//! `cargo xtask bench instructions` runs it; it needs Valgrind and gungraun-runner. The numbers in the names are places in `KINDS`.

#![allow(missing_docs, unreachable_pub, reason = "a benchmark has no outside, and its macros make public items")]

mod packets;

use gungraun::{library_benchmark, library_benchmark_group, main};
use packets::{KINDS, Passage, passage};
use proxy_ebpf::Verdict;

fn v4(kind: &str) -> Passage {
    passage(kind, true)
}

fn v6(kind: &str) -> Passage {
    passage(kind, false)
}

#[library_benchmark]
#[benches::v4(iter = KINDS, setup = v4)]
#[benches::v6(iter = KINDS, setup = v6)]
fn packet(mut passage: Passage) -> (Verdict, Passage) {
    // The tables are dropped elsewhere, so that this is not counted.
    (passage.run(), passage)
}

library_benchmark_group!(name = pipeline, benchmarks = packet);
main!(library_benchmark_groups = pipeline);
