//! Keys and values of an attention as integers, in one region of memory for each head of each image.

use super::super::attention::AttentionShape;
use super::super::scratch::{Scratch, ScratchUse};
use super::super::tiles::{Grid, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Simd, SimdOp};

/// Keys whose weights are summed in integers, and whose values share scales.
pub(super) const BLOCK_KEYS: usize = 128;

/// The zero point of the bytes of keys, which are in `1..=127`.
pub(super) const KEY_ZERO: u8 = 64;

/// The largest magnitude of a value and of a weight: a block's sums of their products fit 32-bit integers.
pub(super) const LARGEST: i16 = 4095;

/// The base 2 logarithm of [`LARGEST`].
pub(super) const LARGEST_LOG2: f32 = 11.999_648;

const _: () = assert!(BLOCK_KEYS as i64 * (LARGEST as i64) * (LARGEST as i64 + 1) <= i32::MAX as i64);

/// The memory layout of the keys and values of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    keys: usize,
    head_dim: usize,
}

/// The keys and values of one head.
pub(super) struct HeadKeys<'a> {
    /// `[keys, depth]`, each key minus the mean of all keys.
    pub(super) keys: &'a [u8],
    /// `[keys]`
    pub(super) key_scales: &'a [f32],
    /// `[keys / 2, head_dim + 1]`: pairs of the values of keys `2i` and `2i + 1`. The last channel is one for
    /// every key, so that its weighted sum is the sum of the weights.
    pub(super) values: &'a [[i16; 2]],
    /// `[blocks, head_dim + 1]`
    pub(super) value_scales: &'a [f32],
}

impl KeyLayout {
    /// The layout of `keys` keys of `head_dim` channels.
    pub fn new(keys: usize, head_dim: usize) -> KeyLayout {
        KeyLayout { keys, head_dim }
    }

    /// Bytes of a key: its channels and zeros up to a multiple of four.
    pub(super) fn depth(&self) -> usize {
        self.head_dim.next_multiple_of(4)
    }

    /// Channels of a value, including the last one, whose values are one.
    pub(super) fn channels(&self) -> usize {
        self.head_dim + 1
    }

    fn pairs(&self) -> usize {
        self.keys.div_ceil(2)
    }

    /// Sizes of the four parts, in `f32`.
    fn parts(&self) -> [usize; 4] {
        let blocks = self.keys.div_ceil(BLOCK_KEYS);
        [self.keys * self.depth() / 4, self.keys, self.pairs() * self.channels(), blocks * self.channels()]
    }

    /// Size of a head's keys and values, in `f32`.
    pub fn elements(&self) -> usize {
        self.parts().iter().sum()
    }

    /// The parts of a head's region.
    pub(super) fn split<'a>(&self, region: &'a [f32]) -> HeadKeys<'a> {
        let [keys, scales, values, _] = self.parts();
        let (keys, rest) = region.split_at(keys);
        let (key_scales, rest) = rest.split_at(scales);
        let (values, value_scales) = rest.split_at(values);
        HeadKeys {
            keys: bytemuck::cast_slice(keys),
            key_scales,
            values: bytemuck::cast_slice(values),
            value_scales,
        }
    }
}

