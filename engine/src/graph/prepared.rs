//! The ops that backends execute: those of models, and those that the passes put into a graph.

use super::{
    Graph, Node, Op, RowOp, TensorId,
    op::{Operands, Operation, attention_multiply_adds},
};

/// What a node of a prepared graph computes. Only [`quantize_inputs`](super::quantize_inputs) writes the ops that are not a
/// model's.
///
/// A product of a model reads rows of bytes as its first input where its weight is integers.
#[derive(Clone, Debug, PartialEq)]
pub enum PreparedOp {
    /// An op as the model wrote it.
    Model(Op),
    /// Rounds rows to bytes, the left operand of products with integer weights: `x [.., channels]` → rows of as many f32
    /// as the layout of quantized rows takes.
    Quantize {
        /// Channels of each of the tensors that the input was joined from, or all of them.
        inputs: Vec<usize>,
    },
    /// A row op, and [`Quantize`](PreparedOp::Quantize) of each row as it is made.
    ThenQuantize {
        /// What makes the rows.
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
    /// Rounds keys and values to integers: `k, v [b, keys.., heads*d]` → `[b, heads, n]` with the `n` f32 that the
    /// keys and values of a head take in the backend's layout.
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

/// A graph as backends execute it.
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
    /// If the output is rows of bytes: the channels of each of the tensors that the rows were joined from.
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
