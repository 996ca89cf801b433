//! Convolution as a product whose left operand is gathered from the image.

use std::ops::Range;

use super::epilogue::Epilogue;
use super::gemm::{RowSource, gemm};
use super::packed::PackedMatrix;
use crate::backend::cpu::pool::Pool;

/// The geometry of a convolution. Sizes are in pixels and the padding is zeros. Where the output size
/// requires pixels below and to the right of the image, these are padding too.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Height of the input.
    pub in_height: usize,
    /// Width of the input.
    pub in_width: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Height of the output.
    pub out_height: usize,
    /// Width of the output.
    pub out_width: usize,
    /// Height and width of the kernel.
    pub kernel: (usize, usize),
    /// Input pixels from one output pixel to the next, both ways.
    pub stride: usize,
    /// Rows of zeros above the image.
    pub pad_top: usize,
    /// Columns of zeros left of the image.
    pub pad_left: usize,
}

/// Convolves `x` `[batch, in_height, in_width, in_channels]` into `out` `[batch, out_height, out_width, n]`.
///
/// `weight` is `[n, k]` with `k` = kernel row, kernel column, input channel, the channel fastest.
///
/// # Panics
/// If the lengths disagree.
pub fn conv2d(
    pool: &Pool,
    x: &[f32],
    shape: &ConvShape,
    weight: &PackedMatrix,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let pixels = shape.out_height * shape.out_width;
    assert_eq!(x.len(), shape.batch * shape.in_height * shape.in_width * shape.in_channels, "input length");
    assert_eq!(
        weight.k(),
        shape.kernel.0 * shape.kernel.1 * shape.in_channels,
        "input channels of the weight"
    );
    gemm(pool, &Patches { x, shape }, shape.batch * pixels, weight, pixels, epilogue, out);
}

/// The patches of an image under the kernel, one row for each output pixel.
pub(super) struct Patches<'a, T> {
    pub(super) x: &'a [T],
    pub(super) shape: &'a ConvShape,
}

impl<T: Copy + Default + Sync> RowSource<T> for Patches<'_, T> {
    fn gather<const DEPTH: usize>(&self, rows: Range<usize>, k: Range<usize>, block: &mut [[T; DEPTH]]) {
        let ConvShape { in_channels, out_height, out_width, kernel, .. } = *self.shape;
        // The taps of one kernel row are adjacent in the image too.
        let run = kernel.1 * in_channels;
        for (row, block) in rows.zip(block) {
            let (image, pixel) = (row / (out_height * out_width), row % (out_height * out_width));
            let (y, x) = (pixel / out_width, pixel % out_width);
            for kernel_row in k.start / run..k.end.div_ceil(run) {
                let origin = kernel_row * run;
                let part = k.start.max(origin)..k.end.min(origin + run);
                let out = &mut block[part.start - k.start..part.end - k.start];
                self.gather_run(image, (y, x), kernel_row, part.start - origin..part.end - origin, out);
            }
        }
    }
}

impl<T: Copy + Default> Patches<'_, T> {
    /// Copies elements `part` of one kernel row's run at output pixel `(y, x)`, zeros outside the image.
    #[inline]
    fn gather_run(
        &self,
        image: usize,
        (y, x): (usize, usize),
        kernel_row: usize,
        part: Range<usize>,
        out: &mut [T],
    ) {
        let ConvShape { in_height, in_width, in_channels, stride, pad_top, pad_left, .. } = *self.shape;
        let in_y = (y * stride + kernel_row).wrapping_sub(pad_top);
        if in_y >= in_height {
            return out.fill(T::default());
        }
        let line = &self.x[(image * in_height + in_y) * in_width * in_channels..][..in_width * in_channels];
        // Positions in a line that begins with its padding.
        let start = x * stride * in_channels + part.start;
        let padding = pad_left * in_channels;
        let skipped = padding.saturating_sub(start).min(out.len());
        let copied_end = (padding + line.len()).saturating_sub(start).clamp(skipped, out.len());
        out[..skipped].fill(T::default());
        out[copied_end..].fill(T::default());
        if skipped < copied_end {
            let from = start + skipped - padding;
            out[skipped..copied_end].copy_from_slice(&line[from..][..copied_end - skipped]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::padded_conv as shape;
    use super::super::{Panels, reference};
    use super::*;

    fn check(shape: &ConvShape, n: usize) {
        let k = shape.kernel.0 * shape.kernel.1 * shape.in_channels;
        let x = reference::noise(11, shape.batch * shape.in_height * shape.in_width * shape.in_channels);
        let weight = reference::noise(12, n * k);
        let packed = reference::pack(&weight, n, k);
        let expected = reference::conv2d(&x, shape, &weight, n);
        let tolerance = reference::product_tolerance(k);
        reference::check_everywhere(&format!("{shape:?} to {n}"), &expected, tolerance, |pool, out| {
            let weight = PackedMatrix::new(n, k, Panels::F32(&packed));
            conv2d(pool, &x, shape, &weight, &Epilogue::default(), out);
        });
    }

    #[test]
    fn agrees_with_reference() {
        check(&shape(2, (5, 7), 3, 3, 1), 17);
        check(&shape(2, (9, 6), 4, 3, 1), 33);
        check(&shape(1, (4, 4), 320, 3, 1), 15);
        check(&shape(3, (7, 5), 33, 1, 1), 16);
        check(&shape(2, (8, 9), 20, 3, 2), 31);
        check(&shape(1, (16, 16), 64, 3, 1), 64);
        check(&shape(1, (6, 6), 5, 5, 3), 2);
    }

    #[test]
    fn single_pixels_see_only_padding_around_them() {
        check(&shape(2, (1, 1), 4, 3, 1), 1);
        check(&shape(1, (1, 1), 300, 3, 2), 17);
        check(&shape(1, (1, 6), 3, 3, 1), 16);
        check(&shape(1, (6, 1), 3, 3, 2), 16);
    }

    #[test]
    fn pads_below_and_right_alone() {
        // The encoder's downsampling: one row and one column of zeros after the image, none before it.
        for size in [(8, 8), (8, 6), (2, 2)] {
            let padded = ConvShape {
                out_height: size.0 / 2,
                out_width: size.1 / 2,
                pad_top: 0,
                pad_left: 0,
                ..shape(2, size, 20, 3, 2)
            };
            check(&padded, 18);
        }
    }

    #[test]
    fn pads_wider_than_the_kernel() {
        let wide =
            ConvShape { out_height: 9, out_width: 8, pad_top: 4, pad_left: 3, ..shape(1, (3, 2), 2, 3, 1) };
        check(&wide, 3);
    }
}
