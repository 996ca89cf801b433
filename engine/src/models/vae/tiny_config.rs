//! The `config.json` of the tiny autoencoder.

use serde_json::{Value, json};

use crate::{
    Error,
    graph::Activation,
    models::config::{ACTIVATIONS, EMA_KEYS, Fields},
};

/// TAESD, a small network distilled from a KL autoencoder (Ollin Boer Bohan, github.com/madebyollin/taesd); keys and
/// defaults of diffusers' `AutoencoderTiny`.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderTinyConfig {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of every level of the encoder.
    pub encoder_channels: usize,
    /// Channels of every level of the decoder.
    pub decoder_channels: usize,
    /// Residual blocks of each level of the encoder, finest first. Empty if there is no encoder, which diffusers' class
    /// always has.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks of each level of the decoder, coarsest first.
    pub num_decoder_blocks: Vec<usize>,
    /// Activation between the convolutions.
    pub act_fn: Activation,
    /// Latents are multiplied by this factor before noise is added.
    pub scaling_factor: f32,
}

impl AutoencoderTinyConfig {
    /// Reads a `vae/config.json`.
    ///
    /// # Errors
    /// Names the key that is unknown or whose value is not supported.
    pub fn from_json(config: &Value) -> Result<AutoencoderTinyConfig, Error> {
        let mut fields = Fields::new("vae", config)?;
        for key in ["in_channels", "out_channels"] {
            fields.only(key, &json!(3))?;
        }
        fields.only("upsampling_scaling_factor", &json!(2))?;
        fields.only("upsample_fn", &json!("nearest"))?;
        fields.only("shift_factor", &json!(0.0))?;
        // The first two map latents to pictures, `force_upcast` is a workaround for f16, and
        // `block_out_channels` repeats the decoder's.
        fields.ignore(&[
            "latent_magnitude",
            "latent_shift",
            "force_upcast",
            "block_out_channels",
            "sample_size",
        ]);
        let num_decoder_blocks = blocks(&mut fields, "num_decoder_blocks", [3, 3, 3, 1])?;
        let levels = num_decoder_blocks.len();
        let has_encoder = fields.get("num_encoder_blocks") != Some(&json!([]));
        let num_encoder_blocks = match has_encoder {
            true => blocks(&mut fields, "num_encoder_blocks", [1, 3, 3, 3])?,
            false => Vec::new(),
        };
        if has_encoder && num_encoder_blocks.len() != levels {
            return Err(fields.error("num_encoder_blocks", "as many levels as num_decoder_blocks, or none"));
        }
        let config = AutoencoderTinyConfig {
            latent_channels: fields.size("latent_channels", Some(4))?,
            encoder_channels: match has_encoder {
                true => width(&mut fields, "encoder_block_out_channels", levels)?,
                false => {
                    fields.ignore(&["encoder_block_out_channels"]);
                    0
                }
            },
            decoder_channels: width(&mut fields, "decoder_block_out_channels", levels)?,
            num_encoder_blocks,
            num_decoder_blocks,
            act_fn: fields.choice("act_fn", "relu", &ACTIVATIONS)?,
            scaling_factor: fields.float("scaling_factor", 1.0)? as f32,
        };
        if config.scaling_factor <= 0.0 {
            return Err(fields.error("scaling_factor", "a positive number"));
        }
        fields.ignore(&EMA_KEYS);
        fields.finish()?;
        Ok(config)
    }

    /// Whether pictures can be encoded, and not only latents decoded.
    pub fn has_encoder(&self) -> bool {
        !self.num_encoder_blocks.is_empty()
    }

    /// Pixels per latent pixel along each axis.
    pub fn scale_factor(&self) -> usize {
        1 << (self.num_decoder_blocks.len() - 1)
    }
}

fn blocks(fields: &mut Fields, key: &str, default: [usize; 4]) -> Result<Vec<usize>, Error> {
    match fields.get(key) {
        None => Ok(default.to_vec()),
        Some(_) => {
            let levels = fields.sizes(key)?.len();
            fields.depths(key, levels, 1)
        }
    }
}

/// The number of channels, which must be the same for all levels: the network has no layer between levels of
/// different numbers of channels.
fn width(fields: &mut Fields, key: &str, levels: usize) -> Result<usize, Error> {
    let widths = match fields.get(key) {
        None => vec![64; 4],
        Some(_) => fields.sizes(key)?,
    };
    match widths.len() == levels && widths.iter().all(|&width| width == widths[0]) {
        true => Ok(widths[0]),
        false => Err(fields.error(key, format!("a list of {levels} equal widths"))),
    }
}
