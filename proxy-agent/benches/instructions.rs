//! How many instructions the control plane takes, as Valgrind counts them: the same on a busy machine.
//!
//! `cargo xtask bench instructions` runs it; it needs Valgrind and gungraun-runner.

#![allow(missing_docs, unreachable_pub, reason = "a benchmark has no outside, and its macros make public items")]

#[allow(dead_code, reason = "shared with the other benchmark; each uses what it needs")]
mod changes;

use changes::{Settled, parse_slice, slice_text};
use gungraun::{library_benchmark, library_benchmark_group, main};
use proxy_agent::{model::EndpointSlice, plan::Changes};

fn text() -> Vec<u8> {
    slice_text(20, 1)
}

#[library_benchmark]
#[bench::ten_endpoints(setup = text)]
fn slice_from_its_text(text: Vec<u8>) -> (EndpointSlice, Vec<u8>) {
    (parse_slice(&text), text)
}

/// So many Services, and a slice that has changed.
fn changed(services: u32) -> (Settled, EndpointSlice) {
    let mut settled = Settled::new(services);
    let slice = settled.next_slice();
    (settled, slice)
}

#[library_benchmark]
#[benches::of_services(args = [100, 1_000], setup = changed)]
fn one_changed_slice((mut settled, slice): (Settled, EndpointSlice)) -> (Changes, Settled) {
    (settled.change(slice), settled)
}

#[library_benchmark]
#[benches::of_services(args = [100, 1_000], setup = Settled::new)]
fn nothing_changed(mut settled: Settled) -> (Changes, Settled) {
    (settled.diff(), settled)
}

library_benchmark_group!(name = control, benchmarks = [slice_from_its_text, one_changed_slice, nothing_changed]);
main!(library_benchmark_groups = control);
