//! A tensor in a checkpoint: borrowed bytes with a name, a number format and a shape.

use byteorder::{ByteOrder, LittleEndian};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::block::BlockType;
use crate::dtype::DType;

/// One tensor of a checkpoint. `bytes` are row-major, little endian, of any alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Name in its file, or the canonical name where a reader of published models has renamed it.
    pub name: String,
    /// Number format of each element.
    pub dtype: DType,
    /// Sizes from the slowest to the fastest dimension.
    pub shape: Vec<usize>,
    /// The elements; their number of bytes is that of [`DType::bytes`].
    pub bytes: &'a [u8],
}

/// Errors of reading a tensor as f32.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Integers and booleans are not weights.
    #[error("tensor `{tensor}` has the type {dtype}, expected floating-point numbers")]
    NotFloat {
        /// The tensor.
        tensor: String,
        /// Its number format.
        dtype: DType,
    },
    /// A finite f64 beyond the range of f32.
    #[error("tensor `{tensor}` contains an F64 value at element {index} that is too large for f32")]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Position of the first such element.
        index: usize,
    },
    /// `bytes` and `shape` disagree.
    #[error("tensor `{tensor}` has {found} bytes, expected {expected}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Number of bytes of its shape and format.
        expected: usize,
        /// Actual number of bytes.
        found: usize,
    },
}

impl TensorView<'_> {
    /// Number of elements; `None` if it overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
    }

    /// The elements as f32, row-major: F16, BF16 and 8-bit floats widened exactly, blocks decoded, F64
    /// rounded to nearest. Infinities and NaNs are kept; [`crate::layout::encode`] refuses them.
    ///
    /// # Errors
    /// When the tensor is not of floating-point numbers, when an F64 overflows, or when the view's number of
    /// bytes does not match its shape.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        let mut values = vec![0f32; self.check_length()?];
        self.read_f32(0, &mut values)?;
        Ok(values)
    }

    /// Elements `first..first + values.len()` as f32, as in [`TensorView::to_f32`].
    ///
    /// # Errors
    /// As for [`TensorView::to_f32`].
    ///
    /// # Panics
    /// When the range exceeds the tensor.
    pub fn read_f32(&self, first: usize, values: &mut [f32]) -> Result<(), TensorError> {
        self.check_length()?;
        if let DType::Block(block) = self.dtype {
            decode_blocks(block, self.bytes, first, values);
            return Ok(());
        }
        let (_, size) = self.dtype.block();
        let bytes = &self.bytes[first * size..(first + values.len()) * size];
        match self.dtype {
            DType::F32 => LittleEndian::read_f32_into(bytes, values),
            DType::F16 | DType::BF16 => widen_16_bit(self.dtype, bytes, values),
            DType::F64 => {
                for (index, (value, bytes)) in values.iter_mut().zip(bytes.chunks_exact(8)).enumerate() {
                    let wide = LittleEndian::read_f64(bytes);
                    *value = wide as f32;
                    if wide.is_finite() && !value.is_finite() {
                        return Err(TensorError::TooLarge {
                            tensor: self.name.clone(),
                            index: first + index,
                        });
                    }
                }
            }
            DType::F8E4M3 => values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = f8e4m3(byte)),
            DType::F8E5M2 => {
                // The upper half of an F16.
                let wide = |byte: u8| f16::from_bits(u16::from(byte) << 8).to_f32();
                values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = wide(byte));
            }
            dtype => return Err(TensorError::NotFloat { tensor: self.name.clone(), dtype }),
        }
        Ok(())
    }

    /// The number of elements, if the number of bytes matches it.
    fn check_length(&self) -> Result<usize, TensorError> {
        let elements = self.elements().unwrap_or(usize::MAX);
        let expected = self.dtype.bytes(elements).unwrap_or(usize::MAX);
        if self.bytes.len() != expected {
            let found = self.bytes.len();
            return Err(TensorError::Length { tensor: self.name.clone(), expected, found });
        }
        Ok(elements)
    }
}

