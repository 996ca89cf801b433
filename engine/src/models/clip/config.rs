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

/// Keys of the config that determine the network.
const OWN_KEYS: [&str; 17] = [
    "model_type",
    "use_attention_mask",
    "is_decoder",
    "add_cross_attention",
    "pruned_heads",
    "quantization_config",
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "projection_dim",
    "eos_token_id",
    "architectures",
];

/// Keys of transformers' `PretrainedConfig`, versions 4.17 to 5.0, that concern training, generation and bookkeeping.
const OTHER_KEYS: &str = "attention_dropout attn_implementation bad_words_ids begin_suppress_tokens bos_token_id \
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout dtype \
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id \
    forced_eos_token_id gradient_checkpointing id2label initializer_factor initializer_range is_encoder_decoder \
    label2id length_penalty max_length min_length name_or_path no_repeat_ngram_size num_beam_groups num_beams \
    num_return_sequences output_attentions output_hidden_states output_past output_scores pad_token_id prefix \
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id \
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings \
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache";

/// The keys of a text encoder's `config` that are not read and not known to change nothing.
pub(crate) fn unknown_keys(config: &Value) -> Vec<String> {
    let is_known = |key: &str| {
        OWN_KEYS.contains(&key)
            || key.starts_with('_')
            || OTHER_KEYS.split_whitespace().any(|other| other == key)
    };
    let keys = config.as_object().into_iter().flatten();
    keys.filter(|(key, value)| !value.is_null() && !is_known(key)).map(|(key, _)| key.clone()).collect()
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
    /// Names the key whose value is not supported. Other keys are ignored; `unknown_keys` lists those that the reader of
    /// a published model reports.
    pub fn from_json(
        component: &'static str,
        config: &Value,
        has_projection: bool,
    ) -> Result<TextEncoderConfig, Error> {
        let mut fields = Fields::new(component, config)?;
        fields.choice("model_type", "clip_text_model", &[("clip_text_model", ())])?;
        for switched_off in ["use_attention_mask", "is_decoder", "add_cross_attention"] {
            fields.only(switched_off, &json!(false))?;
        }
        fields.only("pruned_heads", &json!({}))?;
        fields.only("quantization_config", &Value::Null)?;
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
