//! The ops that models and their strips consist of, with the properties of each.

use std::ops::Range;

use sdq_formats::WeightSpec;

use super::{TensorId, WeightId};

/// An element-wise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * sigmoid(1.702 x)`, as in OpenAI's CLIP.
    QuickGelu,
    /// `x * Φ(x)` with the exact normal distribution function (erf).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `3 tanh(x / 3)`: limits values to -3..=3.
    Tanh3,
}

/// Zeros around a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns to the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same number of zeros on every side.
    pub const fn same(pixels: usize) -> Padding {
        Padding { top: pixels, left: pixels, bottom: pixels, right: pixels }
    }
}

/// The window of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of the kernel, in pixels.
    pub kernel: usize,
    /// Pixels from one position of the window to the next, in both directions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
}

impl Window {
    /// A 1x1 window: each pixel by itself.
    pub const POINT: Window = Window { kernel: 1, stride: 1, padding: Padding::same(0) };
    /// A 3x3 window that keeps the picture's size.
    pub const SAME_3X3: Window = Window { kernel: 3, stride: 1, padding: Padding::same(1) };

    /// Size of the output along one axis for `size` pixels with `before` and `after` zeros around them.
    fn places(&self, size: usize, before: usize, after: usize) -> usize {
        (size + before + after - self.kernel) / self.stride + 1
    }

    /// Height and width of the output for a picture of `height x width`.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let Padding { top, left, bottom, right } = self.padding;
        (self.places(height, top, bottom), self.places(width, left, right))
    }
}

/// An op that computes one row of floats at a time, so that a backend can round the row to bytes while it is
/// still in a cache (see [`PreparedOp::ThenQuantize`](super::PreparedOp::ThenQuantize)). "Rows" are all axes
/// but the last.
#[derive(Clone, Debug, PartialEq)]
pub enum RowOp {
    /// Normalises groups of channels over all pixels of an image, then scales, shifts and activates:
    /// `x [b, .., channels]`, `(statistics [b, groups, 6])` → like `x`. Wu & He 2018, arXiv:1803.08494, eq.
    /// 1-2.
    GroupNorm {
        /// Vector `[channels]`.
        weight: WeightId,
        /// Vector `[channels]`.
        bias: WeightId,
        /// Number of groups; divides the channels.
        groups: usize,
        /// Added to the variance.
        eps: f32,
        /// Whether SiLU follows.
        silu: bool,
        /// Whether the second input holds the means and variances, see [`Statistics`](super::Statistics).
        /// Strips of a picture set it, because they contain only a part of the values to normalise.
        given: bool,
    },
    /// Normalises every row, then scales and shifts: `x [.., channels]` → like `x`. Ba et al. 2016, arXiv:1607.06450.
    LayerNorm {
        /// Vector `[channels]`.
        weight: WeightId,
        /// Vector `[channels]`.
        bias: WeightId,
        /// Added to the variance.
        eps: f32,
    },
    /// `value * gelu(gate)`: `[.., 2c]` (value first) → `[.., c]`. Shazeer 2020, arXiv:2002.05202, eq. 5.
    Geglu,
}

/// The computation of a node of a model's graph. Shapes are channels last.
///
/// A product with integer weights reads rows of bytes once the graph is prepared for a backend; until then
/// every tensor is f32.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Sum of a token and a position embedding: `ids [batch, tokens]`, `(words [words, width])` →
    /// `[batch, tokens, width]`. Ids past the vocabulary select rows of the second input. Ids are f32 like
    /// all other values: f32 holds every integer below 2^24 exactly.
    Embedding {
        /// Table `[vocabulary, width]`.
        tokens: WeightId,
        /// Table `[positions, width]`.
        positions: WeightId,
    },
    /// `y = W x + bias (+ residual)` for every row: `x [.., k]`, `(residual [.., n])` → `[.., n]`.
    Linear {
        /// Matrix `[n, k]`.
        weight: WeightId,
        /// Vector `[n]`.
        bias: Option<WeightId>,
        /// Whether a second input is added to the product.
        residual: bool,
    },
    /// Convolution with zero padding: `x [b, h, w, in]`, `(channel_bias [b or 1, out])`, `(residual like the output)`
    /// → `[b, h', w', out]`.
    Conv2d {
        /// Convolution `[out, in, kernel_height, kernel_width]`, or matrix `[out, in]` for 1x1.
        weight: WeightId,
        /// Vector `[out]`.
        bias: Option<WeightId>,
        /// Kernel, stride and padding.
        window: Window,
        /// Whether an input holds one bias per image and channel (the time embedding).
        channel_bias: bool,
        /// Whether the last input is added to the product.
        residual: bool,
    },
    /// An op that computes one row at a time.
    Rows(RowOp),
    /// Adds the values of groups of channels in some rows of a picture, and their squares, to earlier sums:
    /// `x [1, h, w, c]`, `sums [1, groups, 6]` → like `sums`, see [`GroupSums`](super::GroupSums). In this
    /// way the strips of a picture sum the statistics that a group norm needs of the whole picture.
    GroupSums {
        /// Number of groups; divides the channels.
        groups: usize,
        /// Rows of the picture whose values are added.
        rows: Range<usize>,
    },
    /// `softmax(q kᵀ / √d) v` per head: `q [b, queries.., heads*d]`, `k, v [b, keys.., heads*d]` → like `q`.
    /// The pixels of a picture are tokens, row by row. Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    Attention {
        /// Number of heads.
        heads: usize,
        /// Whether a query sees only keys up to its own position.
        causal: bool,
    },
    /// Element-wise non-linearity: `x` → like `x`.
    Activation(Activation),
    /// `scale * x + shift` for every element: `x` → like `x`.
    Affine {
        /// Factor.
        scale: f32,
        /// Addend.
        shift: f32,
    },
    /// Element-wise sum of two tensors of one shape.
    Add,
    /// Concatenates two tensors along the channels, first input first.
    Concat,
    /// Nearest-neighbour resize of `[b, h, w, c]`; `source = floor(target * size_in / size_out)`.
    UpsampleNearest {
        /// Target height in pixels.
        height: usize,
        /// Target width in pixels.
        width: usize,
    },
}

