//! The ops a model can be made of.

use std::ops::Range;

use super::WeightId;

/// An element-wise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * sigmoid(1.702 x)`, as OpenAI's CLIP has it.
    QuickGelu,
    /// `x * Φ(x)` with the exact normal distribution function (erf).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `3 tanh(x / 3)`: bends values into -3..=3.
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
    /// The same on every side.
    pub const fn same(pixels: usize) -> Padding {
        Padding { top: pixels, left: pixels, bottom: pixels, right: pixels }
    }
}

/// What a convolution sees of a picture at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of the kernel, in pixels.
    pub kernel: usize,
    /// Pixels from one place to the next, in both directions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
}

impl Window {
    /// Pixel by pixel.
    pub const POINT: Window = Window { kernel: 1, stride: 1, padding: Padding::same(0) };
    /// 3x3, keeping the picture's size.
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

/// What a node computes. Shapes are channels last; "rows" are all axes but the last.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Token plus position embedding: `ids [batch, tokens]` → `[batch, tokens, width]`. Ids past the vocabulary are rows of
    /// a second input, `[words, width]`, where there is one.
    /// The ids travel as f32 like everything else, which holds every integer below 2^24 exactly.
    Embedding {
        /// Table `[vocabulary, width]`.
        tokens: WeightId,
        /// Table `[positions, width]`.
        positions: WeightId,
    },
    /// `y = W x + bias (+ residual)` on every row: `x [.., k]`, `(residual [.., n])` → `[.., n]`.
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
    /// Normalises groups of channels over all pixels of an image, then scales, shifts and activates.
    /// Wu & He 2018, arXiv:1803.08494, eq. 1-2.
    GroupNorm {
        /// Vector `[channels]`.
        weight: WeightId,
        /// Vector `[channels]`.
        bias: WeightId,
        /// Divides the channels.
        groups: usize,
        /// Added to the variance.
        eps: f32,
        /// Whether SiLU follows.
        silu: bool,
        /// Whether a second input `[batch, groups, 6]` holds the means and variances, see [`Statistics`](super::Statistics).
        /// Models never set it; strips of a picture do, for they see only a part of what is normalised.
        given: bool,
    },
    /// Adds the values of groups of channels in some rows of a picture, and their squares, to earlier sums:
    /// `x [1, h, w, c]`, `sums [1, groups, 6]` → like `sums`, see [`GroupSums`](super::GroupSums). Models never write it.
    GroupSums {
        /// Divides the channels.
        groups: usize,
        /// Rows of the picture that count.
        rows: Range<usize>,
    },
    /// Normalises every row, then scales and shifts. Ba et al. 2016, arXiv:1607.06450.
    LayerNorm {
        /// Vector `[channels]`.
        weight: WeightId,
        /// Vector `[channels]`.
        bias: WeightId,
        /// Added to the variance.
        eps: f32,
    },
    /// `softmax(q kᵀ / √d) v` per head: `q [b, queries.., heads*d]`, `k, v [b, keys.., heads*d]` → like `q`. The
    /// pixels of a picture count as tokens as they lie. Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    Attention {
        /// Number of heads.
        heads: usize,
        /// Whether a query sees only keys up to its own position.
        causal: bool,
    },
    /// [`Attention`](Op::Attention) in integers, without a causal mask: `q [b, queries.., heads*d]` and what
    /// [`QuantizeKeys`](Op::QuantizeKeys) made of `keys` keys and values → like `q`. Models never write it.
    QuantizedAttention {
        /// Number of heads.
        heads: usize,
        /// Keys of each image or prompt.
        keys: usize,
    },
    /// Rounds keys and values to integers: `k, v [b, keys.., heads*d]` → `[b, heads, f32s that a head's take in the backend's
    /// layout]`. Models never write it; [`quantize_inputs`](super::quantize_inputs) does.
    QuantizeKeys {
        /// Number of heads.
        heads: usize,
    },
    /// Element-wise non-linearity.
    Activation(Activation),
    /// `value * gelu(gate)`: `[.., 2c]` (value first) → `[.., c]`. Shazeer 2020, arXiv:2002.05202, eq. 5.
    Geglu,
    /// `scale * x + shift` for every element.
    Affine {
        /// Factor.
        scale: f32,
        /// Addend.
        shift: f32,
    },
    /// Element-wise sum of two tensors of one shape.
    Add,
    /// Joins two tensors along channels, first input first.
    Concat,
    /// Rounds rows to bytes, the left operand of products with integer weights: `x [.., channels]` → rows of as many f32
    /// as the backend's layout takes. Models never write it; [`quantize_inputs`](super::quantize_inputs) does.
    Quantize {
        /// Channels of each of the tensors that the input was joined from, or all of them.
        inputs: Vec<usize>,
    },
    /// An op that makes rows of f32, and [`Quantize`](Op::Quantize) of these while they are at hand. Models never write
    /// it; [`quantize_inputs`](super::quantize_inputs) does.
    ThenQuantize {
        /// A norm or GEGLU.
        op: Box<Op>,
        /// As in [`Quantize`](Op::Quantize).
        inputs: Vec<usize>,
    },
    /// [`UpsampleNearest`](Op::UpsampleNearest) of quantized pixels. Models never write it;
    /// [`quantize_inputs`](super::quantize_inputs) does.
    UpsampleQuantized {
        /// Target height in pixels.
        height: usize,
        /// Target width in pixels.
        width: usize,
        /// As in [`Quantize`](Op::Quantize).
        inputs: Vec<usize>,
    },
    /// Nearest-neighbour resize of `[b, h, w, c]`; `source = floor(target * size_in / size_out)`.
    UpsampleNearest {
        /// Target height in pixels.
        height: usize,
        /// Target width in pixels.
        width: usize,
    },
}

