//! Weights that are only rounded, to f32 or f16: converts row-major values to packed bytes and back.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{LayoutError, PANEL, elements, packed_elements};
use crate::weight::{WeightRole, WeightSpec, WeightType};

/// The smallest magnitude that rounds to infinity in f16: the mean of the largest value, 65504, and the next
/// one above it.
const F16_OVERFLOW: f32 = 65520.0;

/// Converts row-major `values` of `shape` to their packed order, with `packed_elements(role, shape)`
/// elements.
///
/// # Panics
/// When `shape` does not fit `role` or `values` does not fit `shape`; [`encode`] checks both.
pub fn pack(role: WeightRole, shape: &[usize], values: &[f32]) -> Vec<f32> {
    let packed_len = packed_elements(role, shape).expect("the shape must fit the role");
    assert_eq!(Some(values.len()), elements(role, shape), "values must fit shape {shape:?}");
    let mut packed = vec![0f32; packed_len];
    let blocks = Blocks::of(role, shape);
    for (rows, packed) in values.chunks(blocks.len()).zip(packed.chunks_mut(blocks.len())) {
        blocks.visit(rows.len(), |position, index| packed[position] = rows[index]);
    }
    packed
}

/// The inverse of [`pack`]: row-major values of `shape` without the padding.
///
/// # Panics
/// When `shape` does not fit `role` or `packed` does not fit `shape`.
pub fn unpack(role: WeightRole, shape: &[usize], packed: &[f32]) -> Vec<f32> {
    let len = elements(role, shape).expect("the shape must fit the role");
    assert_eq!(Some(packed.len()), packed_elements(role, shape), "packed values must fit shape {shape:?}");
    let mut values = vec![0f32; len];
    let blocks = Blocks::of(role, shape);
    for (rows, packed) in values.chunks_mut(blocks.len()).zip(packed.chunks(blocks.len())) {
        blocks.visit(rows.len(), |position, index| rows[index] = packed[position]);
    }
    values
}

/// Packs row-major `values` of a weight and stores them as `weight_type`: the bytes in an `.sdq` file. f16 is
/// rounded to nearest, ties to even.
///
/// # Errors
/// When shape, role, type and values do not fit each other, or when a value is not finite as `weight_type`.
pub fn encode(spec: &WeightSpec, weight_type: WeightType, values: &[f32]) -> Result<Vec<u8>, LayoutError> {
    let WeightSpec { name, role, shape, .. } = spec;
    let Some(expected) = elements(*role, shape) else {
        return Err(LayoutError::Shape { name: name.clone(), role: *role, shape: shape.clone() });
    };
    if !weight_type.stores(*role) {
        return Err(LayoutError::RoleType { name: name.clone(), role: *role, found: weight_type });
    }
    if values.len() != expected {
        let found = values.len();
        return Err(LayoutError::Length { name: name.clone(), shape: shape.clone(), expected, found });
    }
    let size = if weight_type == WeightType::F32 { size_of::<f32>() } else { size_of::<f16>() };
    let packed = packed_elements(*role, shape).expect("the elements were counted above");
    let mut bytes = vec![0; packed * size];
    let blocks = Blocks::of(*role, shape);
    let pieces = values.chunks(blocks.len()).zip(bytes.chunks_mut(blocks.len() * size));
    for (block, (rows, bytes)) in pieces.enumerate() {
        encode_block(spec, weight_type, block, rows, bytes)?;
    }
    Ok(bytes)
}

/// Stores one block of a weight: [`PANEL`] rows of its first dimension (the last block may have fewer),
/// row-major. `block` is its index. `bytes` is the block's part of the packed weight, zeroed. [`encode`]
/// stores all blocks in order; they can be stored in any order and in parallel.
///
/// # Errors
/// When a value is not finite as `weight_type`, or when that is a type that needs a quantizer.
///
/// # Panics
/// When `rows` or `bytes` have another length than the block.
pub fn encode_block(
    spec: &WeightSpec,
    weight_type: WeightType,
    block: usize,
    rows: &[f32],
    bytes: &mut [u8],
) -> Result<(), LayoutError> {
    let blocks = Blocks::of(spec.role, &spec.shape);
    check_values(spec, weight_type, block * blocks.len(), rows)?;
    match weight_type {
        // Numbers in memory are little endian as in the file: `sdq` builds on no other platform.
        WeightType::F32 => blocks.visit(rows.len(), |position, index| {
            bytes[position * 4..][..4].copy_from_slice(&rows[index].to_le_bytes());
        }),
        WeightType::F16 => {
            let mut halves = vec![f16::ZERO; rows.len()];
            halves.convert_from_f32_slice(rows);
            blocks.visit(rows.len(), |position, index| {
                bytes[position * 2..][..2].copy_from_slice(&halves[index].to_le_bytes());
            });
        }
        WeightType::Q8 | WeightType::Q4 => {
            return Err(LayoutError::NotRounded { name: spec.name.clone(), found: weight_type });
        }
    }
    Ok(())
}

