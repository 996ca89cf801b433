//! The blocked product of bytes and integers behind [`matmul_u8s8`] and [`conv2d_u8s8`](super::conv2d_u8s8).
//!
//! It has the structure of the product in floats (`kernels/gemm.rs`): a task is a tile of the output and
//! reads the columns in slabs, whose rows it gathers side by side; then it takes the weights one or two
//! panels at a time, unpacks them where they are packed, and multiplies them with all rows in register tiles.
//! A slab is a run of whole blocks. Within a block sums are integers. At its end they are multiplied by the
//! scale of the row's block, its offset is added, and the result is accumulated in single precision; after
//! the blocks of each of the joined inputs the features' scales are applied. The order depends on the columns
//! alone.

use std::ops::Range;

use sdq_formats::layout::PANEL;

use super::super::epilogue::Epilogue;
use super::super::gemm::{RowSource, task_scratch, task_size};
use super::super::matmul::DenseRows;
use super::super::scratch::{Scratch, ScratchUse};
use super::super::strips::{Strips, for_each_strip};
use super::super::tiles::{Grid, Tile, for_each_tile};
use super::matrix::QuantizedMatrix;
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::tile::{Sums, dot_rows};
use crate::backend::cpu::simd::{LANES, Lanes, Quads, Simd, SimdOp};
use crate::backend::row_layout::{BLOCK, Factors};

/// Maximum number of blocks per slab.
pub(super) const SLAB_BLOCKS: usize = 8;

/// Maximum number of columns per slab: two unpacked panels of them fill half of a 32 KiB first-level cache.
const SLAB: usize = SLAB_BLOCKS * BLOCK;

/// The part of one row of the left operand that belongs to a slab.
pub(super) type SlabRow = [u8; SLAB];
/// The scales and offsets of that part.
pub(super) type SlabFactors = [Factors; SLAB_BLOCKS];

/// `out = epilogue(x * weightᵀ)`: `x` is `[m, channels]` in the format of
/// [`quantize_rows`](super::quantize_rows), `weight` `[n, channels]`, `out` `[m, n]`.
///
/// `rows_per_batch` rows belong to one image. Only [`Epilogue::channel_bias`] uses it; pass `m` where there
/// is none.
///
/// # Panics
/// If the lengths disagree.
pub fn matmul_u8s8(
    pool: &Pool,
    x: &[f32],
    weight: &QuantizedMatrix,
    rows_per_batch: usize,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    assert_eq!(weight.columns().taps(), 1, "taps of a matrix");
    assert!(weight.n() > 0 && out.len().is_multiple_of(weight.n()), "output length");
    let m = out.len() / weight.n();
    let (values, factors) = weight.layout.split(x);
    assert_eq!(values.len(), m * weight.layout.width, "input length");
    let left = Left {
        values: DenseRows { x: values, k: weight.layout.width },
        factors: DenseRows { x: factors, k: weight.layout.blocks.len() },
    };
    gemm(pool, &left, m, weight, rows_per_batch, epilogue, out);
}

/// The rows of the left operand, bytes and factors.
pub(super) struct Left<V, F> {
    pub(super) values: V,
    pub(super) factors: F,
}

/// `out = epilogue(left * weightᵀ)` for `m` rows.
pub(super) fn gemm<V: RowSource<u8>, F: RowSource<Factors>>(
    pool: &Pool,
    left: &Left<V, F>,
    m: usize,
    weight: &QuantizedMatrix,
    rows_per_batch: usize,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let n = weight.n();
    epilogue.check(m, n, rows_per_batch);
    let (tile_rows, tile_columns) =
        task_size(m, n, pool.threads_for_products(m * n * weight.columns().padded()));
    let grid = Grid { groups: 1, rows: m, columns: n, tile_rows, tile_columns };
    for_each_tile(pool, out, &grid, |out| {
        pool.isa().dispatch(Task { left, weight, rows_per_batch, epilogue, out });
    });
}

/// Vectors of working memory for a task: a slab of the left operand, two panels of the right one, sums.
struct TaskLines {
    values: usize,
    factors: usize,
    wide: usize,
    sums: usize,
}

