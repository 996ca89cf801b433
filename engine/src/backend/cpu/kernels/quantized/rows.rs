//! Rows of activations as bytes.

use super::super::row_output::{RowOutput, RowTile, for_each_row_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Simd, SimdOp};
use crate::backend::row_layout::{Factors, RowLayout};

/// Values whose range is smaller than this count as one value: 255 divided by a smaller range would overflow.
const SMALLEST_SPREAD: f32 = 1e-30;

/// Quantizes `x` `[rows, channels]` into `out` `[rows, row_elements]`, in the given `layout`.
///
/// A block that contains an infinity or NaN gets a scale of NaN, so that the results computed from it show
/// the fault.
///
/// # Panics
/// If the lengths disagree.
pub fn quantize_rows(pool: &Pool, x: &[f32], layout: &RowLayout, out: &mut [f32]) {
    assert!(layout.channels > 0 && x.len().is_multiple_of(layout.channels), "input length");
    assert_eq!(out.len(), x.len() / layout.channels * layout.row_elements(), "output length");
    for_each_row_tile(pool, RowOutput::Bytes(layout, out), 1, layout.channels, |out| {
        let x = &x[out.rows.start * layout.channels..out.rows.end * layout.channels];
        pool.isa().dispatch(QuantizeTile { x, channels: layout.channels, out });
    });
}

/// Quantizes the rows of a tile.
struct QuantizeTile<'a> {
    x: &'a [f32],
    channels: usize,
    out: RowTile<'a>,
}

impl SimdOp for QuantizeTile<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        for (i, row) in self.x.chunks_exact(self.channels).enumerate() {
            self.out.finish_from(isa, i, row);
        }
    }
}

/// Quantizes one row into its bytes and factors.
#[inline(always)]
pub(in super::super) fn quantize_row<S: Simd>(
    isa: S,
    row: &[f32],
    layout: &RowLayout,
    values: &mut [u8],
    factors: &mut [Factors],
) {
    for (factors, block) in factors.iter_mut().zip(&layout.blocks) {
        *factors = quantize_block(isa, &row[block.channels.clone()], &mut values[block.columns.clone()]);
    }
}

/// Quantizes a block of at least one value to bytes; bytes past its length become zero.
#[inline(always)]
pub(super) fn quantize_block<S: Simd>(isa: S, x: &[f32], out: &mut [u8]) -> Factors {
    let factors = factors_of(isa, x);
    round_block(isa, x, factors, out);
    factors
}

/// Scale and offset of a block of at least one value.
#[inline(always)]
fn factors_of<S: Simd>(isa: S, x: &[f32]) -> Factors {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (mut low, mut high) = (x[0], x[0]);
    // Zero as long as all values are finite.
    let mut check = 0.0;
    if let Some(first) = vectors.first() {
        let (mut lows, mut highs) = (isa.load(first), isa.load(first));
        let mut checks = isa.splat(0.0);
        for x in vectors {
            let x = isa.load(x);
            (lows, highs) = (isa.min(lows, x), isa.max(highs, x));
            checks = isa.fma(x, isa.splat(0.0), checks);
        }
        (low, high, check) = (isa.min_lane(lows), isa.max_lane(highs), isa.sum(checks));
    }
    for &x in rest {
        low = if x < low { x } else { low };
        high = if x > high { x } else { high };
        check += x * 0.0;
    }
    let spread = high - low;
    let scale = if spread > SMALLEST_SPREAD { spread / 255.0 } else { 0.0 };
    [scale + check, low]
}

