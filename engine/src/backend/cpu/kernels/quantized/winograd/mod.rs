//! Convolutions of 3x3 taps with 2.25 times fewer multiplications.
//!
//! Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308, section 4.1): with `d` a patch
//! of 4x4 pixels and `g` the nine taps of a filter, the four pixels in the patch's middle are
//!
//! ```text
//! Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//! ```
//!
//! Summed over channels, ⊙ is a product of matrices for each of the sixteen *points* of a patch, and it is
//! computed in integers like any other: patches are transformed in single precision and rounded to bytes with
//! a range of their own for each point and [pair of blocks](BLOCK_PAIR) of channels, filters in integers and
//! rounded to bytes with a scale for each point, feature and input. So both sides are rounded twice, which
//! costs about 2 dB of the similarity between a picture in q8 and one in floats; see docs/kernels.md.
//!
//! Filters are transformed again in every run, for all threads, one pass of features at a time: to keep them
//! would take anonymous memory, 16/9 of their size in the mapped file. Then each thread takes strips of
//! patches, transforms them once and multiplies them with all features of the pass.

mod filters;
mod patches;
mod points;
#[cfg(test)]
mod tests;

use std::ops::Range;

use sdq_formats::layout::PANEL;

use super::super::conv::ConvShape;
use super::super::epilogue::Epilogue;
use super::super::gemm::TASKS_PER_THREAD;
use super::super::scratch::{Scratch, ScratchUse};
use super::super::strips::for_each_strip;
use super::super::tiles::{Grid, Tile, for_each_tile};
use super::gemm::{BlockOfPanels, PanelStrips, SLAB_BLOCKS, SlabFactors, SlabRow};
use super::matrix::QuantizedMatrix;
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Lanes, Simd, SimdOp};
use crate::backend::row_layout::Factors;
use filters::{FilterLines, Filters};
use patches::Picture;
use points::{BLOCK_PAIR, OUT_SIDE, PATCH_SIDE, POINTS, TAPS, slabs};

/// Output rows that are rounded together by a convolution that [uses this algorithm](is_winograd).
pub const WINOGRAD_ROWS: usize = OUT_SIDE;

/// Size of the filters that are transformed at one time: they fit a shared cache and hardly add to the memory
/// in use.
const PASS_BYTES: usize = 10 << 20;

/// Size of a strip's transformed patches: they stay in a second-level cache.
const STRIP_BYTES: usize = 512 << 10;

/// The patches of a strip are a multiple of this, which is a multiple of the height of every register tile.
const STRIP_STEP: usize = 12;

/// Smallest number of channels and features for which fewer multiplications outweigh the transforms.
const LEAST_CHANNELS: usize = 128;

/// Smallest width for which the number of patches outweighs the transform of the filters.
const LEAST_WIDTH: usize = 16;

/// Whether [`conv2d_u8s8`](super::conv2d_u8s8) uses this algorithm. Height and batch do not matter, so that a
/// strip of a picture gets the same result as the whole picture.
pub fn is_winograd(shape: &ConvShape, weight: &QuantizedMatrix) -> bool {
    shape.kernel == (3, 3)
        && shape.stride == 1
        && shape.out_width >= LEAST_WIDTH
        && weight.channels() >= LEAST_CHANNELS
        && weight.n() >= LEAST_CHANNELS
        && can(weight)
}

/// Whether the kernel can read the weight: the channels of every input must be whole vectors.
fn can(weight: &QuantizedMatrix) -> bool {
    weight.columns().taps() == TAPS
        && weight.layout.blocks.iter().all(|block| block.channels.len().is_multiple_of(LANES))
}

/// How the work is divided.
#[derive(Clone, Copy, Debug)]
struct Division {
    /// Patches side by side.
    across: usize,
    /// Rows of patches in a task.
    rows: usize,
    /// Maximum number of patches in a strip of a task.
    strip: usize,
    /// Tasks of all passes.
    tasks: usize,
    /// Panels of features in a pass.
    panels: usize,
    slabs: usize,
}

impl Division {
    fn new(pool: &Pool, shape: &ConvShape, weight: &QuantizedMatrix) -> Division {
        let slabs = slabs(&weight.layout).count();
        let fitting = STRIP_BYTES / (POINTS * slabs * size_of::<SlabRow>()) / STRIP_STEP * STRIP_STEP;
        let fitting = fitting.max(STRIP_STEP);
        let (across, down) = (shape.out_width.div_ceil(OUT_SIDE), shape.out_height.div_ceil(OUT_SIDE));
        let work = shape.batch * shape.out_height * shape.out_width * weight.n() * weight.columns().padded();
        let tasks = match pool.threads_for_products(work) {
            1 => 1,
            threads => threads * TASKS_PER_THREAD,
        };
        let rows = fitting.div_ceil(across).min((down * shape.batch).div_ceil(tasks)).min(down).max(1);
        let patches = rows * across;
        let strip = patches.div_ceil(patches.div_ceil(fitting)).next_multiple_of(STRIP_STEP);
        let all_panels = weight.n().div_ceil(PANEL);
        let panel_bytes = FilterLines::new(weight).panel() * size_of::<Lanes>();
        let passes = all_panels.div_ceil((PASS_BYTES / panel_bytes).max(1));
        let panels = all_panels.div_ceil(passes).next_multiple_of(2).min(all_panels);
        let tasks = down.div_ceil(rows) * shape.batch * all_panels.div_ceil(panels);
        Division { across, rows, strip, tasks, panels, slabs }
    }

