//! Kernels that only move rows.

use super::tiles::{Grid, for_each_tile};
use crate::backend::cpu::pool::Pool;

/// Tasks per thread, where there is enough to copy.
const TASKS_PER_THREAD: usize = 4;

/// `out = [a, b]` along the channels: `a` is `[rows, a_channels]`, `b` `[rows, b_channels]`.
///
/// # Panics
/// If the lengths disagree.
pub fn concat_channels(
    pool: &Pool,
    a: &[f32],
    a_channels: usize,
    b: &[f32],
    b_channels: usize,
    out: &mut [f32],
) {
    let channels = a_channels + b_channels;
    assert!(channels > 0 && out.len().is_multiple_of(channels), "output length");
    let rows = out.len() / channels;
    assert_eq!(a.len(), rows * a_channels, "length of the first part");
    assert_eq!(b.len(), rows * b_channels, "length of the second part");
    for_each_row(pool, channels, out, |row, out| {
        let (out_a, out_b) = out.split_at_mut(a_channels);
        out_a.copy_from_slice(&a[row * a_channels..][..a_channels]);
        out_b.copy_from_slice(&b[row * b_channels..][..b_channels]);
    });
}

/// The sizes of an upsampling, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct UpsampleShape {
    /// Images.
    pub batch: usize,
    /// Height of the input.
    pub in_height: usize,
    /// Width of the input.
    pub in_width: usize,
    /// Height of the output.
    pub out_height: usize,
    /// Width of the output.
    pub out_width: usize,
    /// Channels of input and output.
    pub channels: usize,
}

/// Resizes images to any size by repeating pixels: output pixel `i` is input pixel `floor(i * in / out)`, as
/// in PyTorch's `interpolate`.
///
/// # Panics
/// If the lengths disagree.
pub fn upsample_nearest(pool: &Pool, x: &[f32], shape: &UpsampleShape, out: &mut [f32]) {
    let &UpsampleShape { batch, in_height, in_width, out_height, out_width, channels } = shape;
    assert_eq!(x.len(), batch * in_height * in_width * channels, "input length");
    assert_eq!(out.len(), batch * out_height * out_width * channels, "output length");
    for_each_row(pool, out_width * channels, out, |row, out| {
        let (image, y) = (row / out_height, row % out_height);
        let line = (image * in_height + y * in_height / out_height) * in_width;
        for (x_out, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let from = line + x_out * in_width / out_width;
            pixel.copy_from_slice(&x[from * channels..][..channels]);
        }
    });
}

/// Calls `work` for every row of `columns` elements.
fn for_each_row(pool: &Pool, columns: usize, out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len().checked_div(columns).unwrap_or(0);
    let tile_rows = match pool.threads_for_elements(out.len()) {
        1 => rows,
        threads => rows.div_ceil(threads * TASKS_PER_THREAD),
    };
    let grid = Grid { groups: 1, rows, columns, tile_rows: tile_rows.max(1), tile_columns: columns.max(1) };
    for_each_tile(pool, out, &grid, |mut tile| {
        for i in 0..tile.rows.len() {
            work(tile.rows.start + i, tile.row_mut(i));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    #[test]
    fn channels_lie_side_by_side() {
        for [rows, a_channels, b_channels] in [[1, 1, 1], [7, 3, 5], [10, 0, 4], [65, 32, 17]] {
            let a = reference::noise(51, rows * a_channels);
            let b = reference::noise(52, rows * b_channels);
            let row =
                |row| [&a[row * a_channels..][..a_channels], &b[row * b_channels..][..b_channels]].concat();
            let expected: Vec<f64> = (0..rows).flat_map(row).map(f64::from).collect();
            reference::check_everywhere("concat", &expected, 0.0, |pool, out| {
                concat_channels(pool, &a, a_channels, &b, b_channels, out);
            });
        }
    }

    #[test]
    fn upsampling_repeats_pixels_to_any_size() {
        for (input, output) in [((2, 3), (4, 6)), ((1, 1), (3, 2)), ((3, 5), (5, 9)), ((4, 4), (3, 7))] {
            let shape = UpsampleShape {
                batch: 2,
                in_height: input.0,
                in_width: input.1,
                out_height: output.0,
                out_width: output.1,
                channels: 5,
            };
            let x = reference::noise(53, 2 * input.0 * input.1 * 5);
            let expected = reference::upsample_nearest(&x, &shape);
            reference::check_everywhere(&format!("{shape:?}"), &expected, 0.0, |pool, out| {
                upsample_nearest(pool, &x, &shape, out);
            });
        }
    }
}
