//! The kernels in their plainest form, summed in double precision, and helpers that the tests of the fast
//! kernels share.

use std::num::NonZeroUsize;

use half::f16;
use sdq_formats::{WeightRole, layout};

pub(super) use crate::backend::conformance::cases::noise;

use super::{Activation, AttentionShape, ConvShape, UpsampleShape};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::Isa;
use crate::backend::row_layout::RowLayout;

/// The panels of a matrix `[n, k]`.
pub(super) fn pack(weight: &[f32], n: usize, k: usize) -> Vec<f32> {
    layout::pack(WeightRole::Matrix, &[n, k], weight)
}

/// Weights rounded to half precision.
pub(super) fn halves(weight: &[f32]) -> Vec<f16> {
    weight.iter().map(|&w| f16::from_f32(w)).collect()
}

/// The parts of an epilogue, owned.
pub(super) struct Ending {
    pub(super) bias: Vec<f32>,
    pub(super) channel_bias: Vec<f32>,
    pub(super) residual: Vec<f32>,
}

impl Ending {
    /// The value that `product` becomes at `row` and `column` of an output of `n` columns.
    fn apply(&self, product: f64, row: usize, column: usize, n: usize, rows_per_batch: usize) -> f64 {
        let image = row / rows_per_batch;
        let sum = product + f64::from(self.bias[column]) + f64::from(self.channel_bias[image * n + column]);
        sum + f64::from(self.residual[row * n + column])
    }
}

/// `x` `[m, k]` times `weight` `[n, k]` transposed.
pub(super) fn matmul(x: &[f32], weight: &[f32], k: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    x.chunks_exact(k).flat_map(|row| weight.chunks_exact(k).map(move |column| dot(row, column))).collect()
}

/// An ending applied to every element of a product.
pub(super) fn finish(product: &[f64], n: usize, rows_per_batch: usize, ending: &Ending) -> Vec<f64> {
    let at = |(i, &product)| ending.apply(product, i / n, i % n, n, rows_per_batch);
    product.iter().enumerate().map(at).collect()
}

/// A square-kernel convolution padded by half the kernel on all sides.
pub(super) fn padded_conv(
    batch: usize,
    size: (usize, usize),
    in_channels: usize,
    kernel: usize,
    stride: usize,
) -> ConvShape {
    let pad = kernel / 2;
    let out = |size: usize| (size + 2 * pad - kernel) / stride + 1;
    ConvShape {
        batch,
        in_height: size.0,
        in_width: size.1,
        in_channels,
        out_height: out(size.0),
        out_width: out(size.1),
        kernel: (kernel, kernel),
        stride,
        pad_top: pad,
        pad_left: pad,
    }
}

