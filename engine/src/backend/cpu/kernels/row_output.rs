//! Outputs of kernels that write rows: as floats, or as bytes for products with integers. Rounding a row
//! while it is in the cache saves writing and reading it once more.

use std::ops::Range;

use super::quantized::quantize_row;
use super::scratch::{Scratch, ScratchUse};
use super::tiles::{Grid, Tile, for_each_tile, for_each_tile_of_two};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Simd};
use crate::backend::row_layout::{Factors, RowLayout};

/// The output of a kernel that computes whole rows.
pub enum RowOutput<'a> {
    /// `[rows, channels]`
    Floats(&'a mut [f32]),
    /// `[rows, row_elements]`, in the format of [`quantize_rows`](super::quantize_rows).
    Bytes(&'a RowLayout, &'a mut [f32]),
}

impl<'a> From<&'a mut [f32]> for RowOutput<'a> {
    fn from(out: &'a mut [f32]) -> Self {
        RowOutput::Floats(out)
    }
}

/// Tasks per thread, where there is enough work.
const TASKS_PER_THREAD: usize = 4;

impl RowOutput<'_> {
    /// The number of rows of `channels`.
    ///
    /// # Panics
    /// If the length is not a multiple of a row's.
    pub(super) fn rows(&self, channels: usize) -> usize {
        let (length, row) = match self {
            RowOutput::Floats(out) => (out.len(), channels),
            RowOutput::Bytes(layout, out) => {
                assert_eq!(layout.channels(), channels, "channels of the layout");
                (out.len(), layout.row_elements())
            }
        };
        assert!(row > 0 && length.is_multiple_of(row), "output length");
        length / row
    }
}

/// Calls `work` for tiles of the rows of `out`, `[groups, rows of each, channels]`, on all threads of the pool.
///
/// # Panics
/// If the groups do not divide the rows.
pub(super) fn for_each_row_tile(
    pool: &Pool,
    out: RowOutput<'_>,
    groups: usize,
    channels: usize,
    work: impl Fn(RowTile<'_>) + Sync,
) {
    let all_rows = out.rows(channels);
    assert!(groups > 0 && all_rows.is_multiple_of(groups), "{all_rows} rows in {groups} groups");
    let rows = all_rows / groups;
    let tile_rows = match pool.threads_for_elements(all_rows * channels) {
        1 => rows,
        threads => all_rows.div_ceil(threads * TASKS_PER_THREAD),
    };
    let grid = |columns| Grid { groups, rows, columns, tile_rows: tile_rows.max(1), tile_columns: columns };
    match out {
        RowOutput::Floats(out) => {
            for_each_tile(pool, out, &grid(channels), |tile| {
                let (group, rows) = (tile.group, tile.rows.clone());
                work(RowTile { group, rows, out: TileOutput::Floats(tile) });
            });
        }
        RowOutput::Bytes(layout, out) => {
            let (values, factors) = layout.split_mut(out);
            let grids = [grid(layout.width()), grid(layout.block_count())];
            for_each_tile_of_two(pool, (values, factors), &grids, |(values, factors)| {
                let (group, rows) = (values.group, values.rows.clone());
                let row = Scratch::new(scratch_lines(channels));
                let out = TileOutput::Bytes { layout, row, values, factors };
                work(RowTile { group, rows, out });
            });
        }
    }
}

fn scratch_lines(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// Working memory for rounding rows of `channels` to bytes.
pub fn row_output_scratch(channels: usize) -> ScratchUse {
    ScratchUse::of_tasks(2, scratch_lines(channels))
}

/// Some rows of an output.
pub(super) struct RowTile<'a> {
    /// The group that contains them.
    pub(super) group: usize,
    /// Counted from the start of the group.
    pub(super) rows: Range<usize>,
    out: TileOutput<'a>,
}

enum TileOutput<'a> {
    Floats(Tile<'a, f32>),
    Bytes { layout: &'a RowLayout, row: Scratch, values: Tile<'a, u8>, factors: Tile<'a, Factors> },
}

impl RowTile<'_> {
    /// The memory for the `row`th row of the tile, before it is [finished](RowTile::finish).
    #[inline(always)]
    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        match &mut self.out {
            TileOutput::Floats(tile) => tile.row_mut(row),
            TileOutput::Bytes { layout, row, .. } => &mut row.lines().as_flattened_mut()[..layout.channels()],
        }
    }

    /// Writes `from` as the row.
    #[inline(always)]
    pub(super) fn finish_from<S: Simd>(&mut self, isa: S, row: usize, from: &[f32]) {
        match &mut self.out {
            TileOutput::Floats(tile) => tile.row_mut(row).copy_from_slice(from),
            TileOutput::Bytes { layout, values, factors, .. } => {
                quantize_row(isa, from, layout, values.row_mut(row), factors.row_mut(row));
            }
        }
    }

    /// Rounds the row if the output is bytes.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&mut self, isa: S, row: usize) {
        if let TileOutput::Bytes { layout, row: floats, values, factors } = &mut self.out {
            let floats = &floats.lines().as_flattened()[..layout.channels()];
            quantize_row(isa, floats, layout, values.row_mut(row), factors.row_mut(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{geglu, group_norm, layer_norm, quantize_rows, reference};
    use super::*;
    use crate::graph::Activation;

    /// Checks that the bytes of `kernel` are its floats, rounded.
    fn check(label: &str, rows: usize, inputs: &[usize], kernel: impl Fn(&Pool, RowOutput<'_>)) {
        let layout = RowLayout::new(inputs);
        reference::on_every_pool(|isa, pool| {
            let mut floats = vec![f32::NAN; rows * layout.channels()];
            kernel(pool, RowOutput::Floats(&mut floats));
            let mut expected = vec![0.0; rows * layout.row_elements()];
            quantize_rows(pool, &floats, &layout, &mut expected);
            let mut bytes = vec![0.0; expected.len()];
            kernel(pool, RowOutput::Bytes(&layout, &mut bytes));
            let same = expected.iter().zip(&bytes).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{label}, {inputs:?}, {isa:?}");
        });
    }

    #[test]
    fn rows_are_the_same_bytes_whether_rounded_at_once_or_later() {
        for inputs in [&[6][..], &[64], &[70, 2], &[130]] {
            let channels = inputs.iter().sum();
            let x = reference::noise(71, 10 * 2 * channels);
            let (gamma, beta) = (reference::noise(72, channels), reference::noise(73, channels));
            let half = &x[..10 * channels];
            check("group norm", 10, inputs, |pool, out| {
                group_norm(pool, half, 2, 5, 2, 1e-5, &gamma, &beta, Some(Activation::Silu), out);
            });
            check("layer norm", 10, inputs, |pool, out| layer_norm(pool, half, 1e-5, &gamma, &beta, out));
            check("geglu", 10, inputs, |pool, out| geglu(pool, &x, channels, out));
        }
    }
}
