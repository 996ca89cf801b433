//! Group normalisation: `(x - mean) / √(variance + eps) * gamma + beta`.
//!
//! The sums are of differences from a nearby value, so that a large mean costs no precision.

use bytemuck::{Pod, Zeroable};

use super::row_output::{RowOutput, RowTile, for_each_row_tile};
use super::scratch::{Scratch, ScratchUse};
use super::tiles::{Grid, for_each_tile};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{LANES, Lanes, Simd, SimdOp};
use crate::graph::{Activation, GroupSums, Statistics};

/// Minimum number of pixels whose moments a task sums.
const TASK_PIXELS: usize = 512;

/// Pixels summed in single precision before the sum is added to one in double precision.
const SHORT_SUM: usize = 32;

/// Normalises `x` `[batch, rows, row_pixels, channels]` over the pixels and channels of each of `groups`
/// groups of adjacent channels, then applies `activation`. `gamma` and `beta` are `[channels]`. Group
/// Normalization, arXiv:1803.08494.
///
/// # Panics
/// If the lengths disagree or the groups do not divide the channels.
#[expect(clippy::too_many_arguments, reason = "the operation has this many, and all are needed")]
pub fn group_norm<'o>(
    pool: &Pool,
    x: &[f32],
    batch: usize,
    row_pixels: usize,
    groups: usize,
    eps: f32,
    gamma: &[f32],
    beta: &[f32],
    activation: Option<Activation>,
    out: impl Into<RowOutput<'o>>,
) {
    let channels = gamma.len();
    assert!(batch > 0 && x.len().is_multiple_of(batch * channels.max(1)), "input length");
    assert!(groups > 0 && row_pixels > 0, "no groups or no pixels");
    let length = x.len() / batch;
    let mut scratch = Scratch::new(lines(batch, length / (row_pixels * channels), channels, groups));
    let memory = NormMemory::of(scratch.lines(), batch, channels, groups);
    for (image, statistics) in memory.statistics.chunks_mut(groups).enumerate() {
        let sums = &mut memory.sums[..groups];
        sums.fill(GroupSums::default());
        add_sums(pool, &x[image * length..][..length], row_pixels, channels, sums, memory.moments);
        for (statistics, sums) in statistics.iter_mut().zip(sums) {
            *statistics = sums.statistics(length / groups);
        }
    }
    let affine = Affine { eps, gamma, beta, activation };
    normalize(pool, x, memory.statistics, memory.maps, groups, &affine, out.into());
}

/// As [`group_norm`], but with given means and variances: `statistics` is `[batch, groups, 6]`, see
/// [`Statistics`].
///
/// # Panics
/// If the lengths disagree or the groups do not divide the channels.
#[expect(clippy::too_many_arguments, reason = "the operation has this many, and all are needed")]
pub fn group_norm_with<'o>(
    pool: &Pool,
    x: &[f32],
    statistics: &[f32],
    groups: usize,
    eps: f32,
    gamma: &[f32],
    beta: &[f32],
    activation: Option<Activation>,
    out: impl Into<RowOutput<'o>>,
) {
    let (values, rest) = statistics.as_chunks();
    assert!(rest.is_empty() && groups > 0, "length of the statistics");
    let batch = values.len() / groups;
    let mut scratch = Scratch::new(lines(batch, 0, gamma.len(), groups));
    let memory = NormMemory::of(scratch.lines(), batch, gamma.len(), groups);
    for (statistics, &values) in memory.statistics.iter_mut().zip(values) {
        *statistics = Statistics::from_values(values);
    }
    let affine = Affine { eps, gamma, beta, activation };
    normalize(pool, x, memory.statistics, memory.maps, groups, &affine, out.into());
}

