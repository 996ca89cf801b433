//! Lowers each node to the kernels that compute it, with shapes, places and push constants. Independent of
//! Vulkan.

mod attention;
mod bounds;
mod moves;
mod product;
mod rows;

use std::collections::HashMap;

use super::{
    error::VulkanError,
    kernels::{Constants, GemmPush, Kernel, Push, Specialized},
    schedule::{Binding, Dispatch, Place, Region},
    weights::Placement,
};
use crate::{
    backend::row_layout::RowLayout,
    graph::{Op, Operation as _, PreparedGraph, PreparedNode, PreparedOp, TensorId, plan::Plan},
};
use product::Ending;
use rows::Values;

pub(super) use bounds::Bounds;

/// A graph as kernels.
#[derive(Clone, Debug, Default)]
pub(super) struct Lowered {
    pub(super) dispatches: Vec<Dispatch>,
    /// Dispatches that compute the sums of columns, once.
    pub(super) preparation: Vec<Dispatch>,
    /// Lists of blocks, words of [`Place::Tables`].
    pub(super) tables: Vec<u32>,
    /// Bytes of [`Place::Arena`], tensors included.
    pub(super) arena: u64,
}

/// Alignment of every range in device memory, in bytes.
const ALIGNMENT: u64 = super::weights::ALIGNMENT;

/// Words of a block in a table.
const BLOCK_WORDS: usize = 6;

/// Lowers `graph`, whose tensors are placed by `plan`.
pub(super) fn lower(
    graph: &PreparedGraph,
    plan: &Plan,
    layouts: &HashMap<TensorId, RowLayout>,
    weights: &Placement<'_>,
    bounds: &Bounds,
) -> Result<Lowered, VulkanError> {
    for tensor in 0..graph.tensors.len() {
        let bytes = plan.range(tensor).len() as u64 * 4;
        if bytes > bounds.max_binding {
            let what = format!("a tensor {:?}", graph.tensors[tensor]);
            return Err(VulkanError::TooLarge { what, bytes, limit: bounds.max_binding });
        }
    }
    let tensors = (plan.elements() as u64 * 4).next_multiple_of(ALIGNMENT);
    let lowered = Lowered { arena: tensors, ..Lowered::default() };
    let tables = HashMap::new();
    let mut lowering =
        Lowering { graph, plan, layouts, weights, bounds, tables, lowered, node: 0, scratch: 0 };
    for (spec, placed) in graph.weights.iter().zip(weights.all()) {
        lowering.column_sums(spec, placed)?;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        (lowering.node, lowering.scratch) = (index, tensors);
        lowering.lower(node)?;
    }
    let bytes = lowering.lowered.arena;
    if bytes > bounds.max_buffer {
        let what = "the room for all intermediate values".to_owned();
        return Err(VulkanError::TooLarge { what, bytes, limit: bounds.max_buffer });
    }
    Ok(lowering.lowered)
}

struct Lowering<'a> {
    graph: &'a PreparedGraph,
    plan: &'a Plan,
    layouts: &'a HashMap<TensorId, RowLayout>,
    weights: &'a Placement<'a>,
    bounds: &'a Bounds,
    /// The place of each list of blocks.
    tables: HashMap<Vec<u32>, Region>,
    lowered: Lowered,
    node: usize,
    /// The start of the node's next temporary range, after all tensors.
    scratch: u64,
}

/// A dispatch before it is checked.
struct Call {
    kernel: Kernel,
    constants: Constants,
    bindings: Vec<Binding>,
    push: Push,
    groups: [u64; 2],
    work: u64,
}

fn read(number: u32, region: Region) -> Binding {
    Binding { number, region, written: false }
}

fn written(number: u32, region: Region) -> Binding {
    Binding { number, region, written: true }
}

/// Workgroups for a kernel that does not depend on their arrangement.
fn flat(groups: u64) -> [u64; 2] {
    let width = groups.clamp(1, 32768);
    [width, groups.div_ceil(width)]
}

fn word(value: usize) -> u32 {
    u32::try_from(value).expect("tensors that a kernel sees at once are smaller")
}

