//! The order in which weights lie in memory and in an `.sdq` file: the one definition that converter and kernels share.
//!
//! A matrix `[n, k]` (output features by input features) is cut into panels of [`PANEL`] output features. Within a
//! panel the features are interleaved, so that a kernel reads the weights of 16 features for one input in one go:
//!
//! ```text
//! packed[panel][k][lane] = matrix[panel * 16 + lane][k]      stored as [ceil(n / 16)][k][16]
//! ```
//!
//! Lanes past `n` in the last panel are zero. A convolution `[out, in, height, width]` is the matrix
//! `[out, height * width * in]` with input channels fastest, the order in which a channels-last picture has them.
//! Vectors and tables stay row-major. Quantized weights lie in panels too, in an order of their own: [`quantized`].

pub mod columns;
pub mod quantized;

use half::f16;
use half::slice::HalfFloatSliceExt;

use columns::Columns;

use crate::weight::{WeightRole, WeightSpec, WeightType};

/// Output features (or channels) per panel.
pub const PANEL: usize = 16;

/// The smallest magnitude that rounds to infinity in f16: halfway from the largest, 65504, to what would be the next.
const F16_OVERFLOW: f32 = 65520.0;

/// Why values cannot be stored as a weight.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LayoutError {
    /// The shape has the wrong rank for its role, a dimension of zero, or too many elements to count.
    #[error("weight `{name}` has shape {shape:?}, which is not the shape of a {role}", role = role.name())]
    Shape {
        /// The weight.
        name: String,
        /// Its role.
        role: WeightRole,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The role is not stored in this type.
    #[error("weight `{name}` is a {role}, which is never stored as {found}", role = role.name(), found = found.name())]
    RoleType {
        /// The weight.
        name: String,
        /// Its role.
        role: WeightRole,
        /// The type asked for.
        found: WeightType,
    },
    /// Integers are chosen by a quantizer; [`encode`] only rounds.
    #[error("weight `{name}` is to be {found}, which takes a quantizer", found = found.name())]
    NotRounded {
        /// The weight.
        name: String,
        /// The type asked for.
        found: WeightType,
    },
    /// More or fewer values than the shape asks for.
    #[error("weight `{name}` of shape {shape:?} came with {found} elements, expected {expected}")]
    Length {
        /// The weight.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements that the shape asks for.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A NaN or an infinity, which no picture survives.
    #[error("weight `{name}` holds {value} at element {index}: the checkpoint is damaged")]
    NotFinite {
        /// The weight.
        name: String,
        /// Position of the first such element, row-major.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A value that rounds to infinity in f16.
    #[error("weight `{name}` holds {value} at element {index}, beyond the range of f16: use --type f32")]
    BeyondF16 {
        /// The weight.
        name: String,
        /// Position of the first such element, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// The matrix `[n, k]` that a matrix or convolution of `shape` is packed as. `None` for other roles and for shapes
/// that [`packed_elements`] refuses.
pub fn matrix_dimensions(role: WeightRole, shape: &[usize]) -> Option<(usize, usize)> {
    match (role, shape) {
        (WeightRole::Matrix, &[n, k]) => Some((n, k)),
        (WeightRole::Conv, &[n, channels, height, width]) => {
            Some((n, height.checked_mul(width)?.checked_mul(channels)?))
        }
        _ => None,
    }
}

/// Elements that a weight of `shape` has before packing. `None` when the rank is wrong for `role`, a dimension is
/// zero, or the count (also in bytes, as f32) overflows.
pub fn elements(role: WeightRole, shape: &[usize]) -> Option<usize> {
    let rank = match role {
        WeightRole::Vector => 1,
        WeightRole::Table | WeightRole::Matrix => 2,
        WeightRole::Conv => 4,
    };
    if shape.len() != rank || shape.contains(&0) {
        return None;
    }
    let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    count.checked_mul(size_of::<f32>()).map(|_bytes| count)
}

/// Elements that a weight of `shape` takes when packed, padding included. `None` as for [`elements`].
pub fn packed_elements(role: WeightRole, shape: &[usize]) -> Option<usize> {
    let plain = elements(role, shape)?;
    match matrix_dimensions(role, shape) {
        Some((n, k)) => {
            let count = n.checked_next_multiple_of(PANEL)?.checked_mul(k)?;
            count.checked_mul(size_of::<f32>()).map(|_bytes| count)
        }
        None => Some(plain),
    }
}

/// A run of bytes that a stored weight consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name in the file's table of contents.
    pub name: &'static str,
    /// Its length in bytes.
    pub bytes: usize,
}

/// The elements themselves: the only part of weights that are not quantized.
pub const VALUES: &str = "values";
/// Small integers that the elements of a group of columns are multiplied by.
pub const MULTIPLIERS: &str = "multipliers";
/// Floating-point factors.
pub const SCALES: &str = "scales";

/// The parts that `spec` has in an `.sdq` file when stored as `weight_type`, in file order. `None` where its shape or
/// inputs do not fit its role, or where the role is not stored in the type.
pub fn stored_parts(spec: &WeightSpec, weight_type: WeightType) -> Option<Vec<Part>> {
    let WeightSpec { role, shape, .. } = spec;
    let packed = packed_elements(*role, shape)?;
    if !weight_type.stores(*role) {
        return None;
    }
    let values = |bytes| Part { name: VALUES, bytes };
    let parts = match weight_type {
        WeightType::F32 => vec![values(packed.checked_mul(size_of::<f32>())?)],
        WeightType::F16 => vec![values(packed.checked_mul(size_of::<f16>())?)],
        WeightType::Q8 | WeightType::Q4 if *role == WeightRole::Table => {
            vec![values(packed), Part { name: SCALES, bytes: shape[0].checked_mul(size_of::<f32>())? }]
        }
        WeightType::Q8 | WeightType::Q4 => {
            let panels = shape[0].div_ceil(PANEL);
            let columns = Columns::of(spec)?;
            let lanes = panels.checked_mul(PANEL)?.checked_mul(size_of::<f32>())?;
            let scales = Part { name: SCALES, bytes: lanes.checked_mul(columns.inputs().len())? };
            let bytes = |of_panel: usize| of_panel.checked_mul(panels);
            if weight_type == WeightType::Q8 {
                vec![values(bytes(quantized::q8_panel_bytes(&columns)?)?), scales]
            } else {
                let multipliers = bytes(quantized::multiplier_panel_bytes(&columns)?)?;
                let values = values(bytes(quantized::q4_panel_bytes(&columns)?)?);
                vec![values, Part { name: MULTIPLIERS, bytes: multipliers }, scales]
            }
        }
    };
    Some(parts)
}

/// A stored weight, its parts under their types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightData<'a> {
    /// [`WeightType::F32`], in the order of the role.
    F32(&'a [f32]),
    /// [`WeightType::F16`], in the order of the role.
    F16(&'a [f16]),
    /// [`WeightType::Q8`], see [`quantized`].
    Q8 {
        /// Elements, -127 to 127.
        values: &'a [i8],
        /// A table's for each row, else `[inputs][panels][16]`.
        scales: &'a [f32],
    },
    /// [`WeightType::Q4`], see [`quantized`].
    Q4 {
        /// Two elements each.
        values: &'a [u8],
        /// Two multipliers each.
        multipliers: &'a [u8],
        /// `[inputs][panels][16]`.
        scales: &'a [f32],
    },
}

impl<'a> WeightData<'a> {
    /// The parts of a weight, each aligned and of the length that [`stored_parts`] says, under their types.
    pub(crate) fn new(weight_type: WeightType, parts: &[&'a [u8]]) -> WeightData<'a> {
        let cast = bytemuck::cast_slice::<u8, f32>;
        match (weight_type, parts) {
            (WeightType::F32, [values]) => WeightData::F32(cast(values)),
            (WeightType::F16, [values]) => WeightData::F16(bytemuck::cast_slice(values)),
            (WeightType::Q8, [values, scales]) => {
                WeightData::Q8 { values: bytemuck::cast_slice(values), scales: cast(scales) }
            }
            (WeightType::Q4, [values, multipliers, scales]) => {
                WeightData::Q4 { values, multipliers, scales: cast(scales) }
            }
            _ => unreachable!("the parts were compared with those of the type"),
        }
    }
}

/// What the kernels compute with, exactly: row-major values of the spec's shape.
///
/// # Panics
/// When `data` is not as long as [`stored_parts`] says.
pub fn decode(spec: &WeightSpec, data: &WeightData) -> Vec<f32> {
    match data {
        WeightData::F32(packed) => unpack(spec.role, &spec.shape, packed),
        WeightData::F16(packed) => {
            let wide: Vec<f32> = packed.iter().map(|value| value.to_f32()).collect();
            unpack(spec.role, &spec.shape, &wide)
        }
        WeightData::Q8 { values, scales } if spec.role == WeightRole::Table => {
            let rows = values.chunks_exact(spec.shape[1]).zip(*scales);
            rows.flat_map(|(row, scale)| row.iter().map(move |&q| f32::from(q) * scale)).collect()
        }
        WeightData::Q8 { .. } | WeightData::Q4 { .. } => quantized::decode(spec, data),
    }
}

/// Brings row-major `values` of `shape` into their packed order, `packed_elements(role, shape)` of them.
///
/// # Panics
/// When `shape` does not fit `role` or `values` does not fit `shape`; [`encode`] checks both.
pub fn pack(role: WeightRole, shape: &[usize], values: &[f32]) -> Vec<f32> {
    let packed_len = packed_elements(role, shape).expect("the shape must fit the role");
    assert_eq!(Some(values.len()), elements(role, shape), "values must fit shape {shape:?}");
    let mut packed = Vec::with_capacity(packed_len);
    for_each_block(role, shape, values, |block| packed.extend_from_slice(block));
    packed
}

/// The inverse of [`pack`]: row-major values of `shape` without the padding.
///
/// # Panics
/// When `shape` does not fit `role` or `packed` does not fit `shape`.
pub fn unpack(role: WeightRole, shape: &[usize], packed: &[f32]) -> Vec<f32> {
    let len = elements(role, shape).expect("the shape must fit the role");
    assert_eq!(Some(packed.len()), packed_elements(role, shape), "packed values must fit shape {shape:?}");
    let Some(panels) = Panels::of(role, shape) else {
        return packed.to_vec();
    };
    let mut values = vec![0f32; len];
    for (panel, block) in packed.chunks_exact(panels.panel_len()).enumerate() {
        panels.visit(panel, |position, index| values[index] = block[position]);
    }
    values
}

/// Calls `write` with the packed values piece by piece, so that no packed copy of a whole weight is needed.
fn for_each_block(role: WeightRole, shape: &[usize], values: &[f32], mut write: impl FnMut(&[f32])) {
    let Some(panels) = Panels::of(role, shape) else {
        values.chunks(1 << 14).for_each(write);
        return;
    };
    let mut block = vec![0f32; panels.panel_len()];
    for panel in 0..panels.n.div_ceil(PANEL) {
        // The last panel does not fill all lanes.
        block.fill(0.0);
        panels.visit(panel, |position, index| block[position] = values[index]);
        write(&block);
    }
}

/// How the elements of a matrix or convolution lie in panels. A matrix is a convolution with one tap.
struct Panels {
    n: usize,
    channels: usize,
    taps: usize,
}

impl Panels {
    /// `None` for roles without panels.
    fn of(role: WeightRole, shape: &[usize]) -> Option<Panels> {
        match (role, shape) {
            (WeightRole::Matrix, &[n, channels]) => Some(Panels { n, channels, taps: 1 }),
            (WeightRole::Conv, &[n, channels, height, width]) => {
                Some(Panels { n, channels, taps: height * width })
            }
            _ => None,
        }
    }

    /// Elements per panel.
    fn panel_len(&self) -> usize {
        PANEL * self.taps * self.channels
    }

    /// Calls `visit(position in the panel, row-major index)` for every element of a panel, padding left out.
    fn visit(&self, panel: usize, mut visit: impl FnMut(usize, usize)) {
        let first = panel * PANEL;
        let lanes = PANEL.min(self.n - first);
        // Taps inside of channels: 16 rows are read straight on, and the lanes of one column fill a cache line.
        for channel in 0..self.channels {
            for tap in 0..self.taps {
                let column = tap * self.channels + channel;
                for lane in 0..lanes {
                    visit(
                        column * PANEL + lane,
                        ((first + lane) * self.channels + channel) * self.taps + tap,
                    );
                }
            }
        }
    }
}

/// Packs row-major `values` of a weight and stores them as `weight_type`: the bytes that an `.sdq` file holds.
/// f16 is rounded to nearest, ties to even.
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
    if weight_type.is_quantized() {
        return Err(LayoutError::NotRounded { name: name.clone(), found: weight_type });
    }
    if values.len() != expected {
        let found = values.len();
        return Err(LayoutError::Length { name: name.clone(), shape: shape.clone(), expected, found });
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(LayoutError::NotFinite { name: name.clone(), index, value: values[index] });
    }
    if weight_type == WeightType::F16
        && let Some(index) = values.iter().position(|value| value.abs() >= F16_OVERFLOW)
    {
        return Err(LayoutError::BeyondF16 { name: name.clone(), index, value: values[index] });
    }
    let mut bytes = Vec::new();
    let mut halves: Vec<f16> = Vec::new();
    // Numbers in memory are little endian as in the file: `sdq` does not build elsewhere.
    for_each_block(*role, shape, values, |block| match weight_type {
        WeightType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(block)),
        _ => {
            halves.resize(block.len(), f16::ZERO);
            halves.convert_from_f32_slice(block);
            bytes.extend_from_slice(bytemuck::cast_slice(&halves));
        }
    });
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        // [1 out, 2 in, 1 high, 3 wide]: PyTorch has in-channel 0's taps 1 2 3, then in-channel 1's taps 4 5 6.
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
    fn counts_refuse_wrong_ranks_zeros_and_overflow() {
        assert_eq!(packed_elements(WeightRole::Matrix, &[17, 3]), Some(96));
        assert_eq!(packed_elements(WeightRole::Matrix, &[17]), None);
        assert_eq!(packed_elements(WeightRole::Conv, &[4, 4, 3]), None);
        assert_eq!(packed_elements(WeightRole::Vector, &[0]), None);
        assert_eq!(packed_elements(WeightRole::Matrix, &[usize::MAX, 1]), None);
        assert_eq!(packed_elements(WeightRole::Matrix, &[1 << 40, 1 << 40]), None);
        assert_eq!(packed_elements(WeightRole::Vector, &[usize::MAX / 2]), None);
    }

    #[test]
    fn parts_have_the_lengths_of_the_layout() {
        let lengths = |role, shape: &[usize], inputs: &[usize], weight_type| {
            let spec = WeightSpec { inputs: inputs.to_vec(), ..spec(role, shape) };
            Some(stored_parts(&spec, weight_type)?.iter().map(|part| part.bytes).collect::<Vec<_>>())
        };
        use WeightType::{F16, F32, Q4, Q8};
        assert_eq!(lengths(WeightRole::Matrix, &[1, 3], &[], F16), Some(vec![96]));
        assert_eq!(lengths(WeightRole::Vector, &[3], &[], F32), Some(vec![12]));
        for weight_type in [F16, Q8, Q4] {
            assert_eq!(lengths(WeightRole::Vector, &[3], &[], weight_type), None);
        }
        assert_eq!(lengths(WeightRole::Table, &[3, 5], &[], Q8), Some(vec![15, 12]));
        assert_eq!(lengths(WeightRole::Table, &[3, 5], &[], Q4), None);
        // 17 features are two panels; 40 and 3 channels are padded to 40 and 8 in each of nine taps.
        assert_eq!(
            lengths(WeightRole::Conv, &[17, 43, 3, 3], &[40, 3], Q8),
            Some(vec![32 * 9 * 48, 2 * 32 * 4])
        );
        // Three groups of at most 32 columns a tap, sixteen multipliers of half a byte for each.
        assert_eq!(
            lengths(WeightRole::Conv, &[17, 43, 3, 3], &[40, 3], Q4),
            Some(vec![32 * 9 * 24, 2 * 27 * 8, 2 * 32 * 4])
        );
        for inputs in [&[43][..], &[40, 4], &[43, 0], &[usize::MAX, 44]] {
            assert_eq!(lengths(WeightRole::Conv, &[17, 43, 3, 3], inputs, Q8), None, "{inputs:?}");
        }
        assert_eq!(lengths(WeightRole::Matrix, &[1 << 31, 1 << 31], &[], Q8), None);
    }

    #[test]
    fn encode_rounds_to_nearest_even() {
        // Between 2048 and 2050 f16 has no neighbour: 2049 goes to the even 2048, 2051 to 2052.
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
            "weight `w` holds -65520 at element 1, beyond the range of f16: use --type f32"
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
        assert_eq!(error.to_string(), "weight `w` is to be q8, which takes a quantizer");
        let error = refused(WeightRole::Matrix, &[4, 4], WeightType::F32, 15);
        assert_eq!(error.to_string(), "weight `w` of shape [4, 4] came with 15 elements, expected 16");
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
                // Values start at 1, so zeros are the padding and nothing else.
                prop_assert_eq!(packed.iter().filter(|&&v| v != 0.0).count(), values.len());
                prop_assert_eq!(unpack(role, &shape, &packed), values);
            }
        }
    }
}
