//! The text encoders' `config.json`.

use serde_json::{Value, json};

use crate::{
    Error,
    graph::Activation,
    models::config::{ACTIVATIONS, Fields},
};

/// CLIP's text transformer. Radford et al. 2021, arXiv:2103.00020; keys as in
/// `openai/clip-vit-large-patch14`'s config.json (`text_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens in a prompt, start and end included.
    pub max_position_embeddings: usize,
    /// Number of channels of the text states.
    pub hidden_size: usize,
    /// Width between the two layers of a block's perceptron.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of every block's attention.
    pub num_attention_heads: usize,
    /// Activation between the two layers of a block's perceptron.
    pub hidden_act: Activation,
    /// Added to every variance.
    pub layer_norm_eps: f32,
    /// Size of the vector for the whole prompt, in encoders that have a projection.
    pub projection_dim: Option<usize>,
    /// Position of the token that the vector is computed from.
    pub pooling: Pooling,
}

/// The token whose state represents the whole prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first with this id.
    First(u32),
    /// The first with the largest id of the prompt. transformers keeps this rule for files with
    /// `eos_token_id: 2`, which was a mistake in many of them: the end token has the largest id.
    Largest,
}

impl Pooling {
    /// The position of that token in `ids`; 0 if there is none.
    pub fn position(self, ids: &[u32]) -> usize {
        let wanted = match self {
            Pooling::First(id) => Some(id),
            Pooling::Largest => ids.iter().max().copied(),
        };
        ids.iter().position(|&id| Some(id) == wanted).unwrap_or(0)
    }
}

impl TextEncoderConfig {
    /// Reads the `config.json` of `component`, `text_encoder` or `text_encoder_2`. Its class says whether
    /// there is a projection.
    ///
    /// # Errors
    /// Names the key whose value is not supported. Keys of transformers' common base (several dozen
    /// generation and bookkeeping settings) are ignored, because they do not apply to a text encoder.
    pub fn from_json(
        component: &'static str,
        config: &Value,
        has_projection: bool,
    ) -> Result<TextEncoderConfig, Error> {
        let mut fields = Fields::new(component, config)?;
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
            projection_dim: match has_projection {
                true => Some(fields.size("projection_dim", Some(512))?),
                false => None,
            },
            pooling: match fields.get("eos_token_id").filter(|_| has_projection) {
                None => Pooling::First(49407),
                Some(id) => match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    Some(2) => Pooling::Largest,
                    Some(id) => Pooling::First(id),
                    None => return Err(fields.error("eos_token_id", "a token id")),
                },
            },
        };
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(fields.error("num_attention_heads", format!("a divisor of {}", config.hidden_size)));
        }
        Ok(config)
    }
}
