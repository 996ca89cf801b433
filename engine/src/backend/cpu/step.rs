//! Maps each op to a call of a kernel.

use std::collections::HashMap;

use super::{
    bind::{BoundWeights, Product},
    embedding,
    kernels::{self, AttentionShape, ConvShape, Epilogue, RowOutput, ScratchUse, UpsampleShape},
    pool::Pool,
};
use crate::backend::row_layout::RowLayout;
use crate::graph::{
    Activation, Op, PreparedGraph, PreparedNode, PreparedOp, RowOp, TensorId, WeightId, Window,
};

/// One node and the context in which its kernel runs.
pub(super) struct Step<'a> {
    pub(super) pool: &'a Pool,
    pub(super) graph: &'a PreparedGraph,
    pub(super) weights: &'a BoundWeights<'a>,
    /// The layout of every tensor of bytes.
    pub(super) layouts: &'a HashMap<TensorId, RowLayout>,
    pub(super) node: &'a PreparedNode,
}

impl Step<'_> {
    /// Runs the node; `inputs` are in the op's order.
    pub(super) fn run(&self, inputs: &[&[f32]], out: &mut [f32]) {
        let pool = self.pool;
        let x = inputs[0];
        match &self.node.op {
            PreparedOp::Model(op) => self.run_model(op, inputs, out),
            PreparedOp::ThenQuantize { op, .. } => {
                self.make_rows(op, inputs, RowOutput::Bytes(self.layout(), out));
            }
            PreparedOp::Quantize { .. } => kernels::quantize_rows(pool, x, self.layout(), out),
            PreparedOp::UpsampleQuantized { .. } => {
                let small = self.node.inputs[0];
                let size = |tensor| self.elements_of_bytes(tensor);
                let (values, factors) = x.split_at(size(small));
                let (out_values, out_factors) = out.split_at_mut(size(self.node.output));
                for (x, out) in [(values, out_values), (factors, out_factors)] {
                    let channels = x.len() / self.rows(small);
                    kernels::upsample_nearest(pool, x, &self.upsampling(channels), out);
                }
            }
            PreparedOp::QuantizedAttention { heads, keys } => {
                kernels::attention_i8i16(pool, x, inputs[1], &self.attention_shape(*heads, *keys), out);
            }
            PreparedOp::QuantizeKeys { heads } => {
                kernels::quantize_keys(pool, x, inputs[1], &self.key_shape(*heads), out);
            }
        }
    }

    /// Runs an op that models write.
    fn run_model(&self, op: &Op, inputs: &[&[f32]], out: &mut [f32]) {
        let Step { pool, weights, node, .. } = *self;
        let x = inputs[0];
        match op {
            Op::Rows(op) => self.make_rows(op, inputs, RowOutput::Floats(out)),
            Op::Embedding { tokens, positions } => {
                let length = self.shape(node.output)[1];
                let words = inputs.get(1).copied().unwrap_or_default();
                embedding::lookup(x, (weights.table(*tokens), words), weights.table(*positions), length, out);
            }
            Op::Linear { weight, bias, residual } => {
                let epilogue = Epilogue {
                    bias: bias.map(|bias| weights.vector(bias)),
                    residual: residual.then(|| inputs[1]),
                    ..Epilogue::default()
                };
                self.linear(x, *weight, &epilogue, out);
            }
            Op::Conv2d { weight, bias, window, channel_bias, residual } => {
                let mut extra = inputs[1..].iter().copied();
                let epilogue = Epilogue {
                    bias: bias.map(|bias| weights.vector(bias)),
                    channel_bias: channel_bias.then(|| extra.next()).flatten(),
                    residual: residual.then(|| extra.next()).flatten(),
                };
                self.conv2d(x, *weight, window, &epilogue, out);
            }
            Op::GroupSums { rows, .. } => {
                let [batch, height, width, channels] = self.picture(node.inputs[0]);
                assert_eq!(batch, 1, "strips are cut from one picture");
                assert!(rows.end <= height, "rows of the picture");
                let x = &x[rows.start * width * channels..rows.end * width * channels];
                kernels::group_sums(pool, x, width, channels, inputs[1], out);
            }
            Op::Attention { heads, causal } => {
                let keys = self.tokens(node.inputs[1]);
                let shape = AttentionShape { causal: *causal, ..self.attention_shape(*heads, keys) };
                kernels::attention(pool, x, inputs[1], inputs[2], &shape, out);
            }
            Op::Activation(kind) => kernels::activation(pool, *kind, x, out),
            Op::Affine { scale, shift } => kernels::affine(pool, *scale, *shift, x, out),
            Op::Add => kernels::add(pool, x, inputs[1], out),
            Op::Concat => {
                let [a, b] = [self.channels(node.inputs[0]), self.channels(node.inputs[1])];
                kernels::concat_channels(pool, x, a, inputs[1], b, out);
            }
            Op::UpsampleNearest { .. } => {
                let shape = self.upsampling(self.channels(node.output));
                kernels::upsample_nearest(pool, x, &shape, out);
            }
        }
    }

    /// Runs an op whose output rows may be rounded as they are computed.
    fn make_rows(&self, op: &RowOp, inputs: &[&[f32]], out: RowOutput<'_>) {
        let Step { pool, weights, node, .. } = *self;
        let x = inputs[0];
        match op {
            RowOp::GroupNorm { weight, bias, groups, eps, silu, given } => {
                let shape = self.shape(node.output);
                let (batch, row_pixels) = (shape[0], shape[shape.len() - 2]);
                let (gamma, beta) = (weights.vector(*weight), weights.vector(*bias));
                let (groups, eps, activation) = (*groups, *eps, silu.then_some(Activation::Silu));
                if *given {
                    kernels::group_norm_with(pool, x, inputs[1], groups, eps, gamma, beta, activation, out);
                } else {
                    kernels::group_norm(
                        pool, x, batch, row_pixels, groups, eps, gamma, beta, activation, out,
                    );
                }
            }
            RowOp::LayerNorm { weight, bias, eps } => {
                kernels::layer_norm(pool, x, *eps, weights.vector(*weight), weights.vector(*bias), out);
            }
            RowOp::Geglu => kernels::geglu(pool, x, self.channels(node.inputs[0]) / 2, out),
        }
    }

    /// Working memory of the node's kernel.
    pub(super) fn scratch(&self) -> ScratchUse {
        match &self.node.op {
            PreparedOp::Model(op) => self.model_scratch(op),
            PreparedOp::ThenQuantize { op, .. } => {
                self.rows_scratch(op).plus(kernels::row_output_scratch(self.layout().channels()))
            }
            PreparedOp::Quantize { .. } => kernels::row_output_scratch(self.layout().channels()),
            PreparedOp::UpsampleQuantized { .. } => ScratchUse::default(),
            PreparedOp::QuantizeKeys { heads } => kernels::quantize_keys_scratch(&self.key_shape(*heads)),
            PreparedOp::QuantizedAttention { heads, keys } => {
                kernels::attention_i8i16_scratch(self.pool, &self.attention_shape(*heads, *keys))
            }
        }
    }

    fn model_scratch(&self, op: &Op) -> ScratchUse {
        let rows = self.rows(self.node.output);
        match op {
            Op::Linear { weight, .. } => match self.weights.product(*weight) {
                Product::Float(weight) => kernels::gemm_scratch(self.pool, rows, weight.n(), weight.k()),
                Product::Integer(weight) => kernels::matmul_u8s8_scratch(self.pool, rows, weight),
            },
            Op::Conv2d { weight, window, .. } => match self.weights.product(*weight) {
                Product::Float(weight) => kernels::gemm_scratch(self.pool, rows, weight.n(), weight.k()),
                Product::Integer(weight) => {
                    let shape = self.conv_shape(window, weight.channels());
                    kernels::conv2d_u8s8_scratch(self.pool, &shape, weight)
                }
            },
            Op::Rows(op) => self.rows_scratch(op),
            Op::GroupSums { groups, .. } => self.group_scratch(*groups),
            Op::Attention { heads, .. } => {
                let keys = self.tokens(self.node.inputs[1]);
                kernels::attention_scratch(self.pool, &self.attention_shape(*heads, keys))
            }
            Op::Embedding { .. }
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::Add
            | Op::Concat
            | Op::UpsampleNearest { .. } => ScratchUse::default(),
        }
    }

    fn rows_scratch(&self, op: &RowOp) -> ScratchUse {
        match op {
            RowOp::GroupNorm { groups, .. } => self.group_scratch(*groups),
            RowOp::LayerNorm { .. } | RowOp::Geglu => ScratchUse::default(),
        }
    }

    fn group_scratch(&self, groups: usize) -> ScratchUse {
        let shape = self.shape(self.node.inputs[0]);
        let rows = shape[1..shape.len() - 2].iter().product();
        kernels::group_norm_scratch(shape[0], rows, shape[shape.len() - 1], groups)
    }

    /// Whether the node is a convolution that uses Winograd's algorithm.
    pub(super) fn is_winograd(&self) -> bool {
        match self.node.op {
            PreparedOp::Model(Op::Conv2d { weight, ref window, .. }) => match self.weights.product(weight) {
                Product::Integer(weight) => {
                    kernels::is_winograd(&self.conv_shape(window, weight.channels()), weight)
                }
                Product::Float(_) => false,
            },
            _ => false,
        }
    }

    fn linear(&self, x: &[f32], weight: WeightId, epilogue: &Epilogue, out: &mut [f32]) {
        let rows = self.rows(self.node.output);
        match self.weights.product(weight) {
            Product::Float(weight) => kernels::matmul(self.pool, x, weight, rows, epilogue, out),
            Product::Integer(weight) => kernels::matmul_u8s8(self.pool, x, weight, rows, epilogue, out),
        }
    }

    fn conv2d(&self, x: &[f32], weight: WeightId, window: &Window, epilogue: &Epilogue, out: &mut [f32]) {
        match self.weights.product(weight) {
            Product::Float(weight) => {
                let shape = self.conv_shape(window, self.channels(self.node.inputs[0]));
                kernels::conv2d(self.pool, x, &shape, weight, epilogue, out);
            }
            Product::Integer(weight) => {
                let shape = self.conv_shape(window, weight.channels());
                kernels::conv2d_u8s8(self.pool, x, &shape, weight, epilogue, out);
            }
        }
    }

    /// The layout of the rows that the node writes as bytes.
    fn layout(&self) -> &RowLayout {
        &self.layouts[&self.node.output]
    }

    /// The number of f32 that hold the bytes of a quantized tensor's rows; their factors follow.
    fn elements_of_bytes(&self, tensor: TensorId) -> usize {
        self.rows(tensor) * self.layout().width() / size_of::<f32>()
    }

    /// The shape of the node's upsampling, with `channels` channels.
    fn upsampling(&self, channels: usize) -> UpsampleShape {
        let [batch, in_height, in_width, _] = self.picture(self.node.inputs[0]);
        let [_, out_height, out_width, _] = self.picture(self.node.output);
        UpsampleShape { batch, in_height, in_width, out_height, out_width, channels }
    }

    /// The geometry of a convolution whose input has `in_channels`, which the shape of a quantized tensor
    /// does not give.
    fn conv_shape(&self, window: &Window, in_channels: usize) -> ConvShape {
        let [batch, in_height, in_width, _] = self.picture(self.node.inputs[0]);
        let [_, out_height, out_width, _] = self.picture(self.node.output);
        ConvShape {
            batch,
            in_height,
            in_width,
            in_channels,
            out_height,
            out_width,
            kernel: (window.kernel, window.kernel),
            stride: window.stride,
            pad_top: window.padding.top,
            pad_left: window.padding.left,
        }
    }

    /// The shape of an attention, not causal, whose queries are the first input, with `keys` keys.
    fn attention_shape(&self, heads: usize, keys: usize) -> AttentionShape {
        let q = self.node.inputs[0];
        let head_dim = self.channels(q) / heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (batch, queries) = (self.shape(q)[0], self.tokens(q));
        AttentionShape { batch, heads, queries, keys, head_dim, causal: false, scale }
    }

    /// The shape of an attention whose keys are the first input.
    fn key_shape(&self, heads: usize) -> AttentionShape {
        self.attention_shape(heads, self.tokens(self.node.inputs[0]))
    }

    fn tokens(&self, tensor: TensorId) -> usize {
        let shape = self.shape(tensor);
        shape[1..shape.len() - 1].iter().product()
    }

    fn shape(&self, tensor: TensorId) -> &[usize] {
        self.graph.shape(tensor)
    }

    /// Batch, height, width and channels.
    fn picture(&self, tensor: TensorId) -> [usize; 4] {
        self.shape(tensor).try_into().expect("the builder gives pictures four axes")
    }

    fn channels(&self, tensor: TensorId) -> usize {
        self.shape(tensor)[self.shape(tensor).len() - 1]
    }

    fn rows(&self, tensor: TensorId) -> usize {
        self.graph.elements(tensor) / self.channels(tensor)
    }
}
