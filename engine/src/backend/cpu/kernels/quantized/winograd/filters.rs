//! Filters: `G g Gᵀ`, rounded to bytes.
//!
//! All arithmetic is in integers, so that every machine computes the same bytes. `2G` is whole, so points are
//! computed as four times the value of the formula. The largest point and the largest sum of neighbours are
//! scaled to at most 127, so neighbours add up to at most 128 again, as [`Simd::dot`] requires.

use std::ops::Range;

use super::super::matrix::QuantizedMatrix;
use super::points::{BLOCK_PAIR, PATCH_SIDE, POINTS, TAPS, slabs};
use crate::backend::cpu::kernels::tiles::{Grid, Tile, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Lanes, Quads, Simd, SimdOp};
use crate::backend::row_layout::BLOCK;

/// Points of four channels and the features of a panel, multiplied by four.
type PointQuads = [i16; 4 * LANES];

/// The memory layout of a panel's filters: for every point, the quads of all columns, the sums of each pair
/// of blocks, the scales of each input.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilterLines {
    quads: usize,
    sums: usize,
    scales: usize,
}

impl FilterLines {
    pub(super) fn new(weight: &QuantizedMatrix) -> FilterLines {
        FilterLines {
            quads: weight.layout.width / 4,
            sums: slabs(&weight.layout).map(|slab| slab.len().div_ceil(BLOCK_PAIR)).sum(),
            scales: weight.columns().inputs().len(),
        }
    }

    /// Vectors of a point.
    fn point(&self) -> usize {
        self.quads + self.sums + self.scales
    }

    /// Vectors of a panel.
    pub(super) fn panel(&self) -> usize {
        POINTS * self.point()
    }
}

/// The filters of some panels.
pub(super) struct Filters<'a> {
    pub(super) panels: Range<usize>,
    lines: FilterLines,
    values: &'a [Lanes],
}

/// The filters of a panel at a point.
pub(super) struct PointFilters<'a> {
    pub(super) quads: &'a [Quads],
    /// `Σ w` of each pair of blocks.
    pub(super) column_sums: &'a [Lanes],
    /// The scales of each input.
    pub(super) scales: &'a [Lanes],
}

impl<'a> Filters<'a> {
    /// Transforms the filters of `panels` into `values`.
    pub(super) fn transform(
        pool: &Pool,
        weight: &QuantizedMatrix,
        panels: Range<usize>,
        values: &'a mut [Lanes],
    ) -> Filters<'a> {
        let lines = FilterLines::new(weight);
        let values = &mut values[..panels.len() * lines.panel()];
        let grid = Grid {
            groups: 1,
            rows: panels.len(),
            columns: lines.panel(),
            tile_rows: 1,
            tile_columns: lines.panel(),
        };
        for_each_tile(pool, values, &grid, |out| {
            let panel = panels.start + out.rows.start;
            pool.isa().dispatch(TransformPanel { weight, lines, panel, out });
        });
        Filters { panels, lines, values }
    }

    /// The filters of panel `panel` at `point`.
    #[inline(always)]
    pub(super) fn at(&self, panel: usize, point: usize) -> PointFilters<'a> {
        let first = (panel * POINTS + point) * self.lines.point();
        let (quads, rest) = self.values[first..first + self.lines.point()].split_at(self.lines.quads);
        let (column_sums, scales) = rest.split_at(self.lines.sums);
        PointFilters { quads: bytemuck::cast_slice(quads), column_sums, scales }
    }
}

/// The filters of one panel.
struct TransformPanel<'a> {
    weight: &'a QuantizedMatrix<'a>,
    lines: FilterLines,
    panel: usize,
    out: Tile<'a, Lanes>,
}

impl SimdOp for TransformPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        let mut first_block = 0;
        for blocks in self.weight.layout.blocks.chunk_by(|a, b| a.input == b.input) {
            let run = first_block..first_block + blocks.len();
            first_block = run.end;
            let mut largest = [[0; 4 * LANES]; POINTS];
            self.measure(isa, run.clone(), &mut largest);
            let mut reciprocals = [[0; 4 * LANES]; POINTS];
            self.choose_scales(blocks[0].input, &largest, &mut reciprocals);
            self.round(isa, run, &reciprocals);
        }
        self.sum_columns(isa);
    }
}

