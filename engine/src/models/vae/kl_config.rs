//! The `config.json` of the KL autoencoder.

use serde_json::{Value, json};

use crate::{
    Error,
    models::config::{EMA_KEYS, Fields, SILU, check_divides},
};

/// The KL autoencoder between pixels and latents. Rombach et al. 2022, appendix G; keys as in
/// `stable-diffusion-v1-5`'s vae/config.json, defaults as in diffusers' `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of the encoder's input.
    pub in_channels: usize,
    /// Channels of the decoder's output.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of every level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of every level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this factor before noise is added.
    pub scaling_factor: f32,
    /// Mean and standard deviation of every channel of the latents, if the file has both.
    pub latents_statistics: Option<LatentsStatistics>,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle block has self-attention.
    pub mid_block_add_attention: bool,
}

/// The statistics with which some pipelines normalise latents before the scaling factor.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentsStatistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl AutoencoderConfig {
    /// Reads a `vae/config.json`.
    ///
    /// # Errors
    /// Names the key that is unknown or whose value is not supported.
    pub fn from_json(config: &Value) -> Result<AutoencoderConfig, Error> {
        let mut fields = Fields::new("vae", config)?;
        fields.choice("act_fn", "silu", &SILU)?;
        let encoder = fields.blocks("down_block_types", &[("DownEncoderBlock2D", ())])?;
        let decoder = fields.blocks("up_block_types", &[("UpDecoderBlock2D", ())])?;
        // `sample_size` is a hint for tiling and `force_upcast` a workaround for f16; neither applies here.
        fields.ignore(&["sample_size", "force_upcast"]);
        fields.only("shift_factor", &json!(0.0))?;
        let latent_channels = fields.size("latent_channels", Some(4))?;
        let config = AutoencoderConfig {
            in_channels: fields.size("in_channels", Some(3))?,
            out_channels: fields.size("out_channels", Some(3))?,
            latents_statistics: latents_statistics(&mut fields, latent_channels)?,
            latent_channels,
            block_out_channels: fields.sizes("block_out_channels")?,
            layers_per_block: fields.depth("layers_per_block", 1)?,
            norm_num_groups: fields.size("norm_num_groups", Some(32))?,
            scaling_factor: fields.float("scaling_factor", 0.18215)? as f32,
            use_quant_conv: fields.flag("use_quant_conv", true)?,
            use_post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: fields.flag("mid_block_add_attention", true)?,
        };
        let levels = config.block_out_channels.len();
        if encoder.len() != levels || decoder.len() != levels {
            return Err(fields.error("block_out_channels", "one width for each down block and each up block"));
        }
        check_divides(&fields, "norm_num_groups", &config.block_out_channels, config.norm_num_groups)?;
        if config.scaling_factor <= 0.0 {
            return Err(fields.error("scaling_factor", "a positive number"));
        }
        for (key, expected) in [("in_channels", config.in_channels), ("out_channels", config.out_channels)] {
            if expected != 3 {
                return Err(fields.error(key, "3 (red, green, blue)"));
            }
        }
        fields.ignore(&EMA_KEYS);
        fields.finish()?;
        Ok(config)
    }

    /// Pixels per latent pixel along each axis.
    pub fn scale_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

fn latents_statistics(fields: &mut Fields, channels: usize) -> Result<Option<LatentsStatistics>, Error> {
    let [mean, std] = ["latents_mean", "latents_std"].map(|key| fields.floats(key, channels));
    let (Some(mean), Some(std)) = (mean?, std?) else { return Ok(None) };
    match std.iter().all(|&std| std > 0.0) {
        true => Ok(Some(LatentsStatistics { mean, std })),
        false => Err(fields.error("latents_std", "positive numbers")),
    }
}
