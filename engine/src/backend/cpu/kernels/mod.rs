//! The arithmetic of the CPU backend, each kernel written once over [`Simd`](super::simd::Simd).
//!
//! Activations are `f32`, channels last. A kernel checks the lengths of its operands and panics if they
//! disagree: the planner has checked shapes by then. Results are bit-identical for any number of threads and
//! any position of an image in a batch; between instruction sets they differ by rounding.

mod activation;
mod attention;
mod conv;
mod elementwise;
mod epilogue;
mod gemm;
mod heads;
mod layer_norm;
mod matmul;
mod norm;
mod packed;
mod quantized;
#[cfg(test)]
mod reference;
mod row_output;
mod rows;
mod scratch;
mod strips;
mod tiles;

pub use crate::graph::Activation;
pub use attention::{AttentionShape, attention, attention_scratch};
pub use conv::{ConvShape, conv2d};
pub use elementwise::{activation, add, affine, geglu};
pub use epilogue::Epilogue;
pub use gemm::gemm_scratch;
pub use layer_norm::layer_norm;
pub use matmul::matmul;
pub use norm::{group_norm, group_norm_scratch, group_norm_with, group_sums};
pub use packed::{PackedMatrix, Panels};
pub use quantized::{
    Integers, KeyLayout, QuantizedMatrix, WINOGRAD_ROWS, attention_i8i16, attention_i8i16_scratch,
    conv2d_u8s8, conv2d_u8s8_scratch, is_winograd, matmul_u8s8, matmul_u8s8_scratch, quantize_keys,
    quantize_keys_scratch, quantize_rows,
};
pub use row_output::{RowOutput, row_output_scratch};
pub use rows::{UpsampleShape, concat_channels, upsample_nearest};
pub use scratch::ScratchUse;