impl TransformPanel<'_> {
    /// Raises `largest` to the magnitudes of the points of blocks `run`, and of the sums of neighbours.
    #[inline(always)]
    fn measure<S: Simd>(&self, isa: S, run: Range<usize>, largest: &mut [PointQuads; POINTS]) {
        let mut taps = no_taps();
        let mut points = [[0; 4 * LANES]; POINTS];
        for block in run {
            for quad in 0..self.load_taps(isa, block, &mut taps) {
                transform(&taps, quad, &mut points);
                for (largest, point) in largest.iter_mut().zip(&points) {
                    raise(largest, point);
                }
            }
        }
    }

    /// Chooses the scales of `input` and the reciprocals that the points are multiplied with: four copies for
    /// each feature, times 2^13.
    #[inline(always)]
    fn choose_scales(
        &mut self,
        input: usize,
        largest: &[PointQuads; POINTS],
        reciprocals: &mut [PointQuads; POINTS],
    ) {
        let lines = self.lines;
        let scales = self.weight.scales(input, self.panel);
        for (point, out) in self.out.row_mut(0).chunks_exact_mut(lines.point()).enumerate() {
            let out = &mut out[lines.quads + lines.sums + input];
            let largest = largest[point].as_chunks::<4>().0.iter();
            let reciprocals = reciprocals[point].as_chunks_mut::<4>().0;
            for (lane, (largest, reciprocals)) in largest.zip(reciprocals).enumerate() {
                let most = largest.iter().fold(1, |most, &value| most.max(i32::from(value)));
                let reciprocal = i16::try_from((127 << 13) / most).unwrap_or(i16::MAX);
                reciprocals.fill(reciprocal);
                // Computed from the rounded reciprocal, so that its rounding adds no error.
                out[lane] = scales[lane] * (2048.0 / f32::from(reciprocal));
            }
        }
    }

    /// Rounds the points of blocks `run`.
    #[inline(always)]
    fn round<S: Simd>(&mut self, isa: S, run: Range<usize>, reciprocals: &[PointQuads; POINTS]) {
        let lines = self.lines;
        let mut taps = no_taps();
        let mut points = [[0; 4 * LANES]; POINTS];
        for block in run {
            let first = self.weight.layout.blocks[block].columns.start / 4;
            for quad in 0..self.load_taps(isa, block, &mut taps) {
                transform(&taps, quad, &mut points);
                for (point, out) in self.out.row_mut(0).chunks_exact_mut(lines.point()).enumerate() {
                    round(&points[point], &reciprocals[point], bytemuck::cast_mut(&mut out[first + quad]));
                }
            }
        }
    }

    /// Sums the columns of each pair of blocks.
    #[inline(always)]
    fn sum_columns<S: Simd>(&mut self, isa: S) {
        let lines = self.lines;
        for out in self.out.row_mut(0).chunks_exact_mut(lines.point()) {
            let (quads, rest) = out.split_at_mut(lines.quads);
            let quads: &[Quads] = bytemuck::cast_slice(quads);
            let pairs = slabs(&self.weight.layout).flat_map(|slab| slab.chunks(BLOCK_PAIR));
            for (pair, out) in pairs.zip(rest) {
                let columns = pair[0].columns.start..pair[pair.len() - 1].columns.end;
                let mut sum = isa.zero_ints();
                for quads in &quads[columns.start / 4..columns.end / 4] {
                    sum = isa.dot(sum, [1; 4], quads);
                }
                isa.store(isa.ints_to_f32(sum), out);
            }
        }
    }

    /// Fills `taps` with those of a block, and returns their number of quads.
    #[inline(always)]
    fn load_taps<S: Simd>(&self, isa: S, block: usize, taps: &mut Taps) -> usize {
        let blocks = self.weight.layout.blocks.len();
        let mut unpacked = [[0; 4 * LANES]; BLOCK / 4];
        let mut count = 0;
        for (tap, wide) in taps.iter_mut().enumerate() {
            let quads = self.weight.quads(isa, self.panel, tap * blocks + block, &mut unpacked);
            count = quads.len();
            // All at once: the compiler unrolls loops as short as a quad before it vectorises them.
            for (wide, value) in wide.as_flattened_mut().iter_mut().zip(quads.as_flattened()) {
                *wide = i16::from(*value);
            }
        }
        count
    }
}

/// The taps of a block's filters, by quads.
type Taps = [[PointQuads; BLOCK / 4]; TAPS];

#[inline(always)]
fn no_taps() -> Taps {
    [[[0; 4 * LANES]; BLOCK / 4]; TAPS]
}

/// `2G g (2G)ᵀ` of quad `quad` of the taps: magnitudes are at most 9 * 127.
#[inline(always)]
fn transform(taps: &Taps, quad: usize, points: &mut [PointQuads; POINTS]) {
    let mut lines = [[[0; 4 * LANES]; 3]; PATCH_SIDE];
    for column in 0..3 {
        let line = transform_line([0, 3, 6].map(|row| &taps[row + column][quad]));
        for (row, line) in line.into_iter().enumerate() {
            lines[row][column] = line;
        }
    }
    for (row, [a, b, c]) in lines.iter().enumerate() {
        let line = transform_line([a, b, c]);
        points[row * PATCH_SIDE..][..PATCH_SIDE].copy_from_slice(&line);
    }
}

/// `2G g`
#[inline(always)]
fn transform_line([a, b, c]: [&PointQuads; 3]) -> [PointQuads; PATCH_SIDE] {
    let mut line = [[0; 4 * LANES]; PATCH_SIDE];
    for i in 0..4 * LANES {
        let ends = a[i] + c[i];
        line[0][i] = 2 * a[i];
        line[1][i] = ends + b[i];
        line[2][i] = ends - b[i];
        line[3][i] = 2 * c[i];
    }
    line
}

/// Raises `largest` to the magnitudes of `point` and of the sums of neighbours.
#[inline(always)]
fn raise(largest: &mut PointQuads, point: &PointQuads) {
    // Neighbours are swapped by a shift of vectors; swapping single elements would need shuffles.
    let mut neighbours: [u32; 2 * LANES] = bytemuck::cast(*point);
    for pair in &mut neighbours {
        *pair = pair.rotate_left(16);
    }
    let neighbours: PointQuads = bytemuck::cast(neighbours);
    for i in 0..4 * LANES {
        largest[i] = largest[i].max(point[i].abs()).max((point[i] + neighbours[i]).abs());
    }
}

/// Rounds `point` times `reciprocals` over 2^13.
#[inline(always)]
fn round(point: &PointQuads, reciprocals: &PointQuads, out: &mut Quads) {
    for i in 0..4 * LANES {
        // Halves, rounded down, and then rounded once more: 16-bit arithmetic processes twice as many at
        // once.
        let halves = (i32::from(point[i] << 4) * i32::from(reciprocals[i])) >> 16;
        out[i] = ((halves as i16 + 1) >> 1) as i8;
    }
}
