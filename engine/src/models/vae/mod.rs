//! The autoencoder's role, implemented for both kinds.

mod config;
pub mod kl;
mod kl_config;
mod original_names;
pub mod tiny;
mod tiny_config;

pub use config::VaeConfig;
pub use kl_config::{AutoencoderConfig, LatentsStatistics};
pub use tiny_config::AutoencoderTinyConfig;

pub(crate) use original_names::{KlAutoencoder, TinyAutoencoder, taesd_half};

use sdq_formats::{Sensitivity, WeightSpec};

use crate::{
    graph::Graph,
    roles::{Autoencoder, StoredNetwork},
};

impl StoredNetwork for VaeConfig {
    fn component(&self) -> &'static str {
        "vae"
    }

    fn weights(&self) -> Vec<WeightSpec> {
        match self {
            VaeConfig::Kl(config) => kl::weights(config),
            VaeConfig::Tiny(config) => tiny::weights(config),
        }
    }

    /// The convolutions that read or write pixels and latents are few and small. Errors of the decoder are
    /// directly visible, while denoising treats those of the encoder as noise.
    fn sensitivity(&self, weight: &WeightSpec) -> Sensitivity {
        let name = weight.name.as_str();
        let is_outermost = match self {
            VaeConfig::Kl(_) => kl::OUTERMOST.contains(&name),
            VaeConfig::Tiny(_) => tiny::OUTERMOST.contains(&name),
        };
        if is_outermost {
            Sensitivity::Extreme
        } else if name.starts_with("decoder.") {
            Sensitivity::High
        } else {
            Sensitivity::Medium
        }
    }
}

impl Autoencoder for VaeConfig {
    fn latent_channels(&self) -> usize {
        match self {
            VaeConfig::Kl(config) => config.latent_channels,
            VaeConfig::Tiny(config) => config.latent_channels,
        }
    }

    fn scale_factor(&self) -> usize {
        match self {
            VaeConfig::Kl(config) => config.scale_factor(),
            VaeConfig::Tiny(config) => config.scale_factor(),
        }
    }

    fn scaling_factor(&self) -> f32 {
        match self {
            VaeConfig::Kl(config) => config.scaling_factor,
            VaeConfig::Tiny(config) => config.scaling_factor,
        }
    }

    fn has_encoder(&self) -> bool {
        match self {
            VaeConfig::Kl(_) => true,
            VaeConfig::Tiny(config) => config.has_encoder(),
        }
    }

    fn is_distribution(&self) -> bool {
        matches!(self, VaeConfig::Kl(_))
    }

    fn encoder(&self, batch: usize, height: usize, width: usize) -> Graph {
        match self {
            VaeConfig::Kl(config) => kl::encoder(config, batch, height, width),
            VaeConfig::Tiny(config) => tiny::encoder(config, batch, height, width),
        }
    }

    fn decoder(&self, batch: usize, height: usize, width: usize) -> Graph {
        match self {
            VaeConfig::Kl(config) => kl::decoder(config, batch, height, width),
            VaeConfig::Tiny(config) => tiny::decoder(config, batch, height, width),
        }
    }

    fn scale_latents(&self, latents: &mut [f32], pixels: usize) {
        let factor = self.scaling_factor();
        each_channel(self, latents, pixels, |value, mean, std| (value - mean) * factor / std);
    }

    fn scale_deviations(&self, deviations: &mut [f32], pixels: usize) {
        let factor = self.scaling_factor();
        each_channel(self, deviations, pixels, |value, _, std| value * factor / std);
    }

    fn unscale_latents(&self, latents: &mut [f32], pixels: usize) {
        let factor = self.scaling_factor();
        each_channel(self, latents, pixels, |value, mean, std| value * std / factor + mean);
    }
}

/// Applies `change` to every value, with the mean and standard deviation of its channel; each channel is a
/// plane of `pixels` values.
fn each_channel(
    config: &VaeConfig,
    latents: &mut [f32],
    pixels: usize,
    change: impl Fn(f32, f32, f32) -> f32,
) {
    let statistics = match config {
        VaeConfig::Kl(config) => config.latents_statistics.as_ref(),
        VaeConfig::Tiny(_) => None,
    };
    for (plane, values) in latents.chunks_exact_mut(pixels).enumerate() {
        let channel = plane % config.latent_channels();
        let (mean, std) = statistics.map_or((0.0, 1.0), |all| (all.mean[channel], all.std[channel]));
        values.iter_mut().for_each(|value| *value = change(*value, mean, std));
    }
}
