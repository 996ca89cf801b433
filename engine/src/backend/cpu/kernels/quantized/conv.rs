//! Convolutions of bytes: by Winograd's algorithm where that is faster, otherwise as a product of patches
//! that are gathered from the picture.

use super::super::conv::{ConvShape, Patches};
use super::super::epilogue::Epilogue;
use super::super::scratch::ScratchUse;
use super::gemm::{Left, gemm, matmul_u8s8_scratch};
use super::matrix::QuantizedMatrix;
use super::winograd;
use crate::backend::cpu::pool::Pool;

/// Convolves `x` `[batch, in_height, in_width, in_channels]`, in the format of
/// [`quantize_rows`](super::quantize_rows), into `out` `[batch, out_height, out_width, n]`.
///
/// # Panics
/// If the lengths disagree.
pub fn conv2d_u8s8(
    pool: &Pool,
    x: &[f32],
    shape: &ConvShape,
    weight: &QuantizedMatrix,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let pixels = shape.out_height * shape.out_width;
    assert_eq!(weight.columns().taps(), shape.kernel.0 * shape.kernel.1, "taps of the weight");
    assert_eq!(weight.channels(), shape.in_channels, "input channels of the weight");
    let (values, factors) = weight.layout.split(x);
    let in_pixels = shape.batch * shape.in_height * shape.in_width;
    assert_eq!(values.len(), in_pixels * weight.layout.width, "input length");
    if winograd::is_winograd(shape, weight) {
        return winograd::conv2d_winograd_u8s8(pool, (values, factors), shape, weight, epilogue, out);
    }
    let values_shape = ConvShape { in_channels: weight.layout.width, ..*shape };
    let factors_shape = ConvShape { in_channels: weight.layout.blocks.len(), ..*shape };
    let left = Left {
        values: Patches { x: values, shape: &values_shape },
        factors: Patches { x: factors, shape: &factors_shape },
    };
    gemm(pool, &left, shape.batch * pixels, weight, pixels, epilogue, out);
}

/// Working memory of [`conv2d_u8s8`].
pub fn conv2d_u8s8_scratch(pool: &Pool, shape: &ConvShape, weight: &QuantizedMatrix) -> ScratchUse {
    if winograd::is_winograd(shape, weight) {
        return winograd::scratch(pool, shape, weight);
    }
    matmul_u8s8_scratch(pool, shape.batch * shape.out_height * shape.out_width, weight)
}
