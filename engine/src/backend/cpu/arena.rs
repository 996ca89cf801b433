//! The memory of one executable graph.

use std::ops::Range;

use memmap2::MmapMut;

use crate::Error;

/// f32 values in one block, addressed by the ranges of a plan.
///
/// Pages come from the system as they are first touched and go back when the arena is dropped: an allocator might keep
/// them, and a planned peak would not be the real one. Pages are aligned to more than the cache lines of a plan.
pub(super) struct Arena {
    /// `None` for no values at all, of which there is no mapping.
    pages: Option<MmapMut>,
}

impl Arena {
    /// `elements` zeros.
    pub(super) fn new(elements: usize) -> Result<Arena, Error> {
        let bytes = elements.saturating_mul(size_of::<f32>());
        if bytes == 0 {
            return Ok(Arena { pages: None });
        }
        let pages = MmapMut::map_anon(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
        Ok(Arena { pages: Some(pages) })
    }

    fn all(&self) -> &[f32] {
        bytemuck::cast_slice(self.pages.as_deref().unwrap_or_default())
    }

    fn all_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.pages.as_deref_mut().unwrap_or_default())
    }

    pub(super) fn values(&self, range: Range<usize>) -> &[f32] {
        &self.all()[range]
    }

    pub(super) fn values_mut(&mut self, range: Range<usize>) -> &mut [f32] {
        &mut self.all_mut()[range]
    }

    /// One range to write and others to read. The plan keeps a node's output apart from its inputs.
    pub(super) fn split(
        &mut self,
        out: Range<usize>,
        inputs: impl Iterator<Item = Range<usize>>,
    ) -> (&mut [f32], Vec<&[f32]>) {
        let (before, rest) = self.all_mut().split_at_mut(out.start);
        let (written, after) = rest.split_at_mut(out.len());
        let (before, after) = (&*before, &*after);
        let inputs = inputs.map(|range| match range.end <= out.start {
            true => &before[range],
            false => &after[range.start - out.end..range.end - out.end],
        });
        (written, inputs.collect())
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
        assert_eq!(inputs, [&[0.0, 1.0, 2.0][..], &[32.0, 33.0, 34.0], &[0.0, 1.0, 2.0]]);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(Arena::new(usize::MAX / 8), Err(Error::OutOfMemory { .. })));
    }
}