impl Lowering<'_> {
    fn call(&mut self, call: Call) -> Result<(), VulkanError> {
        let dispatch = self.checked(call)?;
        self.lowered.dispatches.push(dispatch);
        Ok(())
    }

    fn checked(&self, call: Call) -> Result<Dispatch, VulkanError> {
        let Call { kernel, constants, bindings, push, groups, work } = call;
        let limit = self.bounds.max_binding;
        if let Some(large) = bindings.iter().find(|binding| binding.region.size > limit) {
            let what = format!("a tensor or weight of node {} ({kernel:?})", self.node);
            return Err(VulkanError::TooLarge { what, bytes: large.region.size, limit });
        }
        if let Some((&bytes, limit)) =
            groups.iter().zip(self.bounds.groups).find(|&(&groups, limit)| groups > u64::from(limit))
        {
            let what = format!("the output of node {} ({kernel:?}), in workgroups,", self.node);
            return Err(VulkanError::TooLarge { what, bytes, limit: limit.into() });
        }
        let kernel = Specialized { kernel, constants };
        let groups = groups.map(|groups| groups as u32);
        Ok(Dispatch { kernel, bindings, push, groups, work, node: self.node })
    }

    fn tensor(&self, tensor: TensorId) -> Region {
        let range = self.plan.range(tensor.0);
        let (offset, size) = (range.start as u64 * 4, range.len() as u64 * 4);
        Region { place: Place::Arena, offset, size }
    }

    /// Reserves `size` bytes until the node is done.
    fn room(&mut self, size: u64) -> Region {
        let region = Region { place: Place::Arena, offset: self.scratch, size };
        self.scratch = (self.scratch + size).next_multiple_of(ALIGNMENT);
        self.lowered.arena = self.lowered.arena.max(self.scratch);
        region
    }

    /// The list of a row's blocks, in the format of `blocks.glsl`.
    fn blocks(&mut self, layout: &RowLayout) -> Region {
        let words = layout.blocks.iter().flat_map(|block| {
            let (channels, columns) = (&block.channels, &block.columns);
            let words: [usize; BLOCK_WORDS] = [
                channels.start,
                channels.len(),
                columns.start / 4,
                columns.len() / 4,
                block.input,
                block.first_group,
            ];
            words.map(word)
        });
        let words: Vec<u32> = words.collect();
        if let Some(region) = self.tables.get(&words) {
            return *region;
        }
        let tables = &mut self.lowered.tables;
        tables.resize(tables.len().next_multiple_of(ALIGNMENT as usize / 4), 0);
        let region =
            Region { place: Place::Tables, offset: tables.len() as u64 * 4, size: words.len() as u64 * 4 };
        tables.extend(&words);
        self.tables.insert(words, region);
        region
    }

    fn lower(&mut self, node: &PreparedNode) -> Result<(), VulkanError> {
        match &node.op {
            PreparedOp::Model(op) => self.lower_model(op, node),
            PreparedOp::ThenQuantize { op, .. } => self.rows(&Values::Made(op), node),
            PreparedOp::Quantize { .. } => self.rows(&Values::COPIED, node),
            PreparedOp::UpsampleQuantized { .. } => self.upsample_bytes(node),
            // Attention is in floats on this backend.
            op @ (PreparedOp::QuantizeKeys { .. } | PreparedOp::QuantizedAttention { .. }) => {
                Err(VulkanError::NoKernel { op: op.name() })
            }
        }
    }

    fn lower_model(&mut self, op: &Op, node: &PreparedNode) -> Result<(), VulkanError> {
        let out = node.output;
        match op {
            Op::Rows(op) => self.rows(&Values::Made(op), node),
            Op::Activation(kind) => {
                self.rows(&Values::Scaled { scale: 1.0, shift: 0.0, activation: Some(*kind) }, node)
            }
            Op::Affine { scale, shift } => {
                self.rows(&Values::Scaled { scale: *scale, shift: *shift, activation: None }, node)
            }
            Op::Add => self.rows(&Values::Summed, node),
            Op::Embedding { tokens, positions } => self.embedding(node, *tokens, *positions),
            Op::Linear { weight, bias, residual } => {
                let m = self.rows_of(out);
                let geometry = GemmPush {
                    out_pixels: word(m),
                    out_width: word(m),
                    in_height: 1,
                    in_width: word(m),
                    kernel: 1,
                    stride: 1,
                    ..GemmPush::default()
                };
                let ending =
                    Ending { bias: *bias, channel_bias: None, residual: residual.then(|| node.inputs[1]) };
                self.product(node, *weight, geometry, &ending)
            }
            Op::Conv2d { weight, bias, window, channel_bias, residual } => {
                let mut extra = node.inputs[1..].iter().copied();
                let ending = Ending {
                    bias: *bias,
                    channel_bias: channel_bias.then(|| extra.next()).flatten(),
                    residual: residual.then(|| extra.next()).flatten(),
                };
                let geometry = self.geometry(node, window);
                self.product(node, *weight, geometry, &ending)
            }
            Op::GroupSums { rows, .. } => self.group_sums(node, rows),
            Op::Attention { heads, causal } => self.attention(node, *heads, *causal),
            Op::Concat => self.concat(node),
            Op::UpsampleNearest { .. } => self.upsample(node),
        }
    }

    /// Batch, height, width and channels.
    fn picture(&self, tensor: TensorId) -> [usize; 4] {
        self.graph.shape(tensor).try_into().expect("the builder gives pictures four axes")
    }

    fn channels(&self, tensor: TensorId) -> usize {
        let shape = self.graph.shape(tensor);
        shape[shape.len() - 1]
    }

    fn rows_of(&self, tensor: TensorId) -> usize {
        self.graph.elements(tensor) / self.channels(tensor)
    }
}
