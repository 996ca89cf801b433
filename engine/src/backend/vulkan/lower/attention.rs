//! Attention.

use super::super::{
    caps::{MatrixShape, MatrixTile},
    error::VulkanError,
    kernels::{AttentionPush, Kernel, Push, constants},
};
use super::{Call, Lowering, read, word, written};
use crate::graph::PreparedNode;

impl Lowering<'_> {
    pub(super) fn attention(
        &mut self,
        node: &PreparedNode,
        heads: usize,
        causal: bool,
    ) -> Result<(), VulkanError> {
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
                // The sums of wide heads need so many registers that only half as many queries fit.
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
}
