//! The layout of rows of activations as bytes, on every backend.

use std::{collections::HashMap, ops::Range};

use sdq_formats::layout::columns::{COLUMN_STEP, GROUP};

use crate::graph::{PreparedGraph, TensorId};

/// Maximum number of channels that share a scale and an offset.
///
/// Smaller blocks follow the values more closely but cost more time: at the end of each block, sums are
/// converted from integers.
pub const BLOCK: usize = 64;

/// Scale and offset of a block: `x ≈ scale * q + offset`.
pub(super) type Factors = [f32; 2];

/// A block of channels of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its channels in a row of floats.
    pub(super) channels: Range<usize>,
    /// Its bytes in a quantized row, padding included: a multiple of [`COLUMN_STEP`].
    pub(super) columns: Range<usize>,
    /// The index of its input among the joined inputs.
    pub(super) input: usize,
    /// The first group of weights with multipliers of its own in these columns, counted within a tap.
    pub(super) first_group: usize,
}

/// The layout of the channels of joined inputs in quantized rows: first the bytes of all rows, with every
/// input padded to a multiple of 8, then the factors of the blocks of all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowLayout {
    pub(super) channels: usize,
    pub(super) width: usize,
    pub(super) blocks: Vec<Block>,
}

impl RowLayout {
    /// The layout of rows whose channels come from `inputs`, one after the other.
    pub fn new(inputs: &[usize]) -> RowLayout {
        let mut layout = RowLayout { channels: 0, width: 0, blocks: Vec::new() };
        let mut groups = 0;
        for (input, &channels) in inputs.iter().enumerate() {
            for first in (0..channels).step_by(BLOCK) {
                let length = BLOCK.min(channels - first);
                let (channel, column) = (layout.channels + first, layout.width + first);
                layout.blocks.push(Block {
                    channels: channel..channel + length,
                    columns: column..column + length.next_multiple_of(COLUMN_STEP),
                    input,
                    first_group: groups + first / GROUP,
                });
            }
            groups += channels.div_ceil(GROUP);
            layout.channels += channels;
            layout.width += channels.next_multiple_of(COLUMN_STEP);
        }
        layout
    }

    /// Size of the description itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(self.blocks.as_slice())
    }

    /// Channels of a row of floats.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Channels of each block, and its bytes.
    #[cfg(test)]
    pub(super) fn block_channels(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        self.blocks.iter().map(|block| (block.channels.clone(), block.columns.len()))
    }

    /// Size of a quantized row, factors included, in `f32`.
    pub fn row_elements(&self) -> usize {
        self.width / size_of::<f32>() + self.blocks.len() * size_of::<Factors>() / size_of::<f32>()
    }

    /// Bytes of a quantized row, padding included.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of blocks in a row, each with its factors.
    pub(super) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes and factors of rows, to be written.
    pub(super) fn split_mut<'a>(&self, rows: &'a mut [f32]) -> (&'a mut [u8], &'a mut [Factors]) {
        let count = rows.len() / self.row_elements();
        let (values, factors) = rows.split_at_mut(count * self.width / size_of::<f32>());
        (bytemuck::cast_slice_mut(values), bytemuck::cast_slice_mut(factors))
    }

    /// Bytes and factors of quantized rows.
    pub(super) fn split<'a>(&self, rows: &'a [f32]) -> (&'a [u8], &'a [Factors]) {
        let count = rows.len() / self.row_elements();
        assert_eq!(rows.len(), count * self.row_elements(), "length of quantized rows");
        let (values, factors) = rows.split_at(count * self.width / size_of::<f32>());
        (bytemuck::cast_slice(values), bytemuck::cast_slice(factors))
    }
}

/// The layouts of all tensors of `graph` that are rows of bytes.
pub(super) fn row_layouts(graph: &PreparedGraph) -> HashMap<TensorId, RowLayout> {
    let layouts = graph.nodes.iter().filter_map(|node| {
        let inputs = node.op.quantized_inputs()?;
        Some((node.output, RowLayout::new(inputs)))
    });
    layouts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_where_inputs_do() {
        let layout = RowLayout::new(&[70, 3]);
        let block = |channels: Range<usize>, columns: Range<usize>, input, first_group| Block {
            channels,
            columns,
            input,
            first_group,
        };
        assert_eq!(
            layout.blocks,
            [block(0..64, 0..64, 0, 0), block(64..70, 64..72, 0, 2), block(70..73, 72..80, 1, 3)]
        );
        assert_eq!((layout.channels, layout.width, layout.row_elements()), (73, 80, 20 + 6));
    }
}