    /// Vectors of working memory for a task.
    fn task_lines(&self) -> TaskLines {
        let rows = POINTS * self.slabs * self.strip;
        TaskLines {
            transformed: patches::TRANSFORMED,
            values: rows * size_of::<SlabRow>() / size_of::<Lanes>(),
            factors: rows * size_of::<SlabFactors>() / size_of::<Lanes>(),
            sums: POINTS * 2 * self.strip,
        }
    }
}

struct TaskLines {
    transformed: usize,
    values: usize,
    factors: usize,
    sums: usize,
}

impl TaskLines {
    fn total(&self) -> usize {
        self.transformed + self.values + self.factors + self.sums
    }
}

/// Working memory of [`conv2d_winograd_u8s8`].
pub(super) fn scratch(pool: &Pool, shape: &ConvShape, weight: &QuantizedMatrix) -> ScratchUse {
    let division = Division::new(pool, shape, weight);
    let filters = ScratchUse { caller: division.panels * FilterLines::new(weight).panel(), helpers: 0 };
    filters.plus(ScratchUse::of_tasks(division.tasks, division.task_lines().total()))
}

/// As [`conv2d_u8s8`](super::conv2d_u8s8), for convolutions that satisfy [`is_winograd`].
///
/// # Panics
/// If the lengths disagree.
pub(super) fn conv2d_winograd_u8s8(
    pool: &Pool,
    (values, factors): (&[u8], &[Factors]),
    shape: &ConvShape,
    weight: &QuantizedMatrix,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let (n, pixels) = (weight.n(), shape.out_height * shape.out_width);
    epilogue.check(shape.batch * pixels, n, pixels);
    let division = Division::new(pool, shape, weight);
    let picture = Picture { values, factors, layout: &weight.layout, shape };
    let lines = FilterLines::new(weight);
    let mut scratch = Scratch::new(division.panels * lines.panel());
    let panels = n.div_ceil(PANEL);
    for first in (0..panels).step_by(division.panels) {
        let pass = first..panels.min(first + division.panels);
        let filters = Filters::transform(pool, weight, pass.clone(), scratch.lines());
        let grid = Grid {
            groups: shape.batch,
            rows: pixels,
            columns: n,
            tile_rows: division.rows * OUT_SIDE * shape.out_width,
            tile_columns: division.panels * PANEL,
        };
        for_each_tile(pool, out, &grid, |out| {
            if out.columns.start == first * PANEL {
                pool.isa().dispatch(Task {
                    picture: &picture,
                    filters: &filters,
                    division,
                    epilogue,
                    n,
                    out,
                });
            }
        });
    }
}

/// Some rows of patches of one image, and the features of a pass.
struct Task<'a> {
    picture: &'a Picture<'a>,
    filters: &'a Filters<'a>,
    division: Division,
    epilogue: &'a Epilogue<'a>,
    n: usize,
    out: Tile<'a, f32>,
}

impl SimdOp for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let lines = self.division.task_lines();
        let mut scratch = Scratch::new(lines.total());
        let (transformed, rest) = scratch.lines().split_at_mut(lines.transformed);
        let (values, rest) = rest.split_at_mut(lines.values);
        let (factors, sums) = rest.split_at_mut(lines.factors);
        let values: &mut [SlabRow] = bytemuck::cast_slice_mut(values);
        let factors: &mut [SlabFactors] = bytemuck::cast_slice_mut(factors);

        let out_width = self.picture.shape.out_width;
        let down = (self.out.rows.len() / out_width).div_ceil(OUT_SIDE);
        let patches = down * self.division.across;
        for first in (0..patches).step_by(self.division.strip) {
            let strip = first..patches.min(first + self.division.strip);
            for (row, patch) in strip.clone().enumerate() {
                let (down, across) = (patch / self.division.across, patch % self.division.across);
                let at = (self.out.rows.start / out_width + OUT_SIDE * down, OUT_SIDE * across);
                self.picture.transform(
                    isa,
                    (self.out.group, at),
                    transformed,
                    (&mut values[row..], &mut factors[row..], self.division.strip),
                );
            }
            let panels = self.filters.panels.len();
            for panel in (0..panels).step_by(S::TILE_VECTORS) {
                if panels - panel >= 2 && S::TILE_VECTORS == 2 {
                    self.multiply::<S, 2>(isa, panel, strip.len(), (values, factors), sums);
                    self.finish::<S, 2>(isa, panel, strip.clone(), sums);
                } else {
                    self.multiply::<S, 1>(isa, panel, strip.len(), (values, factors), sums);
                    self.finish::<S, 1>(isa, panel, strip.clone(), sums);
                }
            }
        }
    }
}