/// Checks that `values`, elements from `first` on of a weight, are finite, and finite as `weight_type`.
fn check_values(
    spec: &WeightSpec,
    weight_type: WeightType,
    first: usize,
    values: &[f32],
) -> Result<(), LayoutError> {
    check_finite(spec, first, values)?;
    if weight_type == WeightType::F16
        && let Some(index) = values.iter().position(|value| value.abs() >= F16_OVERFLOW)
    {
        let (name, value) = (spec.name.clone(), values[index]);
        return Err(LayoutError::BeyondF16 { name, index: first + index, value });
    }
    Ok(())
}

/// Checks that `values`, elements from `first` on of a weight in row-major order, are finite.
///
/// # Errors
/// Names the first that is not.
pub fn check_finite(spec: &WeightSpec, first: usize, values: &[f32]) -> Result<(), LayoutError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => {
            let (name, value) = (spec.name.clone(), values[index]);
            Err(LayoutError::NotFinite { name, index: first + index, value })
        }
        None => Ok(()),
    }
}

/// The order of elements within [`PANEL`] rows. A matrix is a convolution with one tap; vectors and tables,
/// which stay row-major, have no panels.
struct Blocks {
    row_len: usize,
    panels: Option<Panels>,
}

struct Panels {
    channels: usize,
    taps: usize,
}

impl Blocks {
    fn of(role: WeightRole, shape: &[usize]) -> Blocks {
        let panels = match (role, shape) {
            (WeightRole::Matrix, &[_, channels]) => Some(Panels { channels, taps: 1 }),
            (WeightRole::Conv, &[_, channels, height, width]) => {
                Some(Panels { channels, taps: height * width })
            }
            _ => None,
        };
        Blocks { row_len: shape[1..].iter().product(), panels }
    }

    /// Number of elements of a block, packed or not; if the last block is a packed panel, it has the same
    /// number.
    fn len(&self) -> usize {
        PANEL * self.row_len
    }