impl Op {
    /// What the kind of op is called where times are told.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embedding { .. } => "embedding",
            Op::Linear { .. } => "linear",
            Op::Conv2d { .. } => "convolution",
            Op::GroupNorm { .. } => "group norm",
            Op::GroupSums { .. } => "group sums",
            Op::LayerNorm { .. } => "layer norm",
            Op::Attention { .. } | Op::QuantizedAttention { .. } => "attention",
            Op::QuantizeKeys { .. } => "quantize keys",
            Op::Activation(_) => "activation",
            Op::Geglu => "gate",
            Op::Affine { .. } => "affine",
            Op::Add => "add",
            Op::Concat => "concat",
            Op::Quantize { .. } => "quantize",
            Op::ThenQuantize { op, .. } => match **op {
                Op::GroupNorm { .. } => "group norm and quantize",
                Op::LayerNorm { .. } => "layer norm and quantize",
                _ => "gate and quantize",
            },
            Op::UpsampleNearest { .. } => "upsample",
            Op::UpsampleQuantized { .. } => "upsample bytes",
        }
    }

    /// The weights that the op reads, to be given other places in a list.
    pub(super) fn weights_mut(
        &mut self,
    ) -> std::iter::Flatten<std::array::IntoIter<Option<&mut WeightId>, 2>> {
        let weights = match self {
            Op::ThenQuantize { op, .. } => return op.weights_mut(),
            Op::Embedding { tokens, positions } => [Some(tokens), Some(positions)],
            Op::Linear { weight, bias, .. } | Op::Conv2d { weight, bias, .. } => {
                [Some(weight), bias.as_mut()]
            }
            Op::GroupNorm { weight, bias, .. } | Op::LayerNorm { weight, bias, .. } => {
                [Some(weight), Some(bias)]
            }
            Op::GroupSums { .. }
            | Op::Attention { .. }
            | Op::QuantizedAttention { .. }
            | Op::QuantizeKeys { .. }
            | Op::Activation(_)
            | Op::Geglu
            | Op::Affine { .. }
            | Op::Add
            | Op::Concat
            | Op::Quantize { .. }
            | Op::UpsampleQuantized { .. }
            | Op::UpsampleNearest { .. } => [None, None],
        };
        weights.into_iter().flatten()
    }
}
