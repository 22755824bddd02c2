//! How long the pipeline takes on the host, one packet at a time: `cargo bench -p proxy-ebpf --bench pipeline`.
//!
//! What it costs in the kernel is another matter (`cargo xtask bench runs`); this shows whether a change of the pipeline itself made
//! it dearer, without root and on any machine.

#![allow(missing_docs, unreachable_pub, reason = "a benchmark has no outside, and its macros make public items")]

mod packets;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use packets::{KINDS, passage};

fn pipeline(criterion: &mut Criterion) {
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let mut group = criterion.benchmark_group(family);
        for kind in KINDS {
            let fresh = passage(kind, is_v4);
            group.bench_function(BenchmarkId::from_parameter(kind), |bencher| {
                bencher.iter_batched_ref(|| fresh.clone(), packets::Passage::run, BatchSize::SmallInput);
            });
        }
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