impl TaskLines {
    fn new(rows: usize, panels: usize) -> TaskLines {
        TaskLines {
            values: rows * size_of::<SlabRow>() / size_of::<Lanes>(),
            factors: rows * size_of::<SlabFactors>() / size_of::<Lanes>(),
            wide: 2 * SLAB / 4,
            sums: rows * panels,
        }
    }

    fn total(&self) -> usize {
        self.values + self.factors + self.wide + self.sums
    }
}

/// Working memory of [`matmul_u8s8`] with `m` rows.
pub fn matmul_u8s8_scratch(pool: &Pool, m: usize, weight: &QuantizedMatrix) -> ScratchUse {
    let n = weight.n();
    let threads = pool.threads_for_products(m * n * weight.columns().padded());
    task_scratch(m, n, threads, |rows, panels| TaskLines::new(rows, panels).total())
}

/// One tile of the output.
struct Task<'a, V, F> {
    left: &'a Left<V, F>,
    weight: &'a QuantizedMatrix<'a>,
    rows_per_batch: usize,
    epilogue: &'a Epilogue<'a>,
    out: Tile<'a, f32>,
}

impl<V: RowSource<u8>, F: RowSource<Factors>> SimdOp for Task<'_, V, F> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let rows = self.out.rows.clone();
        let panels = self.out.columns.start / PANEL..self.out.columns.end.div_ceil(PANEL);

        let lines = TaskLines::new(rows.len(), panels.len());
        let mut scratch = Scratch::new(lines.total());
        let (values, rest) = scratch.lines().split_at_mut(lines.values);
        let (factors, rest) = rest.split_at_mut(lines.factors);
        let (wide, sums) = rest.split_at_mut(lines.wide);
        let values = bytemuck::cast_slice_mut::<Lanes, u8>(values).as_chunks_mut::<SLAB>().0;
        let factors = bytemuck::cast_slice_mut::<Lanes, Factors>(factors).as_chunks_mut::<SLAB_BLOCKS>().0;
        let wide = bytemuck::cast_slice_mut::<Lanes, Quads>(wide);

        let blocks = self.weight.blocks();
        for first in (0..blocks).step_by(SLAB_BLOCKS) {
            let slab = first..blocks.min(first + SLAB_BLOCKS);
            let columns = self.weight.block(slab.start).1.start..self.weight.block(slab.end - 1).1.end;
            self.left.values.gather(rows.clone(), columns.clone(), values);
            self.left.factors.gather(rows.clone(), slab.clone(), factors);
            let slab =
                Slab { weight: self.weight, blocks: slab, first_column: columns.start, values, factors };
            let panel_sums = sums.chunks_mut(S::TILE_VECTORS * rows.len());
            for (panel, sums) in panels.clone().step_by(S::TILE_VECTORS).zip(panel_sums) {
                if sums.len() == 2 * rows.len() {
                    slab.add_product::<S, 2>(isa, panel, wide, sums);
                } else {
                    slab.add_product::<S, 1>(isa, panel, wide, sums);
                }
            }
        }
        self.epilogue.finish(isa, sums, self.weight.n(), self.rows_per_batch, &mut self.out);
    }
}

/// A run of blocks, with the part of the rows that belongs to it.
struct Slab<'a> {
    weight: &'a QuantizedMatrix<'a>,
    blocks: Range<usize>,
    first_column: usize,
    values: &'a [SlabRow],
    factors: &'a [SlabFactors],
}

