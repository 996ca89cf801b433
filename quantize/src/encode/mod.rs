//! Encodes a tensor as a stored weight, block by block, on all threads of the current pool.
//!
//! A block is sixteen rows of the weight's first dimension. At most one block per thread is in f32 at any
//! time, and a weight's bytes do not depend on the number of threads.

mod feature;
mod q4;
mod q8;

use feature::Importance;
use rayon::prelude::*;
use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    layout::{self, LayoutError, PANEL, columns::Columns, quantized::scale_position},
    sdq::Encoded,
    tensor::{TensorError, TensorView},
};

/// Errors of encoding a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// Its values cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Its values cannot be stored.
    #[error(transparent)]
    Values(#[from] LayoutError),
}

/// Encodes `tensor`, which has the elements of `spec` in its order, as `weight_type`. `relative_error` is set
/// for quantized types.
///
/// `importance` weights the squared error that a quantizer minimises: one non-negative number for each input
/// channel of a matrix or convolution, usually the mean of the squared activation. Every tap of a convolution
/// uses its channel's. Ignored for other roles and for types that only round.
///
/// # Errors
/// When the tensor is not of floating-point numbers, when the shape does not fit the role or the role the
/// type, or when a value is not finite as `weight_type`. Of several such values, the error names the first of
/// the first block that has one.
///
/// # Panics
/// When `importance` has another length than there are input channels.
pub fn encode(
    spec: &WeightSpec,
    weight_type: WeightType,
    tensor: &TensorView<'_>,
    importance: Option<&[f32]>,
) -> Result<Encoded, EncodeError> {
    let Some(parts) = layout::stored_parts(spec, weight_type) else {
        return Err(refusal(spec, weight_type).into());
    };
    let expected = spec.shape.iter().product::<usize>();
    if tensor.elements() != Some(expected) {
        let (name, shape) = (spec.name.clone(), spec.shape.clone());
        let found = tensor.elements().unwrap_or(usize::MAX);
        return Err(LayoutError::Length { name, shape, expected, found }.into());
    }
    let mut bytes: Vec<Vec<u8>> = parts.iter().map(|part| vec![0; part.bytes]).collect();
    let encoder = Encoder::new(spec, weight_type, importance);
    let blocks = Blocks::cut(spec, &mut bytes);
    let outcomes: Vec<Result<Outcome, EncodeError>> = blocks
        .into_par_iter()
        .map_init(Scratch::default, |scratch, block| encode_block(&encoder, tensor, block, scratch))
        .collect();
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    if !weight_type.is_quantized() {
        return Ok(Encoded { parts: bytes, relative_error: None });
    }
    let scales = bytes.last_mut().expect("a quantized weight has scales");
    let (mut squared_error, mut squared) = (0.0, 0.0);
    for (block, outcome) in outcomes.iter().enumerate() {
        outcome.store_scales(&encoder, block, scales);
        squared_error += outcome.squared_error;
        squared += outcome.squared;
    }
    let relative_error = if squared > 0.0 { (squared_error / squared).sqrt() } else { 0.0 };
    Ok(Encoded { parts: bytes, relative_error: Some(relative_error) })
}

/// Why [`layout::stored_parts`] returns `None` for this weight.
fn refusal(spec: &WeightSpec, weight_type: WeightType) -> LayoutError {
    let WeightSpec { name, role, shape, .. } = spec;
    if weight_type.stores(*role) {
        LayoutError::Shape { name: name.clone(), role: *role, shape: shape.clone() }
    } else {
        LayoutError::RoleType { name: name.clone(), role: *role, found: weight_type }
    }
}

/// Data that all blocks of a weight share.
struct Encoder<'a> {
    spec: &'a WeightSpec,
    weight_type: WeightType,
    /// Number of elements of a row.
    row_len: usize,
    kind: Kind,
}

enum Kind {
    /// f32 and f16, for any role.
    Rounded,
    /// A table in q8.
    Table,
    /// A matrix or convolution in q8 or q4, with the error weights of each input.
    Panels { columns: Columns, importance: Vec<Importance> },
}

