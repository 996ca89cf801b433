//! The network between pixels and latents, whichever a model has.

use sdq_formats::WeightSpec;

use super::{autoencoder, autoencoder_tiny, config::VaeConfig};
use crate::graph::Graph;

pub use autoencoder::{LATENTS, MOMENTS, PIXELS};

/// Latents → pixels, for latents of `height x width`: [`LATENTS`] to [`PIXELS`].
pub fn decoder(config: &VaeConfig, batch: usize, height: usize, width: usize) -> Graph {
    match config {
        VaeConfig::Kl(config) => autoencoder::decoder(config, batch, height, width),
        VaeConfig::Tiny(config) => autoencoder_tiny::decoder(config, batch, height, width),
    }
}

/// Pixels → latents, for pictures of `height x width`: [`PIXELS`] to [`MOMENTS`], or to [`LATENTS`] where the network
/// gives no distribution.
pub fn encoder(config: &VaeConfig, batch: usize, height: usize, width: usize) -> Graph {
    match config {
        VaeConfig::Kl(config) => autoencoder::encoder(config, batch, height, width),
        VaeConfig::Tiny(config) => autoencoder_tiny::encoder(config, batch, height, width),
    }
}

/// The weights of encoder and decoder, in reading order.
pub fn weights(config: &VaeConfig) -> Vec<WeightSpec> {
    match config {
        VaeConfig::Kl(config) => autoencoder::weights(config),
        VaeConfig::Tiny(config) => autoencoder_tiny::weights(config),
    }
}
