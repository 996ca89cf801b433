//! The CPU kernels at sizes of SD1.5 (64x64 latents, a batch of 2 for guidance), of SDXL (128x128 latents)
//! and of the built-in model.
//!
//! `cargo bench -p sdq-benches --bench kernels -- conv` measures the convolutions. After criterion's own
//! figures, each line ends with the best time as a share of a limit of the machine: bare multiply-adds for
//! products, copying for other kernels.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use half::f16;
use sdq_benches::{measured, noise};
use sdq_engine::backend::cpu::kernels::{
    Activation, AttentionShape, ConvShape, Epilogue, Integers, KeyLayout, PackedMatrix, Panels,
    QuantizedMatrix, attention, attention_i8i16, conv2d, conv2d_u8s8, geglu, group_norm, layer_norm, matmul,
    matmul_u8s8, quantize_keys, quantize_rows,
};
use sdq_engine::backend::cpu::{
    limits::{copy_rate, dot_rate, fma_rate},
    pool::Pool,
};
use sdq_engine::backend::row_layout::RowLayout;
use sdq_formats::layout::columns::Columns;

/// The limit with which a kernel is compared.
#[derive(Clone, Copy)]
enum Limit {
    /// Multiply-adds in registers; work is counted in them.
    Fma,
    /// Multiply-adds of bytes in registers; work is counted in them.
    Dot,
    /// Copying as many elements as the kernel reads.
    Copy,
}

/// Measures `kernel`, which does `work` multiply-adds or reads as many elements, on every instruction set.
fn bench(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    limit: Limit,
    work: usize,
    mut kernel: impl FnMut(&Pool),
) {
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(work as u64));
    for isa in measured() {
        let pool = Pool::with_isa(None, isa).expect("the machine has as many threads as it says");
        let (mut best, mut limit_rate) = (f64::INFINITY, 0.0_f64);
        group.bench_function(format!("{name}/{isa:?}"), |bencher| {
            bencher.iter_custom(|iterations| {
                limit_rate = limit_rate.max(match limit {
                    Limit::Fma => fma_rate(&pool),
                    Limit::Dot => dot_rate(&pool),
                    Limit::Copy => copy_rate(&pool, work),
                });
                let start = Instant::now();
                for _ in 0..iterations {
                    let start = Instant::now();
                    kernel(&pool);
                    best = best.min(start.elapsed().as_secs_f64());
                }
                start.elapsed()
            });
        });
        if best.is_finite() {
            let rate = work as f64 / best;
            let (giga, limit_giga, share) = (rate / 1e9, limit_rate / 1e9, rate / limit_rate * 100.0);
            println!("    {name}/{isa:?}: {giga:.1} of {limit_giga:.1} G/s, {share:.0} %");
        }
    }
}

/// Half-precision weights of a matrix `[n, k]`, as in converted models.
fn weights(n: usize, k: usize) -> Vec<f16> {
    noise(n.div_ceil(16) * 16 * k).into_iter().map(f16::from_f32).collect()
}

/// A 3x3 convolution that keeps the picture's size.
fn conv3x3(batch: usize, size: usize, in_channels: usize) -> ConvShape {
    ConvShape {
        batch,
        in_height: size,
        in_width: size,
        in_channels,
        out_height: size,
        out_width: size,
        kernel: (3, 3),
        stride: 1,
        pad_top: 1,
        pad_left: 1,
    }
}

/// 3x3 convolutions `[batch, size, in channels, out channels]`.
fn convolutions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conv3x3");
    for [batch, size, in_channels, n] in [
        [2, 64, 320, 320],
        [2, 32, 640, 640],
        [2, 16, 1280, 1280],
        [2, 8, 1280, 1280],
        [2, 128, 320, 320],
        [2, 64, 4, 320],
        [2, 64, 320, 4],
        [2, 16, 64, 64],
        [2, 8, 128, 128],
        [2, 4, 224, 224],
    ] {
        let shape = conv3x3(batch, size, in_channels);
        let pixels = batch * size * size;
        let (x, weight, bias) = (noise(pixels * in_channels), weights(n, 9 * in_channels), noise(n));
        let weight = PackedMatrix::new(n, 9 * in_channels, Panels::F16(&weight));
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let mut out = vec![0.0; pixels * n];
        let name = format!("{batch}x{size}x{size} {in_channels} to {n}");
        bench(&mut group, &name, Limit::Fma, pixels * n * 9 * in_channels, |pool| {
            conv2d(pool, &x, &shape, &weight, &epilogue, &mut out);
        });
    }
}