impl Task<'_> {
    /// The `sums` `[POINTS, PANELS, rows]` of the `PANELS` panels from `panel` on.
    #[inline(always)]
    fn multiply<S: Simd, const PANELS: usize>(
        &self,
        isa: S,
        panel: usize,
        rows: usize,
        (values, factors): (&[SlabRow], &[SlabFactors]),
        sums: &mut [Lanes],
    ) {
        for (point, sums) in sums.chunks_exact_mut(PANELS * rows).take(POINTS).enumerate() {
            let filters: [_; PANELS] = std::array::from_fn(|p| self.filters.at(panel + p, point));
            let mut first_block = 0;
            for (index, slab) in slabs(self.picture.layout).enumerate() {
                let mut blocks = [BlockOfPanels::<PANELS>::EMPTY; SLAB_BLOCKS / BLOCK_PAIR];
                let count = slab.len().div_ceil(BLOCK_PAIR);
                for (b, (block, pair)) in blocks.iter_mut().zip(slab.chunks(BLOCK_PAIR)).enumerate() {
                    let columns = pair[0].columns.start..pair[pair.len() - 1].columns.end;
                    block.first_column = columns.start - slab[0].columns.start;
                    for (p, filters) in filters.iter().enumerate() {
                        block.quads[p] = &filters.quads[columns.start / 4..columns.end / 4];
                        block.column_sums[p] = filters.column_sums[first_block + b];
                    }
                }
                let first_row = (point * self.division.slabs + index) * self.division.strip;
                let mut strips = PanelStrips {
                    values: &values[first_row..first_row + rows],
                    factors: &factors[first_row..first_row + rows],
                    blocks: &blocks[..count],
                    first_block: 0,
                    scales: std::array::from_fn(|p| &filters[p].scales[slab[0].input]),
                    no_sums_yet: index == 0,
                    sums,
                };
                for_each_strip(isa, rows, &mut strips);
                first_block += count;
            }
        }
    }

    /// Transforms the sums of patches `strip` back to pixels and writes them.
    #[inline(always)]
    fn finish<S: Simd, const PANELS: usize>(
        &mut self,
        isa: S,
        panel: usize,
        strip: Range<usize>,
        sums: &[Lanes],
    ) {
        let (rows, out_width, n) = (strip.len(), self.picture.shape.out_width, self.n);
        let pixels = self.picture.shape.out_height * out_width;
        let first_pixel = self.out.group * pixels + self.out.rows.start;
        for (row, patch) in strip.enumerate() {
            let (y, x) = (patch / self.division.across * OUT_SIDE, patch % self.division.across * OUT_SIDE);
            for p in 0..PANELS {
                let column = (panel + p) * PANEL;
                let mut points = [isa.splat(0.0); POINTS];
                for (index, point) in points.iter_mut().enumerate() {
                    *point = isa.load(&sums[(index * PANELS + p) * rows + row]);
                }
                let values = back_to_pixels(isa, &points);
                for (i, value) in values.into_iter().enumerate() {
                    let (y, x) = (y + i / OUT_SIDE, x + i % OUT_SIDE);
                    if x >= out_width || (y + 1) * out_width > self.out.rows.len() {
                        continue;
                    }
                    let ending = self.epilogue.of_row(first_pixel + y * out_width + x, n, pixels);
                    let out = self.out.row_mut(y * out_width + x);
                    let end = out.len().min(column + PANEL);
                    let first_column = self.filters.panels.start * PANEL + column;
                    ending.finish_vector(isa, value, first_column, &mut out[column..end]);
                }
            }
        }
    }
}

/// `Aᵀ M A`, row by row.
#[inline(always)]
fn back_to_pixels<S: Simd>(isa: S, points: &[S::Vector; POINTS]) -> [S::Vector; OUT_SIDE * OUT_SIDE] {
    let mut rows = [[isa.splat(0.0); PATCH_SIDE]; OUT_SIDE];
    for column in 0..PATCH_SIDE {
        let at = [
            points[column],
            points[PATCH_SIDE + column],
            points[2 * PATCH_SIDE + column],
            points[3 * PATCH_SIDE + column],
        ];
        rows[0][column] = isa.add(isa.add(at[0], at[1]), at[2]);
        rows[1][column] = isa.sub(isa.sub(at[1], at[2]), at[3]);
    }
    let mut pixels = [isa.splat(0.0); OUT_SIDE * OUT_SIDE];
    for (y, row) in rows.iter().enumerate() {
        pixels[y * OUT_SIDE] = isa.add(isa.add(row[0], row[1]), row[2]);
        pixels[y * OUT_SIDE + 1] = isa.sub(isa.sub(row[1], row[2]), row[3]);
    }
    pixels
}
