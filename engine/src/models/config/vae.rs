//! The `config.json` of whichever autoencoder a model has.

use serde_json::Value;

use super::{AutoencoderConfig, AutoencoderTinyConfig};
use crate::Error;

/// The network between pixels and latents, by its class.
#[derive(Clone, Debug, PartialEq)]
pub enum VaeConfig {
    /// diffusers' `AutoencoderKL`.
    Kl(AutoencoderConfig),
    /// diffusers' `AutoencoderTiny`.
    Tiny(AutoencoderTinyConfig),
}

impl VaeConfig {
    /// Reads a `vae/config.json`; the class is `AutoencoderKL` where the file does not say.
    ///
    /// # Errors
    /// Names the key whose value cannot be run, also one that sdq does not know.
    pub fn from_json(config: &Value) -> Result<VaeConfig, Error> {
        match config.get("_class_name") {
            None | Some(Value::Null) => AutoencoderConfig::from_json(config).map(VaeConfig::Kl),
            Some(class) if class == "AutoencoderKL" => {
                AutoencoderConfig::from_json(config).map(VaeConfig::Kl)
            }
            Some(class) if class == "AutoencoderTiny" => {
                AutoencoderTinyConfig::from_json(config).map(VaeConfig::Tiny)
            }
            Some(other) => Err(Error::Config {
                component: "vae",
                key: "_class_name".to_owned(),
                found: other.to_string(),
                expected: "AutoencoderKL or AutoencoderTiny".to_owned(),
            }),
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            VaeConfig::Kl(config) => config.latent_channels,
            VaeConfig::Tiny(config) => config.latent_channels,
        }
    }

    /// Pixels per latent pixel along each axis.
    pub fn scale_factor(&self) -> usize {
        match self {
            VaeConfig::Kl(config) => config.scale_factor(),
            VaeConfig::Tiny(config) => config.scale_factor(),
        }
    }

    /// Latents are multiplied by it before they are noised.
    pub fn scaling_factor(&self) -> f32 {
        match self {
            VaeConfig::Kl(config) => config.scaling_factor,
            VaeConfig::Tiny(config) => config.scaling_factor,
        }
    }

    /// The same network, its latents not normalised: most pipelines do not read the statistics.
    pub fn without_statistics(self) -> VaeConfig {
        match self {
            VaeConfig::Kl(config) => VaeConfig::Kl(AutoencoderConfig { latents_statistics: None, ..config }),
            tiny @ VaeConfig::Tiny(_) => tiny,
        }
    }

    /// Moves `latents [batch, channels, h, w]` as the encoder gives them to where the U-Net works.
    pub fn scale_latents(&self, latents: &mut [f32], pixels: usize) {
        let factor = self.scaling_factor();
        self.each_channel(latents, pixels, |value, mean, std| (value - mean) * factor / std);
    }

    /// Standard deviations of such latents, moved with them.
    pub fn scale_deviations(&self, deviations: &mut [f32], pixels: usize) {
        let factor = self.scaling_factor();
        self.each_channel(deviations, pixels, |value, _, std| value * factor / std);
    }

    /// The way back, to what the decoder takes.
    pub fn unscale_latents(&self, latents: &mut [f32], pixels: usize) {
        let factor = self.scaling_factor();
        self.each_channel(latents, pixels, |value, mean, std| value * std / factor + mean);
    }

    fn each_channel(&self, latents: &mut [f32], pixels: usize, change: impl Fn(f32, f32, f32) -> f32) {
        let statistics = match self {
            VaeConfig::Kl(config) => config.latents_statistics.as_ref(),
            VaeConfig::Tiny(_) => None,
        };
        for (plane, values) in latents.chunks_exact_mut(pixels).enumerate() {
            let channel = plane % self.latent_channels();
            let (mean, std) = statistics.map_or((0.0, 1.0), |all| (all.mean[channel], all.std[channel]));
            values.iter_mut().for_each(|value| *value = change(*value, mean, std));
        }
    }
}
