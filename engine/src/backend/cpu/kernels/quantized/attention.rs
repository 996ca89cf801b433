//! Attention in integers, over keys and values in the format of [`quantize_keys`](super::quantize_keys).
//!
//! It has the structure of attention in floats (`kernels/attention.rs`). Scores are sums of products of
//! bytes. The weights of a block of keys are integers relative to the block's own largest weight, so that the
//! small weights of a block are not lost beside the large ones of another. Their products with the values are
//! summed in integers; sums over blocks are in single precision.

use std::ops::Range;

use super::super::attention::AttentionShape;
use super::super::heads::{QueryVectors, for_each_query_vectors, head_grid, head_scratch, write_queries};
use super::super::scratch::ScratchUse;
use super::super::strips::{Strips, for_each_strip};
use super::super::tiles::{Tile, for_each_tile};
use super::keys::{BLOCK_KEYS, HeadKeys, KEY_ZERO, KeyLayout, LARGEST_LOG2, scale_of};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::tile::{dot_columns, dot_rows};
use crate::backend::cpu::simd::{LANES, Lanes, Pairs, Quads, Simd, SimdOp, math};

/// `out = softmax(scale q kᵀ) v` for each head. `q` and `out` are `[batch, queries, heads * head_dim]`,
/// `keys` is `[batch, heads, elements]` as [`quantize_keys`](super::quantize_keys) writes it.
///
/// # Panics
/// If the lengths disagree, there are no keys, or the attention is causal.
pub fn attention_i8i16(pool: &Pool, q: &[f32], keys: &[f32], shape: &AttentionShape, out: &mut [f32]) {
    let &AttentionShape { batch, heads, queries, head_dim, .. } = shape;
    let channels = heads * head_dim;
    assert!(shape.keys > 0 && channels > 0 && !shape.causal, "attention to nothing, or not to all");
    let layout = KeyLayout::new(shape.keys, head_dim);
    assert_eq!(q.len(), batch * queries * channels, "length of the queries");
    assert_eq!(keys.len(), batch * heads * layout.elements(), "length of keys and values");
    for_each_tile(pool, out, &head_grid(pool, shape), |out| {
        let head = out.group * heads + out.columns.start / head_dim;
        let keys = layout.split(&keys[head * layout.elements()..][..layout.elements()]);
        let q = &q[out.group * queries * channels..][..queries * channels];
        pool.isa().dispatch(HeadTask { q, keys, layout, shape, out });
    });
}

/// Vectors of working memory for a task: queries, sums, scores.
fn task_lines(layout: KeyLayout, vectors: usize) -> usize {
    vectors * (layout.depth() / 4 + layout.channels() + BLOCK_KEYS)
}

/// Working memory of [`attention_i8i16`], with the widest vectors.
pub fn attention_i8i16_scratch(pool: &Pool, shape: &AttentionShape) -> ScratchUse {
    head_scratch(pool, shape, task_lines(KeyLayout::new(shape.keys, shape.head_dim), 2))
}

/// Some queries of one head.
struct HeadTask<'a> {
    /// `[queries, channels]` of the image.
    q: &'a [f32],
    keys: HeadKeys<'a>,
    layout: KeyLayout,
    shape: &'a AttentionShape,
    out: Tile<'a, f32>,
}

impl SimdOp for HeadTask<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let lines = task_lines(self.layout, S::TILE_VECTORS);
        for_each_query_vectors(isa, self.out.rows.clone(), lines, &mut self);
    }
}