/// Rounds `k` and `v` `[batch, keys, heads * head_dim]` to integers for
/// [`attention_i8i16`](super::attention_i8i16): `out` is `[batch, heads, elements]`, see
/// [`KeyLayout::elements`].
///
/// Keys have 7 bits and a scale each. The mean over all keys is subtracted first, which changes no weight and
/// reduces the rounding error (SageAttention, arXiv:2410.02367, section 4.2). Values have 13 bits and a scale
/// for each channel of each block of keys. An infinity or NaN turns every scale of its head's values into
/// NaN, so that the results show it.
///
/// # Panics
/// If the lengths disagree or there are no keys.
pub fn quantize_keys(pool: &Pool, k: &[f32], v: &[f32], shape: &AttentionShape, out: &mut [f32]) {
    let &AttentionShape { batch, heads, keys, head_dim, .. } = shape;
    let channels = heads * head_dim;
    assert!(keys > 0 && channels > 0, "attention to nothing");
    assert_eq!(k.len(), batch * keys * channels, "length of the keys");
    assert_eq!(v.len(), batch * keys * channels, "length of the values");
    let layout = KeyLayout::new(keys, head_dim);
    let elements = layout.elements();
    let grid =
        Grid { groups: 1, rows: batch * heads, columns: elements, tile_rows: 1, tile_columns: elements };
    for_each_tile(pool, out, &grid, |mut out| {
        let (image, head) = (out.rows.start / heads, out.rows.start % heads);
        let first = image * keys * channels + head * head_dim;
        let end = (image + 1) * keys * channels;
        let rows = |x| Rows { x, stride: channels, width: head_dim };
        let (k, v) = (rows(&k[first..end]), rows(&v[first..end]));
        pool.isa().dispatch(QuantizeHead { k, v, layout, out: out.row_mut(0) });
    });
}

/// Working memory of [`quantize_keys`].
pub fn quantize_keys_scratch(shape: &AttentionShape) -> ScratchUse {
    ScratchUse::of_tasks(shape.batch * shape.heads, shape.head_dim.div_ceil(LANES))
}

/// One head's part of the channels.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// Starts at the first channel of the first row.
    x: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    /// Up to sixteen channels of a row, from `channel` on.
    #[inline(always)]
    fn chunk(&self, row: usize, channel: usize) -> &'a [f32] {
        &self.x[row * self.stride + channel..][..LANES.min(self.width - channel)]
    }
}

struct QuantizeHead<'a> {
    k: Rows<'a>,
    v: Rows<'a>,
    layout: KeyLayout,
    out: &'a mut [f32],
}

impl SimdOp for QuantizeHead<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, isa: S) {
        let QuantizeHead { k, v, layout, out } = self;
        let [keys, scales, values, _] = layout.parts();
        let (key_bytes, rest) = out.split_at_mut(keys);
        let (key_scales, rest) = rest.split_at_mut(scales);
        let (values, value_scales) = rest.split_at_mut(values);
        let check = round_keys(isa, k, layout, bytemuck::cast_slice_mut(key_bytes), key_scales);
        let values: &mut [[i16; 2]] = bytemuck::cast_slice_mut(values);
        let blocks = values
            .chunks_mut(BLOCK_KEYS / 2 * layout.channels())
            .zip(value_scales.chunks_exact_mut(layout.channels()));
        for (block, (values, scales)) in blocks.enumerate() {
            round_values(isa, v, block * BLOCK_KEYS, layout, values, scales);
            scales.iter_mut().for_each(|scale| *scale += check);
        }
    }
}

