//! The ops that backends execute: those of models, and those that the passes add to a graph.

use super::{
    Graph, Node, Op, RowOp, TensorId,
    op::{Operands, Operation, attention_multiply_adds},
};

/// The computation of a node of a prepared graph. Only [`quantize_inputs`](super::quantize_inputs) writes ops
/// that are not a model's.
///
/// A product with integer weights reads rows of bytes as its first input.
#[derive(Clone, Debug, PartialEq)]
pub enum PreparedOp {
    /// An op of a model.
    Model(Op),
    /// Rounds rows to bytes, the left operand of products with integer weights: `x [.., channels]` → rows
    /// whose size in f32 is given by the layout of quantized rows.
    Quantize {
        /// Channels of each of the tensors that the input was concatenated from, or all channels.
        inputs: Vec<usize>,
    },
    /// A row op, and [`Quantize`](PreparedOp::Quantize) of each row as soon as it is computed.
    ThenQuantize {
        /// The op that computes the rows.
        op: RowOp,
        /// As in [`Quantize`](PreparedOp::Quantize).
        inputs: Vec<usize>,
    },
    /// [`Op::UpsampleNearest`] of quantized pixels.
    UpsampleQuantized {
        /// Target height in pixels.
        height: usize,
        /// Target width in pixels.
        width: usize,
        /// As in [`Quantize`](PreparedOp::Quantize).
        inputs: Vec<usize>,
    },
    /// Rounds keys and values to integers: `k, v [b, keys.., heads*d]` → `[b, heads, n]`, where `n` is the
    /// size of a head's keys and values in f32, in the backend's layout.
    QuantizeKeys {
        /// Number of heads.
        heads: usize,
    },
    /// [`Op::Attention`] in integers, without a causal mask: `q [b, queries.., heads*d]` and the output of
    /// [`QuantizeKeys`](PreparedOp::QuantizeKeys) → like `q`.
    QuantizedAttention {
        /// Number of heads.
        heads: usize,
        /// Keys of each image or prompt.
        keys: usize,
    },
}

/// A graph in the form that backends execute.
pub type PreparedGraph = Graph<PreparedOp>;

/// A node of a [`PreparedGraph`].
pub type PreparedNode = Node<PreparedOp>;

impl Operation for PreparedOp {
    fn name(&self) -> &'static str {
        match self {
            PreparedOp::Model(op) => op.name(),
            PreparedOp::Quantize { .. } => "quantize",
            PreparedOp::ThenQuantize { op, .. } => op.name_then_quantize(),
            PreparedOp::UpsampleQuantized { .. } => "upsample bytes",
            PreparedOp::QuantizeKeys { .. } => "quantize keys",
            PreparedOp::QuantizedAttention { .. } => "attention",
        }
    }

    fn multiply_adds_each(&self, operands: Operands<'_>) -> usize {
        match self {
            PreparedOp::Model(op) => op.multiply_adds_each(operands),
            PreparedOp::QuantizedAttention { keys, .. } => attention_multiply_adds(*keys),
            PreparedOp::Quantize { .. }
            | PreparedOp::ThenQuantize { .. }
            | PreparedOp::UpsampleQuantized { .. }
            | PreparedOp::QuantizeKeys { .. } => 0,
        }
    }
}

impl PreparedOp {
    /// If the output is rows of bytes: the channels of each of the tensors that the rows were concatenated
    /// from.
    pub fn quantized_inputs(&self) -> Option<&[usize]> {
        match self {
            PreparedOp::Quantize { inputs }
            | PreparedOp::ThenQuantize { inputs, .. }
            | PreparedOp::UpsampleQuantized { inputs, .. } => Some(inputs),
            PreparedOp::Model(_)
            | PreparedOp::QuantizeKeys { .. }
            | PreparedOp::QuantizedAttention { .. } => None,
        }
    }

    /// The weight of a matrix product or convolution.
    pub fn product_weight(&self) -> Option<super::WeightId> {
        match self {
            PreparedOp::Model(Op::Linear { weight, .. } | Op::Conv2d { weight, .. }) => Some(*weight),
            _ => None,
        }
    }
}

impl PreparedGraph {
    /// Whether `tensor` is rows of bytes.
    pub fn is_bytes(&self, tensor: TensorId) -> bool {
        self.nodes.iter().any(|node| node.output == tensor && node.op.quantized_inputs().is_some())
    }

    /// Whether a node multiplies integers.
    pub fn is_integer(&self, node: &PreparedNode) -> bool {
        match node.op {
            PreparedOp::QuantizedAttention { .. } => true,
            PreparedOp::Model(Op::Linear { .. } | Op::Conv2d { .. }) => self.is_bytes(node.inputs[0]),
            _ => false,
        }
    }
}
