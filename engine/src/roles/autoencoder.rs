//! The role between pixels and latents.

use super::StoredNetwork;
use crate::graph::Graph;

/// Name of the encoder's input and of the decoder's output: `[batch, height, width, 3]`, in -1..=1.
pub const PIXELS: &str = "pixels";
/// Name of the output of encoders that return a distribution: means, then logarithms of variances,
/// `[batch, h, w, 2 * latent_channels]`.
pub const MOMENTS: &str = "moments";

/// Pixels ↔ latents.
pub trait Autoencoder: StoredNetwork {
    /// Channels of the latents.
    fn latent_channels(&self) -> usize;

    /// Pixels per latent pixel along each axis.
    fn scale_factor(&self) -> usize;

    /// Latents are multiplied by this factor before noise is added.
    fn scaling_factor(&self) -> f32;

    /// Whether there is an encoder: some networks only decode. [`encoder`](Autoencoder::encoder) is not called if there
    /// is none.
    fn has_encoder(&self) -> bool {
        true
    }

    /// Whether the encoder's output is [`MOMENTS`] of a distribution, and not [`LATENTS`](super::LATENTS).
    fn is_distribution(&self) -> bool;

    /// [`PIXELS`] → latents, for pictures of `height x width` pixels.
    fn encoder(&self, batch: usize, height: usize, width: usize) -> Graph;

    /// [`LATENTS`](super::LATENTS) → [`PIXELS`], for latents of `height x width` latent pixels.
    fn decoder(&self, batch: usize, height: usize, width: usize) -> Graph;

    /// Scales latents, planes of `pixels` values each, from the encoder's range to the denoiser's.
    fn scale_latents(&self, latents: &mut [f32], pixels: usize);

    /// Scales standard deviations of such latents accordingly.
    fn scale_deviations(&self, deviations: &mut [f32], pixels: usize);

    /// Scales latents back to the decoder's range.
    fn unscale_latents(&self, latents: &mut [f32], pixels: usize);
}
