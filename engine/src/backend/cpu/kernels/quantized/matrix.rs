//! Integer weight matrices as they are stored in the file.

use std::ops::Range;

use sdq_formats::layout::{
    PANEL,
    columns::{COLUMN_STEP, Columns, GROUP},
    quantized::{multiplier_position, scale_position},
};

use crate::backend::cpu::simd::{LANES, Lanes, Quads, Simd};
use crate::backend::row_layout::{BLOCK, Block, RowLayout};

// A group ends at a multiple of a step of q4 weights, and a block of activations at a multiple of a group.
const _: () = assert!(GROUP.is_multiple_of(COLUMN_STEP) && BLOCK.is_multiple_of(GROUP));

/// A weight matrix `[n, taps * channels]` of integers, in panels of sixteen output features, see
/// [`sdq_formats::layout::quantized`].
#[derive(Clone)]
pub struct QuantizedMatrix<'a> {
    n: usize,
    columns: Columns,
    integers: Integers<'a>,
    /// `[inputs][panels][16]`
    scales: &'a [f32],
    /// The layout of the rows that the matrix is multiplied with.
    pub(super) layout: RowLayout,
}

/// The elements of a [`QuantizedMatrix`].
#[derive(Clone, Copy)]
pub enum Integers<'a> {
    /// 8 bits each.
    Q8(&'a [i8]),
    /// 4 bits each, with a multiplier of 4 bits for every group of columns.
    Q4 {
        /// Two elements each.
        values: &'a [u8],
        /// Two multipliers each.
        multipliers: &'a [u8],
    },
}

impl<'a> QuantizedMatrix<'a> {
    /// Describes a matrix of `n` output features.
    ///
    /// # Panics
    /// If a length disagrees with `n` and `columns`.
    pub fn new(n: usize, columns: Columns, integers: Integers<'a>, scales: &'a [f32]) -> Self {
        let panels = n.div_ceil(PANEL);
        match integers {
            Integers::Q8(values) => assert_eq!(values.len(), panels * columns.padded() * PANEL, "values"),
            Integers::Q4 { values, multipliers } => {
                assert_eq!(values.len(), panels * columns.padded() * PANEL / 2, "values");
                assert_eq!(multipliers.len(), panels * columns.groups() * PANEL / 2, "multipliers");
            }
        }
        assert_eq!(scales.len(), columns.inputs().len() * panels * PANEL, "scales");
        let layout = RowLayout::new(columns.inputs());
        Self { n, columns, integers, scales, layout }
    }

    /// Size of the description of the columns, in bytes.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(self.columns.inputs()) + self.layout.heap_bytes()
    }

    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The columns, with their inputs and groups.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Number of blocks of columns over all taps.
    pub(super) fn blocks(&self) -> usize {
        self.columns.taps() * self.layout.blocks.len()
    }

    /// Block `index` and its columns, counted over all taps.
    #[inline(always)]
    pub(super) fn block(&self, index: usize) -> (&Block, Range<usize>) {
        let (tap, block) =
            (index / self.layout.blocks.len(), &self.layout.blocks[index % self.layout.blocks.len()]);
        let start = tap * self.layout.width;
        (block, start + block.columns.start..start + block.columns.end)
    }

    /// The columns of block `index` of a panel, four at a time: borrowed from the matrix itself, or unpacked
    /// into `wide`.
    #[inline(always)]
    pub(super) fn quads<'w, S: Simd>(
        &self,
        isa: S,
        panel: usize,
        index: usize,
        wide: &'w mut [Quads],
    ) -> &'w [Quads]
    where
        'a: 'w,
    {
        let (block, columns) = self.block(index);
        let first = panel * self.columns.padded();
        match self.integers {
            Integers::Q8(values) => {
                let quads = values.as_chunks().0;
                &quads[(first + columns.start) / 4..(first + columns.end) / 4]
            }
            Integers::Q4 { values, multipliers } => {
                let steps = values.as_chunks::<{ 4 * LANES }>().0;
                let steps =
                    &steps[(first + columns.start) / COLUMN_STEP..(first + columns.end) / COLUMN_STEP];
                let tap = index / self.layout.blocks.len();
                let group = tap * (self.columns.groups() / self.columns.taps()) + block.first_group;
                let multipliers = multipliers.as_chunks::<{ PANEL / 2 }>().0;
                let multipliers = &multipliers[panel * self.columns.groups() + group..];
                let wide = &mut wide[..columns.len() / 4];
                let groups = steps.chunks(GROUP / COLUMN_STEP).zip(wide.chunks_mut(GROUP / 4));
                for ((steps, wide), multipliers) in groups.zip(multipliers) {
                    let multipliers = spread(multipliers);
                    for (packed, wide) in steps.iter().zip(wide.as_chunks_mut().0) {
                        isa.unpack_q4(packed, &multipliers, wide);
                    }
                }
                wide
            }
        }
    }

    /// Scales of a panel's features for one of the joined inputs.
    #[inline(always)]
    pub(super) fn scales(&self, input: usize, panel: usize) -> &'a Lanes {
        let at = scale_position(input, self.n.div_ceil(PANEL), panel * PANEL);
        &self.scales.as_chunks().0[at / PANEL]
    }

    /// The channels of a row that the matrix is multiplied with.
    pub fn channels(&self) -> usize {
        self.layout.channels
    }
}

/// A group's multipliers in the format of [`Simd::unpack_q4`]: each feature's in both halves of 32 bits.
#[inline(always)]
fn spread(multipliers: &[u8; PANEL / 2]) -> [u32; LANES] {
    let mut spread = [0; LANES];
    for (lane, spread) in spread.iter_mut().enumerate() {
        let (byte, shift) = multiplier_position(0, lane);
        *spread = u32::from(multipliers[byte] >> shift & 15) * 0x0001_0001;
    }
    spread
}