/// Adds the values of `x` `[rows, row_pixels, channels]` and their squares to `before`, `[groups, 6]`, and
/// writes the result to `out`, see [`GroupSums`]. If the parts of a picture are summed from top to bottom,
/// the result is bit-identical to the sums of [`group_norm`].
///
/// # Panics
/// If the lengths disagree or the groups do not divide the channels.
pub fn group_sums(
    pool: &Pool,
    x: &[f32],
    row_pixels: usize,
    channels: usize,
    before: &[f32],
    out: &mut [f32],
) {
    assert_eq!(before.len(), out.len(), "length of the sums");
    let (before, rest) = before.as_chunks();
    assert!(rest.is_empty() && row_pixels > 0 && channels > 0, "length of the sums");
    let groups = before.len();
    let mut scratch = Scratch::new(lines(1, x.len() / (row_pixels * channels), channels, groups));
    let memory = NormMemory::of(scratch.lines(), 1, channels, groups);
    let sums = &mut memory.sums[..groups];
    for (sums, &values) in sums.iter_mut().zip(before) {
        *sums = GroupSums::from_values(values);
    }
    add_sums(pool, x, row_pixels, channels, sums, memory.moments);
    for (values, sums) in out.as_chunks_mut().0.iter_mut().zip(sums) {
        *values = sums.to_values();
    }
}

/// Working memory of a group norm or of its sums, with `rows` rows of pixels in each image.
pub fn group_norm_scratch(batch: usize, rows: usize, channels: usize, groups: usize) -> ScratchUse {
    ScratchUse::of_tasks(1, lines(batch, rows, channels, groups))
}

/// Number of vectors that hold `count` values.
fn lines_of<T>(count: usize) -> usize {
    (count * size_of::<T>()).div_ceil(size_of::<Lanes>())
}

fn lines(batch: usize, rows: usize, channels: usize, groups: usize) -> usize {
    let vectors = channels.div_ceil(LANES);
    lines_of::<GroupSums>(groups)
        + lines_of::<Statistics>(batch * groups)
        + lines_of::<ChannelMap>(batch * vectors)
        + lines_of::<Moments>(rows * vectors)
}

/// Working memory of a group norm.
struct NormMemory<'a> {
    /// Sums of one image.
    sums: &'a mut [GroupSums],
    statistics: &'a mut [Statistics],
    maps: &'a mut [ChannelMap],
    /// Moments of one image, in the rest of the memory.
    moments: &'a mut [Moments],
}

impl<'a> NormMemory<'a> {
    fn of(lines: &'a mut [Lanes], batch: usize, channels: usize, groups: usize) -> NormMemory<'a> {
        let maps = batch * channels.div_ceil(LANES);
        let (sums, rest) = lines.split_at_mut(lines_of::<GroupSums>(groups));
        let (statistics, rest) = rest.split_at_mut(lines_of::<Statistics>(batch * groups));
        let (map_lines, moments) = rest.split_at_mut(lines_of::<ChannelMap>(maps));
        NormMemory {
            sums: &mut bytemuck::cast_slice_mut(sums)[..groups],
            statistics: &mut bytemuck::cast_slice_mut(statistics)[..batch * groups],
            maps: &mut bytemuck::cast_slice_mut(map_lines)[..maps],
            moments: bytemuck::cast_slice_mut(moments),
        }
    }
}

/// The operations after the normalisation itself.
struct Affine<'a> {
    eps: f32,
    gamma: &'a [f32],
    beta: &'a [f32],
    activation: Option<Activation>,
}