impl QueryVectors for HeadTask<'_> {
    #[inline(always)]
    fn queries<S: Simd, const VECTORS: usize>(
        &mut self,
        isa: S,
        queries: Range<usize>,
        scratch: &mut [Lanes],
    ) {
        let (layout, keys) = (self.layout, self.shape.keys);
        let (rounded, scratch) = scratch.split_at_mut(VECTORS * layout.depth() / 4);
        let (sums, scratch) = scratch.split_at_mut(VECTORS * layout.channels());
        let scores = &mut scratch[..VECTORS * BLOCK_KEYS];
        let rounded: &mut [Quads] = bytemuck::cast_slice_mut(rounded);
        let QueryFactors { scale, start: zero_sums } = self.round_queries(isa, queries.clone(), rounded);
        sums.fill([0.0; LANES]);

        let mut maxima = [isa.splat(f32::MIN); VECTORS];
        for start in (0..keys).step_by(BLOCK_KEYS) {
            let count = BLOCK_KEYS.min(keys - start);
            let mut block = Scores::<S, VECTORS> {
                keys: &self.keys.keys[start * layout.depth()..],
                scales: &self.keys.key_scales[start..],
                queries: rounded,
                start: zero_sums,
                scores,
                maxima: [isa.splat(f32::MIN); VECTORS],
            };
            for_each_strip(isa, count, &mut block);
            let block_maxima = block.maxima;
            let (mut decay, mut shrink) = (maxima, maxima);
            for v in 0..VECTORS {
                let block_maximum = isa.mul(block_maxima[v], scale[v]);
                let maximum = isa.max(maxima[v], block_maximum);
                let ln_2 = isa.splat(std::f32::consts::LN_2);
                decay[v] = math::exp(isa, isa.mul(isa.sub(maxima[v], maximum), ln_2));
                shrink[v] = math::exp(isa, isa.mul(isa.sub(block_maximum, maximum), ln_2));
                maxima[v] = maximum;
                weigh(isa, &mut scores[v * BLOCK_KEYS..][..count], scale[v], block_maxima[v]);
            }
            let mut values = WeightedValues::<S, VECTORS> {
                values: &self.keys.values[start / 2 * layout.channels()..],
                scales: &self.keys.value_scales[start / BLOCK_KEYS * layout.channels()..]
                    [..layout.channels()],
                weights: bytemuck::cast_slice(scores),
                pairs: count.div_ceil(2),
                decay,
                shrink,
                sums,
            };
            for_each_strip(isa, layout.channels(), &mut values);
        }
        self.store(isa, queries, sums);
    }
}

impl HeadTask<'_> {
    /// Writes the queries to `rounded` `[vectors, depth / 4]`, four channels of a query per lane, with zeros
    /// past the last query.
    #[inline(always)]
    fn round_queries<S: Simd, const VECTORS: usize>(
        &self,
        isa: S,
        queries: Range<usize>,
        rounded: &mut [Quads],
    ) -> QueryFactors<S, VECTORS> {
        let &AttentionShape { heads, head_dim, scale, .. } = self.shape;
        rounded.fill([0; 4 * LANES]);
        let mut scales = [[0.0; LANES]; VECTORS];
        let mut starts = [[0; LANES]; VECTORS];
        for (i, query) in queries.enumerate() {
            let query = &self.q[query * heads * head_dim + self.out.columns.start..][..head_dim];
            let (mut largest, mut check) = (isa.splat(0.0), isa.splat(0.0));
            for chunk in query.chunks(LANES) {
                let chunk = isa.load_partial(chunk);
                largest = isa.max(largest, isa.max(chunk, isa.sub(isa.splat(0.0), chunk)));
                check = isa.fma(chunk, isa.splat(0.0), check);
            }
            let (inverse, step) = scale_of(isa.max_lane(largest), 127.0);
            let (vector, lane) = (i / LANES, i % LANES);
            scales[vector][lane] = step * scale * std::f32::consts::LOG2_E + isa.sum(check);
            let quads = &mut rounded[vector * self.layout.depth() / 4..];
            let mut sum = 0;
            for (chunk, quads) in query.chunks(LANES).zip(quads.chunks_mut(4)) {
                // Rounds to a whole number, as in `math::exp`.
                let rounder = isa.splat(12_582_912.0);
                // Not fused, so that machines without the instruction compute the same integers.
                let whole = isa.add(isa.mul(isa.load_partial(chunk), isa.splat(inverse)), rounder);
                let whole = isa.lanes(isa.sub(whole, rounder));
                for (values, quads) in whole.as_chunks::<4>().0.iter().zip(quads) {
                    for (value, byte) in values.iter().zip(&mut quads[4 * lane..4 * lane + 4]) {
                        *byte = *value as i8;
                        sum += i32::from(*byte);
                    }
                }
            }
            starts[vector][lane] = -i32::from(KEY_ZERO) * sum;
        }
        let mut factors =
            QueryFactors { scale: [isa.splat(0.0); VECTORS], start: [isa.zero_ints(); VECTORS] };
        for v in 0..VECTORS {
            factors.scale[v] = isa.load(&scales[v]);
            factors.start[v] = isa.load_ints(&starts[v]);
        }
        factors
    }

    /// Divides the sums `[vectors, head_dim + 1]` by the last of them, the total of the weights, and writes
    /// each lane to a row of the output.
    #[inline(always)]
    fn store<S: Simd>(&mut self, isa: S, queries: Range<usize>, sums: &mut [Lanes]) {
        let channels = self.layout.channels();
        for sums in sums.chunks_exact_mut(channels) {
            let (sums, total) = sums.split_at_mut(channels - 1);
            let total = isa.load(&total[0]);
            for sum in sums {
                isa.store(isa.div(isa.load(sum), total), sum);
            }
        }
        write_queries(&mut self.out, queries, sums, channels);
    }
}

