//! Attention that never stores its matrix of weights: blocks of keys with a running softmax (FlashAttention,
//! arXiv:2205.14135, algorithm 1).
//!
//! Queries are spread across the lanes. The transposed scores `K Qᵀ` of a block are a product with the
//! transposed queries as the right operand, and `outᵀ += Vᵀ P` is one with the weights as the right operand.
//! So keys and values are read in place, and the softmax of a query is computed in its own lane, independent
//! of the position of the query.

use std::ops::Range;

use super::heads::{QueryVectors, for_each_query_vectors, head_grid, head_scratch, write_queries};
use super::scratch::ScratchUse;
use super::strips::{Strips, for_each_strip};
use super::tiles::{Tile, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::tile::{Sums, multiply_columns, multiply_rows};
use crate::backend::cpu::simd::{LANES, Lanes, Simd, SimdOp, math};

/// Keys per block: the weights of 32 queries for them take 16 KiB.
const BLOCK_KEYS: usize = 128;

/// The score of a masked key: finite, so that no difference of two scores is NaN, and its weight is zero.
const MASKED: f32 = f32::MIN;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Images or prompts.
    pub batch: usize,
    /// Heads, side by side in the channels.
    pub heads: usize,
    /// Queries of each image.
    pub queries: usize,
    /// Keys of each image.
    pub keys: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Whether query `i` sees keys `0..=i` only.
    pub causal: bool,
    /// Multiplies the scores, usually `1 / √head_dim`.
    pub scale: f32,
}

impl AttentionShape {
    /// Multiply-adds of both products.
    pub(super) fn products(&self) -> usize {
        2 * self.batch * self.queries * self.keys * self.heads * self.head_dim
    }
}

/// `out = softmax(scale q kᵀ) v` for each head. `q` and `out` are `[batch, queries, heads * head_dim]`, `k` and `v`
/// `[batch, keys, heads * head_dim]`.
///
/// # Panics
/// If the lengths disagree or there are no keys.
pub fn attention(pool: &Pool, q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape, out: &mut [f32]) {
    let &AttentionShape { batch, heads, queries, keys, head_dim, .. } = shape;
    let channels = heads * head_dim;
    assert!(keys > 0 && channels > 0, "attention to nothing");
    assert_eq!(q.len(), batch * queries * channels, "length of the queries");
    assert_eq!(k.len(), batch * keys * channels, "length of the keys");
    assert_eq!(v.len(), batch * keys * channels, "length of the values");
    for_each_tile(pool, out, &head_grid(pool, shape), |out| {
        let image = out.group;
        let head = out.columns.start;
        pool.isa().dispatch(HeadTask {
            q: &q[image * queries * channels..][..queries * channels],
            k: &k[image * keys * channels + head..(image + 1) * keys * channels],
            v: &v[image * keys * channels + head..(image + 1) * keys * channels],
            shape,
            out,
        });
    });
}

/// Vectors of working memory for a task: transposed queries, sums and weights.
fn task_lines(head_dim: usize, vectors: usize) -> usize {
    vectors * (2 * head_dim + BLOCK_KEYS)
}

/// Working memory of an attention, with the widest vectors.
pub fn attention_scratch(pool: &Pool, shape: &AttentionShape) -> ScratchUse {
    head_scratch(pool, shape, task_lines(shape.head_dim, 2))
}

/// Some queries of one head.
struct HeadTask<'a> {
    /// `[queries, channels]` of the image.
    q: &'a [f32],
    /// Keys and values of the image, from the head's first channel on.
    k: &'a [f32],
    v: &'a [f32],
    shape: &'a AttentionShape,
    out: Tile<'a, f32>,
}

impl SimdOp for HeadTask<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let lines = task_lines(self.shape.head_dim, S::TILE_VECTORS);
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
        let &AttentionShape { heads, keys, head_dim, causal, .. } = self.shape;
        let channels = heads * head_dim;
        let (transposed, scratch) = scratch.split_at_mut(VECTORS * head_dim);
        let (sums, scratch) = scratch.split_at_mut(VECTORS * head_dim);
        let weights = &mut scratch[..VECTORS * BLOCK_KEYS];
        self.transpose_queries(queries.clone(), transposed);
        sums.fill([0.0; LANES]);

        let mut softmax = RunningSoftmax::<S, VECTORS>::new(isa);
        let visible = if causal { keys.min(queries.end) } else { keys };
        for start in (0..visible).step_by(BLOCK_KEYS) {
            let count = BLOCK_KEYS.min(visible - start);
            let mut scores = Scores::<VECTORS> {
                keys: &self.k[start * channels..],
                channels,
                head_dim,
                queries: transposed,
                scores: weights,
            };
            for_each_strip(isa, count, &mut scores);
            if causal && start + count > queries.start + 1 {
                mask_later_keys::<S, VECTORS>(isa, queries.start, start, count, weights);
            }
            let decay = softmax.weigh(isa, weights, count);
            let mut values = WeightedValues::<S, VECTORS> {
                values: &self.v[start * channels..],
                channels,
                weights,
                count,
                decay,
                sums,
            };
            for_each_strip(isa, head_dim, &mut values);
        }
        self.store(isa, queries, sums, softmax.totals);
    }
}

