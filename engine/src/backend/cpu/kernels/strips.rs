//! The rows of a product in strips, each as tall as a register tile.

use crate::backend::cpu::simd::Simd;

/// Work done strip by strip, a strip being the rows of a register tile.
pub(super) trait Strips<S: Simd> {
    /// Does rows `first..first + ROWS`.
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize);
}

/// Covers `rows` rows with strips as tall as the instruction set's registers allow, and smaller ones at the end.
#[inline(always)]
pub(super) fn for_each_strip<S: Simd>(isa: S, rows: usize, work: &mut impl Strips<S>) {
    let mut first = 0;
    while first < rows {
        // `TILE_ROWS` is a constant: strips taller than it are not even compiled.
        let height = S::TILE_ROWS.min(rows - first);
        first += if S::TILE_ROWS >= 12 && height >= 12 {
            work.strip::<12>(isa, first);
            12
        } else if S::TILE_ROWS >= 8 && height >= 8 {
            work.strip::<8>(isa, first);
            8
        } else if S::TILE_ROWS == 6 && height >= 6 {
            work.strip::<6>(isa, first);
            6
        } else if S::TILE_ROWS >= 4 && height >= 4 {
            work.strip::<4>(isa, first);
            4
        } else if height >= 2 {
            work.strip::<2>(isa, first);
            2
        } else {
            work.strip::<1>(isa, first);
            1
        };
    }
}