/// Factors that turn integer scores back into scores.
struct QueryFactors<S: Simd, const VECTORS: usize> {
    /// Converts units of a key's scale to base 2 logarithms of a weight.
    scale: [S::Vector; VECTORS],
    /// The contribution of the keys' zero point to a score, negated.
    start: [S::Ints; VECTORS],
}

/// The scores of a block of keys, `[vectors, BLOCK_KEYS]`, one query per lane, in units of the queries'
/// scales.
struct Scores<'a, S: Simd, const VECTORS: usize> {
    /// `[keys, depth]`, starting at the block's first key.
    keys: &'a [u8],
    scales: &'a [f32],
    /// `[vectors, depth / 4]`, one query per lane.
    queries: &'a [Quads],
    start: [S::Ints; VECTORS],
    scores: &'a mut [Lanes],
    /// The largest scores of each query.
    maxima: [S::Vector; VECTORS],
}

impl<S: Simd, const VECTORS: usize> Strips<S> for Scores<'_, S, VECTORS> {
    const TALLEST: usize = S::TILE_ROWS;

    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let steps = self.queries.len() / VECTORS;
        let queries = std::array::from_fn(|v| &self.queries[v * steps..][..steps]);
        let keys = &self.keys[first * 4 * steps..];
        let dots = dot_rows::<S, ROWS, VECTORS>(isa, keys, 4 * steps, queries, self.start);
        for (r, dots) in dots.iter().enumerate() {
            let scale = isa.splat(self.scales[first + r]);
            for (v, &dot) in dots.iter().enumerate() {
                let score = isa.mul(isa.ints_to_f32(dot), scale);
                self.maxima[v] = isa.max(self.maxima[v], score);
                isa.store(score, &mut self.scores[v * BLOCK_KEYS + first + r]);
            }
        }
    }
}

/// Turns scores, one key per vector, into weights relative to `maximum`, stored two keys per vector from the
/// start of `scores` on.
#[inline(always)]
fn weigh<S: Simd>(isa: S, scores: &mut [Lanes], scale: S::Vector, maximum: S::Vector) {
    for pair in 0..scores.len().div_ceil(2) {
        let even = weight(isa, &scores[2 * pair], scale, maximum);
        let odd = match scores.get(2 * pair + 1) {
            Some(score) => weight(isa, score, scale, maximum),
            None => isa.splat(0.0),
        };
        isa.store_pairs(even, odd, bytemuck::cast_mut::<Lanes, Pairs>(&mut scores[pair]));
    }
}

