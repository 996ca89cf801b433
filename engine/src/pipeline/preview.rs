//! Previews of unfinished pictures: clean latents → small picture by a linear map.
//!
//! A latent pixel is nearly a colour: four numbers and a constant give red, green and blue. The map is fitted
//! to the model's own decoder by least squares when a preview is first requested, so it suits any VAE,
//! including one that replaces the model's own. This takes one decode of a few hundred latent pixels; each
//! preview after that takes microseconds. A decode at reduced size would show more detail but take as long as
//! one or two steps.

use super::{Compiled, Pipeline};
use crate::{Error, Picture, Tensor, picture, rng::TorchCpuGenerator};
use sdq_schedulers::NoiseSource as _;

/// The estimate of the picture at a step.
#[derive(Debug)]
pub struct Preview<'a> {
    pub(super) pipeline: &'a Pipeline,
    /// `[1, channels, h, w]`.
    pub(super) predicted_original: &'a Tensor,
}

impl Preview<'_> {
    /// The model's current estimate of the clean picture, with one pixel for each latent pixel.
    ///
    /// # Errors
    /// The first time as [`Pipeline::decode_latents`], because the map from latents to colours is fitted
    /// then.
    pub fn picture(&self) -> Result<Picture, Error> {
        self.pipeline.preview(self.predicted_original)
    }

    /// The clean latents themselves, `[1, channels, h, w]`, to be decoded in full.
    pub fn latents(&self) -> &Tensor {
        self.predicted_original
    }
}

/// Height and width of the latents that the map is fitted to: enough equations for five unknowns, and a fast
/// decode.
const SIDE: usize = 16;
/// Side of the squares of equal values in them. Colours of uniform areas matter most, and a decoder responds
/// to a single different pixel in another way than to an area. On the built-in model the result is within 1
/// dB of the best linear map for its pictures; squares of 2, of 8 and mixtures were worse.
const SQUARE: usize = 4;
/// Keeps the equations solvable if a channel has no influence.
const RIDGE: f64 = 1e-3;

/// A linear map from latents to colours.
#[derive(Clone, Debug)]
pub(super) struct LatentColors {
    /// For red, green and blue: a factor for each channel of the latents, then a constant.
    factors: [Vec<f64>; 3],
}

impl LatentColors {
    /// `latents [channels, pixels]` → `[pixels, 3]` in -1..=1.
    fn pixels(&self, latents: &[f32], pixels: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(pixels * 3);
        for pixel in 0..pixels {
            let channels = latents[pixel..].iter().step_by(pixels);
            for factors in &self.factors {
                let sum: f64 = channels.clone().zip(factors).map(|(v, f)| f64::from(*v) * f).sum();
                out.push((sum + factors[factors.len() - 1]) as f32);
            }
        }
        out
    }

    /// The least-squares map from `latents [channels, pixels]` to `colors [pixels, 3]`.
    fn fit(latents: &[f32], colors: &[f32], channels: usize) -> LatentColors {
        let pixels = latents.len() / channels;
        let row = |pixel: usize| -> Vec<f64> {
            let values = latents[pixel..].iter().step_by(pixels).map(|value| f64::from(*value));
            values.chain([1.0]).collect()
        };
        let unknowns = channels + 1;
        let mut normal = vec![vec![0.0; unknowns + 3]; unknowns];
        for (pixel, color) in colors.chunks_exact(3).enumerate() {
            let row = row(pixel);
            for (i, equation) in normal.iter_mut().enumerate() {
                let right = color.iter().map(|value| f64::from(*value));
                for (sum, value) in equation.iter_mut().zip(row.iter().copied().chain(right)) {
                    *sum += row[i] * value;
                }
            }
        }
        for (i, equation) in normal.iter_mut().enumerate() {
            equation[i] += RIDGE * pixels as f64;
        }
        solve(&mut normal);
        let factors = [0, 1, 2].map(|color| normal.iter().map(|row| row[unknowns + color]).collect());
        LatentColors { factors }
    }
}

