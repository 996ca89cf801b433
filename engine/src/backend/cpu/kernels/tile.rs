//! The inner loops of every product: a few rows times one or two vectors, summed in registers.

use crate::backend::cpu::simd::{Lanes, Simd};

/// Accumulators of a register tile.
pub(super) type Sums<S, const ROWS: usize, const VECTORS: usize> = [[<S as Simd>::Vector; VECTORS]; ROWS];

/// `sums[r][v] = Σ_i left[r][i] * right[v][i]`, added in order of `i`: the left operand by rows.
#[inline(always)]
pub(super) fn multiply_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: [&[f32]; ROWS],
    right: [&[Lanes]; VECTORS],
) -> Sums<S, ROWS, VECTORS> {
    let depth = right[0].len();
    // Equal lengths, known to the compiler, take the bounds checks out of the loop.
    let left = left.map(|row| &row[..depth]);
    let right = right.map(|column| &column[..depth]);
    let mut sums = [[isa.splat(0.0); VECTORS]; ROWS];
    for i in 0..depth {
        let mut vectors = [isa.splat(0.0); VECTORS];
        for (vector, column) in vectors.iter_mut().zip(right) {
            *vector = isa.load(&column[i]);
        }
        for r in 0..ROWS {
            let left = isa.splat(left[r][i]);
            for v in 0..VECTORS {
                sums[r][v] = isa.fma(left, vectors[v], sums[r][v]);
            }
        }
    }
    sums
}

/// `sums[r][v] += Σ_i left[i * stride + r] * right[v][i]`: the left operand by columns, which lie `stride` apart.
#[inline(always)]
pub(super) fn multiply_columns<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: &[f32],
    stride: usize,
    right: [&[Lanes]; VECTORS],
    mut sums: Sums<S, ROWS, VECTORS>,
) -> Sums<S, ROWS, VECTORS> {
    let depth = right[0].len();
    let right = right.map(|column| &column[..depth]);
    for i in 0..depth {
        let left: &[f32; ROWS] = left[i * stride..].first_chunk().expect("left operand ends early");
        let mut vectors = [isa.splat(0.0); VECTORS];
        for (vector, column) in vectors.iter_mut().zip(right) {
            *vector = isa.load(&column[i]);
        }
        for r in 0..ROWS {
            let left = isa.splat(left[r]);
            for v in 0..VECTORS {
                sums[r][v] = isa.fma(left, vectors[v], sums[r][v]);
            }
        }
    }
    sums
}

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
