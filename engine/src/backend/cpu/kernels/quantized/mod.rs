//! Products with integer weights: activations are rounded to bytes, bytes and weights are multiplied and
//! summed in integers, and scales are applied at the end of each block of columns.
//!
//! With `x` a row of the left operand, cut into blocks of at most
//! [`BLOCK`](crate::backend::row_layout::BLOCK) channels that belong to one tap and one input, each with a
//! range of its own:
//!
//! ```text
//! x[k]   ≈ scale * q[k] + offset                  q in 0..=255, scale = (max - min) / 255, offset = min
//! out[n] = Σ_blocks weight_scale[n] * (scale * Σ q[k] w[n][k] + offset * Σ w[n][k])
//! ```
//!
//! Both inner sums are exact on every instruction set. Ranges are computed at run time, so no calibration is
//! needed, and rows and blocks with large values do not affect the others. Offsets let one-sided values (such
//! as the output of SiLU) use the whole range of a byte, and padding around a picture is exact: a block whose
//! scale and offset are zero.
//!
//! Wide convolutions of 3x3 taps use fewer multiplications, see [`winograd`].

mod attention;
mod conv;
mod gemm;
mod keys;
mod matrix;
mod rows;
#[cfg(test)]
mod tests;
mod winograd;

pub use attention::{attention_i8i16, attention_i8i16_scratch};
pub use conv::{conv2d_u8s8, conv2d_u8s8_scratch};
pub use gemm::{matmul_u8s8, matmul_u8s8_scratch};
pub use keys::{KeyLayout, quantize_keys, quantize_keys_scratch};
pub use matrix::{Integers, QuantizedMatrix};
pub(super) use rows::quantize_row;
pub use rows::quantize_rows;
pub use winograd::{WINOGRAD_ROWS, is_winograd};