/// Gauss–Jordan elimination of `[unknowns][unknowns + right sides]`, symmetric and positive definite: no pivoting.
fn solve(system: &mut [Vec<f64>]) {
    for pivot in 0..system.len() {
        let scale = 1.0 / system[pivot][pivot];
        system[pivot].iter_mut().for_each(|value| *value *= scale);
        let row = system[pivot].clone();
        for (index, other) in system.iter_mut().enumerate() {
            if index != pivot {
                let factor = other[pivot];
                other.iter_mut().zip(&row).for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
    }
}

impl Pipeline {
    /// A picture of `latents [1, channels, h, w]`, with one pixel for each of theirs.
    fn preview(&self, latents: &Tensor) -> Result<Picture, Error> {
        let [_, _, height, width] =
            latents.picture_shape("latents", self.model.autoencoder.latent_channels())?;
        let pixels = self.latent_colors()?.pixels(latents.values(), height * width);
        picture::from_pixels("the preview", &pixels, width, height)
    }

    fn latent_colors(&self) -> Result<&LatentColors, Error> {
        if let Some(colors) = self.latent_colors.get() {
            return Ok(colors);
        }
        let channels = self.model.autoencoder.latent_channels();
        let latents = squares(channels);
        // The U-Net holds its memory at this time, and the plan leaves little more.
        let size = (SIDE, SIDE);
        let stages = self.decoder_stages(size, 0, |stager| stager.smallest())?;
        let decoded =
            self.decoder_in_stages(size, stages, &mut Compiled::dropped())?.pixels(&latents)?.to_vec();
        let colors = shrink(&decoded, SIDE, self.scale_factor());
        Ok(self.latent_colors.get_or_init(|| LatentColors::fit(&latents, &colors, channels)))
    }
}

/// Uniform squares of standard normal values: latents `[channels, SIDE, SIDE]` with the variance that the
/// scaling factor gives the latents of pictures.
fn squares(channels: usize) -> Vec<f32> {
    let across = SIDE / SQUARE;
    let mut values = vec![0.0; channels * across * across];
    TorchCpuGenerator::new(0).fill_standard_normal(&mut values);
    let value = |index: usize| {
        let (channel, y, x) = (index / (SIDE * SIDE), index / SIDE % SIDE, index % SIDE);
        values[(channel * across + y / SQUARE) * across + x / SQUARE]
    };
    (0..channels * SIDE * SIDE).map(value).collect()
}

/// Means of the `factor x factor` pixels of each of `side x side` squares of
/// `pixels [side * factor, side * factor, 3]`.
fn shrink(pixels: &[f32], side: usize, factor: usize) -> Vec<f32> {
    let width = side * factor;
    let mut means = vec![0.0; side * side * 3];
    for (index, value) in pixels.iter().enumerate() {
        let (color, x, y) = (index % 3, index / 3 % width, index / 3 / width);
        means[((y / factor) * side + x / factor) * 3 + color] += value / (factor * factor) as f32;
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_decoder_is_found_exactly() {
        let latents = squares(4);
        let pixels = SIDE * SIDE;
        let factors = [[0.3, -0.2, 0.1, 0.05, 0.5], [0.0, 0.4, 0.2, -0.3, -0.1], [-0.1, 0.1, 0.6, 0.2, 0.0]];
        let map = LatentColors { factors: factors.map(|row| row.to_vec()) };
        let found = LatentColors::fit(&latents, &map.pixels(&latents, pixels), 4);
        for (found, expected) in found.factors.iter().flatten().zip(factors.iter().flatten()) {
            assert!((found - expected).abs() < 5e-3, "{found} for {expected}");
        }
    }

    #[test]
    fn a_channel_without_meaning_does_no_harm() {
        let map = LatentColors::fit(&[0.0; 2 * 4], &[0.5; 4 * 3], 2);
        assert!(map.factors.iter().flatten().all(|factor| factor.is_finite()));
    }

    #[test]
    fn shrinking_takes_means() {
        let pixels: Vec<f32> = (0..4 * 4).flat_map(|pixel| [pixel as f32, 1.0, 0.0]).collect();
        let means = shrink(&pixels, 2, 2);
        assert_eq!(means[..6], [2.5, 1.0, 0.0, 4.5, 1.0, 0.0]);
    }
}