/// Linear layers `[m, k, n]`: feed-forward, projections, keys of the text, time embedding; then the built-in model's.
fn linear(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    for [m, k, n] in [
        [8192, 320, 2560],
        [8192, 320, 320],
        [8192, 640, 640],
        [2048, 1280, 1280],
        [2048, 1280, 10240],
        [512, 1280, 1280],
        [154, 768, 320],
        [2, 320, 1280],
        [512, 64, 64],
        [32, 224, 224],
    ] {
        let (x, weight) = (noise(m * k), weights(n, k));
        let weight = PackedMatrix::new(n, k, Panels::F16(&weight));
        let mut out = vec![0.0; m * n];
        bench(&mut group, &format!("{m}x{k} to {n}"), Limit::Fma, m * k * n, |pool| {
            matmul(pool, &x, &weight, m, &Epilogue::default(), &mut out);
        });
    }
}

/// The weights of a quantized product: bytes, half bytes, multipliers of one, scales.
struct Quantized {
    q8: Vec<i8>,
    q4: Vec<u8>,
    multipliers: Vec<u8>,
    scales: Vec<f32>,
    n: usize,
    columns: Columns,
}

impl Quantized {
    fn new(n: usize, taps: usize, channels: usize) -> Quantized {
        let columns = Columns::new(taps, &[channels]).expect("a plain shape");
        let (lanes, padded) = (n.next_multiple_of(16), columns.padded());
        Quantized {
            q8: (0..lanes * padded).map(|i| ((i * 37) % 120) as i8 - 60).collect(),
            q4: (0..lanes * padded / 2).map(|i| (i * 37) as u8).collect(),
            multipliers: vec![0x11; lanes * columns.groups() / 2],
            scales: vec![0.01; lanes],
            n,
            columns,
        }
    }

    /// Both types, by name.
    fn matrices(&self) -> [(&'static str, QuantizedMatrix<'_>); 2] {
        let q4 = Integers::Q4 { values: &self.q4, multipliers: &self.multipliers };
        [("q8", Integers::Q8(&self.q8)), ("q4", q4)].map(|(name, integers)| {
            (name, QuantizedMatrix::new(self.n, self.columns.clone(), integers, &self.scales))
        })
    }
}

/// Products with integers at the sizes of those in floats: `[batch, size, in channels, out channels]` of 3x3
/// convolutions, `[m, k, n]` of linear layers. Quantizing the left operand is measured separately.
fn integers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("integers");
    for [batch, size, in_channels, n] in [
        [2, 128, 320, 320],
        [2, 64, 320, 320],
        [2, 64, 960, 320],
        [2, 32, 640, 640],
        [2, 32, 1920, 640],
        [2, 16, 1280, 1280],
        [2, 16, 2560, 1280],
        [2, 8, 1280, 1280],
        [1, 64, 512, 512],
        [1, 256, 256, 256],
        [1, 512, 128, 128],
        [2, 16, 64, 64],
    ] {
        let shape = conv3x3(batch, size, in_channels);
        let pixels = batch * size * size;
        let layout = RowLayout::new(&[in_channels]);
        let mut x = vec![0.0; pixels * layout.row_elements()];
        let floats = noise(pixels * in_channels);
        let sizes = format!("{batch}x{size}x{size} {in_channels} to {n}");
        bench(
            &mut group,
            &format!("quantize {batch}x{size}x{size} {in_channels}"),
            Limit::Copy,
            floats.len(),
            |pool| {
                quantize_rows(pool, &floats, &layout, &mut x);
            },
        );
        let mut out = vec![0.0; pixels * n];
        for (name, weight) in Quantized::new(n, 9, in_channels).matrices() {
            bench(
                &mut group,
                &format!("conv3x3 {name} {sizes}"),
                Limit::Dot,
                pixels * n * 9 * in_channels,
                |pool| {
                    conv2d_u8s8(pool, &x, &shape, &weight, &Epilogue::default(), &mut out);
                },
            );
        }
    }
    for [m, k, n] in [
        [8192, 320, 2560],
        [8192, 320, 320],
        [8192, 640, 640],
        [2048, 1280, 10240],
        [512, 1280, 1280],
        [154, 768, 320],
    ] {
        let layout = RowLayout::new(&[k]);
        let x = vec![0.0; m * layout.row_elements()];
        let mut out = vec![0.0; m * n];
        for (name, weight) in Quantized::new(n, 1, k).matrices() {
            bench(&mut group, &format!("linear {name} {m}x{k} to {n}"), Limit::Dot, m * k * n, |pool| {
                matmul_u8s8(pool, &x, &weight, m, &Epilogue::default(), &mut out);
            });
        }
    }
}