/// `LARGEST * 2^(scale * (score - maximum))`
#[inline(always)]
fn weight<S: Simd>(isa: S, score: &Lanes, scale: S::Vector, maximum: S::Vector) -> S::Vector {
    // The difference is taken first: it is exact where a product would be rounded, and never above zero.
    let distance = isa.sub(isa.load(score), maximum);
    math::exp2_coarse(isa, isa.fma(distance, scale, isa.splat(LARGEST_LOG2)))
}

/// `sums = sums * decay + shrink * Σ weight * value` over a block of keys, one row per channel.
struct WeightedValues<'a, S: Simd, const VECTORS: usize> {
    /// `[pairs, channels]`, starting at the block's first pair of keys.
    values: &'a [[i16; 2]],
    /// `[channels]`
    scales: &'a [f32],
    /// `[vectors, BLOCK_KEYS]`, of which `pairs` are in use; one query per lane.
    weights: &'a [Pairs],
    pairs: usize,
    decay: [S::Vector; VECTORS],
    shrink: [S::Vector; VECTORS],
    /// `[vectors, channels]`, one query per lane.
    sums: &'a mut [Lanes],
}

impl<S: Simd, const VECTORS: usize> Strips<S> for WeightedValues<'_, S, VECTORS> {
    const TALLEST: usize = S::TILE_ROWS;

    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let channels = self.scales.len();
        let weights = std::array::from_fn(|v| &self.weights[v * BLOCK_KEYS..][..self.pairs]);
        let values = &self.values[first..];
        let dots = dot_columns::<S, ROWS, VECTORS>(isa, values, channels, weights);
        for (r, dots) in dots.iter().enumerate() {
            let scale = isa.splat(self.scales[first + r]);
            for (v, &dot) in dots.iter().enumerate() {
                let sum = &mut self.sums[v * channels + first + r];
                let earlier = isa.mul(isa.load(sum), self.decay[v]);
                let factor = isa.mul(scale, self.shrink[v]);
                isa.store(isa.fma(isa.ints_to_f32(dot), factor, earlier), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::reference;
    use super::super::{quantize_keys, quantize_keys_scratch};
    use super::*;

    fn shape(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> AttentionShape {
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionShape { batch, heads, queries, keys, head_dim, causal: false, scale }
    }

    fn attend(pool: &Pool, [q, k, v]: [&[f32]; 3], shape: &AttentionShape, out: &mut [f32]) {
        let elements = KeyLayout::new(shape.keys, shape.head_dim).elements();
        let mut keys = vec![0.0; shape.batch * shape.heads * elements];
        quantize_keys(pool, k, v, shape, &mut keys);
        attention_i8i16(pool, q, &keys, shape, out);
    }

    /// Queries, keys and values; the keys have a mean far from zero, as those of real models do.
    fn inputs(shape: &AttentionShape) -> [Vec<f32>; 3] {
        let channels = shape.heads * shape.head_dim;
        let noise = |seed, rows| reference::noise(seed, shape.batch * rows * channels);
        let k = noise(42, shape.keys).into_iter().enumerate().map(|(i, k)| k + (i % channels % 5) as f32);
        [noise(41, shape.queries), k.collect(), noise(43, shape.keys)]
    }

    fn check(shape: &AttentionShape, tolerance: f64) {
        let [q, k, v] = inputs(shape);
        let expected = reference::attention(&q, &k, &v, shape);
        reference::check_everywhere(&format!("{shape:?}"), &expected, tolerance, |pool, out| {
            attend(pool, [&q, &k, &v], shape, out);
        });
    }

    #[test]
    fn agrees_with_reference_but_for_the_rounding_of_queries_keys_and_values() {
        // Outputs are averages of values in -1..1, and scores of order 1 have an error of about 0.01.
        check(&shape(1, 1, 1, 1, 1), 2e-4);
        for [batch, heads, queries, keys, head_dim] in [
            [2, 3, 5, 7, 8],
            [2, 8, 16, 77, 40],
            [1, 2, 33, 129, 17],
            [1, 2, 65, 300, 64],
            [2, 1, 100, 128, 160],
            [1, 3, 31, 257, 6],
            [1, 1, 47, 31, 512],
        ] {
            check(&shape(batch, heads, queries, keys, head_dim), 5e-3);
        }
    }

    #[test]
    fn a_key_of_great_weight_hides_no_others() {
        // One key in each block of 128 outweighs every other one by e^5: together the others weigh as much.
        let (keys, head_dim) = (256, 8);
        let shape = AttentionShape { scale: 1.0, ..shape(1, 1, 1, keys, head_dim) };
        let q = vec![1.0; head_dim];
        let mut k = vec![0.0; keys * head_dim];
        let mut v = vec![1.0; keys * head_dim];
        for key in [5, 200] {
            k[key * head_dim..][..head_dim].fill(5.0 / head_dim as f32);
            v[key * head_dim..][..head_dim].fill(-1.0);
        }
        let expected = reference::attention(&q, &k, &v, &shape);
        reference::check_everywhere("two great keys", &expected, 1e-2, |pool, out| {
            attend(pool, [&q, &k, &v], &shape, out);
        });
    }

    #[test]
    fn large_scores_neither_overflow_nor_vanish() {
        // The largest weight is nearly one, so only the rounding of values remains. With equal queries and
        // keys each query attends to its own key.
        let shape = AttentionShape { scale: 20.0, ..shape(1, 2, 150, 150, 40) };
        let [q, _, v] = inputs(&shape);
        let expected = reference::attention(&q, &q, &v, &shape);
        reference::check_everywhere("each finds itself", &expected, 2e-2, |pool, out| {
            attend(pool, [&q, &q, &v], &shape, out);
        });
        for size in [0.0, 1e15] {
            let (q, k) = (vec![size; 8], vec![size; 200 * 8]);
            let v = reference::noise(44, 200 * 8);
            let shape = AttentionShape { scale: 1.0, ..self::shape(1, 1, 1, 200, 8) };
            let expected = reference::attention(&q, &k, &v, &shape);
            reference::check_everywhere("equal keys", &expected, 2e-4, |pool, out| {
                attend(pool, [&q, &k, &v], &shape, out);
            });
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        let shape = shape(1, 2, 20, 150, 9);
        reference::on_every_pool(|isa, pool| {
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for input in 0..3 {
                    let mut inputs = inputs(&shape);
                    inputs[input][18 * 3 + 4] = broken;
                    let mut out = vec![0.0; 20 * 18];
                    attend(pool, [&inputs[0], &inputs[1], &inputs[2]], &shape, &mut out);
                    // Row 3 of the first head.
                    let shows = out[3 * 18..3 * 18 + 9].iter().any(|x| !x.is_finite());
                    assert!(shows, "{isa:?}: {broken} in input {input}");
                    assert!(out[3 * 18 + 9..4 * 18].iter().all(|x| x.is_finite()), "{isa:?}: the other head");
                }
            }
        });
    }

    #[test]
    fn instruction_sets_round_to_the_same_integers() {
        let shape = shape(2, 3, 1, 133, 21);
        let [_, k, v] = inputs(&shape);
        let elements = KeyLayout::new(shape.keys, shape.head_dim).elements();
        let mut expected = Vec::new();
        reference::on_every_pool(|isa, pool| {
            let mut keys = vec![0.0; 6 * elements];
            quantize_keys(pool, &k, &v, &shape, &mut keys);
            let bits: Vec<u32> = keys.iter().map(|x| x.to_bits()).collect();
            if expected.is_empty() {
                expected.clone_from(&bits);
            }
            assert_eq!(bits, expected, "{isa:?}");
        });
    }

    #[test]
    fn scratch_is_what_is_said() {
        let shape = shape(2, 2, 200, 90, 33);
        let pool = Pool::new(std::num::NonZeroUsize::new(1)).unwrap();
        let lines = quantize_keys_scratch(&shape).max(attention_i8i16_scratch(&pool, &shape));
        assert_eq!(lines.bytes(1), 64 * 2 * (36 / 4 + 34 + 128));
        assert_eq!(f32::from(super::super::keys::LARGEST).log2(), LARGEST_LOG2);
    }
}
