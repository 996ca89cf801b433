//! The constants of F(2x2, 3x3), and the runs of channels that are rounded and multiplied together.

use super::super::gemm::SLAB_BLOCKS;
use crate::backend::row_layout::{Block, RowLayout};

/// Side of the output of one patch.
pub(super) const OUT_SIDE: usize = 2;
/// Side of a patch.
pub(super) const PATCH_SIDE: usize = 4;
/// Points of a patch.
pub(super) const POINTS: usize = PATCH_SIDE * PATCH_SIDE;
/// Taps of a filter.
pub(super) const TAPS: usize = 9;

/// Blocks of channels that share a range once they are transformed.
///
/// Twice as many as in rows of activations: it costs no measurable accuracy, and sums are converted from
/// integers half as often.
pub(super) const BLOCK_PAIR: usize = 2;

/// The blocks of rows in runs that fit one slab, each of one input.
pub(super) fn slabs(layout: &RowLayout) -> impl Iterator<Item = &[Block]> {
    layout.blocks.chunk_by(|a, b| a.input == b.input).flat_map(|input| input.chunks(SLAB_BLOCKS))
}
