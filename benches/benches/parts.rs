//! Text encoder, guided U-Net step, VAE decoder and whole pictures, of the built-in model and of the file in
//! `SDQ_BENCH_MODEL`.
//!
//! `SDQ_BENCH_MODEL=sd15.sdq cargo bench -p sdq-benches --bench parts` (the `synthetic` program of this
//! package writes such a file, `sdq convert` one with integers). After criterion's own figures, each line
//! ends with the best time as a share of the time that its multiply-adds of integers and of floats need in
//! registers, measured in turn with it.

use std::{
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sdq_engine::{
    Pipeline, PipelineOptions, Request,
    backend::cpu::{
        limits::{dot_rate, fma_rate},
        pool::Pool,
    },
    pipeline::Part,
};

/// Steps of a whole picture: enough for steps to matter, and few for a short measurement.
const STEPS: usize = 2;

/// Weights are read in place, so the built-in file must be aligned like a mapped one.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/model.sdq"));

fn parts(criterion: &mut Criterion) {
    let options = PipelineOptions::default();
    let built_in = Pipeline::from_static(&BUILT_IN.0, &options).expect("the built-in model opens");
    measure(criterion, "built-in", &built_in);
    if let Some(path) = std::env::var_os("SDQ_BENCH_MODEL") {
        let pipeline = Pipeline::open(Path::new(&path), &options).expect("the model opens");
        measure(criterion, "file", &pipeline);
    }
}

fn measure(criterion: &mut Criterion, name: &str, pipeline: &Pipeline) {
    let pool = Pool::new(None).expect("the machine has as many threads as it says");
    let request = Request { prompt: "a red apple".to_owned(), steps: Some(STEPS), ..Request::default() };
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    for (part, name) in Part::ALL.into_iter().zip(["text encoder", "guided step", "VAE decoder"]) {
        let mut run = pipeline.part(part, &request).expect("nothing out of the way is asked for");
        let cost = run.cost();
        group.throughput(Throughput::Elements(cost.integer + cost.float));
        let (mut best, mut limit) = (f64::INFINITY, f64::INFINITY);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let least = cost.integer as f64 / dot_rate(&pool) + cost.float as f64 / fma_rate(&pool);
                limit = limit.min(least);
                let start = Instant::now();
                for _ in 0..iterations {
                    let start = Instant::now();
                    run.run().expect("a processor does not fail");
                    best = best.min(start.elapsed().as_secs_f64());
                }
                start.elapsed()
            });
        });
        if best.is_finite() {
            let rate = (cost.integer + cost.float) as f64 / best / 1e9;
            println!("    {name}: {rate:.0} G/s, {:.0} % of the limit", 100.0 * limit / best);
        }
    }
    group.bench_function(format!("picture of {STEPS} steps"), |bencher| {
        bencher.iter(|| {
            pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).expect("the picture is drawn")
        });
    });
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
