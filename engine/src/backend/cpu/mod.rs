//! The CPU backend: runs a planned graph op after op, every kernel spread over one thread pool.

mod arena;
mod bind;
mod embedding;
pub mod kernels;
pub mod pool;
pub mod simd;

use std::{num::NonZeroUsize, sync::Arc};

use sdq_formats::sdq::Component;

use super::{Backend, Executable};
use crate::{
    Error,
    graph::{ActivationKind, Graph, Node, Op, Port, TensorId, plan::Plan},
};
use arena::Arena;
use bind::BoundWeights;
use kernels::{Activation, AttentionShape, ConvShape, Epilogue, UpsampleShape};
use pool::Pool;

/// The processor this program runs on.
#[derive(Clone, Debug)]
pub struct CpuBackend {
    pool: Arc<Pool>,
}

impl CpuBackend {
    /// Starts `threads` workers, by default one per core. Results do not depend on their number.
    ///
    /// # Errors
    /// When the system refuses the threads.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<CpuBackend, Error> {
        Ok(CpuBackend { pool: Arc::new(Pool::new(threads)?) })
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        format!("cpu, {}, {} threads", self.pool.isa().name(), self.pool.threads())
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        component: &Component<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        let weights = BoundWeights::new(&graph.weights, component)?;
        let plan = Plan::new(&graph);
        let arena = Arena::new(plan.elements())?;
        Ok(Box::new(CpuExecutable { pool: self.pool.clone(), graph, plan, weights, arena }))
    }
}

struct CpuExecutable<'w> {
    pool: Arc<Pool>,
    graph: Graph,
    plan: Plan,
    weights: BoundWeights<'w>,
    arena: Arena,
}

impl Executable for CpuExecutable<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        let tensor = find(&self.graph.inputs, name);
        self.arena.values_mut(self.plan.range(tensor.0)).copy_from_slice(values);
    }

    fn run(&mut self) {
        for node in &self.graph.nodes {
            let inputs = node.inputs.iter().map(|tensor| self.plan.range(tensor.0));
            let (out, inputs) = self.arena.split(self.plan.range(node.output.0), inputs);
            let step = Step { pool: &self.pool, graph: &self.graph, weights: &self.weights, node };
            step.run(&inputs, out);
        }
    }

    fn output(&self, name: &str) -> &[f32] {
        self.arena.values(self.plan.range(find(&self.graph.outputs, name).0))
    }

    fn output_names(&self) -> Vec<String> {
        self.graph.outputs.iter().map(|port| port.name.clone()).collect()
    }

    fn arena_bytes(&self) -> usize {
        self.plan.elements() * size_of::<f32>()
    }
}

fn find(ports: &[Port], name: &str) -> TensorId {
    let port = ports.iter().find(|port| port.name == name);
    port.unwrap_or_else(|| panic!("the graph has no input or output `{name}`")).tensor
}

/// One node on its way into a kernel.
struct Step<'a> {
    pool: &'a Pool,
    graph: &'a Graph,
    weights: &'a BoundWeights<'a>,
    node: &'a Node,
}

impl Step<'_> {
    fn run(&self, inputs: &[&[f32]], out: &mut [f32]) {
        let Step { pool, weights, node, .. } = *self;
        let x = inputs[0];
        match &node.op {
            Op::Embedding { tokens, positions } => {
                let [_, length, _] = self.shape(node.output) else {
                    unreachable!("the builder made three axes")
                };
                embedding::lookup(x, weights.table(*tokens), weights.table(*positions), *length, out);
            }
            Op::Linear { weight, bias, residual } => {
                let epilogue = Epilogue {
                    bias: bias.map(|bias| weights.vector(bias)),
                    residual: residual.then(|| inputs[1]),
                    ..Epilogue::default()
                };
                let rows = self.rows(node.output);
                kernels::matmul(pool, x, &weights.matrix(*weight), rows, &epilogue, out);
            }
            Op::Conv2d { .. } => self.conv2d(inputs, out),
            Op::GroupNorm { weight, bias, groups, eps, silu } => {
                let batch = self.shape(node.output)[0];
                let (weight, bias) = (weights.vector(*weight), weights.vector(*bias));
                let activation = silu.then_some(Activation::Silu);
                kernels::group_norm(pool, x, batch, *groups, *eps, weight, bias, activation, out);
            }
            Op::LayerNorm { weight, bias, eps } => {
                kernels::layer_norm(pool, x, *eps, weights.vector(*weight), weights.vector(*bias), out);
            }
            Op::Attention { heads, causal } => {
                let shape = self.attention_shape(*heads, *causal);
                kernels::attention(pool, x, inputs[1], inputs[2], &shape, out);
            }
            Op::Activation(kind) => kernels::activation(pool, activation(*kind), x, out),
            Op::Geglu => kernels::geglu(pool, x, self.channels(node.output), out),
            Op::Add => kernels::add(pool, x, inputs[1], out),
            Op::Concat => {
                let [a, b] = [self.channels(node.inputs[0]), self.channels(node.inputs[1])];
                kernels::concat_channels(pool, x, a, inputs[1], b, out);
            }
            Op::UpsampleNearest { height, width } => {
                let [batch, in_height, in_width, channels] = *self.shape(node.inputs[0]) else {
                    unreachable!("the builder made a picture")
                };
                let (out_height, out_width) = (*height, *width);
                let shape = UpsampleShape { batch, in_height, in_width, out_height, out_width, channels };
                kernels::upsample_nearest(pool, x, &shape, out);
            }
        }
    }

    fn conv2d(&self, inputs: &[&[f32]], out: &mut [f32]) {
        let Op::Conv2d { weight, bias, window, channel_bias, residual } = self.node.op else {
            unreachable!("called for convolutions")
        };
        let [batch, in_height, in_width, in_channels] = *self.shape(self.node.inputs[0]) else {
            unreachable!("the builder made a picture")
        };
        let [_, out_height, out_width, _] = *self.shape(self.node.output) else {
            unreachable!("the builder made a picture")
        };
        let mut extra = inputs[1..].iter().copied();
        let epilogue = Epilogue {
            bias: bias.map(|bias| self.weights.vector(bias)),
            channel_bias: channel_bias.then(|| extra.next()).flatten(),
            residual: residual.then(|| extra.next()).flatten(),
            ..Epilogue::default()
        };
        let shape = ConvShape {
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
        };
        kernels::conv2d(self.pool, inputs[0], &shape, &self.weights.matrix(weight), &epilogue, out);
    }

    fn attention_shape(&self, heads: usize, causal: bool) -> AttentionShape {
        let [q, k] = [self.shape(self.node.inputs[0]), self.shape(self.node.inputs[1])];
        let tokens = |shape: &[usize]| shape[1..shape.len() - 1].iter().product();
        let head_dim = self.channels(self.node.output) / heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionShape { batch: q[0], heads, queries: tokens(q), keys: tokens(k), head_dim, causal, scale }
    }

    fn shape(&self, tensor: TensorId) -> &[usize] {
        self.graph.shape(tensor)
    }

    fn channels(&self, tensor: TensorId) -> usize {
        self.shape(tensor)[self.shape(tensor).len() - 1]
    }

    fn rows(&self, tensor: TensorId) -> usize {
        self.graph.elements(tensor) / self.channels(tensor)
    }
}

fn activation(kind: ActivationKind) -> Activation {
    match kind {
        ActivationKind::Silu => Activation::Silu,
        ActivationKind::QuickGelu => Activation::QuickGelu,
        ActivationKind::Gelu => Activation::Gelu,
        ActivationKind::GeluTanh => Activation::GeluTanh,
    }
}
