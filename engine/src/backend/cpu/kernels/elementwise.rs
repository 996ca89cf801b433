//! Kernels that treat every element alike.

use super::row_output::{RowOutput, RowTile, for_each_row_tile};
use super::tiles::{Grid, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Simd, SimdOp, math};
use crate::graph::Activation;

/// Elements per task: two streams of that length fill half of a second-level cache.
const TASK_ELEMENTS: usize = 1 << 16;

/// `out = activation(x)`
///
/// # Panics
/// If the lengths differ.
pub fn activation(pool: &Pool, kind: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input length");
    for_each_part(pool, out, |start, out| {
        pool.isa().dispatch(Activate { kind, x: &x[start..][..out.len()], out });
    });
}

/// `out = scale * x + shift`
///
/// # Panics
/// If the lengths differ.
pub fn affine(pool: &Pool, scale: f32, shift: f32, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input length");
    for_each_part(pool, out, |start, out| {
        pool.isa().dispatch(Affine { scale, shift, x: &x[start..][..out.len()], out });
    });
}

/// `out = a + b`
///
/// # Panics
/// If the lengths differ.
pub fn add(pool: &Pool, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "length of the first addend");
    assert_eq!(b.len(), out.len(), "length of the second addend");
    for_each_part(pool, out, |start, out| {
        let part = start..start + out.len();
        pool.isa().dispatch(Add { a: &a[part.clone()], b: &b[part], out });
    });
}

/// `out = value * gelu(gate)` for `x` `[rows, 2 * channels]`, each row the values and then the gates; `out` is
/// `[rows, channels]`. GLU Variants Improve Transformer, arXiv:2002.05202, with the exact GELU.
///
/// # Panics
/// If the lengths disagree.
pub fn geglu<'o>(pool: &Pool, x: &[f32], channels: usize, out: impl Into<RowOutput<'o>>) {
    let out = out.into();
    assert_eq!(x.len(), 2 * channels * out.rows(channels), "input length");
    for_each_row_tile(pool, out, 1, channels, |out| {
        let x = &x[2 * channels * out.rows.start..2 * channels * out.rows.end];
        pool.isa().dispatch(Geglu { x, channels, out });
    });
}

/// Calls `work` for parts of `out`, with the offset of each part.
fn for_each_part(pool: &Pool, out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    let part = match pool.threads_for_elements(out.len()) {
        1 => out.len().max(1),
        _ => TASK_ELEMENTS,
    };
    let grid = Grid { groups: 1, rows: 1, columns: out.len(), tile_rows: 1, tile_columns: part };
    for_each_tile(pool, out, &grid, |mut tile| work(tile.columns.start, tile.row_mut(0)));
}

struct Activate<'a> {
    kind: Activation,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl SimdOp for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, isa: S) {
        for (x, out) in self.x.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            isa.store_partial(self.kind.apply(isa, isa.load_partial(x)), out);
        }
    }
}

struct Affine<'a> {
    scale: f32,
    shift: f32,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl SimdOp for Affine<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, _: S) {
        // The compiler vectorises this much by itself.
        for (x, out) in self.x.iter().zip(self.out) {
            *out = self.scale * x + self.shift;
        }
    }
}

struct Add<'a> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl SimdOp for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, _: S) {
        // The compiler vectorises this much by itself.
        for ((a, b), out) in self.a.iter().zip(self.b).zip(self.out) {
            *out = a + b;
        }
    }
}

struct Geglu<'a> {
    x: &'a [f32],
    channels: usize,
    out: RowTile<'a>,
}

impl SimdOp for Geglu<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        for (i, x) in self.x.chunks_exact(2 * self.channels).enumerate() {
            let out = self.out.row_mut(i);
            let (values, gates) = x.split_at(self.channels);
            let parts = values.chunks(LANES).zip(gates.chunks(LANES)).zip(out.chunks_mut(LANES));
            for ((value, gate), out) in parts {
                let gate = math::gelu(isa, isa.load_partial(gate));
                isa.store_partial(isa.mul(isa.load_partial(value), gate), out);
            }
            self.out.finish(isa, i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    /// The activations that are the identity for large values.
    const KINDS: [Activation; 5] =
        [Activation::Silu, Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];

    fn reference_of(kind: Activation, x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| reference::activate(kind, f64::from(x))).collect()
    }

    #[test]
    fn activations_agree_with_their_definitions() {
        // In steps of 1/1000 over the range where the function is neither zero nor the identity. Beyond 4,
        // two units in the last place of the result are already 1e-6.
        for (part, tolerance) in [(-12_000..=4000, 1e-6), (4000..=12_000, 2e-6)] {
            let x: Vec<f32> = part.map(|i| i as f32 / 1000.0).collect();
            for kind in KINDS.into_iter().chain([Activation::Tanh3]) {
                let expected = reference_of(kind, &x);
                reference::check_everywhere(&format!("{kind:?}"), &expected, tolerance, |pool, out| {
                    activation(pool, kind, &x, out);
                });
            }
        }
    }

    #[test]
    fn activations_end_in_zero_and_identity() {
        let x = [-3e38, -1e20, -1000.0, -100.0, -0.0, 0.0, 100.0, 1000.0, 1e20, 3e38, 1e-40];
        let expected: Vec<f64> = x.iter().map(|&x| f64::from(f32::max(x, 0.0))).collect();
        for kind in KINDS {
            reference::check_everywhere(&format!("{kind:?}"), &expected, 1e-30, |pool, out| {
                activation(pool, kind, &x, out);
            });
        }
    }

    #[test]
    fn tanh3_ends_at_three() {
        let x = [-3e38, -1e20, -1000.0, -0.0, 0.0, 100.0, 3e38];
        let expected = [-3.0, -3.0, -3.0, 0.0, 0.0, 3.0, 3.0];
        reference::check_everywhere("tanh3", &expected, 1e-30, |pool, out| {
            activation(pool, Activation::Tanh3, &x, out);
        });
    }

    #[test]
    fn affine_scales_and_then_shifts() {
        let x = reference::noise(44, 100_003);
        let expected: Vec<f64> = x.iter().map(|&x| f64::from(0.5 * x - 3.0)).collect();
        reference::check_everywhere("affine", &expected, 0.0, |pool, out| affine(pool, 0.5, -3.0, &x, out));
    }

    #[test]
    fn geglu_multiplies_values_by_gates() {
        for (rows, channels) in [(1, 1), (3, 15), (5, 33), (4, 64)] {
            let x = reference::noise(41, rows * 2 * channels);
            let row = |row: &[f32]| {
                let (values, gates) = row.split_at(channels);
                let gates = reference_of(Activation::Gelu, gates);
                values.iter().zip(gates).map(|(&value, gate)| f64::from(value) * gate).collect::<Vec<_>>()
            };
            let expected: Vec<f64> = x.chunks_exact(2 * channels).flat_map(row).collect();
            reference::check_everywhere(&format!("{rows}x{channels}"), &expected, 1e-6, |pool, out| {
                geglu(pool, &x, channels, out);
            });
        }
    }

    #[test]
    fn sums_are_exact() {
        let (a, b) = (reference::noise(42, 200_003), reference::noise(43, 200_003));
        let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(a + b)).collect();
        reference::check_everywhere("sum", &expected, 0.0, |pool, out| add(pool, &a, &b, out));
    }
}
