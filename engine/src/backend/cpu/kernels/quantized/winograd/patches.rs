//! Patches of the picture: `Bᵀ d B`, rounded to bytes.

use super::super::gemm::{SLAB_BLOCKS, SlabFactors, SlabRow};
use super::super::rows::quantize_block;
use super::points::{BLOCK_PAIR, PATCH_SIDE, POINTS, slabs};
use crate::backend::cpu::kernels::conv::ConvShape;
use crate::backend::cpu::simd::{LANES, Lanes, Simd};
use crate::backend::row_layout::{BLOCK, Block, Factors, RowLayout};

/// Vectors of one point's channels in a pair of blocks.
const PAIR_LINES: usize = BLOCK_PAIR * BLOCK / LANES;

/// Vectors of working memory for a patch.
pub(super) const TRANSFORMED: usize = POINTS * PAIR_LINES;

/// Pixels as bytes.
pub(super) struct Picture<'a> {
    pub(super) values: &'a [u8],
    pub(super) factors: &'a [Factors],
    pub(super) layout: &'a RowLayout,
    pub(super) shape: &'a ConvShape,
}

impl Picture<'_> {
    /// Transforms the patch around the output pixels of `image` whose first is at `(y, x)`, and rounds it to
    /// one row for each point and slab; these rows are `stride` rows apart.
    #[inline(always)]
    pub(super) fn transform<S: Simd>(
        &self,
        isa: S,
        (image, at): (usize, (usize, usize)),
        transformed: &mut [Lanes],
        (values, factors, stride): (&mut [SlabRow], &mut [SlabFactors], usize),
    ) {
        let pixels = self.pixels(image, at);
        let slab_count = slabs(self.layout).count();
        let transformed = transformed.as_chunks_mut::<PAIR_LINES>().0;
        let mut first_block = 0;
        for (index, slab) in slabs(self.layout).enumerate() {
            for (b, pair) in slab.chunks(BLOCK_PAIR).enumerate() {
                let mut lines = 0;
                for (i, block) in pair.iter().enumerate() {
                    let block_index = first_block + b * BLOCK_PAIR + i;
                    self.transform_block(isa, &pixels, block, block_index, lines, transformed);
                    lines += block.columns.len() / LANES;
                }
                let first_column = pair[0].columns.start - slab[0].columns.start;
                for (point, transformed) in transformed.iter().enumerate() {
                    let row = (point * slab_count + index) * stride;
                    let out = &mut values[row][first_column..first_column + lines * LANES];
                    factors[row][b] = quantize_block(isa, transformed[..lines].as_flattened(), out);
                }
            }
            first_block += slab.len();
        }
        const { assert!(SLAB_BLOCKS.is_multiple_of(BLOCK_PAIR)) }
    }

    /// The pixels of a patch by their positions in the picture, `None` outside it.
    #[inline(always)]
    fn pixels(&self, image: usize, (y, x): (usize, usize)) -> [Option<usize>; POINTS] {
        let &ConvShape { in_height, in_width, pad_top, pad_left, .. } = self.shape;
        let mut pixels = [None; POINTS];
        for (i, pixel) in pixels.iter_mut().enumerate() {
            let y = (y + i / PATCH_SIDE).wrapping_sub(pad_top);
            let x = (x + i % PATCH_SIDE).wrapping_sub(pad_left);
            *pixel = (y < in_height && x < in_width).then(|| (image * in_height + y) * in_width + x);
        }
        pixels
    }

    /// Transforms the channels of one block into `transformed` from vector `first_line` of each point on.
    #[inline(always)]
    fn transform_block<S: Simd>(
        &self,
        isa: S,
        pixels: &[Option<usize>; POINTS],
        block: &Block,
        block_index: usize,
        first_line: usize,
        transformed: &mut [[Lanes; PAIR_LINES]],
    ) {
        let mut factors = [[0.0; 2]; POINTS];
        let mut starts = [block.columns.start; POINTS];
        for i in 0..POINTS {
            // Outside the picture the bytes do not matter: factors of zero turn them into zeros.
            if let Some(pixel) = pixels[i] {
                factors[i] = self.factors[pixel * self.layout.blocks.len() + block_index];
                starts[i] = pixel * self.layout.width + block.columns.start;
            }
        }
        for line in 0..block.columns.len() / LANES {
            let mut patch = [isa.splat(0.0); POINTS];
            for i in 0..POINTS {
                let bytes = self.values[starts[i] + line * LANES..].first_chunk().expect("whole vectors");
                // Rounded twice, as on machines without a fused instruction, so that all compute the same
                // bytes.
                let scaled = isa.mul(isa.load_u8(bytes), isa.splat(factors[i][0]));
                patch[i] = isa.add(scaled, isa.splat(factors[i][1]));
            }
            transform(isa, &mut patch);
            for (patch, transformed) in patch.iter().zip(&mut *transformed) {
                isa.store(*patch, &mut transformed[first_line + line]);
            }
        }
    }
}

/// `Bᵀ d B`
#[inline(always)]
fn transform<S: Simd>(isa: S, patch: &mut [S::Vector; POINTS]) {
    for column in 0..PATCH_SIDE {
        transform_line(isa, patch, column, PATCH_SIDE);
    }
    for row in 0..PATCH_SIDE {
        transform_line(isa, patch, row * PATCH_SIDE, 1);
    }
}

#[inline(always)]
fn transform_line<S: Simd>(isa: S, patch: &mut [S::Vector; POINTS], first: usize, step: usize) {
    let [a, b, c, d] = [patch[first], patch[first + step], patch[first + 2 * step], patch[first + 3 * step]];
    patch[first] = isa.sub(a, c);
    patch[first + step] = isa.add(b, c);
    patch[first + 2 * step] = isa.sub(c, b);
    patch[first + 3 * step] = isa.sub(b, d);
}