/// Decodes elements `first..first + values.len()` of `bytes`, which may begin and end within blocks.
fn decode_blocks(block: BlockType, bytes: &[u8], first: usize, values: &mut [f32]) {
    let len = block.elements();
    let mut decoded = [0.0; BlockType::MAX_ELEMENTS];
    let decoded = &mut decoded[..len];
    let mut at = first;
    let mut rest = values;
    while !rest.is_empty() {
        let (index, skip) = (at / len, at % len);
        let count = (len - skip).min(rest.len());
        let (head, tail) = rest.split_at_mut(count);
        block.decode(&bytes[index * block.bytes()..(index + 1) * block.bytes()], decoded);
        head.copy_from_slice(&decoded[skip..skip + count]);
        (at, rest) = (at + count, tail);
    }
}

/// One sign bit, four bits of exponent, three of mantissa; no infinities. Micikevicius et al. 2022,
/// arXiv:2209.05433, table 1.
fn f8e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xF), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Widens F16 or BF16 in small blocks: the source may be unaligned, and a whole aligned copy would cost half as much
/// memory again.
fn widen_16_bit(dtype: DType, bytes: &[u8], values: &mut [f32]) {
    const BLOCK: usize = 512;
    let mut bits = [0u16; BLOCK];
    for (values, bytes) in values.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        let bits = &mut bits[..values.len()];
        LittleEndian::read_u16_into(bytes, bits);
        match dtype {
            DType::BF16 => bytemuck::cast_slice::<u16, bf16>(bits).convert_to_f32_slice(values),
            _ => bytemuck::cast_slice::<u16, f16>(bits).convert_to_f32_slice(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Vec<f32>, TensorError> {
        TensorView { name: "w".into(), dtype, shape: shape.to_vec(), bytes }.to_f32()
    }

    #[test]
    fn widens_every_float_format_exactly_at_any_alignment() {
        // Longer than one block, with an odd tail; starts at an odd address.
        let expected: Vec<f32> = (0..1027).map(|i| (i as f32 - 500.0) * 0.25).collect();
        let encode = |each: &dyn Fn(f32) -> Vec<u8>| {
            let mut bytes = vec![0u8];
            bytes.extend(expected.iter().flat_map(|&v| each(v)));
            bytes
        };
        for (dtype, bytes) in [
            (DType::F16, encode(&|v| f16::from_f32(v).to_le_bytes().to_vec())),
            (DType::F32, encode(&|v| v.to_le_bytes().to_vec())),
            (DType::F64, encode(&|v| f64::from(v).to_le_bytes().to_vec())),
        ] {
            assert_eq!(view(dtype, &[13, 79], &bytes[1..]).unwrap(), expected, "{dtype}");
        }
        let halves = encode(&|v| bf16::from_f32(v).to_le_bytes().to_vec());
        let rounded: Vec<f32> = expected.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        assert_eq!(view(DType::BF16, &[1027], &halves[1..]).unwrap(), rounded);
    }

    #[test]
    fn reads_a_range() {
        let values: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let view = TensorView { name: "w".into(), dtype: DType::F16, shape: vec![3, 3], bytes: &bytes };
        let mut range = [0.0; 3];
        view.read_f32(4, &mut range).unwrap();
        assert_eq!(range, [4.0, 5.0, 6.0]);
    }

    #[test]
    fn keeps_special_values() {
        let halves: Vec<u8> =
            [f16::INFINITY, f16::NEG_INFINITY, f16::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
        let values = view(DType::F16, &[3], &halves).unwrap();
        assert!(values[0] == f32::INFINITY && values[1] == f32::NEG_INFINITY && values[2].is_nan());
    }

    #[test]
    fn refuses_integers_by_name() {
        let error = view(DType::I64, &[1], &[0; 8]).unwrap_err();
        assert_eq!(error.to_string(), "tensor `w` has the type I64, expected floating-point numbers");
    }

    #[test]
    fn refuses_f64_beyond_f32() {
        let bytes = [1.0f64, 1e39].map(f64::to_le_bytes).concat();
        assert_eq!(
            view(DType::F64, &[2], &bytes),
            Err(TensorError::TooLarge { tensor: "w".into(), index: 1 })
        );
    }

    #[test]
    fn refuses_bytes_that_do_not_fit_the_shape() {
        assert!(matches!(
            view(DType::F32, &[2], &[0; 7]),
            Err(TensorError::Length { expected: 8, found: 7, .. })
        ));
        assert!(view(DType::F32, &[usize::MAX, 2], &[0; 7]).is_err());
    }

    #[test]
    fn a_scalar_has_one_element() {
        assert_eq!(view(DType::F32, &[], &1.5f32.to_le_bytes()).unwrap(), [1.5]);
    }
}
