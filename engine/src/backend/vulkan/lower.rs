//! One node → the kernels that compute it: shapes, places and push constants. Knows nothing of Vulkan.

use std::collections::HashMap;

use sdq_formats::{WeightSpec, layout::PANEL};

use super::{
    caps::{MatrixShape, Tier},
    error::VulkanError,
    kernels::{
        AttentionPush, ColumnSumsPush, Constants, EmbeddingPush, GemmPush, HAS_BIAS, HAS_CHANNEL_BIAS,
        HAS_RESIDUAL, Kernel, MomentsPush, MovePush, ONE_CHANNEL_BIAS, Push, RowSource, RowStatisticsPush,
        RowsPush, Specialized, StatisticsMode, StatisticsPush, activation_number, constants,
    },
    schedule::{Binding, Dispatch, Place, Region},
    weights::{Form, Integers, Placed, Placement},
};
use crate::{
    backend::row_layout::{BLOCK, RowLayout},
    graph::{
        Activation, ELEMENT_WORK, Graph, Node, Op, PAIR_VALUES, Padding, TensorId, WeightId, Window,
        plan::Plan,
    },
};

/// What of a device decides how nodes become kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) tier: Tier,
    /// Bytes that a kernel sees of one buffer at most.
    pub(super) max_binding: u64,
    /// Bytes of a buffer at most.
    pub(super) max_buffer: u64,
    /// Workgroups of a dispatch, along two axes.
    pub(super) groups: [u32; 2],
    /// Bytes that a workgroup shares.
    pub(super) shared_memory: u32,
    /// How matrices of bytes are multiplied, in the tier that does.
    pub(super) matrix: Option<MatrixTile>,
    /// How matrices of halves are.
    pub(super) half_matrix: Option<MatrixTile>,
}

/// Products of matrices as a workgroup makes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixTile {
    pub(super) shape: MatrixShape,
    /// Subgroups of a workgroup, each of which multiplies on its own.
    pub(super) subgroups: u32,
}

impl MatrixTile {
    /// Whether a tile of so many rows and columns, in sixteens, gives every subgroup as many matrices, and what they share
    /// fits into `shared_memory` bytes.
    fn fits(&self, [rows, columns]: [u32; 2], shared_memory: u32) -> bool {
        let MatrixShape { m, n, .. } = self.shape;
        let matrices = (16 * rows / m) * (16 * columns / n);
        // As `gemm_u8s8_matrix.comp` declares it, in words; that of halves takes less.
        let operands = 16 * (rows + columns) * (BLOCK as u32 / 4 + 4);
        let factors = 16 * (2 * rows + 3 * columns);
        let words = operands + factors + self.subgroups * m * n;
        matrices > 0 && matrices.is_multiple_of(self.subgroups) && 4 * words <= shared_memory
    }
}

impl MatrixTile {
    /// Whether an attention of so many queries at once to heads of `depth` channels fits into `shared_memory` bytes.
    fn fits_attention(&self, queries: u32, depth: u32, shared_memory: u32) -> bool {
        let MatrixShape { m, n, .. } = self.shape;
        let keys = 32;
        let scores = (queries * (keys + 4)).max(self.subgroups * m * n);
        // As `attention_f16_matrix.comp` declares it, in words.
        let operands = (queries + keys) * (depth / 2 + 4) + queries * (keys / 2 + 4);
        queries.is_multiple_of(m) && 4 * (operands + scores + 3 * queries + 256) <= shared_memory
    }
}

/// A graph as kernels.
#[derive(Clone, Debug, Default)]
pub(super) struct Lowered {
    pub(super) dispatches: Vec<Dispatch>,
    /// What makes the sums of columns, once.
    pub(super) preparation: Vec<Dispatch>,
    /// Lists of blocks, words of [`Place::Tables`].
    pub(super) tables: Vec<u32>,
    /// Bytes of [`Place::Arena`], tensors included.
    pub(super) arena: u64,
}

/// Bytes at which everything on the device begins.
const ALIGNMENT: u64 = super::weights::ALIGNMENT;

/// Words that a block takes in a table.
const BLOCK_WORDS: usize = 6;