    /// Calls `visit(position in the packed block, row-major index in the block)` for every one of `len` elements.
    fn visit(&self, len: usize, mut visit: impl FnMut(usize, usize)) {
        let Some(Panels { channels, taps }) = self.panels else {
            (0..len).for_each(|index| visit(index, index));
            return;
        };
        let lanes = len / self.row_len;
        // The loop over taps is inside the one over channels: 16 rows are read sequentially, and the lanes of
        // one column fill a cache line.
        for channel in 0..channels {
            for tap in 0..taps {
                let column = tap * channels + channel;
                for lane in 0..lanes {
                    visit(column * PANEL + lane, (lane * channels + channel) * taps + tap);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::packed_elements;
    use proptest::prelude::*;

    fn numbered(len: usize) -> Vec<f32> {
        (0..len).map(|i| i as f32 + 1.0).collect()
    }

    fn spec(role: WeightRole, shape: &[usize]) -> WeightSpec {
        WeightSpec::new("w", role, shape)
    }

    #[test]
    fn a_matrix_interleaves_sixteen_features() {
        // 17 features, 2 inputs: the second panel holds one feature and 15 zeros per input.
        let packed = pack(WeightRole::Matrix, &[17, 2], &numbered(34));
        assert_eq!(packed.len(), 64);
        assert_eq!(&packed[..3], [1.0, 3.0, 5.0]); // input 0 of features 0, 1, 2
        assert_eq!(&packed[16..19], [2.0, 4.0, 6.0]); // input 1
        assert_eq!(packed[32], 33.0);
        assert_eq!(packed[48], 34.0);
        assert!(packed[33..48].iter().chain(&packed[49..]).all(|&v| v == 0.0));
    }

    #[test]
    fn a_convolution_runs_over_taps_then_channels() {
        // [1 out, 2 in, 1 high, 3 wide]: in PyTorch's order, in-channel 0's taps are 1 2 3 and in-channel 1's taps 4 5 6.
        let packed = pack(WeightRole::Conv, &[1, 2, 1, 3], &numbered(6));
        let lane0: Vec<f32> = packed.iter().step_by(PANEL).copied().collect();
        assert_eq!(lane0, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn tables_and_vectors_stay_as_they_are() {
        assert_eq!(pack(WeightRole::Table, &[3, 5], &numbered(15)), numbered(15));
        assert_eq!(pack(WeightRole::Vector, &[7], &numbered(7)), numbered(7));
    }

    #[test]
    fn encode_rounds_to_nearest_even() {
        // Between 2048 and 2050 there is no f16: 2049 rounds to 2048, which is even, and 2051 to 2052.
        let bytes =
            encode(&spec(WeightRole::Table, &[1, 3]), WeightType::F16, &[2049.0, 2051.0, -0.1]).unwrap();
        let halves: Vec<f32> =
            bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        assert_eq!(halves, [2048.0, 2052.0, -0.099975586]);
    }

    #[test]
    fn encode_refuses_what_f16_cannot_hold() {
        let table = spec(WeightRole::Table, &[1, 2]);
        // 65519.996 rounds to the largest f16, 65504; 65520 rounds to infinity.
        assert!(encode(&table, WeightType::F16, &[65519.996, 0.0]).is_ok());
        let error = encode(&table, WeightType::F16, &[0.0, -65520.0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "weight `w` contains -65520 at element 1, which is beyond the range of f16; use --type f32"
        );
        assert!(encode(&table, WeightType::F32, &[0.0, -65520.0]).is_ok());
    }

    #[test]
    fn encode_refuses_nan_and_infinity() {
        for value in [f32::NAN, f32::INFINITY] {
            for weight_type in [WeightType::F32, WeightType::F16] {
                let error =
                    encode(&spec(WeightRole::Table, &[1, 2]), weight_type, &[0.0, value]).unwrap_err();
                assert!(matches!(error, LayoutError::NotFinite { index: 1, .. }), "{error}");
            }
        }
    }

    #[test]
    fn encode_refuses_what_does_not_fit() {
        let refused = |role, shape: &[usize], weight_type, len| {
            encode(&spec(role, shape), weight_type, &vec![0.0; len]).unwrap_err()
        };
        let error = refused(WeightRole::Conv, &[4, 4], WeightType::F32, 16);
        assert_eq!(error.to_string(), "weight `w` has shape [4, 4], which is not the shape of a convolution");
        let error = refused(WeightRole::Vector, &[4], WeightType::F16, 4);
        assert_eq!(error.to_string(), "weight `w` is a vector, which is never stored as f16");
        let error = refused(WeightRole::Matrix, &[4, 4], WeightType::Q8, 16);
        assert_eq!(error.to_string(), "weight `w` cannot be stored as q8 without a quantizer");
        let error = refused(WeightRole::Matrix, &[4, 4], WeightType::F32, 15);
        assert_eq!(error.to_string(), "weight `w` of shape [4, 4] has 15 elements, expected 16");
    }

    proptest! {
        #[test]
        fn unpack_undoes_pack(n in 1usize..40, channels in 1usize..20, height in 1usize..4, width in 1usize..4) {
            for (role, shape) in [
                (WeightRole::Vector, vec![n]),
                (WeightRole::Table, vec![n, channels]),
                (WeightRole::Matrix, vec![n, channels]),
                (WeightRole::Conv, vec![n, channels, height, width]),
            ] {
                let values = numbered(shape.iter().product());
                let packed = pack(role, &shape, &values);
                prop_assert_eq!(packed.len(), packed_elements(role, &shape).unwrap());
                // Values start at 1, so only the padding is zero.
                prop_assert_eq!(packed.iter().filter(|&&v| v != 0.0).count(), values.len());
                prop_assert_eq!(unpack(role, &shape, &packed), values);
            }
        }
    }
}
