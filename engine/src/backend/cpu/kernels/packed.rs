//! Weight matrices as they are stored in the file.

use half::f16;
use sdq_formats::layout::PANEL;

use crate::backend::cpu::simd::LANES;

// One row of a panel is one vector.
const _: () = assert!(PANEL == LANES);

/// A weight matrix `[n, k]` in panels of sixteen output channels: `[ceil(n / 16)][k][16]`, padded with zeros
/// past `n`.
#[derive(Clone, Copy)]
pub struct PackedMatrix<'a> {
    /// Output channels.
    n: usize,
    /// Input channels; in a convolution, times the kernel's taps.
    k: usize,
    panels: Panels<'a>,
}

/// The elements of a [`PackedMatrix`].
#[derive(Clone, Copy)]
pub enum Panels<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision, widened on use.
    F16(&'a [f16]),
}

impl<'a> PackedMatrix<'a> {
    /// Describes a matrix of `n` output and `k` input channels.
    ///
    /// # Panics
    /// If `panels` is not `ceil(n / 16) * k * 16` long.
    pub fn new(n: usize, k: usize, panels: Panels<'a>) -> Self {
        let len = match panels {
            Panels::F32(values) => values.len(),
            Panels::F16(values) => values.len(),
        };
        assert_eq!(len, n.div_ceil(PANEL) * k * PANEL, "length of a packed [{n}, {k}] matrix");
        Self { n, k, panels }
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input channels; in a convolution, times the kernel's taps.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The elements.
    pub fn panels(&self) -> Panels<'a> {
        self.panels
    }
}