/// Lowers `graph`, whose tensors lie as `plan` says.
pub(super) fn lower(
    graph: &Graph,
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
    graph: &'a Graph,
    plan: &'a Plan,
    layouts: &'a HashMap<TensorId, RowLayout>,
    weights: &'a Placement<'a>,
    bounds: &'a Bounds,
    /// Where each list of blocks lies.
    tables: HashMap<Vec<u32>, Region>,
    lowered: Lowered,
    node: usize,
    /// Where the node's next room between its kernels begins, behind all tensors.
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

/// So many workgroups where the kernel does not care how they are arranged.
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

    /// Room for `size` bytes until the node is done.
    fn room(&mut self, size: u64) -> Region {
        let region = Region { place: Place::Arena, offset: self.scratch, size };
        self.scratch = (self.scratch + size).next_multiple_of(ALIGNMENT);
        self.lowered.arena = self.lowered.arena.max(self.scratch);
        region
    }

    /// The list of a row's blocks, as `blocks.glsl` has it.
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

    fn column_sums(&mut self, spec: &WeightSpec, placed: &Placed) -> Result<(), VulkanError> {
        let (Form::Integers(integers), Some(sums)) = (&placed.form, placed.column_sums) else {
            return Ok(());
        };
        let blocks = self.blocks(&integers.layout);
        let (panels, taps) = (spec.shape[0].div_ceil(PANEL), integers.columns.taps());
        let push = ColumnSumsPush {
            panels: word(panels),
            taps: word(taps),
            blocks: word(integers.layout.block_count()),
            groups: word(integers.columns.groups() / taps),
            row_words: word(integers.layout.width() / 4),
        };
        let pairs = panels * taps * integers.layout.block_count() * PANEL / 2;
        let mut bindings = vec![read(0, placed.values), read(2, blocks), written(3, sums)];
        bindings.extend(placed.multipliers.map(|multipliers| read(1, multipliers)));
        let dispatch = self.checked(Call {
            kernel: Kernel::ColumnSums,
            constants: constants([integers.packed.into()]),
            bindings,
            push: Push::new(push),
            groups: flat(pairs.div_ceil(64) as u64),
            work: (panels * PANEL * integers.columns.padded()) as u64,
        })?;
        self.lowered.preparation.push(dispatch);
        Ok(())
    }

    fn lower(&mut self, node: &Node) -> Result<(), VulkanError> {
        let (x, out) = (node.inputs[0], node.output);
        match &node.op {
            Op::ThenQuantize { op, .. } => self.rows(op, node),
            op @ (Op::GroupNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Geglu
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::Add
            | Op::Quantize { .. }) => self.rows(op, node),
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
            Op::GroupSums { rows, .. } => {
                let [_, _, width, channels] = self.picture(x);
                let groups = self.graph.elements(out) / PAIR_VALUES;
                let pixels = rows.start * width..rows.end * width;
                let moments = self.moments(x, 1, pixels, groups)?;
                let before = self.tensor(node.inputs[1]);
                let values = rows.len() * width * (channels / groups);
                let (moments, count) = moments;
                self.statistics(StatisticsMode::Accumulate, groups, count, values, 0.0, moments, before, out)
            }
            Op::Attention { heads, causal } => self.attention(node, *heads, *causal),
            Op::QuantizedAttention { .. } | Op::QuantizeKeys { .. } => {
                unreachable!("attention stays in floats on this backend")
            }
            Op::Concat => {
                let all = self.channels(out);
                let mut at = 0;
                for &input in &node.inputs {
                    let width = self.channels(input);
                    let rows = self.rows_of(out);
                    self.move_words(
                        input,
                        out,
                        &MovePush { out_at: word(at), out_stride: word(all), ..plain_move(rows, width) },
                    )?;
                    at += width;
                }
                Ok(())
            }
            Op::UpsampleNearest { .. } => {
                let width = self.channels(out);
                let push = self.upsampling(node, width, 0, 0);
                self.move_words(x, out, &push)
            }
            Op::UpsampleQuantized { .. } => {
                let layout = &self.layouts[&out];
                let (words, factors) = (layout.width() / 4, 2 * layout.block_count());
                let (small, large) = (self.rows_of(x), self.rows_of(out));
                let bytes = self.upsampling(node, words, 0, 0);
                self.move_words(x, out, &bytes)?;
                let factors = self.upsampling(node, factors, small * words, large * words);
                self.move_words(x, out, &factors)
            }
        }
    }

    fn upsampling(&self, node: &Node, width: usize, in_at: usize, out_at: usize) -> MovePush {
        let [_, in_height, in_width, _] = self.picture(node.inputs[0]);
        let [_, out_height, out_width, _] = self.picture(node.output);
        MovePush {
            in_at: word(in_at),
            out_at: word(out_at),
            in_height: word(in_height),
            in_width: word(in_width),
            out_height: word(out_height),
            out_width: word(out_width),
            ..plain_move(self.rows_of(node.output), width)
        }
    }

    fn move_words(&mut self, from: TensorId, to: TensorId, push: &MovePush) -> Result<(), VulkanError> {
        let words = u64::from(push.rows) * u64::from(push.width);
        self.call(Call {
            kernel: Kernel::Move,
            constants: Constants::default(),
            bindings: vec![read(0, self.tensor(from)), written(1, self.tensor(to))],
            push: Push::new(*push),
            groups: flat(words.div_ceil(256)),
            work: words * ELEMENT_WORK as u64,
        })
    }

    fn geometry(&self, node: &Node, window: &Window) -> GemmPush {
        let [_, in_height, in_width, _] = self.picture(node.inputs[0]);
        let [_, out_height, out_width, _] = self.picture(node.output);
        let Padding { top, left, .. } = window.padding;
        GemmPush {
            out_pixels: word(out_height * out_width),
            out_width: word(out_width),
            in_height: word(in_height),
            in_width: word(in_width),
            kernel: word(window.kernel),
            stride: word(window.stride),
            pad_top: word(top),
            pad_left: word(left),
            ..GemmPush::default()
        }
    }

    fn product(
        &mut self,
        node: &Node,
        weight: WeightId,
        geometry: GemmPush,
        ending: &Ending,
    ) -> Result<(), VulkanError> {
        let spec = self.graph.weight(weight);
        let (m, n) = (self.rows_of(node.output), spec.shape[0]);
        let k: usize = spec.shape[1..].iter().product();
        let placed = self.weights.get(weight).clone();
        let mut push = GemmPush { m: word(m), n: word(n), ..geometry };
        let mut bindings = vec![
            read(0, self.tensor(node.inputs[0])),
            read(1, placed.values),
            written(9, self.tensor(node.output)),
        ];
        self.end(ending, n, &mut push, &mut bindings);
        let (kernel, last_constant) = match &placed.form {
            Form::Integers(Integers { columns, layout, packed }) => {
                let blocks = self.blocks(layout);
                push.row_words = word(layout.width() / 4);
                push.factors_at = word(self.rows_of(node.inputs[0]) * layout.width() / 4);
                push.blocks = word(layout.block_count());
                push.groups = word(columns.groups() / columns.taps());
                push.padded = word(columns.padded());
                bindings.push(read(4, blocks));
                bindings.extend(placed.multipliers.map(|multipliers| read(2, multipliers)));
                bindings.extend(placed.scales.map(|scales| read(3, scales)));
                bindings.extend(placed.column_sums.map(|sums| read(5, sums)));
                (Kernel::gemm_u8s8(self.bounds.tier), u32::from(*packed))
            }
            form => {
                push.row_words = word(spec.shape[1]);
                push.padded = word(k);
                (Kernel::GemmF32, u32::from(matches!(form, Form::Halves)))
            }
        };
        let mut tile = self.tile(m, n);
        let mut kernel = kernel;
        let mut of_matrices = [0; 4];
        let (matrix, with_matrices) = match placed.form {
            Form::Integers(_) => (self.bounds.matrix, Kernel::GemmU8S8Matrix),
            Form::Halves => (self.bounds.half_matrix, Kernel::GemmF16Matrix),
            Form::Floats | Form::Bytes => (None, kernel),
        };
        if let Some(matrix) = matrix {
            let smaller = tile.map(|steps| steps.min(4));
            let fits = |tile: &[u32; 2]| matrix.fits(*tile, self.bounds.shared_memory);
            if let Some(fitting) = [tile, smaller].into_iter().find(fits) {
                let MatrixTile { shape: MatrixShape { m, n, k }, subgroups } = matrix;
                (tile, kernel, of_matrices) = (fitting, with_matrices, [m, n, k, subgroups]);
            }
        }
        let [rows, columns] = tile;
        let mut constants = constants([rows, columns, last_constant]);
        constants[3..].copy_from_slice(&of_matrices);
        self.call(Call {
            kernel,
            constants,
            bindings,
            push: Push::new(push),
            groups: [n.div_ceil(16 * columns as usize) as u64, m.div_ceil(16 * rows as usize) as u64],
            work: (m as u64).saturating_mul((n * k) as u64),
        })
    }

    /// Rows and columns of a workgroup's tile, in sixteens.
    fn tile(&self, m: usize, n: usize) -> [u32; 2] {
        // Tiles of 128 by 128 share 18 KiB, and are of use where there are many.
        let large = self.bounds.shared_memory >= 24 << 10 && m.div_ceil(128) * n.div_ceil(128) >= 64;
        let most = if large { 8 } else { 4 };
        let steps = |size: usize, most: u32| (size.div_ceil(16) as u32).next_power_of_two().min(most);
        [steps(m, most), steps(n, most)]
    }

    fn end(&self, ending: &Ending, n: usize, push: &mut GemmPush, bindings: &mut Vec<Binding>) {
        if let Some(bias) = ending.bias {
            push.flags |= HAS_BIAS;
            bindings.push(read(6, self.weights.get(bias).values));
        }
        if let Some(channel_bias) = ending.channel_bias {
            push.flags |= HAS_CHANNEL_BIAS;
            if self.graph.elements(channel_bias) == n {
                push.flags |= ONE_CHANNEL_BIAS;
            }
            bindings.push(read(7, self.tensor(channel_bias)));
        }
        if let Some(residual) = ending.residual {
            push.flags |= HAS_RESIDUAL;
            bindings.push(read(8, self.tensor(residual)));
        }
    }

    /// An op that makes whole rows, left as floats or as bytes.
    fn rows(&mut self, op: &Op, node: &Node) -> Result<(), VulkanError> {
        let (x, out) = (node.inputs[0], node.output);
        let in_channels = self.channels(x);
        let rows = self.rows_of(x);
        let mut push = RowsPush {
            rows: word(rows),
            channels: word(in_channels),
            in_channels: word(in_channels),
            scale: 1.0,
            image_rows: 1,
            groups: 1,
            group_channels: 1,
            ..RowsPush::default()
        };
        let mut bindings = vec![read(0, self.tensor(x)), written(6, self.tensor(out))];
        let mut activation = None;
        let source = match op {
            Op::GroupNorm { weight, bias, groups, eps, silu, given } => {
                let batch = self.graph.shape(x)[0];
                let statistics = match given {
                    true => self.given_statistics(node.inputs[1], batch * groups, *eps)?,
                    false => self.group_statistics(x, batch, *groups, *eps)?,
                };
                push.image_rows = word(rows / batch);
                push.groups = word(*groups);
                push.group_channels = word(in_channels / groups);
                activation = silu.then_some(Activation::Silu);
                bindings.extend(self.norm_bindings(statistics, *weight, *bias));
                RowSource::Norm
            }
            Op::LayerNorm { weight, bias, eps } => {
                let statistics = self.row_statistics(x, *eps)?;
                push.group_channels = word(in_channels);
                bindings.extend(self.norm_bindings(statistics, *weight, *bias));
                RowSource::Norm
            }
            Op::Geglu => {
                push.channels = word(in_channels / 2);
                RowSource::Gate
            }
            Op::Add => {
                bindings.push(read(1, self.tensor(node.inputs[1])));
                RowSource::Sum
            }
            Op::Affine { scale, shift } => {
                (push.scale, push.shift) = (*scale, *shift);
                RowSource::Copy
            }
            Op::Activation(kind) => {
                activation = Some(*kind);
                RowSource::Copy
            }
            Op::Quantize { .. } => RowSource::Copy,
            op => unreachable!("{op:?} leaves more than rows"),
        };
        let mut groups = (rows as u64 * u64::from(push.channels)).div_ceil(1024);
        let layout = self.layouts.get(&out);
        if let Some(layout) = layout {
            bindings.push(read(5, self.blocks(layout)));
            push.row_words = word(layout.width() / 4);
            push.blocks = word(layout.block_count());
            push.factors_at = word(rows * layout.width() / 4);
            groups = (rows * layout.block_count()).div_ceil(16) as u64;
        }
        self.call(Call {
            kernel: Kernel::Rows,
            constants: constants([source as u32, activation_number(activation), layout.is_some().into()]),
            bindings,
            push: Push::new(push),
            groups: flat(groups),
            work: (rows * in_channels * ELEMENT_WORK) as u64,
        })
    }

    fn norm_bindings(&self, statistics: Region, weight: WeightId, bias: WeightId) -> [Binding; 3] {
        let [gamma, beta] = [weight, bias].map(|weight| self.weights.get(weight).values);
        [read(2, statistics), read(3, gamma), read(4, beta)]
    }

    fn row_statistics(&mut self, x: TensorId, eps: f32) -> Result<Region, VulkanError> {
        let (rows, channels) = (self.rows_of(x), self.channels(x));
        let statistics = self.room(rows as u64 * 16);
        self.call(Call {
            kernel: Kernel::RowStatistics,
            constants: Constants::default(),
            bindings: vec![read(0, self.tensor(x)), written(1, statistics)],
            push: Push::new(RowStatisticsPush { rows: word(rows), channels: word(channels), eps }),
            groups: flat(rows as u64),
            work: (rows * channels * ELEMENT_WORK) as u64,
        })?;
        Ok(statistics)
    }

    fn group_statistics(
        &mut self,
        x: TensorId,
        batch: usize,
        groups: usize,
        eps: f32,
    ) -> Result<Region, VulkanError> {
        let pixels = self.rows_of(x) / batch;
        let (moments, count) = self.moments(x, batch, 0..pixels, groups)?;
        let statistics = self.room((batch * groups) as u64 * 16);
        let values = pixels * (self.channels(x) / groups);
        self.finish(StatisticsMode::Finish, batch * groups, count, values, eps, moments, None, statistics)?;
        Ok(statistics)
    }

    fn given_statistics(&mut self, given: TensorId, groups: usize, eps: f32) -> Result<Region, VulkanError> {
        let statistics = self.room(groups as u64 * 16);
        let given = self.tensor(given);
        self.finish(StatisticsMode::Given, groups, 0, 1, eps, given, Some(given), statistics)?;
        Ok(statistics)
    }

    #[expect(clippy::too_many_arguments, reason = "the kernel has this many")]
    fn statistics(
        &mut self,
        mode: StatisticsMode,
        groups: usize,
        count: usize,
        values: usize,
        eps: f32,
        moments: Region,
        before: Region,
        out: TensorId,
    ) -> Result<(), VulkanError> {
        let out = self.tensor(out);
        self.finish(mode, groups, count, values, eps, moments, Some(before), out)
    }

    #[expect(clippy::too_many_arguments, reason = "the kernel has this many")]
    fn finish(
        &mut self,
        mode: StatisticsMode,
        groups: usize,
        count: usize,
        values: usize,
        eps: f32,
        moments: Region,
        before: Option<Region>,
        out: Region,
    ) -> Result<(), VulkanError> {
        let mut bindings = vec![read(0, moments), written(2, out)];
        bindings.extend(before.map(|before| read(1, before)));
        self.call(Call {
            kernel: Kernel::Statistics,
            constants: constants([mode as u32]),
            bindings,
            push: Push::new(StatisticsPush {
                groups: word(groups),
                count: word(count),
                values: values as f32,
                eps,
            }),
            groups: flat(groups as u64),
            work: (groups * count.max(1) * ELEMENT_WORK) as u64,
        })
    }

    /// Moments of slices of `pixels` of each image, and how many there are of each group.
    fn moments(
        &mut self,
        x: TensorId,
        batch: usize,
        pixels: std::ops::Range<usize>,
        groups: usize,
    ) -> Result<(Region, usize), VulkanError> {
        let channels = self.channels(x);
        let group_channels = channels / groups;
        let (chunk, parts) = match group_channels {
            0..=256 => ((256 / group_channels).min(groups) * group_channels, 1),
            wide => (256, wide.div_ceil(256)),
        };
        // Enough slices to keep a device busy, and not so many that summing them up takes long.
        let slice_pixels = pixels.len().div_ceil(256).max(32);
        let slices = pixels.len().div_ceil(slice_pixels);
        let count = slices * parts;
        let moments = self.room((batch * groups * count) as u64 * 16);
        let push = MomentsPush {
            channels: word(channels),
            group_channels: word(group_channels),
            image_pixels: word(self.rows_of(x) / batch),
            first_pixel: word(pixels.start),
            pixels: word(pixels.len()),
            slice_pixels: word(slice_pixels),
            slices: word(slices),
            chunk: word(chunk),
            parts: word(parts),
        };
        self.call(Call {
            kernel: Kernel::Moments,
            constants: Constants::default(),
            bindings: vec![read(0, self.tensor(x)), written(1, moments)],
            push: Push::new(push),
            groups: [slices as u64, batch as u64],
            work: (batch * pixels.len() * channels * ELEMENT_WORK) as u64,
        })?;
        Ok((moments, count))
    }

    fn attention(&mut self, node: &Node, heads: usize, causal: bool) -> Result<(), VulkanError> {
        let [q, k, v] = node.inputs[..] else { unreachable!("queries, keys and values") };
        let head_dim = self.channels(q) / heads;
        let batch = self.graph.shape(q)[0];
        let (queries, keys) = (self.rows_of(q) / batch, self.rows_of(k) / batch);
        let depth = head_dim.next_multiple_of(16);
        let of_matrices = self.bounds.half_matrix.and_then(|matrix| {
            let tile = [64, 32, 16]
                .into_iter()
                .find(|&tile| matrix.fits_attention(word(tile), word(depth), self.bounds.shared_memory))?;
            let MatrixTile { shape: MatrixShape { m, n, k }, subgroups } = matrix;
            Some((tile, [word(tile), word(depth), 0, m, n, k, subgroups]))
        });
        let (kernel, tile, constants) = match of_matrices {
            Some((tile, constants)) => (Kernel::AttentionF16Matrix, tile, constants),
            None => {
                // Sums of wide heads take the registers of half as many queries.
                let tile = if depth > 192 { 16 } else { 32 };
                (Kernel::AttentionF32, tile, constants([word(tile), word(depth)]))
            }
        };
        let push = AttentionPush {
            heads: word(heads),
            queries: word(queries),
            keys: word(keys),
            head_dim: word(head_dim),
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: causal.into(),
        };
        self.call(Call {
            kernel,
            constants,
            bindings: vec![
                read(0, self.tensor(q)),
                read(1, self.tensor(k)),
                read(2, self.tensor(v)),
                written(3, self.tensor(node.output)),
            ],
            push: Push::new(push),
            groups: [queries.div_ceil(tile) as u64, (batch * heads) as u64],
            work: (2 * batch * heads * queries).saturating_mul(keys * head_dim) as u64,
        })
    }

    fn embedding(&mut self, node: &Node, tokens: WeightId, positions: WeightId) -> Result<(), VulkanError> {
        let shape = self.graph.shape(node.output);
        let (length, width) = (shape[1], shape[2]);
        let count = self.rows_of(node.output);
        let push = EmbeddingPush {
            count: word(count),
            tokens: word(length),
            width: word(width),
            vocabulary: word(self.graph.weight(tokens).shape[0]),
        };
        let mut bindings = vec![read(0, self.tensor(node.inputs[0])), written(6, self.tensor(node.output))];
        bindings.extend(node.inputs.get(1).map(|&words| read(5, self.tensor(words))));
        let mut number = |weight, binding| {
            let placed = self.weights.get(weight);
            bindings.push(read(binding, placed.values));
            bindings.extend(placed.scales.map(|scales| read(binding + 1, scales)));
            match placed.form {
                Form::Floats => 0,
                Form::Halves => 1,
                Form::Bytes => 2,
                Form::Integers(_) => unreachable!("tables are not in panels"),
            }
        };
        let constants = constants([number(tokens, 1), number(positions, 3)]);
        self.call(Call {
            kernel: Kernel::Embedding,
            constants,
            bindings,
            push: Push::new(push),
            groups: flat((count * width).div_ceil(256) as u64),
            work: (count * width * ELEMENT_WORK) as u64,
        })
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

/// What is added to a product.
struct Ending {
    bias: Option<WeightId>,
    channel_bias: Option<TensorId>,
    residual: Option<TensorId>,
}

/// Rows of so many words, as they lie.
fn plain_move(rows: usize, width: usize) -> MovePush {
    MovePush {
        rows: word(rows),
        width: word(width),
        in_at: 0,
        in_stride: word(width),
        out_at: 0,
        out_stride: word(width),
        in_height: 1,
        in_width: 1,
        out_height: 1,
        out_width: 1,
    }
}