fn normalize(
    pool: &Pool,
    x: &[f32],
    statistics: &[Statistics],
    maps: &mut [ChannelMap],
    groups: usize,
    &Affine { eps, gamma, beta, activation }: &Affine<'_>,
    out: RowOutput<'_>,
) {
    let channels = gamma.len();
    assert_eq!(beta.len(), channels, "beta length");
    assert!(
        groups > 0 && channels > 0 && channels.is_multiple_of(groups),
        "{channels} channels, {groups} groups"
    );
    assert!(statistics.len().is_multiple_of(groups), "statistics of {groups} groups");
    let batch = statistics.len() / groups;
    assert_eq!(out.rows(channels) * channels, x.len(), "output length");
    if x.is_empty() {
        return;
    }
    assert!(batch > 0 && x.len().is_multiple_of(batch * channels), "input length");
    let pixels = x.len() / (batch * channels);

    let vectors = channels.div_ceil(LANES);
    for (statistics, maps) in statistics.chunks_exact(groups).zip(maps.chunks_exact_mut(vectors)) {
        set_channel_maps(statistics, eps, gamma, beta, maps);
    }
    let maps = &*maps;
    for_each_row_tile(pool, out, batch, channels, |out| {
        let image = &x[out.group * pixels * channels..][..pixels * channels];
        let x = &image[out.rows.start * channels..out.rows.end * channels];
        let maps = &maps[out.group * vectors..][..vectors];
        pool.isa().dispatch(ApplyMaps { x, channels, maps, activation, out });
    });
}

/// First and second moments of sixteen channels over a row of pixels: `Σ x` and `Σ x²`, precise enough in
/// double precision that the mean can be subtracted afterwards.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Moments {
    sum: [f64; LANES],
    square_sum: [f64; LANES],
}

/// Adds the values of `x` `[rows, row_pixels, channels]` and their squares to the sums of their groups, row after row.
/// `memory` has room for the moments of every row.
fn add_sums(
    pool: &Pool,
    x: &[f32],
    row_pixels: usize,
    channels: usize,
    sums: &mut [GroupSums],
    memory: &mut [Moments],
) {
    let groups = sums.len();
    assert!(
        groups > 0 && channels > 0 && channels.is_multiple_of(groups),
        "{channels} channels, {groups} groups"
    );
    let line = row_pixels * channels;
    assert!(line > 0 && x.len().is_multiple_of(line), "input length");
    let rows = x.len() / line;
    let vectors = channels.div_ceil(LANES);
    let moments = &mut memory[..rows * vectors];
    moments.fill(Moments::default());
    let tile_rows = match pool.threads_for_elements(x.len()) {
        1 => rows.max(1),
        _ => TASK_PIXELS.div_ceil(row_pixels),
    };
    let grid = Grid { groups: 1, rows, columns: vectors, tile_rows, tile_columns: vectors };
    for_each_tile(pool, moments, &grid, |mut tile| {
        for i in 0..tile.rows.len() {
            let x = &x[(tile.rows.start + i) * line..][..line];
            pool.isa().dispatch(SumMoments { x, channels, moments: tile.row_mut(i) });
        }
    });
    for row in moments.chunks_exact(vectors) {
        for channel in 0..channels {
            let sums = &mut sums[channel / (channels / groups)];
            sums.sum += row[channel / LANES].sum[channel % LANES];
            sums.square_sum += row[channel / LANES].square_sum[channel % LANES];
        }
    }
}

/// The moments of a row, `x` `[pixels, channels]`.
struct SumMoments<'a> {
    x: &'a [f32],
    channels: usize,
    moments: &'a mut [Moments],
}

impl SimdOp for SumMoments<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, isa: S) {
        for pixels in self.x.chunks(SHORT_SUM * self.channels) {
            for (v, moments) in self.moments.iter_mut().enumerate() {
                let columns = v * LANES..self.channels.min((v + 1) * LANES);
                let load = |pixel: &[f32]| isa.load_partial(&pixel[columns.clone()]);
                let shift = load(pixels);
                let mut sum = isa.splat(0.0);
                let mut square_sum = isa.splat(0.0);
                for pixel in pixels.chunks_exact(self.channels) {
                    let distance = isa.sub(load(pixel), shift);
                    sum = isa.add(sum, distance);
                    square_sum = isa.fma(distance, distance, square_sum);
                }
                let count = (pixels.len() / self.channels) as f64;
                moments.add(count, isa.lanes(shift), isa.lanes(sum), isa.lanes(square_sum));
            }
        }
    }
}