impl Slab<'_> {
    /// Adds the product with the `PANELS` panels from `panel` on to their sums `[PANELS, rows]`.
    #[inline(always)]
    fn add_product<S: Simd, const PANELS: usize>(
        &self,
        isa: S,
        panel: usize,
        wide: &mut [Quads],
        sums: &mut [Lanes],
    ) {
        let mut wide = wide.chunks_exact_mut(BLOCK / 4);
        let mut blocks = [BlockOfPanels::<PANELS>::EMPTY; SLAB_BLOCKS];
        for (block, index) in blocks.iter_mut().zip(self.blocks.clone()) {
            let (_, columns) = self.weight.block(index);
            block.first_column = columns.start - self.first_column;
            for p in 0..PANELS {
                let wide = wide.next().expect("there is room for two panels of a slab");
                block.quads[p] = self.weight.quads(isa, panel + p, index, wide);
                let mut sum = isa.zero_ints();
                for quads in block.quads[p] {
                    sum = isa.dot(sum, [1; 4], quads);
                }
                isa.store(isa.ints_to_f32(sum), &mut block.column_sums[p]);
            }
        }
        let mut first_block = 0;
        while first_block < self.blocks.len() {
            let input = self.weight.block(self.blocks.start + first_block).0.input;
            let run = first_block..self.end_of_input(first_block, input);
            first_block = run.end;
            let mut strips = PanelStrips {
                values: self.values,
                factors: self.factors,
                blocks: &blocks[run.clone()],
                first_block: run.start,
                scales: std::array::from_fn(|p| self.weight.scales(input, panel + p)),
                no_sums_yet: self.blocks.start + run.start == 0,
                sums,
            };
            for_each_strip(isa, self.values.len(), &mut strips);
        }
    }

    /// The first block from `block` on that belongs to another input, counted within the slab.
    fn end_of_input(&self, block: usize, input: usize) -> usize {
        let mut later = block..self.blocks.len();
        later
            .find(|&block| self.weight.block(self.blocks.start + block).0.input != input)
            .unwrap_or(self.blocks.len())
    }
}

/// The columns of a block in some panels.
#[derive(Clone, Copy)]
pub(super) struct BlockOfPanels<'a, const PANELS: usize> {
    /// The first column of the block within its slab.
    pub(super) first_column: usize,
    pub(super) quads: [&'a [Quads]; PANELS],
    /// `Σ w` of each feature.
    pub(super) column_sums: [Lanes; PANELS],
}

impl<const PANELS: usize> BlockOfPanels<'_, PANELS> {
    pub(super) const EMPTY: Self =
        Self { first_column: 0, quads: [&[]; PANELS], column_sums: [[0.0; LANES]; PANELS] };
}

/// All register tiles of one or two panels, one below the other.
pub(super) struct PanelStrips<'a, const PANELS: usize> {
    pub(super) values: &'a [SlabRow],
    pub(super) factors: &'a [SlabFactors],
    /// Blocks of one input.
    pub(super) blocks: &'a [BlockOfPanels<'a, PANELS>],
    /// The first of them, counted within the slab.
    pub(super) first_block: usize,
    /// The scales of each feature for that input.
    pub(super) scales: [&'a Lanes; PANELS],
    pub(super) no_sums_yet: bool,
    /// `[PANELS, rows]`
    pub(super) sums: &'a mut [Lanes],
}

impl<S: Simd, const PANELS: usize> Strips<S> for PanelStrips<'_, PANELS> {
    const TALLEST: usize = S::DOT_ROWS;

    #[inline(always)]
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize) {
        let rows = self.values.len();
        let values = self.values[first..first + ROWS].as_flattened();
        let factors = &self.factors[first..first + ROWS];
        let mut sums: Sums<S, ROWS, PANELS> = [[isa.splat(0.0); PANELS]; ROWS];
        for (b, block) in self.blocks.iter().enumerate() {
            let dots = dot_rows::<S, ROWS, PANELS>(
                isa,
                &values[block.first_column..],
                SLAB,
                block.quads,
                [isa.zero_ints(); PANELS],
            );
            for p in 0..PANELS {
                let column_sum = isa.load(&block.column_sums[p]);
                for r in 0..ROWS {
                    let [row_scale, row_offset] = factors[r][self.first_block + b];
                    let sum = isa.fma(isa.ints_to_f32(dots[r][p]), isa.splat(row_scale), sums[r][p]);
                    sums[r][p] = isa.fma(column_sum, isa.splat(row_offset), sum);
                }
            }
        }
        for p in 0..PANELS {
            let scale = isa.load(self.scales[p]);
            for (sum, earlier) in sums.iter().zip(&mut self.sums[p * rows + first..][..ROWS]) {
                let before = if self.no_sums_yet { isa.splat(0.0) } else { isa.load(earlier) };
                isa.store(isa.fma(sum[p], scale, before), earlier);
            }
        }
    }
}