impl HeadTask<'_> {
    /// Writes the scaled queries to `transposed` `[vectors, head_dim]`, one query per lane, with zeros past
    /// the last query.
    fn transpose_queries(&self, queries: Range<usize>, transposed: &mut [Lanes]) {
        let &AttentionShape { heads, head_dim, scale, .. } = self.shape;
        let channels = heads * head_dim;
        transposed.fill([0.0; LANES]);
        for (i, query) in queries.enumerate() {
            let query = &self.q[query * channels + self.out.columns.start..][..head_dim];
            let vector = &mut transposed[i / LANES * head_dim..][..head_dim];
            for (lanes, q) in vector.iter_mut().zip(query) {
                lanes[i % LANES] = q * scale;
            }
        }
    }

    /// Divides the sums `[vectors, head_dim]` by the totals of the weights and writes each lane to a row of
    /// the output.
    #[inline(always)]
    fn store<S: Simd, const VECTORS: usize>(
        &mut self,
        isa: S,
        queries: Range<usize>,
        sums: &mut [Lanes],
        totals: [S::Vector; VECTORS],
    ) {
        let head_dim = self.shape.head_dim;
        for (sums, total) in sums.chunks_exact_mut(head_dim).zip(totals) {
            for sum in sums {
                isa.store(isa.div(isa.load(sum), total), sum);
            }
        }
        write_queries(&mut self.out, queries, sums, head_dim);
    }
}

/// The scores of a block of keys, `[vectors, BLOCK_KEYS]`, one query per lane.
struct Scores<'a, const VECTORS: usize> {
    /// Starts at the block's first key; keys are `channels` apart.
    keys: &'a [f32],
    channels: usize,
    head_dim: usize,
    /// `[vectors, head_dim]`, one query per lane.
    queries: &'a [Lanes],
    scores: &'a mut [Lanes],
}

impl<S: Simd, const VECTORS: usize> Strips<S> for Scores<'_, VECTORS> {
    const TALLEST: usize = S::TILE_ROWS;

    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let keys = &self.keys[first * self.channels..];
        let queries = std::array::from_fn(|v| &self.queries[v * self.head_dim..][..self.head_dim]);
        let mut scores: Sums<S, ROWS, VECTORS> = [[isa.splat(0.0); VECTORS]; ROWS];
        multiply_rows::<S, ROWS, VECTORS>(isa, keys, self.channels, queries, &mut scores);
        for (r, scores) in scores.iter().enumerate() {
            for (v, score) in scores.iter().enumerate() {
                isa.store(*score, &mut self.scores[v * BLOCK_KEYS + first + r]);
            }
        }
    }
}

/// Masks, for each query from `first_query` on, the keys after it among `count` keys from `first_key` on.
#[inline(always)]
fn mask_later_keys<S: Simd, const VECTORS: usize>(
    isa: S,
    first_query: usize,
    first_key: usize,
    count: usize,
    scores: &mut [Lanes],
) {
    let masked = isa.splat(MASKED);
    for (v, scores) in scores.chunks_exact_mut(BLOCK_KEYS).take(VECTORS).enumerate() {
        // Positions are far below 2^24, so single precision holds them exactly.
        let positions: Lanes = std::array::from_fn(|lane| (first_query + v * LANES + lane) as f32);
        let positions = isa.load(&positions);
        for (i, score) in scores[..count].iter_mut().enumerate() {
            let key = isa.splat((first_key + i) as f32);
            isa.store(isa.select_less(positions, key, masked, isa.load(score)), score);
        }
    }
}

/// The softmax of the keys read so far: weights are relative to the largest score so far.
struct RunningSoftmax<S: Simd, const VECTORS: usize> {
    maxima: [S::Vector; VECTORS],
    totals: [S::Vector; VECTORS],
}

impl<S: Simd, const VECTORS: usize> RunningSoftmax<S, VECTORS> {
    #[inline(always)]
    fn new(isa: S) -> Self {
        Self { maxima: [isa.splat(MASKED); VECTORS], totals: [isa.splat(0.0); VECTORS] }
    }

