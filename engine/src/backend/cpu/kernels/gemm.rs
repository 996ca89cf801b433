//! The blocked product behind `matmul` and `conv2d`.
//!
//! The output is cut into tasks: tiles of many rows and columns. A task reads the input channels in blocks of
//! at most [`DEPTH`]. For each block it copies the block's part of its rows into adjacent memory (a
//! convolution gathers it from the image, so that no im2col matrix ever exists), then takes the weights one
//! or two panels at a time and multiplies them with all rows in register tiles. Partial sums stay in the
//! thread's own memory, side by side, until the last block; then the epilogue writes them row by row. The
//! blocks depend on `k` alone, so every element is summed in the same order, independent of its task.

use std::ops::Range;

use sdq_formats::layout::PANEL;

use super::epilogue::Epilogue;
use super::packed::{PackedMatrix, Panels};
use super::scratch::{Scratch, ScratchUse};
use super::strips::{Strips, for_each_strip};
use super::tiles::{Grid, Tile, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::tile::{Sums, multiply_rows};
use crate::backend::cpu::simd::{LANES, Lanes, Simd, SimdOp};

/// Input channels per block: two panels of that depth fill two thirds of a 48 KiB first-level cache.
pub(super) const DEPTH: usize = 256;

/// The part of one row of the left operand that belongs to a block. The distance between rows is known to the
/// compiler.
pub(super) type BlockRow = [f32; DEPTH];

/// Maximum number of rows per task, a multiple of the height of every register tile: their block of 192 KiB
/// stays in the second-level cache.
const TASK_ROWS: usize = 192;

/// Maximum number of columns per task: the sums of 480 KiB stay in the second-level cache too.
const TASK_COLUMNS: usize = 640;

/// Tasks per thread, where there is enough work, so that no thread waits long for the last task.
pub(super) const TASKS_PER_THREAD: usize = 4;

/// A source of rows of the left operand.
pub(super) trait RowSource<T>: Sync {
    /// Copies columns `k` of rows `rows` to the start of the rows of `block`.
    fn gather<const DEPTH: usize>(&self, rows: Range<usize>, k: Range<usize>, block: &mut [[T; DEPTH]]);
}

/// `out = epilogue(left * weightᵀ)`: `left` is `[m, k]`, `weight` `[n, k]`, `out` `[m, n]`.
pub(super) fn gemm(
    pool: &Pool,
    left: &impl RowSource<f32>,
    m: usize,
    weight: &PackedMatrix,
    rows_per_batch: usize,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let (n, k) = (weight.n(), weight.k());
    assert!(k > 0, "a product needs input channels");
    epilogue.check(m, n, rows_per_batch);
    let (tile_rows, tile_columns) = task_size(m, n, pool.threads_for_products(m * n * k));
    let grid = Grid { groups: 1, rows: m, columns: n, tile_rows, tile_columns };
    for_each_tile(pool, out, &grid, |out| {
        pool.isa().dispatch(Task { left, weight, rows_per_batch, epilogue, out });
    });
}

/// Rows and columns of a task.
pub(super) fn task_size(m: usize, n: usize, threads: usize) -> (usize, usize) {
    let tasks = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
    let rows = m.div_ceil(tasks).next_multiple_of(TASK_ROWS / 4).min(TASK_ROWS);
    let across = tasks.div_ceil(m.div_ceil(rows)).max(n.div_ceil(TASK_COLUMNS));
    (rows, n.div_ceil(across).next_multiple_of(2 * PANEL))
}

/// Vectors of working memory for a task of `rows` rows and `panels` panels: a block of the left operand, two
/// panels of the right one, sums.
fn task_lines(rows: usize, panels: usize) -> usize {
    rows * DEPTH / LANES + 2 * DEPTH + rows * panels
}

/// Working memory of a product of `[m, k]` and `[n, k]`.
pub fn gemm_scratch(pool: &Pool, m: usize, n: usize, k: usize) -> ScratchUse {
    task_scratch(m, n, pool.threads_for_products(m * n * k), task_lines)
}

/// Working memory of a product whose tasks need `lines(rows, panels)`.
pub(super) fn task_scratch(
    m: usize,
    n: usize,
    threads: usize,
    lines: impl Fn(usize, usize) -> usize,
) -> ScratchUse {
    let (rows, columns) = task_size(m, n, threads);
    let tasks = m.div_ceil(rows) * n.div_ceil(columns);
    ScratchUse::of_tasks(tasks, lines(rows.min(m), columns.min(n).div_ceil(PANEL)))
}

/// One tile of the output.
struct Task<'a, R> {
    left: &'a R,
    weight: &'a PackedMatrix<'a>,
    rows_per_batch: usize,
    epilogue: &'a Epilogue<'a>,
    out: Tile<'a, f32>,
}

