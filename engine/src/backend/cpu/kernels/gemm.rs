//! The blocked product behind `matmul` and `conv2d`.
//!
//! The output is cut into tasks, tiles of many rows and columns. A task goes through the input channels in blocks of at
//! most [`DEPTH`]; of each block it copies its rows' part side by side (a convolution gathers it from the image, so
//! that no im2col matrix ever exists), then takes the weights one or two panels at a time and runs down the rows in
//! register tiles. Partial sums rest in the output. The blocks depend on `k` alone, so every element is summed in
//! the same order whatever its task.

use std::ops::Range;

use sdq_formats::layout::PANEL;

use super::epilogue::Epilogue;
use super::packed::{PackedMatrix, Panels};
use super::scratch::Scratch;
use super::tile::{Strips, for_each_strip, multiply_rows};
use super::tiles::{Grid, Tile, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Lanes, Simd, SimdOp};

/// Input channels per block: two panels of that depth fill two thirds of a 48 KiB first-level cache.
pub(super) const DEPTH: usize = 256;

/// One row of a task's left operand within a block, at a distance from the next that the compiler knows.
pub(super) type BlockRow = [f32; DEPTH];

/// Rows per task at most, a multiple of every register tile: their block of 192 KiB stays in the second-level cache.
const TASK_ROWS: usize = 192;

/// Tasks per thread, where there is enough work, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

/// Where the rows of the left operand come from.
pub(super) trait RowSource: Sync {
    /// Copies columns `k` of rows `rows` to the front of `block`'s rows.
    fn gather(&self, rows: Range<usize>, k: Range<usize>, block: &mut [BlockRow]);
}

/// `out = epilogue(left * weightᵀ)`: `left` is `[m, k]`, `weight` `[n, k]`, `out` `[m, n]`.
pub(super) fn gemm(
    pool: &Pool,
    left: &impl RowSource,
    m: usize,
    weight: &PackedMatrix,
    rows_per_batch: usize,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let (n, k) = (weight.n(), weight.k());
    assert!(k > 0, "a product needs input channels");
    epilogue.check(m, n, rows_per_batch);
    let (tile_rows, tile_columns) = task_size(m, n, pool.threads_for(m * n * k));
    let grid = Grid { groups: 1, rows: m, columns: n, tile_rows, tile_columns };
    for_each_tile(pool, out, &grid, |out| {
        pool.isa().dispatch(Task { left, weight, rows_per_batch, epilogue, out });
    });
}

/// Rows and columns of a task.
fn task_size(m: usize, n: usize, threads: usize) -> (usize, usize) {
    if threads == 1 {
        return (TASK_ROWS, n.max(1));
    }
    let wanted = threads * TASKS_PER_THREAD;
    let rows = m.div_ceil(wanted).next_multiple_of(TASK_ROWS / 4).min(TASK_ROWS);
    let columns_wanted = wanted.div_ceil(m.div_ceil(rows));
    (rows, n.div_ceil(columns_wanted).next_multiple_of(2 * PANEL))
}

/// One tile of the output.
struct Task<'a, R> {
    left: &'a R,
    weight: &'a PackedMatrix<'a>,
    rows_per_batch: usize,
    epilogue: &'a Epilogue<'a>,
    out: Tile<'a, f32>,
}

impl<R: RowSource> SimdOp for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let k = self.weight.k();
        let blocks = k.div_ceil(DEPTH);
        let depth = k.div_ceil(blocks);
        let rows = self.out.rows.clone();
        let panels = self.out.columns.start / PANEL..self.out.columns.end.div_ceil(PANEL);
        let mut scratch = Scratch::new((rows.len() * DEPTH).div_ceil(LANES) + 2 * DEPTH);
        let (wide, left) = scratch.lines().split_at_mut(2 * DEPTH);
        let (left, _) = left.as_flattened_mut().as_chunks_mut::<DEPTH>();
        for start in (0..k).step_by(depth) {
            let block = start..k.min(start + depth);
            self.left.gather(rows.clone(), block.clone(), left);
            let mut panel = panels.start;
            while panel < panels.end {
                let width = S::TILE_VECTORS.min(panels.end - panel);
                if width == 2 {
                    self.panels::<S, 2>(isa, panel, &block, left, wide);
                } else {
                    self.panels::<S, 1>(isa, panel, &block, left, wide);
                }
                panel += width;
            }
        }
    }
}