/// Rounds the keys minus their mean; returns zero, or NaN if any value is not finite.
#[inline(always)]
fn round_keys<S: Simd>(isa: S, k: Rows<'_>, layout: KeyLayout, bytes: &mut [u8], scales: &mut [f32]) -> f32 {
    let mut scratch = Scratch::new(layout.head_dim.div_ceil(LANES));
    let means = scratch.lines();
    let share = isa.splat(1.0 / layout.keys as f32);
    for (chunk, mean) in means.iter_mut().enumerate() {
        let mut sum = isa.splat(0.0);
        for key in 0..layout.keys {
            sum = isa.add(sum, isa.load_partial(k.chunk(key, chunk * LANES)));
        }
        isa.store(isa.mul(sum, share), mean);
    }
    let mut check = isa.splat(0.0);
    let rows = bytes.chunks_exact_mut(layout.depth()).zip(scales);
    for (key, (bytes, scale)) in rows.enumerate() {
        let mut largest = isa.splat(0.0);
        for (chunk, mean) in means.iter().enumerate() {
            let distance = isa.sub(isa.load_partial(k.chunk(key, chunk * LANES)), isa.load(mean));
            largest = isa.max(largest, isa.max(distance, isa.sub(isa.splat(0.0), distance)));
            check = isa.fma(distance, isa.splat(0.0), check);
        }
        let zero = f32::from(KEY_ZERO);
        let (inverse, step) = scale_of(isa.max_lane(largest), zero - 1.0);
        *scale = step;
        for ((chunk, mean), bytes) in means.iter().enumerate().zip(bytes.chunks_mut(LANES)) {
            let distance = isa.sub(isa.load_partial(k.chunk(key, chunk * LANES)), isa.load(mean));
            // Not fused, so that machines without the instruction compute the same integers.
            let value = isa.add(isa.mul(distance, isa.splat(inverse)), isa.splat(zero));
            match <&mut [u8; LANES]>::try_from(&mut *bytes) {
                Ok(bytes) => isa.store_u8(value, bytes),
                Err(_) => {
                    let mut rounded = [0; LANES];
                    isa.store_u8(value, &mut rounded);
                    bytes.copy_from_slice(&rounded[..bytes.len()]);
                }
            }
        }
    }
    isa.sum(check)
}

/// Rounds the values of a block of keys from `first` on.
#[inline(always)]
fn round_values<S: Simd>(
    isa: S,
    v: Rows<'_>,
    first: usize,
    layout: KeyLayout,
    values: &mut [[i16; 2]],
    scales: &mut [f32],
) {
    let keys = first..layout.keys.min(first + BLOCK_KEYS);
    let channels = layout.channels();
    for channel in (0..layout.head_dim).step_by(LANES) {
        let width = LANES.min(layout.head_dim - channel);
        let (mut largest, mut check) = (isa.splat(0.0), isa.splat(0.0));
        for key in keys.clone() {
            let value = isa.load_partial(v.chunk(key, channel));
            largest = isa.max(largest, isa.max(value, isa.sub(isa.splat(0.0), value)));
            check = isa.fma(value, isa.splat(0.0), check);
        }
        let (largest, check) = (isa.lanes(largest), isa.lanes(check));
        let mut inverses = [0.0; LANES];
        for lane in 0..width {
            let (inverse, step) = scale_of(largest[lane], f32::from(LARGEST));
            inverses[lane] = inverse;
            scales[channel + lane] = step + check[lane];
        }
        let inverses = isa.load(&inverses);
        for (pair, values) in values.chunks_exact_mut(channels).enumerate() {
            let key = first + 2 * pair;
            let even = isa.load_partial(v.chunk(key, channel));
            let odd = match key + 1 < keys.end {
                true => isa.load_partial(v.chunk(key + 1, channel)),
                false => isa.splat(0.0),
            };
            let (even, odd) = (isa.mul(even, inverses), isa.mul(odd, inverses));
            let values = &mut values[channel..channel + width];
            match bytemuck::cast_slice_mut(values).try_into() {
                Ok(pairs) => isa.store_pairs(even, odd, pairs),
                Err(_) => {
                    let mut pairs = [0; 2 * LANES];
                    isa.store_pairs(even, odd, &mut pairs);
                    values.copy_from_slice(&pairs.as_chunks().0[..width]);
                }
            }
        }
    }
    for values in values.chunks_exact_mut(channels) {
        values[channels - 1] = [1, 1];
    }
    scales[channels - 1] = 1.0;
}

/// Factor and step that map values of magnitude up to `largest` to integers up to `range`.
#[inline(always)]
pub(super) fn scale_of(largest: f32, range: f32) -> (f32, f32) {
    // Smaller values would overflow the factor. The comparison is false for NaN, and then the step is NaN
    // too.
    match largest > 1e-30 && largest < f32::INFINITY {
        true => (range / largest, largest / range),
        false => (0.0, largest * 0.0),
    }
}