    /// Turns the scores of `count` keys, `[vectors, BLOCK_KEYS]`, into weights, and returns the factors by which all
    /// earlier weights shrink.
    #[inline(always)]
    fn weigh(&mut self, isa: S, scores: &mut [Lanes], count: usize) -> [S::Vector; VECTORS] {
        let mut decay = self.maxima;
        for (v, scores) in scores.chunks_exact_mut(BLOCK_KEYS).take(VECTORS).enumerate() {
            let scores = &mut scores[..count];
            let mut maximum = self.maxima[v];
            for score in &*scores {
                maximum = isa.max(maximum, isa.load(score));
            }
            decay[v] = math::exp(isa, isa.sub(self.maxima[v], maximum));
            self.maxima[v] = maximum;
            let mut total = isa.mul(self.totals[v], decay[v]);
            for score in scores {
                let weight = math::exp(isa, isa.sub(isa.load(score), maximum));
                total = isa.add(total, weight);
                isa.store(weight, score);
            }
            self.totals[v] = total;
        }
        decay
    }
}

/// `sums = sums * decay + Σ weight * value` over a block of keys, one row per channel of the head.
struct WeightedValues<'a, S: Simd, const VECTORS: usize> {
    /// Starts at the block's first value; values are `channels` apart.
    values: &'a [f32],
    channels: usize,
    /// `[vectors, BLOCK_KEYS]`, one query per lane.
    weights: &'a [Lanes],
    count: usize,
    decay: [S::Vector; VECTORS],
    /// `[vectors, head_dim]`, one query per lane.
    sums: &'a mut [Lanes],
}

impl<S: Simd, const VECTORS: usize> Strips<S> for WeightedValues<'_, S, VECTORS> {
    const TALLEST: usize = S::TILE_ROWS;

    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let head_dim = self.sums.len() / VECTORS;
        let mut sums: Sums<S, ROWS, VECTORS> = [[isa.splat(0.0); VECTORS]; ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = isa.mul(isa.load(&self.sums[v * head_dim + first + r]), self.decay[v]);
            }
        }
        let weights = std::array::from_fn(|v| &self.weights[v * BLOCK_KEYS..][..self.count]);
        let values = &self.values[first..];
        multiply_columns::<S, ROWS, VECTORS>(isa, values, self.channels, weights, &mut sums);
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                isa.store(*sum, &mut self.sums[v * head_dim + first + r]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    /// Outputs are averages of values in `-1..1`; weights have the rounding error of the scores, which grows
    /// with their magnitude.
    const TOLERANCE: f64 = 2e-6;

    fn shape(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> AttentionShape {
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionShape { batch, heads, queries, keys, head_dim, causal: false, scale }
    }

    fn check(shape: &AttentionShape, tolerance: f64) {
        let channels = shape.heads * shape.head_dim;
        let q = reference::noise(31, shape.batch * shape.queries * channels);
        let k = reference::noise(32, shape.batch * shape.keys * channels);
        let v = reference::noise(33, shape.batch * shape.keys * channels);
        let expected = reference::attention(&q, &k, &v, shape);
        reference::check_everywhere(&format!("{shape:?}"), &expected, tolerance, |pool, out| {
            attention(pool, &q, &k, &v, shape, out);
        });
    }

    #[test]
    fn agrees_with_reference() {
        check(&shape(1, 1, 1, 1, 1), TOLERANCE);
        check(&shape(2, 3, 5, 7, 8), TOLERANCE);
        check(&shape(2, 8, 16, 77, 40), TOLERANCE);
        check(&shape(1, 2, 33, 129, 17), TOLERANCE);
        check(&shape(1, 2, 65, 300, 64), TOLERANCE);
        check(&shape(2, 1, 100, 128, 160), TOLERANCE);
        check(&shape(1, 1, 47, 31, 512), TOLERANCE);
    }

    #[test]
    fn later_keys_are_not_seen() {
        for (queries, keys) in [(1, 1), (77, 77), (200, 200), (150, 10), (10, 150)] {
            check(&AttentionShape { causal: true, ..shape(2, 2, queries, keys, 24) }, TOLERANCE);
        }
    }

    #[test]
    fn large_scores_neither_overflow_nor_vanish() {
        // Scores up to ±500 at both ends of the softmax: a weight of nearly one somewhere, zeros elsewhere.
        let sharp = AttentionShape { scale: 50.0, ..shape(1, 2, 20, 300, 16) };
        check(&sharp, 2e-4);
        check(&AttentionShape { causal: true, ..sharp }, 2e-4);
    }

    #[test]
    fn equal_keys_average_the_values() {
        let (keys, head_dim) = (200, 8);
        let v = reference::noise(34, keys * head_dim);
        let mean =
            |d: usize| (0..keys).map(|key| f64::from(v[key * head_dim + d])).sum::<f64>() / keys as f64;
        let expected: Vec<f64> = (0..head_dim).map(mean).collect();
        // A score of 10^30 must not become an infinity minus itself.
        for size in [0.0, 1e15] {
            reference::check_everywhere("equal keys", &expected, TOLERANCE, |pool, out| {
                let (q, k) = (vec![size; head_dim], vec![size; keys * head_dim]);
                attention(pool, &q, &k, &v, &shape(1, 1, 1, keys, head_dim), out);
            });
        }
    }
}
