//! Properties of a device that affect how nodes are lowered to kernels.

use super::super::caps::{MatrixShape, MatrixTile, Tier};
use crate::backend::row_layout::BLOCK;

/// Properties of a device that affect how nodes are lowered to kernels.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Bounds {
    pub(in super::super) tier: Tier,
    /// Maximum number of bytes of one buffer that a kernel can access.
    pub(in super::super) max_binding: u64,
    /// Maximum size of a buffer in bytes.
    pub(in super::super) max_buffer: u64,
    /// Maximum number of workgroups of a dispatch, along two axes.
    pub(in super::super) groups: [u32; 2],
    /// Bytes of shared memory of a workgroup.
    pub(in super::super) shared_memory: u32,
    /// How matrices of bytes are multiplied; `None` in the other tiers.
    pub(in super::super) matrix: Option<MatrixTile>,
    /// How matrices of halves are multiplied; `None` in the other tiers.
    pub(in super::super) half_matrix: Option<MatrixTile>,
}

impl MatrixTile {
    /// Whether a tile of so many rows and columns, in units of sixteen, gives every subgroup the same number
    /// of matrices and fits into `shared_memory` bytes.
    pub(super) fn fits(&self, [rows, columns]: [u32; 2], shared_memory: u32) -> bool {
        let MatrixShape { m, n, .. } = self.shape;
        let matrices = (16 * rows / m) * (16 * columns / n);
        // The shared memory that `gemm_u8s8_matrix.comp` declares, in words; the kernel for halves needs
        // less.
        let operands = 16 * (rows + columns) * (BLOCK as u32 / 4 + 4);
        let factors = 16 * (2 * rows + 3 * columns);
        let words = operands + factors + self.subgroups * m * n;
        matrices > 0 && matrices.is_multiple_of(self.subgroups) && 4 * words <= shared_memory
    }

    /// Whether an attention of `queries` queries at once to heads of `depth` channels fits into
    /// `shared_memory` bytes.
    pub(super) fn fits_attention(&self, queries: u32, depth: u32, shared_memory: u32) -> bool {
        let MatrixShape { m, n, .. } = self.shape;
        let keys = 32;
        let scores = (queries * (keys + 4)).max(self.subgroups * m * n);
        // The shared memory that `attention_f16_matrix.comp` declares, in words.
        let operands = (queries + keys) * (depth / 2 + 4) + queries * (keys / 2 + 4);
        queries.is_multiple_of(m) && 4 * (operands + scores + 3 * queries + 256) <= shared_memory
    }
}