impl Moments {
    /// Adds `count` values of each lane, given as the sums of their differences from `shift` and of the
    /// squares of these.
    #[inline(always)]
    fn add(&mut self, count: f64, shift: Lanes, sum: Lanes, square_sum: Lanes) {
        for i in 0..LANES {
            let (shift, sum, square_sum) = (f64::from(shift[i]), f64::from(sum[i]), f64::from(square_sum[i]));
            self.sum[i] += count * shift + sum;
            self.square_sum[i] += square_sum + shift * (2.0 * sum + count * shift);
        }
    }
}

/// `(x - mean) * scale + offset` for sixteen channels of an image.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ChannelMap {
    mean: Lanes,
    scale: Lanes,
    offset: Lanes,
}

/// Sets `maps` to those that normalise an image with the statistics of its groups.
fn set_channel_maps(
    statistics: &[Statistics],
    eps: f32,
    gamma: &[f32],
    beta: &[f32],
    maps: &mut [ChannelMap],
) {
    let channels = gamma.len();
    let group_channels = channels / statistics.len();
    maps.fill(ChannelMap::zeroed());
    for (group, &Statistics { mean, variance }) in statistics.iter().enumerate() {
        let deviation = (variance + f64::from(eps)).sqrt();
        for channel in group * group_channels..(group + 1) * group_channels {
            let map = &mut maps[channel / LANES];
            let lane = channel % LANES;
            // The mean is subtracted in single precision; the offset corrects its rounding error.
            map.mean[lane] = mean as f32;
            let scale = f64::from(gamma[channel]) / deviation;
            map.scale[lane] = scale as f32;
            map.offset[lane] = (f64::from(beta[channel]) + (f64::from(mean as f32) - mean) * scale) as f32;
        }
    }
}

/// Applies an image's maps to a tile of its pixels.
struct ApplyMaps<'a> {
    x: &'a [f32],
    channels: usize,
    maps: &'a [ChannelMap],
    activation: Option<Activation>,
    out: RowTile<'a>,
}