/// The operands of an op, from which the properties that depend on shapes are computed.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// Shapes of all tensors of the graph.
    pub(super) tensors: &'a [Vec<usize>],
    /// The op's inputs.
    pub(super) inputs: &'a [TensorId],
    /// All weights of the graph.
    pub(super) weights: &'a [WeightSpec],
}

impl<'a> Operands<'a> {
    /// Shape of input `index`.
    pub fn shape(&self, index: usize) -> &'a [usize] {
        &self.tensors[self.inputs[index].0]
    }

    /// Shape of weight `id`.
    pub fn weight(&self, id: WeightId) -> &'a [usize] {
        &self.weights[id.0].shape
    }

    /// Shape of the first input with `channels` channels.
    pub(super) fn with_channels(&self, channels: usize) -> Vec<usize> {
        let mut shape = self.shape(0).to_vec();
        *shape.last_mut().expect("no model makes a tensor without axes") = channels;
        shape
    }

    /// Batch, height, width and channels of the first input.
    fn picture(&self) -> [usize; 4] {
        let shape = self.shape(0);
        shape.try_into().unwrap_or_else(|_| panic!("a picture has four axes, not {shape:?}"))
    }
}

/// The rows of a picture that an op reads to compute some rows of its output.
pub(super) enum Locality<'a> {
    /// The rows at the same position.
    SameRows,
    /// The rows that the window covers.
    Window(&'a Window),
    /// The rows at the same relative position, in a picture of another height.
    Resized,
    /// All rows.
    WholePicture,
}

/// Properties that both levels of ops have.
pub trait Operation {
    /// The name of this kind of op in reports of times.
    fn name(&self) -> &'static str;

    /// Multiply-adds for each element of the output; 0 for an op that multiplies no matrices.
    fn multiply_adds_each(&self, operands: Operands<'_>) -> usize;
}

/// Multiply-adds of attention for each element of the output.
pub(super) fn attention_multiply_adds(keys: usize) -> usize {
    2 * keys
}

/// Number of tokens or pixels of each image or prompt in a tensor of `shape`.
pub(super) fn tokens(shape: &[usize]) -> usize {
    shape[1..shape.len() - 1].iter().product()
}

impl Operation for RowOp {
    fn name(&self) -> &'static str {
        match self {
            RowOp::GroupNorm { .. } => "group norm",
            RowOp::LayerNorm { .. } => "layer norm",
            RowOp::Geglu => "gate",
        }
    }

    fn multiply_adds_each(&self, _operands: Operands<'_>) -> usize {
        match self {
            RowOp::GroupNorm { .. } | RowOp::LayerNorm { .. } | RowOp::Geglu => 0,
        }
    }
}

impl Operation for Op {
    fn name(&self) -> &'static str {
        match self {
            Op::Embedding { .. } => "embedding",
            Op::Linear { .. } => "linear",
            Op::Conv2d { .. } => "convolution",
            Op::Rows(op) => op.name(),
            Op::GroupSums { .. } => "group sums",
            Op::Attention { .. } => "attention",
            Op::Activation(_) => "activation",
            Op::Affine { .. } => "affine",
            Op::Add => "add",
            Op::Concat => "concat",
            Op::UpsampleNearest { .. } => "upsample",
        }
    }

    fn multiply_adds_each(&self, operands: Operands<'_>) -> usize {
        match self {
            Op::Linear { weight, .. } | Op::Conv2d { weight, .. } => {
                operands.weight(*weight)[1..].iter().product()
            }
            Op::Attention { .. } => attention_multiply_adds(tokens(operands.shape(1))),
            Op::Rows(op) => op.multiply_adds_each(operands),
            Op::Embedding { .. }
            | Op::GroupSums { .. }
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::Add
            | Op::Concat
            | Op::UpsampleNearest { .. } => 0,
        }
    }
}

