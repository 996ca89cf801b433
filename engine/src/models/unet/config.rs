//! The U-Net's `config.json`.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::{
    Error,
    models::config::{EMA_KEYS, Fields, MAX_DEPTH, SILU, check_divides},
};

/// The layers in one level of the U-Net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelKind {
    /// Only residual blocks.
    Plain,
    /// Residual blocks, each followed by a transformer that attends to the text.
    CrossAttention,
}

/// Additional conditioning beside text states and timestep: a pooled prompt and a few numbers, such as the
/// picture's size, each as sines and cosines. Podell et al. 2023, arXiv:2307.01952, section 2.2; diffusers'
/// `text_time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdditionEmbedding {
    /// Number of sines and cosines of each number.
    pub time_embed_dim: usize,
    /// Size of the pooled prompt and all numbers together.
    pub input_dim: usize,
}

/// The conditional U-Net. Rombach et al. 2022, arXiv:2112.10752; keys as in `stable-diffusion-v1-5`'s
/// unet/config.json, defaults as in diffusers' `UNet2DConditionModel`.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the input: those of the latents, followed by those of any additional input (a mask, a
    /// picture).
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Default height and width of the latents, in latent pixels.
    pub sample_size: Option<(usize, usize)>,
    /// Channels of every level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Levels on the way down, finest first.
    pub down_blocks: Vec<LevelKind>,
    /// The middle: one residual block, or two around a transformer; small models have none.
    pub mid_block: Option<LevelKind>,
    /// Levels on the way up, coarsest first.
    pub up_blocks: Vec<LevelKind>,
    /// Residual blocks of every level on the way down; one more on the way up.
    pub layers_per_block: Vec<usize>,
    /// Blocks of each transformer on the way down, for each level; empty for a level without transformers.
    pub down_transformer_layers: Vec<Vec<usize>>,
    /// Blocks of the middle's transformer.
    pub mid_transformer_layers: usize,
    /// Blocks of each transformer on the way up, coarsest level first.
    pub up_transformer_layers: Vec<Vec<usize>>,
    /// Attention heads of each level.
    pub num_attention_heads: Vec<usize>,
    /// Channels of the text states.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in residual blocks and before the last convolution.
    pub norm_eps: f32,
    /// Whether the cosines of the timestep come before its sines.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep's frequencies.
    pub freq_shift: f64,
    /// Size of the timestep's embedding.
    pub time_embedding_dim: usize,
    /// Number of sines and cosines of the guidance scale, which a distilled model reads as an input instead
    /// of being evaluated twice. Meng et al. 2022, arXiv:2210.03142, section 4.1.
    pub time_cond_proj_dim: Option<usize>,
    /// Conditioning that is added to the timestep's embedding.
    pub addition_embedding: Option<AdditionEmbedding>,
    /// Whether latents in `[0, 1]` are scaled to `[-1, 1]` first.
    pub center_input_sample: bool,
}

