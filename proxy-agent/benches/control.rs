//! How long the control plane takes, without any system call: `cargo bench -p proxy-agent --bench control`.

#![allow(missing_docs, unreachable_pub, reason = "a benchmark has no outside, and its macros make public items")]

mod changes;

use std::{cell::RefCell, hint::black_box};

use changes::{ALL, Settled, index, parse_service, parse_slice, plan_all, service_text, slice_text};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn model(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("model");
    let text = slice_text(20, 1);
    group.bench_function("a slice with ten endpoints, from its text", |bencher| {
        bencher.iter(|| parse_slice(black_box(&text)));
    });
    let text = service_text(20);
    group.bench_function("a Service, from its text", |bencher| bencher.iter(|| parse_service(black_box(&text))));
}

fn plan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    let all = index(ALL);
    group.bench_function("all Services, from nothing", |bencher| {
        bencher.iter_with_large_drop(|| plan_all(black_box(&all)));
    });
}

fn diff(criterion: &mut Criterion) {
    let settled = RefCell::new(Settled::new(ALL));
    let mut group = criterion.benchmark_group("diff");
    group.bench_function("one changed slice among all", |bencher| {
        let change = |slice| {
            let changes = settled.borrow_mut().change(slice);
            assert!(!changes.is_empty(), "one endpoint is another one each time");
            changes
        };
        bencher.iter_batched(|| settled.borrow_mut().next_slice(), change, BatchSize::SmallInput);
    });
    group.sample_size(10);
    group.bench_function("all Services, none of them changed", |bencher| {
        bencher.iter(|| assert!(settled.borrow_mut().diff().is_empty()));
    });
}

criterion_group!(benches, model, plan, diff);
criterion_main!(benches);
