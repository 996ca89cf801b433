//! Layer normalisation: `(x - mean) / √(variance + eps) * gamma + beta`, each row by itself.
//!
//! The sums are of differences from a nearby value, so that a large mean costs no precision.

use super::row_output::{RowOutput, RowTile, for_each_row_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Simd, SimdOp};

/// Normalises each row of `x` `[rows, channels]`; `gamma` and `beta` are `[channels]`. Layer Normalization,
/// arXiv:1607.06450.
///
/// # Panics
/// If the lengths disagree.
pub fn layer_norm<'o>(
    pool: &Pool,
    x: &[f32],
    eps: f32,
    gamma: &[f32],
    beta: &[f32],
    out: impl Into<RowOutput<'o>>,
) {
    let out = out.into();
    let channels = gamma.len();
    assert_eq!(beta.len(), channels, "beta length");
    assert!(channels > 0 && x.len().is_multiple_of(channels), "input length");
    assert_eq!(out.rows(channels) * channels, x.len(), "output length");
    for_each_row_tile(pool, out, 1, channels, |out| {
        let x = &x[out.rows.start * channels..out.rows.end * channels];
        pool.isa().dispatch(NormRows { x, eps, gamma, beta, out });
    });
}

/// Normalises the rows of a tile.
struct NormRows<'a> {
    x: &'a [f32],
    eps: f32,
    gamma: &'a [f32],
    beta: &'a [f32],
    out: RowTile<'a>,
}

impl SimdOp for NormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let channels = self.gamma.len();
        let count = channels as f64;
        for (i, x) in self.x.chunks_exact(channels).enumerate() {
            let (sum, _) = distances(isa, x, x[0]);
            let mean = f64::from(x[0]) + f64::from(sum) / count;
            let (_, square_sum) = distances(isa, x, mean as f32);
            let deviation = (f64::from(square_sum) / count + f64::from(self.eps)).sqrt();
            let scale = isa.splat((1.0 / deviation) as f32);
            let rounded_off = isa.splat((f64::from(mean as f32) - mean) as f32);
            let mean = isa.splat(mean as f32);
            let factors = self.gamma.chunks(LANES).zip(self.beta.chunks(LANES));
            let parts = x.chunks(LANES).zip(self.out.row_mut(i).chunks_mut(LANES));
            for ((x, out), (gamma, beta)) in parts.zip(factors) {
                let distance = isa.add(isa.sub(isa.load_partial(x), mean), rounded_off);
                let y = isa.fma(isa.mul(distance, scale), isa.load_partial(gamma), isa.load_partial(beta));
                isa.store_partial(y, out);
            }
            self.out.finish(isa, i);
        }
    }
}

/// The sums of the differences between `x` and `from`, and of their squares.
#[inline(always)]
fn distances<S: Simd>(isa: S, x: &[f32], from: f32) -> (f32, f32) {
    let origin = isa.splat(from);
    let mut sum = isa.splat(0.0);
    let mut square_sum = isa.splat(0.0);
    let (vectors, rest) = x.as_chunks::<LANES>();
    for x in vectors {
        let distance = isa.sub(isa.load(x), origin);
        sum = isa.add(sum, distance);
        square_sum = isa.fma(distance, distance, square_sum);
    }
    let (mut sum, mut square_sum) = (isa.sum(sum), isa.sum(square_sum));
    for x in rest {
        sum += x - from;
        square_sum += (x - from) * (x - from);
    }
    (sum, square_sum)
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    #[test]
    fn constant_rows_become_beta() {
        let beta = reference::noise(26, 20);
        let expected: Vec<f64> = beta.iter().cycle().take(20 * 600).map(|&b| f64::from(b)).collect();
        for value in [0.0, 1000.3, -3e-5] {
            let x = vec![value; 20 * 600];
            reference::check_everywhere("constant rows", &expected, 1e-6, |pool, out| {
                layer_norm(pool, &x, 1e-6, &[1.0; 20], &beta, out);
            });
        }
    }

    #[test]
    fn layer_norm_agrees_with_reference() {
        for (channels, shift) in [(1, 0.0), (15, 0.0), (17, 600.0), (320, 600.0), (1280, 0.0)] {
            let x: Vec<f32> = reference::noise(28, 7 * channels).iter().map(|x| shift + x).collect();
            let (gamma, beta) = (reference::noise(29, channels), reference::noise(30, channels));
            let expected = reference::layer_norm(&x, 1e-5, &gamma, &beta);
            reference::check_everywhere(&format!("{channels} channels"), &expected, 2e-6, |pool, out| {
                layer_norm(pool, &x, 1e-5, &gamma, &beta, out);
            });
        }
    }
}
