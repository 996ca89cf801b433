//! A model as data: tensors, weights and the ops between them, before any backend sees it.
//!
//! Models append ops through [`GraphBuilder`]; [`GraphBuilder::finish`] fuses what can be fused; a
//! [`plan::Plan`] then gives every intermediate its place in one arena. Shapes are fixed, so all of it happens
//! once per (model, size, batch) and a denoising step only runs the list.

mod build;
mod fuse;
mod op;
pub mod plan;
mod quantize;

pub use build::GraphBuilder;
pub use op::{Activation, Op, Padding, Window};
pub use quantize::quantize_inputs;

use sdq_formats::WeightSpec;

/// Index of a tensor in [`Graph::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub(crate) usize);

/// Index of a weight in [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub(crate) usize);

/// An op with what it reads and the one tensor it writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// What it reads, in the order documented at the op.
    pub inputs: Vec<TensorId>,
    /// What it writes. No tensor is written twice.
    pub output: TensorId,
}

/// A tensor that crosses the graph's border.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name by which a caller sets or reads it.
    pub name: String,
    /// The tensor.
    pub tensor: TensorId,
}

/// A finished graph: ops in the order in which they run.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Shape of every tensor, channels last: `[batch, height, width, channels]` or `[batch, tokens, channels]`.
    pub tensors: Vec<Vec<usize>>,
    /// Ops in execution order.
    pub nodes: Vec<Node>,
    /// What the caller provides. All values are f32.
    pub inputs: Vec<Port>,
    /// What the caller reads.
    pub outputs: Vec<Port>,
    /// Every weight, each once, in the order of first use.
    pub weights: Vec<WeightSpec>,
}

impl Graph {
    /// Shape of `tensor`.
    pub fn shape(&self, tensor: TensorId) -> &[usize] {
        &self.tensors[tensor.0]
    }

    /// Number of f32 elements of `tensor`.
    pub fn elements(&self, tensor: TensorId) -> usize {
        self.shape(tensor).iter().product()
    }

    /// The weight behind `id`.
    pub fn weight(&self, id: WeightId) -> &WeightSpec {
        &self.weights[id.0]
    }
}