impl UNetConfig {
    /// Reads a `unet/config.json`.
    ///
    /// # Errors
    /// Names the key that is unknown or whose value is not supported.
    pub fn from_json(config: &Value) -> Result<UNetConfig, Error> {
        let mut fields = Fields::new("unet", config)?;
        refuse_other_families(&mut fields)?;
        let block_out_channels = fields.sizes("block_out_channels")?;
        let levels = block_out_channels.len();
        let layers_per_block = fields.depths("layers_per_block", levels, 2)?;
        let mid_block = mid_block(&mut fields)?;
        let down_blocks = levels_of_kind(&mut fields, "down_block_types", levels, &DOWN_BLOCKS)?;
        let up_blocks = levels_of_kind(&mut fields, "up_block_types", levels, &UP_BLOCKS)?;
        let depths = TransformerDepths::read(&mut fields, levels)?;
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
            down_transformer_layers: depths.down(&fields, &down_blocks, &layers_per_block)?,
            mid_transformer_layers: match mid_block {
                Some(LevelKind::CrossAttention) => depths.middle(&fields)?,
                Some(LevelKind::Plain) | None => 0,
            },
            up_transformer_layers: depths.up(&fields, &up_blocks, &layers_per_block)?,
            down_blocks,
            mid_block,
            up_blocks,
            layers_per_block,
            // SD1.x files contain `attention_head_dim: 8`, which means eight heads; diffusers reads it in the
            // same way.
            num_attention_heads: fields.per_level("attention_head_dim", levels, 8)?,
            cross_attention_dim: fields.size("cross_attention_dim", Some(1280))?,
            norm_num_groups: fields.size("norm_num_groups", Some(32))?,
            norm_eps: fields.float("norm_eps", 1e-5)? as f32,
            flip_sin_to_cos: fields.flag("flip_sin_to_cos", true)?,
            freq_shift: fields.float("freq_shift", 0.0)?,
            time_embedding_dim: fields.size("time_embedding_dim", Some(block_out_channels[0] * 4))?,
            time_cond_proj_dim: match fields.get("time_cond_proj_dim") {
                None => None,
                Some(_) => Some(fields.size("time_cond_proj_dim", None)?),
            },
            addition_embedding: addition_embedding(&mut fields)?,
            center_input_sample: fields.flag("center_input_sample", false)?,
            block_out_channels,
        };
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    /// Checks the relations between keys.
    fn check(&self, fields: &Fields) -> Result<(), Error> {
        check_divides(fields, "norm_num_groups", &self.block_out_channels, self.norm_num_groups)?;
        for (level, (width, heads)) in
            self.block_out_channels.iter().zip(&self.num_attention_heads).enumerate()
        {
            if self.attends(level) && width % heads != 0 {
                return Err(fields.error(
                    "attention_head_dim",
                    format!("a divisor of {width}, which is in block_out_channels"),
                ));
            }
        }
        let shift = self.freq_shift.max(0.0) as usize;
        if self.block_out_channels[0] / 2 <= shift {
            return Err(fields.error("freq_shift", "less than half of the first of block_out_channels"));
        }
        if self.addition_embedding.is_some_and(|added| added.time_embed_dim / 2 <= shift) {
            return Err(fields.error("freq_shift", "less than half of addition_time_embed_dim"));
        }
        // The frequencies are divided by one less than half of it.
        if self.time_cond_proj_dim.is_some_and(|width| width < 4) {
            return Err(fields.error("time_cond_proj_dim", "at least 4"));
        }
        Ok(())
    }

    /// Whether any layer at `level` (0 is the finest) has a transformer.
    fn attends(&self, level: usize) -> bool {
        let coarsest = self.block_out_channels.len() - 1;
        let blocks = [self.down_blocks[level], self.up_blocks[coarsest - level]];
        let middle = level == coarsest && self.mid_block == Some(LevelKind::CrossAttention);
        middle || blocks.contains(&LevelKind::CrossAttention)
    }
}

const DOWN_BLOCKS: [(&str, LevelKind); 2] =
    [("DownBlock2D", LevelKind::Plain), ("CrossAttnDownBlock2D", LevelKind::CrossAttention)];
const MID_BLOCKS: [(&str, LevelKind); 2] =
    [("UNetMidBlock2D", LevelKind::Plain), ("UNetMidBlock2DCrossAttn", LevelKind::CrossAttention)];
const UP_BLOCKS: [(&str, LevelKind); 2] =
    [("UpBlock2D", LevelKind::Plain), ("CrossAttnUpBlock2D", LevelKind::CrossAttention)];

/// The list of blocks under `key`, one per level.
fn levels_of_kind(
    fields: &mut Fields,
    key: &str,
    levels: usize,
    kinds: &[(&str, LevelKind)],
) -> Result<Vec<LevelKind>, Error> {
    let blocks = fields.blocks(key, kinds)?;
    match blocks.len() == levels {
        true => Ok(blocks),
        false => Err(fields.error(key, format!("{levels} blocks, one for each of block_out_channels"))),
    }
}

fn mid_block(fields: &mut Fields) -> Result<Option<LevelKind>, Error> {
    // Here null does not mean the default but a network without a middle.
    if fields.is_null("mid_block_type") {
        fields.ignore(&["mid_block_type"]);
        return Ok(None);
    }
    fields.choice("mid_block_type", "UNetMidBlock2DCrossAttn", &MID_BLOCKS).map(Some)
}

fn addition_embedding(fields: &mut Fields) -> Result<Option<AdditionEmbedding>, Error> {
    let sizes = ["addition_time_embed_dim", "projection_class_embeddings_input_dim"];
    if fields.get("addition_embed_type").is_none() {
        // Without a type, and without `class_embed_type`, they have no effect.
        fields.ignore(&sizes);
        return Ok(None);
    }
    fields.choice("addition_embed_type", "text_time", &[("text_time", ())])?;
    let [time_embed_dim, input_dim] = sizes.map(|key| fields.size(key, None));
    Ok(Some(AdditionEmbedding { time_embed_dim: time_embed_dim?, input_dim: input_dim? }))
}

/// `transformer_layers_per_block` and its `reverse_`: one number for all levels, or for each level a number
/// or a list with a number for each of its layers.
struct TransformerDepths<'a> {
    /// Finest level first.
    down: Vec<&'a Value>,
    /// Coarsest level first.
    up: Vec<&'a Value>,
}

