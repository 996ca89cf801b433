//! What happens to a product before it is stored.

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

    /// The row of `channel_bias` for the image that holds output row `row`.
    #[inline(always)]
    pub(super) fn channel_bias_row(&self, row: usize, n: usize, rows_per_batch: usize) -> Option<&[f32]> {
        self.channel_bias.map(|rows| {
            let image = if rows.len() == n { 0 } else { row / rows_per_batch };
            &rows[image * n..][..n]
        })
    }
}
