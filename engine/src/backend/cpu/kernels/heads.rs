//! Code that attention in floats and attention in integers share: how the queries of a head are divided, and
//! how results are written.

use std::ops::Range;

use super::attention::AttentionShape;
use super::scratch::{Scratch, ScratchUse};
use super::tiles::{Grid, Tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Lanes, Simd};

/// Queries per task, where there is enough work.
const TASK_QUERIES: usize = 64;

fn task_queries(pool: &Pool, shape: &AttentionShape) -> usize {
    match pool.threads_for_products(shape.products()) {
        1 => shape.queries.max(1),
        _ => TASK_QUERIES,
    }
}

/// Cuts the output `[batch, queries, heads * head_dim]` into tiles of some queries of one head.
pub(super) fn head_grid(pool: &Pool, shape: &AttentionShape) -> Grid {
    let &AttentionShape { batch, heads, queries, head_dim, .. } = shape;
    let tile_rows = task_queries(pool, shape);
    Grid { groups: batch, rows: queries, columns: heads * head_dim, tile_rows, tile_columns: head_dim }
}

/// Working memory of an attention whose tasks need `lines` vectors.
pub(super) fn head_scratch(pool: &Pool, shape: &AttentionShape, lines: usize) -> ScratchUse {
    let tasks = shape.batch * shape.heads * shape.queries.div_ceil(task_queries(pool, shape));
    ScratchUse::of_tasks(tasks, lines)
}

/// Attention for queries that are spread across the lanes.
pub(super) trait QueryVectors {
    /// Computes up to `VECTORS` vectors of queries.
    fn queries<S: Simd, const VECTORS: usize>(
        &mut self,
        isa: S,
        queries: Range<usize>,
        scratch: &mut [Lanes],
    );
}

/// Processes `rows` queries, as many vectors at once as the instruction set's tiles have. `lines` is the
/// working memory for that many.
#[inline(always)]
pub(super) fn for_each_query_vectors<S: Simd>(
    isa: S,
    rows: Range<usize>,
    lines: usize,
    work: &mut impl QueryVectors,
) {
    let mut scratch = Scratch::new(lines);
    let mut first = rows.start;
    while first < rows.end {
        let wide = S::TILE_VECTORS == 2 && rows.end - first > LANES;
        let queries = first..rows.end.min(first + if wide { 2 * LANES } else { LANES });
        if wide {
            work.queries::<S, 2>(isa, queries.clone(), scratch.lines());
        } else {
            work.queries::<S, 1>(isa, queries.clone(), scratch.lines());
        }
        first = queries.end;
    }
}

/// Writes the lanes of `vectors`, each of `channels` channels that begin with the tile's columns, to the rows
/// of `queries`.
pub(super) fn write_queries(
    out: &mut Tile<'_, f32>,
    queries: Range<usize>,
    vectors: &[Lanes],
    channels: usize,
) {
    let first_row = queries.start - out.rows.start;
    for i in 0..queries.len() {
        let vector = &vectors[i / LANES * channels..][..channels];
        for (out, lanes) in out.row_mut(first_row + i).iter_mut().zip(vector) {
            *out = lanes[i % LANES];
        }
    }
}