impl RowOp {
    /// The [name](Operation::name) of the op fused with the rounding of its rows.
    pub(super) fn name_then_quantize(&self) -> &'static str {
        match self {
            RowOp::GroupNorm { .. } => "group norm and quantize",
            RowOp::LayerNorm { .. } => "layer norm and quantize",
            RowOp::Geglu => "gate and quantize",
        }
    }

    /// Shape of the output.
    fn output_shape(&self, operands: Operands<'_>) -> Vec<usize> {
        let shape = operands.shape(0);
        match self {
            RowOp::GroupNorm { groups, .. } => {
                let channels = shape[shape.len() - 1];
                assert_eq!(channels % groups, 0, "{groups} groups of {channels} channels");
                shape.to_vec()
            }
            RowOp::LayerNorm { .. } => shape.to_vec(),
            RowOp::Geglu => {
                let channels = shape[shape.len() - 1];
                assert_eq!(channels % 2, 0, "value and gate have one width");
                operands.with_channels(channels / 2)
            }
        }
    }

    fn weights_mut(&mut self) -> [Option<&mut WeightId>; 2] {
        match self {
            RowOp::GroupNorm { weight, bias, .. } | RowOp::LayerNorm { weight, bias, .. } => {
                [Some(weight), Some(bias)]
            }
            RowOp::Geglu => [None, None],
        }
    }
}

impl Op {
    /// Shape of the output.
    ///
    /// # Panics
    /// If the op does not accept inputs of these shapes, which is a bug of a model definition.
    pub(super) fn output_shape(&self, operands: Operands<'_>) -> Vec<usize> {
        let like_first = || operands.shape(0).to_vec();
        match self {
            Op::Embedding { tokens, .. } => {
                let &[batch, count] = operands.shape(0) else { panic!("token ids have two axes") };
                vec![batch, count, operands.weight(*tokens)[1]]
            }
            Op::Linear { weight, .. } => operands.with_channels(operands.weight(*weight)[0]),
            Op::Conv2d { weight, window, channel_bias, .. } => {
                let [batch, height, width, _] = operands.picture();
                let channels = operands.weight(*weight)[0];
                if *channel_bias {
                    assert_eq!(operands.shape(1).last(), Some(&channels), "one bias per channel");
                }
                let (height, width) = window.output_size(height, width);
                vec![batch, height, width, channels]
            }
            Op::Rows(op) => op.output_shape(operands),
            Op::GroupSums { .. } => operands.shape(1).to_vec(),
            Op::Attention { heads, .. } => {
                let [q, k, v] = [0, 1, 2].map(|index| operands.shape(index));
                assert!(q[q.len() - 1].is_multiple_of(*heads), "{heads} heads in {q:?}");
                assert_eq!(k, v, "keys and values have one shape");
                assert_eq!(q.last(), k.last(), "queries and keys have one width");
                like_first()
            }
            Op::Activation(_) | Op::Affine { .. } => like_first(),
            Op::Add => {
                assert_eq!(operands.shape(0), operands.shape(1), "a sum has one shape");
                like_first()
            }
            Op::Concat => {
                let (a, b) = (operands.shape(0), operands.shape(1));
                let rows = a.len() - 1;
                assert_eq!(a[..rows], b[..rows], "only channels may differ");
                operands.with_channels(a[rows] + b[rows])
            }
            Op::UpsampleNearest { height, width } => {
                let [batch, _, _, channels] = operands.picture();
                vec![batch, *height, *width, channels]
            }
        }
    }

    /// The rows of a picture that the op reads. Group norms with given statistics read only the same rows.
    pub(super) fn locality(&self) -> Locality<'_> {
        match self {
            Op::Conv2d { window, channel_bias: false, .. } => Locality::Window(window),
            Op::UpsampleNearest { .. } => Locality::Resized,
            Op::Linear { .. }
            | Op::Rows(RowOp::GroupNorm { .. } | RowOp::LayerNorm { .. } | RowOp::Geglu)
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::Add
            | Op::Concat => Locality::SameRows,
            Op::Embedding { .. }
            | Op::Conv2d { channel_bias: true, .. }
            | Op::GroupSums { .. }
            | Op::Attention { .. } => Locality::WholePicture,
        }
    }

    /// The weights of the op, to be renumbered.
    pub(super) fn weights_mut(&mut self) -> impl Iterator<Item = &mut WeightId> {
        let weights = match self {
            Op::Embedding { tokens, positions } => [Some(tokens), Some(positions)],
            Op::Linear { weight, bias, .. } | Op::Conv2d { weight, bias, .. } => {
                [Some(weight), bias.as_mut()]
            }
            Op::Rows(op) => op.weights_mut(),
            Op::GroupSums { .. }
            | Op::Attention { .. }
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::Add
            | Op::Concat
            | Op::UpsampleNearest { .. } => [None, None],
        };
        weights.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests;
