//! Operations on a product before it is stored.

use super::tiles::Tile;
use crate::backend::cpu::simd::{LANES, Lanes, Simd};

/// The end of a product: `out = product + bias + channel_bias + residual`.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// `[n]`, added to every row.
    pub bias: Option<&'a [f32]>,
    /// `[batch, n]` or `[1, n]`: row `b` is added to the rows of image `b`, a single row to all.
    pub channel_bias: Option<&'a [f32]>,
    /// `[m, n]`, added last.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Panics unless every part fits an output `[m, n]` whose images are `rows_per_batch` rows each.
    pub(super) fn check(&self, m: usize, n: usize, rows_per_batch: usize) {
        assert!(
            rows_per_batch > 0 && m.is_multiple_of(rows_per_batch),
            "{m} rows in images of {rows_per_batch}"
        );
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), n, "bias length");
        }
        if let Some(channel_bias) = self.channel_bias {
            let batch = m / rows_per_batch;
            assert!(channel_bias.len() == n || channel_bias.len() == batch * n, "channel bias length");
        }
        if let Some(residual) = self.residual {
            assert_eq!(residual.len(), m * n, "residual length");
        }
    }

    /// Writes the `sums` `[panels, rows]` of a tile of the output `[m, n]` row by row.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        &self,
        isa: S,
        sums: &[Lanes],
        n: usize,
        rows_per_batch: usize,
        out: &mut Tile<'_, f32>,
    ) {
        let (rows, first_column) = (out.rows.len(), out.columns.start);
        for row in 0..rows {
            let ending = self.of_row(out.rows.start + row, n, rows_per_batch);
            for (p, out) in out.row_mut(row).chunks_mut(LANES).enumerate() {
                ending.finish_vector(isa, isa.load(&sums[p * rows + row]), first_column + p * LANES, out);
            }
        }
    }

    /// The epilogue of row `row` alone, of an output `[m, n]`.
    #[inline(always)]
    pub(super) fn of_row(&self, row: usize, n: usize, rows_per_batch: usize) -> Epilogue<'_> {
        Epilogue {
            bias: self.bias,
            channel_bias: self.channel_bias_row(row, n, rows_per_batch),
            residual: self.residual.map(|residual| &residual[row * n..][..n]),
        }
    }

    /// Finishes `value`, which holds the columns from `first_column` on of the only row, and stores it in
    /// `out`.
    #[inline(always)]
    pub(super) fn finish_vector<S: Simd>(
        &self,
        isa: S,
        mut value: S::Vector,
        first_column: usize,
        out: &mut [f32],
    ) {
        let columns = first_column..first_column + out.len();
        if let Some(bias) = self.bias {
            value = isa.add(value, isa.load_partial(&bias[columns.clone()]));
        }
        if let Some(channel_bias) = self.channel_bias {
            value = isa.add(value, isa.load_partial(&channel_bias[columns.clone()]));
        }
        if let Some(residual) = self.residual {
            value = isa.add(value, isa.load_partial(&residual[columns]));
        }
        isa.store_partial(value, out);
    }

    /// The row of `channel_bias` for the image that contains output row `row`.
    #[inline(always)]
    fn channel_bias_row(&self, row: usize, n: usize, rows_per_batch: usize) -> Option<&[f32]> {
        self.channel_bias.map(|rows| {
            let image = if rows.len() == n { 0 } else { row / rows_per_batch };
            &rows[image * n..][..n]
        })
    }
}
