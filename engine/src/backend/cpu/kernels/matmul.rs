//! Linear layers and 1x1 convolutions.

use std::ops::Range;

use super::epilogue::Epilogue;
use super::gemm::{RowSource, gemm};
use super::packed::PackedMatrix;
use crate::backend::cpu::pool::Pool;

/// `out = epilogue(x * weightᵀ)`: `x` is `[m, k]`, `weight` `[n, k]`, `out` `[m, n]`.
///
/// `rows_per_batch` rows belong to one image. Only [`Epilogue::channel_bias`] uses it; pass `m` where there
/// is none.
///
/// # Panics
/// If the lengths disagree.
pub fn matmul(
    pool: &Pool,
    x: &[f32],
    weight: &PackedMatrix,
    rows_per_batch: usize,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    assert!(weight.n() > 0 && out.len().is_multiple_of(weight.n()), "output length");
    let m = out.len() / weight.n();
    assert_eq!(x.len(), m * weight.k(), "input length");
    gemm(pool, &DenseRows { x, k: weight.k() }, m, weight, rows_per_batch, epilogue, out);
}

/// The rows of a matrix in memory.
pub(super) struct DenseRows<'a, T> {
    pub(super) x: &'a [T],
    pub(super) k: usize,
}

impl<T: Copy + Sync> RowSource<T> for DenseRows<'_, T> {
    fn gather<const DEPTH: usize>(&self, rows: Range<usize>, k: Range<usize>, block: &mut [[T; DEPTH]]) {
        for (row, block) in rows.zip(block) {
            block[..k.len()].copy_from_slice(&self.x[row * self.k..][k.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Panels;
    use super::super::reference::{self, Ending};
    use super::*;

    /// `[m, n, k]`: single rows and columns, and sizes just below and above a panel, a register tile and a
    /// block of `k`.
    const SHAPES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [1, 17, 3],
        [1, 320, 1280],
        [2, 15, 4],
        [5, 33, 255],
        [6, 16, 256],
        [7, 32, 257],
        [12, 31, 64],
        [13, 47, 40],
        [77, 96, 768],
        [193, 33, 300],
        [3, 17, 4096],
    ];

    #[test]
    fn product_agrees_with_reference() {
        for [m, n, k] in SHAPES {
            let x = reference::noise(1, m * k);
            let weight = reference::noise(2, n * k);
            let packed = reference::pack(&weight, n, k);
            let expected = reference::matmul(&x, &weight, k);
            let tolerance = reference::product_tolerance(k);
            reference::check_everywhere(&format!("{m}x{n}x{k}"), &expected, tolerance, |pool, out| {
                let weight = PackedMatrix::new(n, k, Panels::F32(&packed));
                matmul(pool, &x, &weight, m, &Epilogue::default(), out);
            });
        }
    }

    #[test]
    fn half_weights_are_widened_exactly() {
        for [m, n, k] in SHAPES {
            let x = reference::noise(3, m * k);
            let mut weight = reference::halves(&reference::noise(4, n * k));
            // The smallest subnormal and the largest one.
            weight[0] = half::f16::from_bits(0x0001);
            weight[n * k / 2] = half::f16::from_bits(0x83ff);
            let wide: Vec<f32> = weight.iter().map(|w| w.to_f32()).collect();
            let packed = reference::halves(&reference::pack(&wide, n, k));
            let expected = reference::matmul(&x, &wide, k);
            let tolerance = reference::product_tolerance(k);
            reference::check_everywhere(&format!("f16 {m}x{n}x{k}"), &expected, tolerance, |pool, out| {
                let weight = PackedMatrix::new(n, k, Panels::F16(&packed));
                matmul(pool, &x, &weight, m, &Epilogue::default(), out);
            });
        }
    }

    #[test]
    fn subnormal_halves_keep_their_value() {
        let smallest = half::f16::from_bits(0x0001);
        let weight = reference::halves(&reference::pack(&[smallest.to_f32(); 3], 3, 1));
        let expected = [2_f64.powi(-24); 3];
        reference::check_everywhere("subnormals", &expected, 0.0, |pool, out| {
            let weight = PackedMatrix::new(3, 1, Panels::F16(&weight));
            matmul(pool, &[1.0], &weight, 1, &Epilogue::default(), out);
        });
    }

    #[test]
    fn epilogue_adds_each_part_once_and_by_image() {
        for [batch, rows, n, k] in [[3, 5, 33, 300], [2, 64, 17, 3], [1, 7, 16, 16]] {
            let m = batch * rows;
            let x = reference::noise(5, m * k);
            let weight = reference::noise(6, n * k);
            let packed = reference::pack(&weight, n, k);
            let ending = Ending {
                bias: reference::noise(7, n),
                channel_bias: reference::noise(8, batch * n),
                residual: reference::noise(9, m * n),
            };
            let expected = reference::finish(&reference::matmul(&x, &weight, k), n, rows, &ending);
            let tolerance = reference::product_tolerance(k + 8);
            let label = format!("{batch}x{rows}x{n}x{k}");
            reference::check_everywhere(&label, &expected, tolerance, |pool, out| {
                let epilogue = Epilogue {
                    bias: Some(&ending.bias),
                    channel_bias: Some(&ending.channel_bias),
                    residual: Some(&ending.residual),
                };
                matmul(pool, &x, &PackedMatrix::new(n, k, Panels::F32(&packed)), rows, &epilogue, out);
            });
        }
    }

    #[test]
    fn single_channel_bias_serves_every_image() {
        let bias = reference::noise(10, 5);
        let expected: Vec<f64> = [&bias[..], &bias[..]].concat().into_iter().map(f64::from).collect();
        reference::check_everywhere("one channel bias", &expected, 0.0, |pool, out| {
            let weight = PackedMatrix::new(5, 1, Panels::F32(&[0.0; 16]));
            let epilogue = Epilogue { channel_bias: Some(&bias), ..Epilogue::default() };
            matmul(pool, &[1.0, 1.0], &weight, 1, &epilogue, out);
        });
    }
}