impl<'a> Encoder<'a> {
    /// For weights that [`layout::stored_parts`] supports.
    fn new(spec: &'a WeightSpec, weight_type: WeightType, importance: Option<&[f32]>) -> Encoder<'a> {
        let kind = match (weight_type.is_quantized(), Columns::of(spec)) {
            (false, _) => Kind::Rounded,
            (true, None) => Kind::Table,
            (true, Some(columns)) => {
                let importance = Importance::of_inputs(&columns, importance);
                Kind::Panels { columns, importance }
            }
        };
        Encoder { spec, weight_type, row_len: spec.shape[1..].iter().product(), kind }
    }

    /// Number of panels of the weight.
    fn panels(&self) -> usize {
        self.spec.shape[0].div_ceil(PANEL)
    }
}

/// Buffers that a thread reuses from block to block.
#[derive(Default)]
struct Scratch {
    rows: Vec<f32>,
    feature: feature::Feature,
}

/// The block's ranges in the parts of a weight, except the scales.
struct Block<'b> {
    index: usize,
    values: &'b mut [u8],
    /// Empty except in q4.
    multipliers: &'b mut [u8],
}

struct Blocks;

impl Blocks {
    /// Divides the parts of a weight into those of its blocks.
    fn cut<'b>(spec: &WeightSpec, parts: &'b mut [Vec<u8>]) -> Vec<Block<'b>> {
        let rows = spec.shape[0];
        let count = rows.div_ceil(PANEL);
        let in_panels = matches!(spec.role, WeightRole::Matrix | WeightRole::Conv);
        let (values, rest) = parts.split_first_mut().expect("every type has values");
        let stride = if in_panels { values.len() / count } else { values.len() / rows * PANEL };
        let mut multipliers = match rest {
            [multipliers, _scales] => multipliers.as_mut_slice(),
            _ => &mut [],
        };
        let multiplier_stride = multipliers.len() / count;
        let cut = |(index, values): (usize, &'b mut [u8])| {
            let (own, others) = std::mem::take(&mut multipliers).split_at_mut(multiplier_stride);
            multipliers = others;
            Block { index, values, multipliers: own }
        };
        values.chunks_mut(stride).enumerate().map(cut).collect()
    }
}

/// The results for a block, beside the bytes of its elements.
#[derive(Default)]
struct Outcome {
    /// The scales of input 0's features, then those of input 1's and so on; a table's rows count as features.
    scales: Vec<f32>,
    /// Sum of squared differences from the source.
    squared_error: f64,
    /// Sum of squares of the source.
    squared: f64,
}

impl Outcome {
    /// Adds the feature or row that was encoded last.
    fn add(&mut self, fit: feature::Fit) {
        self.scales.push(fit.scale);
        self.squared_error += fit.squared_error;
        self.squared += fit.squared;
    }

    /// Writes the scales of block `block` to their places in the layout.
    fn store_scales(&self, encoder: &Encoder<'_>, block: usize, bytes: &mut [u8]) {
        let features = PANEL.min(encoder.spec.shape[0] - block * PANEL);
        for (index, scale) in self.scales.iter().enumerate() {
            let (input, lane) = (index / features, index % features);
            let position = scale_position(input, encoder.panels(), block * PANEL + lane);
            bytes[position * size_of::<f32>()..][..size_of::<f32>()].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

fn encode_block(
    encoder: &Encoder<'_>,
    tensor: &TensorView<'_>,
    block: Block<'_>,
    scratch: &mut Scratch,
) -> Result<Outcome, EncodeError> {
    let Encoder { spec, weight_type, row_len, kind } = encoder;
    let Block { index, values, multipliers } = block;
    let first = index * PANEL;
    let count = PANEL.min(spec.shape[0] - first);
    scratch.rows.resize(count * row_len, 0.0);
    let Scratch { rows, feature } = scratch;
    tensor.read_f32(first * row_len, rows)?;
    if matches!(kind, Kind::Rounded) {
        layout::encode_block(spec, *weight_type, index, rows, values)?;
        return Ok(Outcome::default());
    }
    layout::check_finite(spec, first * row_len, rows)?;
    let mut outcome = Outcome::default();
    match kind {
        Kind::Rounded => unreachable!("returned above"),
        Kind::Table => {
            for (row, values) in rows.chunks_exact(*row_len).zip(values.chunks_exact_mut(*row_len)) {
                outcome.add(q8::encode_row(row, feature, values));
            }
        }
        Kind::Panels { columns, importance } => {
            if *weight_type == WeightType::Q4 {
                q4::clear(values, multipliers);
            }
            for (input, importance) in importance.iter().enumerate() {
                for (lane, row) in rows.chunks_exact(*row_len).enumerate() {
                    feature.gather(columns, input, row);
                    outcome.add(match weight_type {
                        WeightType::Q4 => {
                            q4::encode_feature(columns, input, lane, feature, importance, values, multipliers)
                        }
                        _ => q8::encode_feature(columns, input, lane, feature, importance, values),
                    });
                }
            }
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests;
