//! What a checkpoint says about its networks: the `config.json` of each component, checked.
//!
//! Field names are the files' own. A key that would change the result and is not supported is an error.

mod fields;

use serde_json::{Value, json};

use crate::{Error, graph::Activation};
use fields::Fields;

const ACTIVATIONS: [(&str, Activation); 5] = [
    ("quick_gelu", Activation::QuickGelu),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("silu", Activation::Silu),
];

const SILU: [(&str, ()); 2] = [("silu", ()), ("swish", ())];

/// CLIP's text transformer. Radford et al. 2021, arXiv:2103.00020; keys as in
/// `openai/clip-vit-large-patch14`'s config.json (`text_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens in a prompt, start and end included.
    pub max_position_embeddings: usize,
    /// Width of the text states.
    pub hidden_size: usize,
    /// Width between the two layers of a block's perceptron.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of every block's attention.
    pub num_attention_heads: usize,
    /// Between the two layers of a block's perceptron.
    pub hidden_act: Activation,
    /// Added to every variance.
    pub layer_norm_eps: f32,
}

impl TextEncoderConfig {
    /// Reads a `text_encoder/config.json`.
    ///
    /// # Errors
    /// Names the key whose value cannot be run. Keys of transformers' common base (generation and bookkeeping
    /// settings, several dozen of them) are ignored: a text encoder does not read them.
    pub fn from_json(config: &Value) -> Result<TextEncoderConfig, Error> {
        let mut fields = Fields::new("text_encoder", config)?;
        fields.choice("model_type", "clip_text_model", &[("clip_text_model", ())])?;
        fields.only("use_attention_mask", &json!(false))?;
        let config = TextEncoderConfig {
            vocab_size: fields.size("vocab_size", Some(49408))?,
            max_position_embeddings: fields.size("max_position_embeddings", Some(77))?,
            hidden_size: fields.size("hidden_size", Some(512))?,
            intermediate_size: fields.size("intermediate_size", Some(2048))?,
            num_hidden_layers: fields.depth("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", Some(8))?,
            hidden_act: fields.choice("hidden_act", "quick_gelu", &ACTIVATIONS)?,
            layer_norm_eps: fields.float("layer_norm_eps", 1e-5)? as f32,
        };
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(fields.error("num_attention_heads", format!("a divisor of {}", config.hidden_size)));
        }
        Ok(config)
    }
}

/// What stands in one level of the U-Net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelKind {
    /// Residual blocks alone.
    Plain,
    /// Residual blocks, each followed by a transformer that attends to the text.
    CrossAttention,
}

/// The conditional U-Net. Rombach et al. 2022, arXiv:2112.10752; keys as in
/// `stable-diffusion-v1-5`'s unet/config.json, defaults those of diffusers' `UNet2DConditionModel`.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the latents that come in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Default height and width of the latents, in latent pixels.
    pub sample_size: Option<(usize, usize)>,
    /// Width of every level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Levels on the way down, finest first.
    pub down_blocks: Vec<LevelKind>,
    /// Levels on the way up, coarsest first.
    pub up_blocks: Vec<LevelKind>,
    /// Residual blocks of every level on the way down; one more on the way up.
    pub layers_per_block: Vec<usize>,
    /// Transformer blocks of every transformer, a level.
    pub transformer_layers_per_block: Vec<usize>,
    /// Attention heads, a level.
    pub num_attention_heads: Vec<usize>,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in residual blocks and before the last convolution.
    pub norm_eps: f32,
    /// Whether the timestep's cosines stand before its sines.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep's frequencies.
    pub freq_shift: f64,
    /// Width of the timestep's embedding.
    pub time_embedding_dim: usize,
    /// Whether latents in `[0, 1]` are moved to `[-1, 1]` first.
    pub center_input_sample: bool,
}