/// `q = round((x - offset) / scale)` for a block; the padding after it is zero.
#[inline(always)]
fn round_block<S: Simd>(isa: S, x: &[f32], [scale, offset]: Factors, out: &mut [u8]) {
    // False for zero and for NaN.
    let inverse = if scale > 0.0 && scale < f32::INFINITY { 1.0 / scale } else { 0.0 };
    let (inverse, offset) = (isa.splat(inverse), isa.splat(offset));
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (out_vectors, out_rest) = out.split_at_mut(vectors.len() * LANES);
    for (x, out) in vectors.iter().zip(out_vectors.as_chunks_mut().0) {
        round_vector(isa, isa.load(x), inverse, offset, out);
    }
    if !rest.is_empty() {
        let mut bytes = [0; LANES];
        round_vector(isa, isa.load_partial(rest), inverse, offset, &mut bytes);
        out_rest.fill(0);
        out_rest[..rest.len()].copy_from_slice(&bytes[..rest.len()]);
    }
}

#[inline(always)]
fn round_vector<S: Simd>(isa: S, x: S::Vector, inverse: S::Vector, offset: S::Vector, to: &mut [u8; LANES]) {
    let quantized = isa.mul(isa.sub(x, offset), inverse);
    isa.store_u8(isa.min(isa.max(quantized, isa.splat(0.0)), isa.splat(255.0)), to);
}

#[cfg(test)]
mod tests {
    use super::super::super::reference;
    use super::*;
    use crate::backend::row_layout::BLOCK;

    fn quantize(pool: &Pool, x: &[f32], layout: &RowLayout) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / layout.channels * layout.row_elements()];
        quantize_rows(pool, x, layout, &mut out);
        out
    }

    #[test]
    fn all_instruction_sets_find_the_same_bytes() {
        for inputs in [&[1][..], &[8], &[17], &[64], &[70, 3], &[320], &[40, 129, 5]] {
            let layout = RowLayout::new(inputs);
            let x: Vec<f32> =
                reference::noise(61, 7 * layout.channels).iter().map(|x| 3.0 * x + 0.7).collect();
            let expected = reference::quantize_rows(&x, &layout);
            reference::on_every_pool(|isa, pool| {
                let found = quantize(pool, &x, &layout);
                let (values, factors) = layout.split(&found);
                assert_eq!(values, expected.0, "{inputs:?}, {isa:?}");
                assert_eq!(factors, expected.1, "{inputs:?}, {isa:?}");
            });
        }
    }

    #[test]
    fn a_byte_is_at_most_half_a_step_off() {
        let layout = RowLayout::new(&[100]);
        for magnitude in [1e-20, 1.0, 1e20] {
            let x: Vec<f32> = reference::noise(62, 300).iter().map(|x| magnitude * (x + 0.3)).collect();
            reference::on_every_pool(|isa, pool| {
                let found = quantize(pool, &x, &layout);
                let (values, factors) = layout.split(&found);
                for (row, x) in x.chunks_exact(100).enumerate() {
                    for (channel, &x) in x.iter().enumerate() {
                        let [scale, offset] = factors[row * 2 + channel / BLOCK];
                        let back = scale * f32::from(values[row * layout.width + channel]) + offset;
                        assert!((back - x).abs() <= 0.501 * scale, "{isa:?}: {x} came back as {back}");
                    }
                }
            });
        }
    }

    #[test]
    fn constant_blocks_are_exact_and_broken_ones_show() {
        let layout = RowLayout::new(&[20]);
        reference::on_every_pool(|isa, pool| {
            for value in [0.0, -3.25, 1e-40, 1e30] {
                let found = quantize(pool, &[value; 20], &layout);
                let (values, factors) = layout.split(&found);
                assert!(values.iter().all(|&q| q == 0), "{isa:?}");
                assert_eq!(factors, [[0.0, value]], "{isa:?}");
            }
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 5, 19] {
                    let mut x = [1.0; 20];
                    x[at] = broken;
                    let found = quantize(pool, &x, &layout);
                    let [[scale, _]] = layout.split(&found).1 else { panic!("one block") };
                    assert!(scale.is_nan(), "{isa:?}: {broken} at {at} gave {scale}");
                }
            }
        });
    }
}
