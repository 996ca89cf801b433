//! A model as data: tensors, weights and the ops between them, independent of backends.
//!
//! There are two levels of ops. Models append ops one at a time through [`GraphBuilder`], and
//! [`GraphBuilder::finish`] folds sums into products; a graph can be cut into strips, which are graphs of the
//! same level. A backend executes [`PreparedOp`]s: passes add low-rank branches ([`add_branches`]) and
//! rounding to integers ([`quantize_inputs`]), and a [`plan::Plan`] gives every intermediate its place in one
//! arena. Shapes are fixed, so all of it happens once per (model, size, batch) and a denoising step only runs
//! the list.

mod build;
mod fuse;
mod low_rank;
mod op;
pub mod plan;
mod prepared;
mod quantize;
mod statistics;
pub mod strips;

pub use build::GraphBuilder;
pub use low_rank::{Branch, add_branches};
pub use op::{Activation, Op, Operands, Operation, Padding, RowOp, Window};
pub use prepared::{PreparedGraph, PreparedNode, PreparedOp};
pub use quantize::{IntegerLayouts, quantize_inputs};
pub use statistics::{GroupSums, PAIR_VALUES, Statistics};

use sdq_formats::WeightSpec;

/// The number of multiply-adds that take about as long as one element of an op that mostly moves memory.
pub(crate) const ELEMENT_WORK: usize = 16;

/// Index of a tensor in [`Graph::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub(crate) usize);

/// Index of a weight in [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub(crate) usize);

/// An op with its inputs and its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<O = Op> {
    /// The computation.
    pub op: O,
    /// The inputs, in the order documented at the op.
    pub inputs: Vec<TensorId>,
    /// The output. No tensor is written twice.
    pub output: TensorId,
}

/// A tensor that a caller sets or reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name by which a caller sets or reads it.
    pub name: String,
    /// The tensor.
    pub tensor: TensorId,
}

/// A finished graph: ops in the order in which they run. `O` is the level of the ops.
#[derive(Clone, Debug)]
pub struct Graph<O = Op> {
    /// Shape of every tensor, channels last: `[batch, height, width, channels]` or `[batch, tokens, channels]`.
    pub tensors: Vec<Vec<usize>>,
    /// Ops in execution order.
    pub nodes: Vec<Node<O>>,
    /// Tensors that the caller sets. All values are f32.
    pub inputs: Vec<Port>,
    /// Tensors that the caller reads.
    pub outputs: Vec<Port>,
    /// Tensors that are kept after a run, so that the next run can leave out the nodes that compute them.
    pub kept: Vec<Port>,
    /// Every weight, each once, in the order of first use.
    pub weights: Vec<WeightSpec>,
}

impl<O> Graph<O> {
    /// Shape of `tensor`.
    pub fn shape(&self, tensor: TensorId) -> &[usize] {
        &self.tensors[tensor.0]
    }

    /// Number of f32 elements of `tensor`.
    pub fn elements(&self, tensor: TensorId) -> usize {
        self.shape(tensor).iter().product()
    }

    /// For every node, whether the outputs need it when the kept tensors are already computed.
    pub fn needed_beside_kept(&self) -> Vec<bool> {
        let mut needed = vec![false; self.tensors.len()];
        self.outputs.iter().for_each(|port| needed[port.tensor.0] = true);
        let mut nodes = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let given = self.kept.iter().any(|port| port.tensor == node.output);
            nodes[index] = needed[node.output.0] && !given;
            if nodes[index] {
                node.inputs.iter().for_each(|input| needed[input.0] = true);
            }
        }
        nodes
    }

    /// Size of the description itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let shapes = self.tensors.iter().map(|shape| size_of::<Vec<usize>>() + size_of_val(shape.as_slice()));
        let nodes = self.nodes.iter().map(|node| size_of::<Node<O>>() + size_of_val(node.inputs.as_slice()));
        let ports = self.inputs.iter().chain(&self.outputs).chain(&self.kept);
        let ports = ports.map(|port| size_of::<Port>() + port.name.len());
        let weights = self.weights.iter().map(|weight| {
            let lists = size_of_val(weight.shape.as_slice()) + size_of_val(weight.inputs.as_slice());
            size_of::<WeightSpec>() + weight.name.len() + lists
        });
        shapes.sum::<usize>() + nodes.sum::<usize>() + ports.sum::<usize>() + weights.sum::<usize>()
    }

    /// Elements that a node processes: the larger of its output and its inputs.
    pub fn elements_passed(&self, node: &Node<O>) -> usize {
        let read = node.inputs.first().map_or(0, |&input| self.elements(input));
        self.elements(node.output).max(read)
    }

    /// The weight behind `id`.
    pub fn weight(&self, id: WeightId) -> &WeightSpec {
        &self.weights[id.0]
    }
}

impl<O: Operation> Graph<O> {
    /// Multiply-adds of a node that multiplies matrices; of any other, 0.
    pub fn multiply_adds(&self, node: &Node<O>) -> u64 {
        let operands = Operands { tensors: &self.tensors, inputs: &node.inputs, weights: &self.weights };
        let each = node.op.multiply_adds_each(operands);
        (self.elements(node.output) as u64).saturating_mul(each as u64)
    }

    /// Multiply-adds of one run: those of products, plus the equivalent of the elements of all other ops on a
    /// CPU.
    pub fn work(&self) -> u64 {
        let work = self.nodes.iter().map(|node| match self.multiply_adds(node) {
            // Elements that an op reads count too, for ops with a tiny output.
            0 => (self.elements_passed(node) as u64).saturating_mul(ELEMENT_WORK as u64),
            products => products,
        });
        work.fold(0, u64::saturating_add)
    }
}
