//! One guided evaluation of a U-Net of SD1.5's shape at 64x64 latents, as a share of bare multiply-adds.
//!
//! `SDQ_BENCH_MODEL=sd15.sdq cargo bench -p sdq-benches --bench unet` (the `synthetic` program of this package writes
//! such a file). Without the variable nothing is measured. `benches/torch_unet.py` times PyTorch at the same size.

use std::{path::Path, time::Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use sdq_benches::{fma_rate, noise};
use sdq_engine::{Pipeline, PipelineOptions, Request, Tensor, backend::cpu::pool::Pool};

/// Multiply-adds of one evaluation at 64x64 latents, batch 1; the cross-attention's keys and values are not counted.
const SD15_MULTIPLY_ADDS: f64 = 402e9;

fn guided_step(criterion: &mut Criterion) {
    let Some(path) = std::env::var_os("SDQ_BENCH_MODEL") else {
        println!("unet: SDQ_BENCH_MODEL is not set, nothing measured");
        return;
    };
    let pipeline = Pipeline::open(Path::new(&path), &PipelineOptions::default()).expect("the model opens");
    let pool = Pool::new(None).expect("the machine has as many threads as it says");
    let latents = Tensor::new(vec![2, 4, 64, 64], noise(2 * 4 * 64 * 64)).expect("the shape fits");
    let request = Request { prompt: "a lighthouse at dusk".to_owned(), ..Request::default() };
    let settings = pipeline.settings(&request).expect("nothing out of the way is asked for");
    let conditioning = pipeline.condition(&settings).expect("the prompt is plain");

    let mut group = criterion.benchmark_group("unet");
    group.sample_size(10);
    group.bench_function("guided_step", |bencher| {
        bencher.iter_custom(|iterations| {
            let limit = fma_rate(&pool);
            let start = Instant::now();
            for _ in 0..iterations {
                pipeline.predict_noise(&latents, 500.0, &conditioning).expect("the shapes fit");
            }
            let elapsed = start.elapsed();
            let rate = 2.0 * SD15_MULTIPLY_ADDS * iterations as f64 / elapsed.as_secs_f64();
            println!(
                "guided step {:.2} s, {:.0} % of bare multiply-adds",
                elapsed.as_secs_f64() / iterations as f64,
                100.0 * rate / limit
            );
            elapsed
        });
    });
    group.finish();
}

criterion_group!(benches, guided_step);
criterion_main!(benches);
