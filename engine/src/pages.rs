//! Large blocks of values, allocated directly from the system.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::Error;

/// f32 values in anonymous pages of their own.
///
/// A page counts as used once it has been written, and is returned when the block is dropped. An allocator
/// might keep freed memory (glibc keeps blocks below a threshold that grows up to 32 MiB), and then the
/// actual peak would exceed the planned one.
#[derive(Debug)]
pub(crate) struct Pages {
    /// `None` for zero values, for which there is no mapping.
    map: Option<MmapMut>,
}

impl Pages {
    /// `count` zeros, aligned to a page.
    pub(crate) fn zeros(count: usize) -> Result<Pages, Error> {
        let bytes = count.saturating_mul(size_of::<f32>());
        if bytes == 0 {
            return Ok(Pages { map: None });
        }
        let map = MmapMut::map_anon(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
        Ok(Pages { map: Some(map) })
    }
}

impl Deref for Pages {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.map.as_deref().map_or(&[], bytemuck::cast_slice)
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.map.as_deref_mut().map_or(&mut [], bytemuck::cast_slice_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_zeros_until_written() {
        let mut pages = Pages::zeros(5000).unwrap();
        assert!(pages.len() == 5000 && pages.iter().all(|value| *value == 0.0));
        pages[4999] = 2.0;
        assert_eq!(pages.iter().sum::<f32>(), 2.0);
        assert!(Pages::zeros(0).unwrap().is_empty());
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(Pages::zeros(usize::MAX / 8), Err(Error::OutOfMemory { .. })));
    }
}
