//! Ops that compute whole rows: norms, gates, activations, sums, and rounding to bytes.

use std::ops::Range;

use super::super::{
    error::VulkanError,
    kernels::{
        Constants, Kernel, MomentsPush, Push, RowSource, RowStatisticsPush, RowsPush, StatisticsMode,
        StatisticsPush, activation_number, constants,
    },
    schedule::{Binding, Region},
};
use super::{Call, Lowering, flat, read, word, written};
use crate::graph::{Activation, ELEMENT_WORK, PAIR_VALUES, PreparedNode, RowOp, TensorId, WeightId};

/// The source of the values of the rows.
pub(super) enum Values<'a> {
    /// The output of an op.
    Made(&'a RowOp),
    /// The input, scaled, shifted and activated.
    Scaled { scale: f32, shift: f32, activation: Option<Activation> },
    /// The sum of two inputs.
    Summed,
}

impl Values<'_> {
    /// The unchanged input.
    pub(super) const COPIED: Values<'static> = Values::Scaled { scale: 1.0, shift: 0.0, activation: None };
}

/// The sums that `statistics.comp` computes, and their destination.
struct Sums {
    mode: StatisticsMode,
    groups: usize,
    /// Number of moments of each group, and the values that they cover.
    count: usize,
    values: usize,
    eps: f32,
}

impl Lowering<'_> {
    /// Computes whole rows, of floats or, if the output has a layout, of bytes.
    pub(super) fn rows(&mut self, values: &Values<'_>, node: &PreparedNode) -> Result<(), VulkanError> {
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
        let (source, activation) = self.source(values, node, &mut push, &mut bindings)?;
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

    /// The kernel's source for `values`, with its additions to `push` and `bindings`.
    fn source(
        &mut self,
        values: &Values<'_>,
        node: &PreparedNode,
        push: &mut RowsPush,
        bindings: &mut Vec<Binding>,
    ) -> Result<(RowSource, Option<Activation>), VulkanError> {
        let x = node.inputs[0];
        let in_channels = self.channels(x);
        let mut activation = None;
        let source = match values {
            Values::Made(RowOp::GroupNorm { weight, bias, groups, eps, silu, given }) => {
                let batch = self.graph.shape(x)[0];
                let statistics = match given {
                    true => self.given_statistics(node.inputs[1], batch * groups, *eps)?,
                    false => self.group_statistics(x, batch, *groups, *eps)?,
                };
                push.image_rows = push.rows / word(batch);
                push.groups = word(*groups);
                push.group_channels = word(in_channels / groups);
                activation = silu.then_some(Activation::Silu);
                bindings.extend(self.norm_bindings(statistics, *weight, *bias));
                RowSource::Norm
            }
            Values::Made(RowOp::LayerNorm { weight, bias, eps }) => {
                let statistics = self.row_statistics(x, *eps)?;
                push.group_channels = word(in_channels);
                bindings.extend(self.norm_bindings(statistics, *weight, *bias));
                RowSource::Norm
            }
            Values::Made(RowOp::Geglu) => {
                push.channels = word(in_channels / 2);
                RowSource::Gate
            }
            Values::Summed => {
                bindings.push(read(1, self.tensor(node.inputs[1])));
                RowSource::Sum
            }
            Values::Scaled { scale, shift, activation: function } => {
                (push.scale, push.shift) = (*scale, *shift);
                activation = *function;
                RowSource::Copy
            }
        };
        Ok((source, activation))
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
        let sums = Sums { mode: StatisticsMode::Finish, groups: batch * groups, count, values, eps };
        self.statistics(&sums, moments, None, statistics)?;
        Ok(statistics)
    }

    fn given_statistics(&mut self, given: TensorId, groups: usize, eps: f32) -> Result<Region, VulkanError> {
        let statistics = self.room(groups as u64 * 16);
        let given = self.tensor(given);
        let sums = Sums { mode: StatisticsMode::Given, groups, count: 0, values: 1, eps };
        self.statistics(&sums, given, Some(given), statistics)?;
        Ok(statistics)
    }

    /// Computes moments of slices of `pixels` of each image, and returns the number of slices of each group.
    fn moments(
        &mut self,
        x: TensorId,
        batch: usize,
        pixels: Range<usize>,
        groups: usize,
    ) -> Result<(Region, usize), VulkanError> {
        let channels = self.channels(x);
        let group_channels = channels / groups;
        let (chunk, parts) = match group_channels {
            0..=256 => ((256 / group_channels).min(groups) * group_channels, 1),
            wide => (256, wide.div_ceil(256)),
        };
        // Enough slices to keep a device busy, but so few that summing them is fast.
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

    /// Computes sums over some rows of a picture, added to earlier ones.
    pub(super) fn group_sums(&mut self, node: &PreparedNode, rows: &Range<usize>) -> Result<(), VulkanError> {
        let x = node.inputs[0];
        let [_, _, width, channels] = self.picture(x);
        let groups = self.graph.elements(node.output) / PAIR_VALUES;
        let (moments, count) = self.moments(x, 1, rows.start * width..rows.end * width, groups)?;
        let values = rows.len() * width * (channels / groups);
        let sums = Sums { mode: StatisticsMode::Accumulate, groups, count, values, eps: 0.0 };
        let (before, out) = (self.tensor(node.inputs[1]), self.tensor(node.output));
        self.statistics(&sums, moments, Some(before), out)
    }

    fn statistics(
        &mut self,
        &Sums { mode, groups, count, values, eps }: &Sums,
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
}
