//! Hot: how long each piece of a message's way takes (`cargo bench --bench hot`); what comes together is done together.

#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

#[path = "strokes/mod.rs"]
mod strokes;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// As a node has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn hot(criterion: &mut Criterion) {
    for mut stroke in strokes::all() {
        let mut group = criterion.benchmark_group("hot");
        group.throughput(Throughput::Elements(stroke.messages));
        group.bench_function(stroke.name, |bencher| bencher.iter(|| (stroke.run)()));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = hot
}
criterion_main!(benches);