const DEPTHS: &str = "transformer_layers_per_block";
const REVERSE_DEPTHS: &str = "reverse_transformer_layers_per_block";

impl<'a> TransformerDepths<'a> {
    fn read(fields: &mut Fields<'a>, levels: usize) -> Result<TransformerDepths<'a>, Error> {
        static ONE: LazyLock<Value> = LazyLock::new(|| json!(1));
        let down: Vec<&Value> = match fields.get(DEPTHS).unwrap_or(&ONE) {
            Value::Array(list) => list.iter().collect(),
            number => vec![number; levels],
        };
        let up: Vec<&Value> = match fields.get(REVERSE_DEPTHS) {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(_) => return Err(fields.error(REVERSE_DEPTHS, "a list")),
            None if down.iter().any(|depth| depth.is_array()) => {
                return Err(fields.error(REVERSE_DEPTHS, format!("a list, because {DEPTHS} contains lists")));
            }
            None => down.iter().rev().copied().collect(),
        };
        for (key, list) in [(DEPTHS, &down), (REVERSE_DEPTHS, &up)] {
            if list.len() != levels {
                return Err(fields.error(key, format!("{levels} values, one for each level")));
            }
        }
        Ok(TransformerDepths { down, up })
    }

    fn down(
        &self,
        fields: &Fields,
        blocks: &[LevelKind],
        layers: &[usize],
    ) -> Result<Vec<Vec<usize>>, Error> {
        let levels = blocks.iter().zip(layers).zip(&self.down);
        levels.map(|((&kind, &layers), depths)| of_level(fields, DEPTHS, kind, layers, depths)).collect()
    }

    /// `layers` are those on the way down, finest level first.
    fn up(&self, fields: &Fields, blocks: &[LevelKind], layers: &[usize]) -> Result<Vec<Vec<usize>>, Error> {
        let key = if fields.has(REVERSE_DEPTHS) { REVERSE_DEPTHS } else { DEPTHS };
        let levels = blocks.iter().zip(layers.iter().rev()).zip(&self.up);
        levels.map(|((&kind, &layers), depths)| of_level(fields, key, kind, layers + 1, depths)).collect()
    }

    /// The middle has one transformer, as deep as the first of the coarsest level.
    fn middle(&self, fields: &Fields) -> Result<usize, Error> {
        let coarsest = self.down[self.down.len() - 1];
        Ok(of_level(fields, DEPTHS, LevelKind::CrossAttention, 1, coarsest)?[0])
    }
}

/// Depths of the transformers of one level of `layers` layers.
fn of_level(
    fields: &Fields,
    key: &str,
    kind: LevelKind,
    layers: usize,
    depths: &Value,
) -> Result<Vec<usize>, Error> {
    if kind == LevelKind::Plain {
        // The value in the file does not matter: SSD-1B has an empty list there.
        return Ok(Vec::new());
    }
    let depth = |value: &Value| {
        let depth = value.as_u64().and_then(|depth| usize::try_from(depth).ok());
        depth.filter(|&depth| depth <= MAX_DEPTH).ok_or_else(|| {
            fields.error(key, format!("numbers from 0 to {MAX_DEPTH}, or lists of such numbers"))
        })
    };
    match depths {
        Value::Array(list) if list.len() >= layers => list[..layers].iter().map(depth).collect(),
        Value::Array(_) => Err(fields.error(key, format!("lists with a number for each of {layers} layers"))),
        number => Ok(vec![depth(number)?; layers]),
    }
}

/// Refuses keys that select another kind of U-Net than the one implemented here.
fn refuse_other_families(fields: &mut Fields) -> Result<(), Error> {
    fields.choice("act_fn", "silu", &SILU)?;
    fields.only("time_embedding_type", &json!("positional"))?;
    fields.only("resnet_time_scale_shift", &json!("default"))?;
    fields.only("attention_type", &json!("default"))?;
    fields.only("mid_block_scale_factor", &json!(1))?;
    fields.only("resnet_out_scale_factor", &json!(1.0))?;
    fields.only("downsample_padding", &json!(1))?;
    fields.only("conv_in_kernel", &json!(3))?;
    fields.only("conv_out_kernel", &json!(3))?;
    // Heads of an addition embedding of another type, the notation of a product, and settings of training or
    // half precision.
    fields.ignore(&["addition_embed_type_num_heads", "use_linear_projection", "upcast_attention", "dropout"]);
    fields.ignore(&EMA_KEYS);
    Ok(())
}