/// How the time of a convolution with integers grows with the batch, with the picture (64x64 latents and
/// those of 256x256 pixels) and with threads. The last number is the time relative to that of the first
/// line's work on one thread.
fn scaling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut first: Option<f64> = None;
    for threads in [1, all] {
        let pool = Pool::new(NonZeroUsize::new(threads)).expect("the machine has as many threads as it says");
        for [batch, size] in [[1, 32], [2, 32], [4, 32], [1, 64], [2, 64], [4, 64]] {
            let shape = conv3x3(batch, size, 320);
            let pixels = batch * size * size;
            let x = vec![0.0; pixels * RowLayout::new(&[320]).row_elements()];
            let mut out = vec![0.0; pixels * 320];
            let weights = Quantized::new(320, 9, 320);
            let [(_, q8), _] = weights.matrices();
            let mut best = f64::INFINITY;
            group.throughput(Throughput::Elements((pixels * 320 * 320 * 9) as u64));
            group.bench_function(format!("{batch}x{size}x{size}, {threads} threads"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let start = Instant::now();
                    for _ in 0..iterations {
                        let start = Instant::now();
                        conv2d_u8s8(&pool, &x, &shape, &q8, &Epilogue::default(), &mut out);
                        best = best.min(start.elapsed().as_secs_f64());
                    }
                    start.elapsed()
                });
            });
            if best.is_finite() {
                let each = best / pixels as f64;
                println!("    {:.2} of the first line's time a pixel", each / *first.get_or_insert(each));
            }
        }
    }
}

/// Attention `[batch, heads, queries, keys, channels of a head]`.
fn attentions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for [batch, heads, queries, keys, head_dim] in [
        [2, 10, 4096, 4096, 64],
        [2, 8, 4096, 4096, 40],
        [2, 8, 1024, 1024, 80],
        [2, 8, 256, 256, 160],
        [2, 8, 4096, 77, 40],
        [1, 1, 4096, 4096, 512],
        [1, 12, 77, 77, 64],
        [2, 4, 256, 256, 16],
        [2, 4, 64, 64, 32],
    ] {
        let channels = heads * head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { batch, heads, queries, keys, head_dim, causal: false, scale };
        let (q, k, v) = (
            noise(batch * queries * channels),
            noise(batch * keys * channels),
            noise(batch * keys * channels),
        );
        let mut out = vec![0.0; q.len()];
        let name = format!("{batch}x{heads} heads of {head_dim}, {queries} to {keys}");
        let products = 2 * batch * queries * keys * channels;
        bench(&mut group, &format!("floats {name}"), Limit::Fma, products, |pool| {
            attention(pool, &q, &k, &v, &shape, &mut out);
        });
        let mut integers = vec![0.0; batch * heads * KeyLayout::new(keys, head_dim).elements()];
        bench(&mut group, &format!("keys {name}"), Limit::Copy, 2 * k.len(), |pool| {
            quantize_keys(pool, &k, &v, &shape, &mut integers);
        });
        bench(&mut group, &format!("integers {name}"), Limit::Dot, products, |pool| {
            attention_i8i16(pool, &q, &integers, &shape, &mut out);
        });
    }
}

/// Norms and gates, `[batch, pixels, channels]`.
fn memory_bound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("elementwise");
    for [batch, pixels, channels] in [[2, 4096, 320], [2, 256, 1280], [2, 256, 64]] {
        let len = batch * pixels * channels;
        let (x, gamma, beta) = (noise(len), noise(channels), noise(channels));
        let mut out = vec![0.0; len];
        let size = format!("{batch}x{pixels}x{channels}");
        bench(&mut group, &format!("group norm and silu {size}"), Limit::Copy, len, |pool| {
            group_norm(pool, &x, batch, 64, 32, 1e-5, &gamma, &beta, Some(Activation::Silu), &mut out[..]);
        });
        bench(&mut group, &format!("layer norm {size}"), Limit::Copy, len, |pool| {
            layer_norm(pool, &x, 1e-5, &gamma, &beta, &mut out[..]);
        });
        bench(&mut group, &format!("geglu {size}"), Limit::Copy, len, |pool| {
            geglu(pool, &x, channels / 2, &mut out[..len / 2]);
        });
    }
}

criterion_group!(kernels, convolutions, linear, integers, scaling, attentions, memory_bound);
criterion_main!(kernels);
