//! Divides the rows of a product into strips, each as tall as a register tile.

use crate::backend::cpu::simd::Simd;

/// Work done strip by strip, a strip being the rows of a register tile.
pub(super) trait Strips<S: Simd> {
    /// Rows of the tallest strip: as many as keep the accumulators in registers.
    const TALLEST: usize;

    /// Computes rows `first..first + ROWS`.
    fn strip<const ROWS: usize>(&mut self, isa: S, first: usize);
}

/// Covers `rows` rows with strips as tall as the instruction set's registers allow, and shorter ones at the
/// end.
#[inline(always)]
pub(super) fn for_each_strip<S: Simd, W: Strips<S>>(isa: S, rows: usize, work: &mut W) {
    let mut first = 0;
    while first < rows {
        // The constant keeps taller strips from being compiled at all.
        let height = W::TALLEST.min(rows - first);
        first += if W::TALLEST >= 12 && height >= 12 {
            work.strip::<12>(isa, first);
            12
        } else if W::TALLEST >= 8 && height >= 8 {
            work.strip::<8>(isa, first);
            8
        } else if W::TALLEST == 6 && height >= 6 {
            work.strip::<6>(isa, first);
            6
        } else if W::TALLEST >= 4 && height >= 4 {
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