/// A convolution tap by tap; `weight` is `[n, kernel row, kernel column, input channel]`.
pub(super) fn conv2d(x: &[f32], shape: &ConvShape, weight: &[f32], n: usize) -> Vec<f64> {
    let &ConvShape { batch, in_height, in_width, in_channels, out_height, out_width, kernel, .. } = shape;
    let mut out = Vec::new();
    for image in 0..batch {
        for pixel in 0..out_height * out_width {
            for channel in 0..n {
                let mut sum = 0.0;
                for tap in 0..kernel.0 * kernel.1 {
                    let y = pixel / out_width * shape.stride + tap / kernel.1;
                    let x_pixel = pixel % out_width * shape.stride + tap % kernel.1;
                    let inside = (shape.pad_top..shape.pad_top + in_height).contains(&y)
                        && (shape.pad_left..shape.pad_left + in_width).contains(&x_pixel);
                    if !inside {
                        continue;
                    }
                    let from = (image * in_height + y - shape.pad_top) * in_width + x_pixel - shape.pad_left;
                    let taps = channel * kernel.0 * kernel.1 + tap;
                    for c in 0..in_channels {
                        sum +=
                            f64::from(x[from * in_channels + c]) * f64::from(weight[taps * in_channels + c]);
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

/// Two passes over each group: the mean, then the variance.
pub(super) fn group_norm(
    x: &[f32],
    batch: usize,
    groups: usize,
    eps: f32,
    gamma: &[f32],
    beta: &[f32],
) -> Vec<f64> {
    let channels = gamma.len();
    let image_len = x.len() / batch;
    let group_of = |channel: usize| channel / (channels / groups);
    let mut out = vec![0.0; x.len()];
    for image in 0..batch {
        for group in 0..groups {
            let members: Vec<usize> = (image * image_len..(image + 1) * image_len)
                .filter(|i| group_of(i % channels) == group)
                .collect();
            let (mean, deviation) = statistics(members.iter().map(|&i| x[i]), eps);
            for i in members {
                let channel = i % channels;
                out[i] = (f64::from(x[i]) - mean) / deviation * f64::from(gamma[channel])
                    + f64::from(beta[channel]);
            }
        }
    }
    out
}

/// Each row by itself.
pub(super) fn layer_norm(x: &[f32], eps: f32, gamma: &[f32], beta: &[f32]) -> Vec<f64> {
    let row = |row: &[f32]| group_norm(row, 1, 1, eps, gamma, beta);
    x.chunks_exact(gamma.len()).flat_map(row).collect()
}

/// Mean and `√(variance + eps)`.
fn statistics(values: impl Iterator<Item = f32> + Clone, eps: f32) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let variance = values.map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance + f64::from(eps)).sqrt())
}

/// The whole row of scores, its softmax, then the weighted values.
pub(super) fn attention(q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) -> Vec<f64> {
    let &AttentionShape { batch, heads, queries, keys, head_dim, causal, scale } = shape;
    let mut out = Vec::new();
    for row in 0..batch * queries {
        let (image, query) = (row / queries, row % queries);
        let visible = if causal { keys.min(query + 1) } else { keys };
        for head in 0..heads {
            let at = |row: usize, d: usize| (row * heads + head) * head_dim + d;
            let score = |key: usize| {
                let products =
                    (0..head_dim).map(|d| f64::from(q[at(row, d)]) * f64::from(k[at(image * keys + key, d)]));
                products.sum::<f64>() * f64::from(scale)
            };
            let scores: Vec<f64> = (0..visible).map(score).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let value = |key: usize| f64::from(v[at(image * keys + key, d)]);
                out.push(weights.iter().enumerate().map(|(key, w)| w * value(key)).sum::<f64>() / total);
            }
        }
    }
    out
}

/// The function, by its definition.
pub(super) fn activate(kind: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        Activation::Silu => x * sigmoid(x),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + u.tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Tanh3 => 3.0 * (x / 3.0).tanh(),
    }
}

/// Φ(x) to 1e-14: the Taylor series about zero, or the continued fraction of the tail (Abramowitz and Stegun 26.2.10
/// and 26.2.14).
fn normal_cdf(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let magnitude = x.abs();
    let upper_half = if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..100 {
            term *= magnitude * magnitude / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 + density * sum
    } else {
        let fraction = (1..200).rev().fold(0.0, |tail, n| f64::from(n) / (magnitude + tail));
        1.0 - density / (magnitude + fraction)
    };
    if x < 0.0 { 1.0 - upper_half } else { upper_half }
}

/// Repeats pixels one by one.
pub(super) fn upsample_nearest(x: &[f32], shape: &UpsampleShape) -> Vec<f64> {
    let &UpsampleShape { batch, in_height, in_width, out_height, out_width, channels } = shape;
    let mut out = Vec::new();
    for image in 0..batch {
        for pixel in 0..out_height * out_width {
            let y = pixel / out_width * in_height / out_height;
            let from = (image * in_height + y) * in_width + pixel % out_width * in_width / out_width;
            out.extend(x[from * channels..(from + 1) * channels].iter().map(|&x| f64::from(x)));
        }
    }
    out
}

/// A pool that divides even the smallest work.
fn pool(isa: Isa, threads: usize) -> Pool {
    Pool::with_isa(NonZeroUsize::new(threads), isa).expect("a few threads").dividing_everything()
}

/// Calls `check` for every instruction set of the machine and 1 and 3 threads.
pub(super) fn on_every_pool(mut check: impl FnMut(Isa, &Pool)) {
    for &isa in Isa::available() {
        for threads in [1, 3] {
            check(isa, &pool(isa, threads));
        }
    }
}

/// Bytes and factors of rows, element by element.
pub(super) fn quantize_rows(x: &[f32], layout: &RowLayout) -> (Vec<u8>, Vec<[f32; 2]>) {
    let (mut values, mut factors) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(layout.channels()) {
        for (channels, padded) in layout.block_channels() {
            let start = values.len();
            let (bytes, block_factors) = quantize_block(&row[channels]);
            values.extend(bytes);
            values.resize(start + padded, 0);
            factors.push(block_factors);
        }
    }
    (values, factors)
}

/// Bytes of a block of values, and their scale and offset.
pub(super) fn quantize_block(block: &[f32]) -> (Vec<u8>, [f32; 2]) {
    let low = block.iter().copied().fold(f32::INFINITY, f32::min);
    let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (high - low) / 255.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let round = |x: &f32| ((x - low) * inverse).clamp(0.0, 255.0).round_ties_even() as u8;
    (block.iter().map(round).collect(), [scale, low])
}

/// Runs a kernel on every instruction set of the machine and on 1, 2 and 3 threads. The results must lie
/// within `tolerance` of `expected` and must not depend on the number of threads.
pub(super) fn check_everywhere(
    label: &str,
    expected: &[f64],
    tolerance: f64,
    kernel: impl Fn(&Pool, &mut [f32]),
) {
    for &isa in Isa::available() {
        let run = |threads| {
            let pool = pool(isa, threads);
            let mut out = vec![f32::NAN; expected.len()];
            kernel(&pool, &mut out);
            out
        };
        let alone = run(1);
        for (i, (&actual, &expected)) in alone.iter().zip(expected).enumerate() {
            let error = (f64::from(actual) - expected).abs();
            assert!(
                error <= tolerance,
                "{label}, {isa:?}: [{i}] is {actual}, not {expected}, off by {error:.2e}"
            );
        }
        for threads in [2, 3] {
            let same = alone.iter().zip(run(threads)).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{label}, {isa:?}: {threads} threads change the result");
        }
    }
}

/// The error that a sum of `terms` products of values in `-1..1` may have in single precision: partial sums
/// grow like `√terms`, and each addition rounds at 2^-24 of that, in either direction.
pub(super) fn product_tolerance(terms: usize) -> f64 {
    1e-6 * (terms as f64).sqrt()
}
