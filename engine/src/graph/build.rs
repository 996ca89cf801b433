//! Building of graphs: ops compute their output shapes, and a model's weights are declared while it is built.
//!
//! Shapes come from checked configs and sizes, so a mismatch is a bug of a model definition and panics.

use sdq_formats::{WeightRole, WeightSpec};

use super::{Activation, Graph, Node, Op, Operands, Port, RowOp, TensorId, WeightId, Window, fuse};

/// A graph under construction.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    tensors: Vec<Vec<usize>>,
    /// For every tensor, the channels of the tensors that it was concatenated from; empty for other tensors.
    joined: Vec<Vec<usize>>,
    nodes: Vec<Node>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    kept: Vec<Port>,
    weights: Vec<WeightSpec>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> GraphBuilder {
        GraphBuilder::default()
    }

    /// Shape of `tensor`.
    pub fn shape(&self, tensor: TensorId) -> &[usize] {
        &self.tensors[tensor.0]
    }

    /// Size of the last axis of `tensor`.
    pub fn channels(&self, tensor: TensorId) -> usize {
        *self.shape(tensor).last().expect("no model makes a tensor without axes")
    }

    /// Height and width of `tensor [batch, height, width, channels]`.
    pub fn size(&self, tensor: TensorId) -> (usize, usize) {
        let shape = self.shape(tensor);
        assert_eq!(shape.len(), 4, "a picture has four axes");
        (shape[1], shape[2])
    }

    /// Declares a tensor that the caller sets before running.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> TensorId {
        let tensor = self.tensor(shape.to_vec());
        self.inputs.push(Port { name: name.to_owned(), tensor });
        tensor
    }

    /// Declares that the caller reads `tensor` under `name`.
    pub fn output(&mut self, name: &str, tensor: TensorId) {
        self.outputs.push(Port { name: name.to_owned(), tensor });
    }

    /// Declares that `tensor` is kept from run to run under `name`.
    pub fn keep(&mut self, name: &str, tensor: TensorId) {
        self.kept.push(Port { name: name.to_owned(), tensor });
    }

    /// Fuses the ops and finishes the graph.
    pub fn finish(self) -> Graph {
        let GraphBuilder { tensors, nodes, inputs, outputs, kept, weights, .. } = self;
        fuse::fold_adds(Graph { tensors, nodes, inputs, outputs, kept, weights })
    }

    /// [`Op::Embedding`] of `ids [batch, tokens]`, with rows of `words` past the vocabulary.
    pub fn embedding(
        &mut self,
        (tokens, vocabulary): (&str, usize),
        (positions, length): (&str, usize),
        width: usize,
        (ids, words): (TensorId, Option<TensorId>),
    ) -> TensorId {
        let tokens = self.weight(WeightSpec::new(tokens, WeightRole::Table, &[vocabulary, width]));
        let positions = self.weight(WeightSpec::new(positions, WeightRole::Table, &[length, width]));
        let inputs: Vec<TensorId> = std::iter::once(ids).chain(words).collect();
        self.push(Op::Embedding { tokens, positions }, &inputs)
    }

    /// [`Op::Linear`] with the weights `{name}.weight` and, if `bias`, `{name}.bias`.
    pub fn linear(&mut self, name: &str, x: TensorId, out_features: usize, bias: bool) -> TensorId {
        let in_features = self.channels(x);
        let weight = self.product_weight(name, WeightRole::Matrix, &[out_features, in_features], x);
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), out_features));
        self.push(Op::Linear { weight, bias, residual: false }, &[x])
    }

    /// [`Op::Conv2d`] with the weights `{name}.weight` and `{name}.bias`.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: TensorId,
        out_channels: usize,
        window: Window,
        channel_bias: Option<TensorId>,
    ) -> TensorId {
        let weight = self.conv2d_weight(name, x, out_channels, window);
        let bias = Some(self.vector(&format!("{name}.bias"), out_channels));
        self.push_conv2d(x, (weight, bias), window, channel_bias)
    }

    /// [`Op::Conv2d`] with the weight `{name}.weight` and no bias.
    pub fn conv2d_without_bias(
        &mut self,
        name: &str,
        x: TensorId,
        out_channels: usize,
        window: Window,
    ) -> TensorId {
        let weight = self.conv2d_weight(name, x, out_channels, window);
        self.push_conv2d(x, (weight, None), window, None)
    }

    fn conv2d_weight(&mut self, name: &str, x: TensorId, out_channels: usize, window: Window) -> WeightId {
        let in_channels = self.channels(x);
        match window.kernel {
            1 => self.product_weight(name, WeightRole::Matrix, &[out_channels, in_channels], x),
            side => self.product_weight(name, WeightRole::Conv, &[out_channels, in_channels, side, side], x),
        }
    }

    fn push_conv2d(
        &mut self,
        x: TensorId,
        (weight, bias): (WeightId, Option<WeightId>),
        window: Window,
        channel_bias: Option<TensorId>,
    ) -> TensorId {
        let inputs: Vec<TensorId> = std::iter::once(x).chain(channel_bias).collect();
        let op = Op::Conv2d { weight, bias, window, channel_bias: channel_bias.is_some(), residual: false };
        self.push(op, &inputs)
    }

    /// [`RowOp::GroupNorm`] with the weights `{name}.weight` and `{name}.bias`.
    pub fn group_norm(&mut self, name: &str, x: TensorId, groups: usize, eps: f32, silu: bool) -> TensorId {
        let (weight, bias) = self.norm_weights(name, self.channels(x));
        let op = RowOp::GroupNorm { weight, bias, groups, eps, silu, given: false };
        let output = self.push(Op::Rows(op), &[x]);
        // The scales are per group and channel, so the concatenated inputs keep their ranges.
        self.joined[output.0] = self.joined[x.0].clone();
        output
    }

    /// [`RowOp::LayerNorm`] with the weights `{name}.weight` and `{name}.bias`.
    pub fn layer_norm(&mut self, name: &str, x: TensorId, eps: f32) -> TensorId {
        let (weight, bias) = self.norm_weights(name, self.channels(x));
        self.push(Op::Rows(RowOp::LayerNorm { weight, bias, eps }), &[x])
    }

    /// [`Op::Attention`].
    pub fn attention(
        &mut self,
        q: TensorId,
        k: TensorId,
        v: TensorId,
        heads: usize,
        causal: bool,
    ) -> TensorId {
        self.push(Op::Attention { heads, causal }, &[q, k, v])
    }

    /// [`Op::Activation`].
    pub fn activation(&mut self, kind: Activation, x: TensorId) -> TensorId {
        self.push(Op::Activation(kind), &[x])
    }

    /// [`Op::Affine`].
    pub fn affine(&mut self, scale: f32, shift: f32, x: TensorId) -> TensorId {
        self.push(Op::Affine { scale, shift }, &[x])
    }

    /// [`RowOp::Geglu`].
    pub fn geglu(&mut self, x: TensorId) -> TensorId {
        self.push(Op::Rows(RowOp::Geglu), &[x])
    }

    /// [`Op::Add`].
    pub fn add(&mut self, a: TensorId, b: TensorId) -> TensorId {
        self.push(Op::Add, &[a, b])
    }

    /// [`Op::Concat`].
    pub fn concat(&mut self, a: TensorId, b: TensorId) -> TensorId {
        let joined = [a, b].map(|tensor| match self.joined[tensor.0].as_slice() {
            [] => vec![self.channels(tensor)],
            parts => parts.to_vec(),
        });
        let output = self.push(Op::Concat, &[a, b]);
        self.joined[output.0] = joined.concat();
        output
    }

    /// [`Op::UpsampleNearest`].
    pub fn upsample_nearest(&mut self, x: TensorId, (height, width): (usize, usize)) -> TensorId {
        self.push(Op::UpsampleNearest { height, width }, &[x])
    }

    fn norm_weights(&mut self, name: &str, channels: usize) -> (WeightId, WeightId) {
        (self.vector(&format!("{name}.weight"), channels), self.vector(&format!("{name}.bias"), channels))
    }

    fn vector(&mut self, name: &str, length: usize) -> WeightId {
        self.weight(WeightSpec::new(name, WeightRole::Vector, &[length]))
    }

    /// The weight of a product with `x`.
    fn product_weight(&mut self, name: &str, role: WeightRole, shape: &[usize], x: TensorId) -> WeightId {
        let spec = WeightSpec::new(format!("{name}.weight"), role, shape);
        self.weight(WeightSpec { inputs: self.joined[x.0].clone(), ..spec })
    }

    fn weight(&mut self, spec: WeightSpec) -> WeightId {
        self.weights.push(spec);
        WeightId(self.weights.len() - 1)
    }

    fn tensor(&mut self, shape: Vec<usize>) -> TensorId {
        self.tensors.push(shape);
        self.joined.push(Vec::new());
        TensorId(self.tensors.len() - 1)
    }

    fn push(&mut self, op: Op, inputs: &[TensorId]) -> TensorId {
        let operands = Operands { tensors: &self.tensors, inputs, weights: &self.weights };
        let shape = op.output_shape(operands);
        let output = self.tensor(shape);
        self.nodes.push(Node { op, inputs: inputs.to_vec(), output });
        output
    }
}