impl UNetConfig {
    /// Reads a `unet/config.json`.
    ///
    /// # Errors
    /// Names the key whose value cannot be run, also one that sdq does not know.
    pub fn from_json(config: &Value) -> Result<UNetConfig, Error> {
        let mut fields = Fields::new("unet", config)?;
        refuse_other_families(&mut fields)?;
        let block_out_channels = fields.sizes("block_out_channels")?;
        let levels = block_out_channels.len();
        // SD1.x files say `attention_head_dim: 8` and mean eight heads; diffusers reads it so too.
        let heads = fields.per_level("attention_head_dim", levels, 8)?;
        fields.ignore(&["use_linear_projection", "upcast_attention", "dropout"]);
        let config = UNetConfig {
            in_channels: fields.size("in_channels", Some(4))?,
            out_channels: fields.size("out_channels", Some(4))?,
            sample_size: match fields.get("sample_size") {
                None => None,
                Some(_) => {
                    let sides = fields.per_level("sample_size", 2, 64)?;
                    Some((sides[0], sides[1]))
                }
            },
            down_blocks: fields.blocks(
                "down_block_types",
                &[("DownBlock2D", LevelKind::Plain), ("CrossAttnDownBlock2D", LevelKind::CrossAttention)],
            )?,
            up_blocks: fields.blocks(
                "up_block_types",
                &[("UpBlock2D", LevelKind::Plain), ("CrossAttnUpBlock2D", LevelKind::CrossAttention)],
            )?,
            layers_per_block: fields.depths("layers_per_block", levels, 2)?,
            transformer_layers_per_block: fields.depths("transformer_layers_per_block", levels, 1)?,
            num_attention_heads: heads,
            cross_attention_dim: fields.size("cross_attention_dim", Some(1280))?,
            norm_num_groups: fields.size("norm_num_groups", Some(32))?,
            norm_eps: fields.float("norm_eps", 1e-5)? as f32,
            flip_sin_to_cos: fields.flag("flip_sin_to_cos", true)?,
            freq_shift: fields.float("freq_shift", 0.0)?,
            time_embedding_dim: fields.size("time_embedding_dim", Some(block_out_channels[0] * 4))?,
            center_input_sample: fields.flag("center_input_sample", false)?,
            block_out_channels,
        };
        for (key, length) in
            [("down_block_types", config.down_blocks.len()), ("up_block_types", config.up_blocks.len())]
        {
            if length != levels {
                return Err(fields.error(key, format!("{levels} blocks, one for each of block_out_channels")));
            }
        }
        check_divides(&fields, "norm_num_groups", &config.block_out_channels, config.norm_num_groups)?;
        for (level, (width, heads)) in
            config.block_out_channels.iter().zip(&config.num_attention_heads).enumerate()
        {
            if config.attends(level) && width % heads != 0 {
                return Err(
                    fields.error("attention_head_dim", format!("a divisor of block_out_channels' {width}"))
                );
            }
        }
        if config.block_out_channels[0] / 2 <= config.freq_shift.max(0.0) as usize {
            return Err(fields.error("freq_shift", "less than half of the first of block_out_channels"));
        }
        fields.finish()?;
        Ok(config)
    }

    /// Whether anything at `level` (0 the finest) attends; the middle block always does.
    fn attends(&self, level: usize) -> bool {
        let coarsest = self.block_out_channels.len() - 1;
        let blocks = [self.down_blocks[level], self.up_blocks[coarsest - level]];
        level == coarsest || blocks.contains(&LevelKind::CrossAttention)
    }
}

/// Keys that select another kind of U-Net than the one written down here.
fn refuse_other_families(fields: &mut Fields) -> Result<(), Error> {
    fields.choice("act_fn", "silu", &SILU)?;
    // Here null does not mean the default but a network without a middle.
    fields.not_null("mid_block_type", "UNetMidBlock2DCrossAttn")?;
    fields.only("mid_block_type", &json!("UNetMidBlock2DCrossAttn"))?;
    fields.only("time_embedding_type", &json!("positional"))?;
    fields.only("resnet_time_scale_shift", &json!("default"))?;
    fields.only("attention_type", &json!("default"))?;
    fields.only("mid_block_scale_factor", &json!(1))?;
    fields.only("resnet_out_scale_factor", &json!(1.0))?;
    fields.only("downsample_padding", &json!(1))?;
    fields.only("conv_in_kernel", &json!(3))?;
    fields.only("conv_out_kernel", &json!(3))?;
    // Says only how the weights are sliced in training code.
    fields.ignore(&["addition_embed_type_num_heads"]);
    Ok(())
}

/// The number under `key` must divide every one of `widths`.
fn check_divides(fields: &Fields, key: &str, widths: &[usize], divisor: usize) -> Result<(), Error> {
    match widths.iter().find(|width| **width % divisor != 0) {
        None => Ok(()),
        Some(width) => Err(fields.error(key, format!("a divisor of block_out_channels' {width}"))),
    }
}

/// The KL autoencoder between pixels and latents. Rombach et al. 2022, appendix G; keys as in
/// `stable-diffusion-v1-5`'s vae/config.json, defaults those of diffusers' `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of the picture that comes in.
    pub in_channels: usize,
    /// Channels of the picture that comes out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Width of every level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of every level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by it before they are noised.
    pub scaling_factor: f32,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle block attends to itself.
    pub mid_block_add_attention: bool,
}

impl AutoencoderConfig {
    /// Reads a `vae/config.json`.
    ///
    /// # Errors
    /// Names the key whose value cannot be run, also one that sdq does not know.
    pub fn from_json(config: &Value) -> Result<AutoencoderConfig, Error> {
        let mut fields = Fields::new("vae", config)?;
        fields.choice("act_fn", "silu", &SILU)?;
        let encoder = fields.blocks("down_block_types", &[("DownEncoderBlock2D", ())])?;
        let decoder = fields.blocks("up_block_types", &[("UpDecoderBlock2D", ())])?;
        // `sample_size` is a hint for tiling and `force_upcast` a remedy for f16: neither matters here.
        fields.ignore(&["sample_size", "force_upcast"]);
        let config = AutoencoderConfig {
            in_channels: fields.size("in_channels", Some(3))?,
            out_channels: fields.size("out_channels", Some(3))?,
            latent_channels: fields.size("latent_channels", Some(4))?,
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
            return Err(fields.error("block_out_channels", "as many widths as down and up blocks"));
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
        fields.finish()?;
        Ok(config)
    }

    /// Pixels per latent pixel along each axis.
    pub fn scale_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

#[cfg(test)]
mod tests;
