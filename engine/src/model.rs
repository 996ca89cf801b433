//! What a model is made of, beside its weights: configs and texts, read and held against each other.
//!
//! The same check runs when a checkpoint is converted and when its file is opened, so nothing is converted that could
//! not be opened.

use sdq_formats::WeightSpec;
use sdq_schedulers::SchedulerConfig;
use serde_json::Value;

use crate::{
    Error,
    models::{
        autoencoder,
        config::{AutoencoderConfig, TextEncoderConfig, UNetConfig},
        text_encoder, unet,
    },
    tokenizer::{Tokenizer, TokenizerFiles},
};

/// Names of the components, in the order in which a run reads them.
pub const COMPONENTS: [&str; 3] = ["text_encoder", "unet", "vae"];

/// The parts of a model that belong together.
#[derive(Debug)]
pub struct Model {
    /// Prompt → token ids.
    pub tokenizer: Tokenizer,
    /// Token ids → text states.
    pub text_encoder: TextEncoderConfig,
    /// Latents → predicted noise.
    pub unet: UNetConfig,
    /// Latents ↔ pixels.
    pub vae: AutoencoderConfig,
    /// How the U-Net was trained and is to be sampled.
    pub scheduler: SchedulerConfig,
}

impl Model {
    /// Reads the `config.json` of each of [`COMPONENTS`] and the embedded texts, by their names in a diffusers
    /// directory (`tokenizer/vocab.json`).
    ///
    /// # Errors
    /// When a part is missing, asks for something that sdq does not run, or does not fit the others.
    pub fn new<'a>(
        config: impl Fn(&str) -> Option<&'a Value>,
        text: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Model, Error> {
        let config = |component| config(component).ok_or(Error::MissingComponent { component });
        let text_encoder = TextEncoderConfig::from_json(config("text_encoder")?)?;
        let unet = UNetConfig::from_json(config("unet")?)?;
        let vae = AutoencoderConfig::from_json(config("vae")?)?;
        check_widths(&text_encoder, &unet, &vae)?;
        let files = TokenizerFiles {
            tokenizer: text("tokenizer/tokenizer.json"),
            vocab: text("tokenizer/vocab.json"),
            merges: text("tokenizer/merges.txt"),
            config: text("tokenizer/tokenizer_config.json"),
            special_tokens: text("tokenizer/special_tokens_map.json"),
        };
        let tokenizer =
            Tokenizer::new(&files, text_encoder.max_position_embeddings, text_encoder.vocab_size)?;
        let scheduler = SchedulerConfig::from_json(text("scheduler/scheduler_config.json").unwrap_or("{}"))?
            .as_stable_diffusion_loads_it();
        Ok(Model { tokenizer, text_encoder, unet, vae, scheduler })
    }

    /// The weights that each of [`COMPONENTS`] reads, in reading order.
    pub fn weights(&self) -> [(&'static str, Vec<WeightSpec>); 3] {
        let [first, second, third] = COMPONENTS;
        [
            (first, text_encoder::weights(&self.text_encoder)),
            (second, unet::weights(&self.unet)),
            (third, autoencoder::weights(&self.vae)),
        ]
    }
}

/// What one part hands on, the next must take.
fn check_widths(
    text_encoder: &TextEncoderConfig,
    unet: &UNetConfig,
    vae: &AutoencoderConfig,
) -> Result<(), Error> {
    let mismatch = |key: &str, found: usize, expected: String| Error::Config {
        component: "unet",
        key: key.to_owned(),
        found: found.to_string(),
        expected,
    };
    if unet.cross_attention_dim != text_encoder.hidden_size {
        let expected = format!("the text encoder's hidden_size, {}", text_encoder.hidden_size);
        return Err(mismatch("cross_attention_dim", unet.cross_attention_dim, expected));
    }
    for (key, channels) in [("in_channels", unet.in_channels), ("out_channels", unet.out_channels)] {
        if channels != vae.latent_channels {
            let expected = format!("the VAE's latent_channels, {}", vae.latent_channels);
            return Err(mismatch(key, channels, expected));
        }
    }
    Ok(())
}