impl<R> Task<'_, R> {
    /// Adds one block's product with `PANELS` panels to the task's columns of those panels.
    #[inline(always)]
    fn panels<S: Simd, const PANELS: usize>(
        &mut self,
        isa: S,
        panel: usize,
        block: &Range<usize>,
        left: &[BlockRow],
        wide: &mut [Lanes],
    ) {
        let right = block_of_panels::<S, PANELS>(isa, self.weight, panel, block, wide);
        let first_column = panel * PANEL - self.out.columns.start;
        let mut strips = PanelStrips::<R, PANELS> {
            left,
            right,
            columns: first_column..self.out.columns.len().min(first_column + PANELS * PANEL),
            first_block: block.start == 0,
            last_block: block.end == self.weight.k(),
            task: self,
        };
        let rows = strips.task.out.rows.len();
        for_each_strip(isa, rows, &mut strips);
    }
}

/// `block`'s rows of `PANELS` panels from `panel` on, in single precision: from the matrix itself, or widened to `wide`.
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

/// The register tiles below one another in one or two panels.
struct PanelStrips<'t, 'a, R, const PANELS: usize> {
    left: &'t [BlockRow],
    right: [&'t [Lanes]; PANELS],
    /// The output columns of the panels, counted from the start of the task.
    columns: Range<usize>,
    first_block: bool,
    last_block: bool,
    task: &'t mut Task<'a, R>,
}

impl<S: Simd, R, const PANELS: usize> Strips<S> for PanelStrips<'_, '_, R, PANELS> {
    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let left: [&[f32]; ROWS] = std::array::from_fn(|r| &self.left[first + r][..]);
        let sums = multiply_rows::<S, ROWS, PANELS>(isa, left, self.right);
        let mut lanes = [[[0.0; LANES]; PANELS]; ROWS];
        for (lanes, sums) in lanes.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            isa.store(*sums, lanes);
        }
        for (r, lanes) in lanes.iter().enumerate() {
            self.finish_row(isa, first + r, lanes);
        }
    }
}

impl<R, const PANELS: usize> PanelStrips<'_, '_, R, PANELS> {
    /// Adds `sums` to the task's row `row`, and what the epilogue asks for after the last block.
    #[inline(always)]
    fn finish_row<S: Simd>(&mut self, isa: S, row: usize, sums: &[Lanes; PANELS]) {
        let n = self.task.weight.n();
        let (first_block, last_block) = (self.first_block, self.last_block);
        let Task { epilogue, rows_per_batch, out, .. } = &mut *self.task;
        let global_row = out.rows.start + row;
        let first_column = out.columns.start + self.columns.start;
        let channel_bias = epilogue.channel_bias_row(global_row, n, *rows_per_batch);
        let residual = epilogue.residual.map(|residual| &residual[global_row * n..][..n]);
        let stored = &mut out.row_mut(row)[self.columns.clone()];
        for (p, (stored, sums)) in stored.chunks_mut(LANES).zip(sums).enumerate() {
            let column = first_column + p * LANES;
            let mut value = isa.load(sums);
            if !first_block {
                value = isa.add(isa.load_partial(stored), value);
            }
            if last_block {
                let part = |from: &[f32]| isa.load_partial(&from[column..column + stored.len()]);
                if let Some(bias) = epilogue.bias {
                    value = isa.add(value, part(bias));
                }
                if let Some(channel_bias) = channel_bias {
                    value = isa.add(value, part(channel_bias));
                }
                if let Some(activation) = epilogue.activation {
                    value = activation.apply(isa, value);
                }
                if let Some(residual) = residual {
                    value = isa.add(value, part(residual));
                }
                value = isa.mul(value, isa.splat(epilogue.scale));
            }
            isa.store_partial(value, stored);
        }
    }
}
