//! The U-Net's `config.json`.

use serde_json::{Value, json};

use super::{Fields, SILU, check_divides};
use crate::Error;

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