impl SimdOp for ApplyMaps<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(mut self, isa: S) {
        for (i, x) in self.x.chunks_exact(self.channels).enumerate() {
            let parts = x.chunks(LANES).zip(self.out.row_mut(i).chunks_mut(LANES));
            for ((x, out), map) in parts.zip(self.maps) {
                let distance = isa.sub(isa.load_partial(x), isa.load(&map.mean));
                let mut y = isa.fma(distance, isa.load(&map.scale), isa.load(&map.offset));
                if let Some(activation) = self.activation {
                    y = activation.apply(isa, y);
                }
                isa.store_partial(y, out);
            }
            self.out.finish(isa, i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use crate::graph::PAIR_VALUES;

    /// Outputs are of order 1 and a handful of operations from the moments, which are nearly exact.
    const TOLERANCE: f64 = 2e-6;

    fn check_group_norm(x: &[f32], batch: usize, groups: usize, channels: usize, eps: f32, tolerance: f64) {
        let gamma: Vec<f32> = reference::noise(21, channels).iter().map(|g| 1.0 + 0.5 * g).collect();
        let beta = reference::noise(22, channels);
        let expected = reference::group_norm(x, batch, groups, eps, &gamma, &beta);
        let pixels = x.len() / (batch * channels);
        let label = format!("{} values, {batch} images, {groups} groups of {channels}", x.len());
        for row_pixels in [pixels, row_of(pixels)] {
            reference::check_everywhere(&label, &expected, tolerance, |pool, out| {
                group_norm(pool, x, batch, row_pixels, groups, eps, &gamma, &beta, None, out);
            });
        }
    }

    /// Pixels of a row, so that there are several rows if their number has a small divisor.
    fn row_of(pixels: usize) -> usize {
        let rows = (2..=11).find(|rows| pixels.is_multiple_of(*rows)).unwrap_or(1);
        pixels / rows
    }

    #[test]
    fn sums_in_parts_make_the_same_norm_bit_for_bit() {
        let (rows, row_pixels, channels, groups) = (9, 37, 40, 8);
        let x = reference::noise(31, rows * row_pixels * channels);
        let (gamma, beta) = (reference::noise(32, channels), reference::noise(33, channels));
        let line = row_pixels * channels;
        for threads in 1..=3 {
            let pool = Pool::new(std::num::NonZeroUsize::new(threads)).unwrap().dividing_everything();
            let mut whole = vec![0.0; x.len()];
            group_norm(&pool, &x, 1, row_pixels, groups, 1e-6, &gamma, &beta, None, &mut whole[..]);
            let mut sums = vec![0.0; groups * PAIR_VALUES];
            for part in [&x[..line], &x[line..4 * line], &x[4 * line..]] {
                let before = sums.clone();
                group_sums(&pool, part, row_pixels, channels, &before, &mut sums);
            }
            let count = x.len() / groups;
            let statistics = sums
                .as_chunks()
                .0
                .iter()
                .flat_map(|&sums| GroupSums::from_values(sums).statistics(count).to_values());
            let statistics: Vec<f32> = statistics.collect();
            let mut parts = vec![0.0; x.len()];
            for (x, out) in x.chunks(5 * line).zip(parts.chunks_mut(5 * line)) {
                group_norm_with(&pool, x, &statistics, groups, 1e-6, &gamma, &beta, None, out);
            }
            assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
        }
    }

    #[test]
    fn group_norm_agrees_with_reference() {
        for [batch, pixels, channels, groups] in [
            [2, 1, 8, 2],
            [1, 33, 3, 3],
            [2, 64, 320, 32],
            [3, 513, 17, 1],
            [1, 1200, 36, 4],
            [2, 100, 40, 8],
        ] {
            let x = reference::noise(23, batch * pixels * channels);
            check_group_norm(&x, batch, groups, channels, 1e-5, TOLERANCE);
        }
    }

    #[test]
    fn group_norm_keeps_its_digits_with_a_large_mean() {
        // A mean of 1000 standard deviations over the largest group of an SD1 decoder.
        let channels = 4;
        let x: Vec<f32> = reference::noise(24, 262_144 * channels).iter().map(|x| 600.0 + x).collect();
        check_group_norm(&x, 1, 4, channels, 1e-6, TOLERANCE);
    }

    #[test]
    fn group_norm_survives_an_outlier_in_the_first_pixel() {
        let channels = 32;
        let mut x = reference::noise(25, 64 * channels);
        x[..channels].fill(1000.0);
        // The worst case for the choice of a nearby value: all other values are far from it. The result is
        // about 7.
        check_group_norm(&x, 1, 2, channels, 1e-6, 3e-5);
    }

    #[test]
    fn constant_input_becomes_beta() {
        let beta = reference::noise(26, 20);
        let expected: Vec<f64> = beta.iter().cycle().take(20 * 600).map(|&b| f64::from(b)).collect();
        for value in [0.0, 1000.3, -3e-5] {
            let x = vec![value; 20 * 600];
            reference::check_everywhere("constant", &expected, 1e-6, |pool, out| {
                group_norm(pool, &x, 1, 30, 4, 1e-6, &[1.0; 20], &beta, None, out);
            });
        }
    }

    #[test]
    fn activation_follows_the_norm() {
        let x = reference::noise(27, 50 * 24);
        let (gamma, beta) = (vec![1.5; 24], vec![0.2; 24]);
        let normed = reference::group_norm(&x, 2, 3, 1e-5, &gamma, &beta);
        let expected: Vec<f64> = normed.iter().map(|&y| reference::activate(Activation::Silu, y)).collect();
        reference::check_everywhere("norm and silu", &expected, TOLERANCE, |pool, out| {
            group_norm(pool, &x, 2, 5, 3, 1e-5, &gamma, &beta, Some(Activation::Silu), out);
        });
    }
}
