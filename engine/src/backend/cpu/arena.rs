//! The memory of one executable graph.

use std::ops::{Deref, Range};

use crate::{Error, pages::Pages};

/// f32 values in one block, addressed by the ranges of a plan. Pages are aligned more strictly than the cache
/// lines of a plan.
pub(super) struct Arena {
    pages: Pages,
}

impl Arena {
    /// Allocates `elements` zeros.
    pub(super) fn new(elements: usize) -> Result<Arena, Error> {
        Ok(Arena { pages: Pages::zeros(elements)? })
    }

    pub(super) fn values(&self, range: Range<usize>) -> &[f32] {
        &self.pages[range]
    }

    pub(super) fn values_mut(&mut self, range: Range<usize>) -> &mut [f32] {
        &mut self.pages[range]
    }

    /// One range to write and several to read. The plan never lets a node's output overlap its inputs.
    pub(super) fn split(
        &mut self,
        out: Range<usize>,
        inputs: impl Iterator<Item = Range<usize>>,
    ) -> (&mut [f32], Inputs<'_>) {
        let (before, rest) = self.pages.split_at_mut(out.start);
        let (written, after) = rest.split_at_mut(out.len());
        let (before, after) = (&*before, &*after);
        let mut read = Inputs { values: [&[]; MAX_INPUTS], count: 0 };
        for range in inputs {
            read.values[read.count] = match range.end <= out.start {
                true => &before[range],
                false => &after[range.start - out.end..range.end - out.end],
            };
            read.count += 1;
        }
        (written, read)
    }
}

/// The most inputs of an op: a convolution reads a picture, the biases of its channels and a picture to add.
const MAX_INPUTS: usize = 3;

/// The inputs of an op, in its order.
pub(super) struct Inputs<'a> {
    values: [&'a [f32]; MAX_INPUTS],
    count: usize,
}

impl<'a> Deref for Inputs<'a> {
    type Target = [&'a [f32]];

    fn deref(&self) -> &[&'a [f32]] {
        &self.values[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_on_both_sides_of_the_output_are_read_where_they_lie() {
        let mut arena = Arena::new(48).unwrap();
        for (index, value) in arena.values_mut(0..48).iter_mut().enumerate() {
            *value = index as f32;
        }
        let (out, inputs) = arena.split(16..20, [0..3, 32..35, 0..3].into_iter());
        assert_eq!(out, [16.0, 17.0, 18.0, 19.0]);
        assert_eq!(*inputs, [&[0.0, 1.0, 2.0][..], &[32.0, 33.0, 34.0], &[0.0, 1.0, 2.0]]);
    }
}