impl<R: RowSource<f32>> SimdOp for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let k = self.weight.k();
        let depth = k.div_ceil(k.div_ceil(DEPTH));
        let rows = self.out.rows.clone();
        let panels = self.out.columns.start / PANEL..self.out.columns.end.div_ceil(PANEL);

        let left_lines = rows.len() * DEPTH / LANES;
        let mut scratch = Scratch::new(task_lines(rows.len(), panels.len()));
        let (left, rest) = scratch.lines().split_at_mut(left_lines);
        let (wide, sums) = rest.split_at_mut(2 * DEPTH);
        let (left, _) = left.as_flattened_mut().as_chunks_mut::<DEPTH>();

        for start in (0..k).step_by(depth) {
            let block = start..k.min(start + depth);
            self.left.gather(rows.clone(), block.clone(), left);
            let panel_sums = sums.chunks_mut(S::TILE_VECTORS * rows.len());
            for (panel, sums) in panels.clone().step_by(S::TILE_VECTORS).zip(panel_sums) {
                if sums.len() == 2 * rows.len() {
                    add_product::<S, 2>(isa, left, self.weight, panel, &block, wide, sums);
                } else {
                    add_product::<S, 1>(isa, left, self.weight, panel, &block, wide, sums);
                }
            }
        }
        self.epilogue.finish(isa, sums, self.weight.n(), self.rows_per_batch, &mut self.out);
    }
}

/// Adds the product of one block with the `PANELS` panels from `panel` on to their sums `[PANELS, rows]`.
#[inline(always)]
fn add_product<S: Simd, const PANELS: usize>(
    isa: S,
    left: &[BlockRow],
    weight: &PackedMatrix,
    panel: usize,
    block: &Range<usize>,
    wide: &mut [Lanes],
    sums: &mut [Lanes],
) {
    let right = block_of_panels::<S, PANELS>(isa, weight, panel, block, wide);
    for_each_strip(isa, left.len(), &mut PanelStrips { left, right, first_block: block.start == 0, sums });
}

/// The rows of `block` of the `PANELS` panels from `panel` on, in single precision: borrowed from the matrix
/// itself, or widened into `wide`.
#[inline(always)]
fn block_of_panels<'a, S: Simd, const PANELS: usize>(
    isa: S,
    weight: &PackedMatrix<'a>,
    panel: usize,
    block: &Range<usize>,
    wide: &'a mut [Lanes],
) -> [&'a [Lanes]; PANELS] {
    let rows = |p: usize| (panel + p) * weight.k() + block.start..(panel + p) * weight.k() + block.end;
    match weight.panels() {
        Panels::F32(values) => {
            let values = values.as_chunks().0;
            std::array::from_fn(|p| &values[rows(p)])
        }
        Panels::F16(values) => {
            let values = values.as_chunks().0;
            for (p, wide) in wide.chunks_exact_mut(DEPTH).take(PANELS).enumerate() {
                for (wide, half) in wide.iter_mut().zip(&values[rows(p)]) {
                    isa.store(isa.load_f16(half), wide);
                }
            }
            let wide = &*wide;
            std::array::from_fn(|p| &wide[p * DEPTH..][..block.len()])
        }
    }
}

/// All register tiles of one or two panels, one below the other.
struct PanelStrips<'a, const PANELS: usize> {
    left: &'a [BlockRow],
    right: [&'a [Lanes]; PANELS],
    /// Whether this is the first block, so that there are no sums yet.
    first_block: bool,
    /// `[PANELS, rows]`
    sums: &'a mut [Lanes],
}

impl<S: Simd, const PANELS: usize> Strips<S> for PanelStrips<'_, PANELS> {
    const TALLEST: usize = S::TILE_ROWS;

    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let rows = self.left.len();
        let left = self.left[first..first + ROWS].as_flattened();
        let mut products: Sums<S, ROWS, PANELS> = [[isa.splat(0.0); PANELS]; ROWS];
        multiply_rows::<S, ROWS, PANELS>(isa, left, DEPTH, self.right, &mut products);
        for p in 0..PANELS {
            let sums = &mut self.sums[p * rows + first..][..ROWS];
            for (sum, products) in sums.iter_mut().zip(&products) {
                let earlier = if self.first_block { isa.splat(0.0) } else { isa.load(sum) };
                isa.store(isa.add(earlier, products[p]), sum);
            }
        }
    }
}
