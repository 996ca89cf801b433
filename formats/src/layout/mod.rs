//! The order of weights in memory and in an `.sdq` file: the only definition, which converter and kernels
//! share.
//!
//! A matrix `[n, k]` (output features by input features) is cut into panels of [`PANEL`] output features.
//! Within a panel the features are interleaved, so that a kernel reads the weights of 16 features for one
//! input at once:
//!
//! ```text
//! packed[panel][k][lane] = matrix[panel * 16 + lane][k]      stored as [ceil(n / 16)][k][16]
//! ```
//!
//! Lanes past `n` in the last panel are zero. A convolution `[out, in, height, width]` is the matrix
//! `[out, height * width * in]` with input channels fastest, the order of a channels-last picture. Vectors
//! and tables stay row-major. Quantized weights are in panels too, in an order of their own: [`quantized`].

pub mod columns;
mod plain;
pub mod quantized;

pub use plain::{check_finite, encode, encode_block, pack, unpack};

use half::f16;

use columns::Columns;

use crate::weight::{WeightRole, WeightSpec, WeightType};

/// Output features (or channels) per panel.
pub const PANEL: usize = 16;

/// Errors of storing values as a weight.
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
    /// The role cannot be stored in this type.
    #[error("weight `{name}` is a {role}, which is never stored as {found}", role = role.name(), found = found.name())]
    RoleType {
        /// The weight.
        name: String,
        /// Its role.
        role: WeightRole,
        /// The requested type.
        found: WeightType,
    },
    /// Only a quantizer can encode integers; [`encode`] only rounds.
    #[error("weight `{name}` cannot be stored as {found} without a quantizer", found = found.name())]
    NotRounded {
        /// The weight.
        name: String,
        /// The requested type.
        found: WeightType,
    },
    /// The number of values does not match the shape.
    #[error("weight `{name}` of shape {shape:?} has {found} elements, expected {expected}")]
    Length {
        /// The weight.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Number of elements of the shape.
        expected: usize,
        /// Number of elements given.
        found: usize,
    },
    /// NaN or infinity, which would spoil every picture.
    #[error("weight `{name}` contains {value} at element {index}; the checkpoint is damaged")]
    NotFinite {
        /// The weight.
        name: String,
        /// Position of the first such element, row-major.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A value that rounds to infinity in f16.
    #[error(
        "weight `{name}` contains {value} at element {index}, which is beyond the range of f16; use --type f32"
    )]
    BeyondF16 {
        /// The weight.
        name: String,
        /// Position of the first such element, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// The matrix `[n, k]` in which a matrix or convolution of `shape` is packed. `None` for other roles and for
/// shapes for which [`packed_elements`] returns `None`.
pub fn matrix_dimensions(role: WeightRole, shape: &[usize]) -> Option<(usize, usize)> {
    match (role, shape) {
        (WeightRole::Matrix, &[n, k]) => Some((n, k)),
        (WeightRole::Conv, &[n, channels, height, width]) => {
            Some((n, height.checked_mul(width)?.checked_mul(channels)?))
        }
        _ => None,
    }
}

/// Number of elements of a weight of `shape` before packing. `None` if the rank is wrong for `role`, a
/// dimension is zero, or the number (also in bytes, as f32) overflows.
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

/// Number of elements of a packed weight of `shape`, padding included. `None` as for [`elements`].
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

/// A range of bytes that is a part of a stored weight.
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

/// The parts of `spec` in an `.sdq` file when stored as `weight_type`, in file order. `None` if its shape or
/// inputs do not fit its role, or if the role cannot be stored in the type.
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

/// A stored weight: its parts with their types.
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
        /// One for each row of a table, otherwise `[inputs][panels][16]`.
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
    /// The parts of a weight with their types; each must be aligned and have the length that [`stored_parts`]
    /// gives.
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

/// The exact values that the kernels compute with: row-major, of the spec's shape.
///
/// # Panics
/// When the lengths of `data` are not those of [`stored_parts`].
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(role: WeightRole, shape: &[usize]) -> WeightSpec {
        WeightSpec::new("w", role, shape)
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
        // Three groups of at most 32 columns per tap, with sixteen multipliers of half a byte for each.
        assert_eq!(
            lengths(WeightRole::Conv, &[17, 43, 3, 3], &[40, 3], Q4),
            Some(vec![32 * 9 * 24, 2 * 27 * 8, 2 * 32 * 4])
        );
        for inputs in [&[43][..], &[40, 4], &[43, 0], &[usize::MAX, 44]] {
            assert_eq!(lengths(WeightRole::Conv, &[17, 43, 3, 3], inputs, Q8), None, "{inputs:?}");
        }
        assert_eq!(lengths(WeightRole::Matrix, &[1 << 31, 1 << 31], &[], Q8), None);
    }
}
