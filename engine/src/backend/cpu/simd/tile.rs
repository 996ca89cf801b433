//! The inner loops of every product: a few rows times one or two vectors, summed in registers.
#![expect(unsafe_code, reason = "the inner loops read without bounds checks")]

use super::{Lanes, Pairs, Quads, Simd};

/// Accumulators of a register tile.
pub(crate) type Sums<S, const ROWS: usize, const VECTORS: usize> = [[<S as Simd>::Vector; VECTORS]; ROWS];

/// `sums[r][v] += Σ_i left[r * stride + i] * right[v][i]`, in order of `i`: the left operand by rows.
#[inline(always)]
pub(crate) fn multiply_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: &[f32],
    stride: usize,
    right: [&[Lanes]; VECTORS],
    sums: &mut Sums<S, ROWS, VECTORS>,
) {
    let depth = right[0].len();
    assert!(left.len() >= (ROWS - 1) * stride + depth, "left operand ends early");
    // SAFETY: the element farthest on, of the last row and `i = depth - 1`, is inside `left`.
    unsafe { multiply(isa, left, stride, 1, right, sums) }
}

/// `sums[r][v] += Σ_i left[i * stride + r] * right[v][i]`, in order of `i`: the left operand by columns.
#[inline(always)]
pub(crate) fn multiply_columns<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: &[f32],
    stride: usize,
    right: [&[Lanes]; VECTORS],
    sums: &mut Sums<S, ROWS, VECTORS>,
) {
    let depth = right[0].len();
    assert!(depth == 0 || left.len() >= (depth - 1) * stride + ROWS, "left operand ends early");
    // SAFETY: the element farthest on, of the last row and `i = depth - 1`, is inside `left`.
    unsafe { multiply(isa, left, 1, stride, right, sums) }
}

/// Integer accumulators of a register tile.
pub(crate) type Dots<S, const ROWS: usize, const VECTORS: usize> = [[<S as Simd>::Ints; VECTORS]; ROWS];

/// `start[v] + Σ_i Σ_j left[r * stride + 4 * i + j] * right[v][i][4 * lane + j]`, exactly.
#[inline(always)]
pub(crate) fn dot_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: &[u8],
    stride: usize,
    right: [&[Quads]; VECTORS],
    start: [S::Ints; VECTORS],
) -> Dots<S, ROWS, VECTORS> {
    let depth = right[0].len();
    assert!(right.iter().all(|quads| quads.len() == depth), "right operands of different depths");
    assert!(left.len() >= (ROWS - 1) * stride + 4 * depth, "left operand ends early");
    let mut first = start;
    for (first, right) in first.iter_mut().zip(right) {
        *first = isa.dots_start(*first, right);
    }
    let mut dots = [first; ROWS];
    for i in 0..depth {
        for (r, dots) in dots.iter_mut().enumerate() {
            // SAFETY: the last of these bytes, of the last row and `i = depth - 1`, is inside `left`; an array of bytes
            // may lie anywhere.
            let bytes = unsafe { *left.as_ptr().add(r * stride + 4 * i).cast::<[u8; 4]>() };
            for (dot, right) in dots.iter_mut().zip(right) {
                // SAFETY: all of `right` were found to be `depth` long.
                *dot = isa.dot_onward(*dot, bytes, unsafe { right.get_unchecked(i) });
            }
        }
    }
    dots
}

/// `Σ_i Σ_j left[i * stride + r][j] * right[v][i][2 * lane + j]`, exactly.
#[inline(always)]
pub(crate) fn dot_columns<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: &[[i16; 2]],
    stride: usize,
    right: [&[Pairs]; VECTORS],
) -> Dots<S, ROWS, VECTORS> {
    let depth = right[0].len();
    assert!(right.iter().all(|pairs| pairs.len() == depth), "right operands of different depths");
    assert!(depth == 0 || left.len() >= (depth - 1) * stride + ROWS, "left operand ends early");
    let mut dots = [[isa.zero_ints(); VECTORS]; ROWS];
    for i in 0..depth {
        for (r, dots) in dots.iter_mut().enumerate() {
            // SAFETY: the pair farthest on, of the last row and `i = depth - 1`, is inside `left`.
            let pair = *unsafe { left.get_unchecked(i * stride + r) };
            for (dot, right) in dots.iter_mut().zip(right) {
                // SAFETY: all of `right` were found to be `depth` long.
                *dot = isa.dot_pairs(*dot, pair, unsafe { right.get_unchecked(i) });
            }
        }
    }
    dots
}

/// `sums[r][v] += Σ_i left[r * row_stride + i * stride] * right[v][i]`
///
/// Without bounds checks, which would take a third of the instructions of the loop.
///
/// # Safety
/// `left` must hold every element that the formula reads.
#[inline(always)]
unsafe fn multiply<S: Simd, const ROWS: usize, const VECTORS: usize>(
    isa: S,
    left: &[f32],
    row_stride: usize,
    stride: usize,
    right: [&[Lanes]; VECTORS],
    sums: &mut Sums<S, ROWS, VECTORS>,
) {
    let depth = right[0].len();
    assert!(right.iter().all(|vectors| vectors.len() == depth), "right operands of different depths");
    let mut acc = *sums;
    for i in 0..depth {
        let mut vectors = [isa.splat(0.0); VECTORS];
        for (vector, right) in vectors.iter_mut().zip(right) {
            // SAFETY: all of `right` were found to be `depth` long.
            *vector = isa.load(unsafe { right.get_unchecked(i) });
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller answers for `left`.
            let factor = isa.splat(*unsafe { left.get_unchecked(r * row_stride + i * stride) });
            for (acc, vector) in acc.iter_mut().zip(vectors) {
                *acc = isa.fma(factor, vector, *acc);
            }
        }
    }
    *sums = acc;
}
