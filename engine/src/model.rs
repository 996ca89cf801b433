//! The structure of a model without its weights: configs and texts, read and checked for consistency.
//!
//! The same check runs when a checkpoint is converted and when its file is opened, so nothing is converted
//! that could not be opened.

use sdq_formats::WeightSpec;
use sdq_schedulers::SchedulerConfig;
use serde_json::Value;

use crate::{
    Error,
    families::{ExtraInput, Family, ModelIndex, TEXT_ENCODERS, added_numbers},
    models::{
        clip::{ClipTextEncoder, TextEncoderConfig, transformer::Layer},
        unet::UNetConfig,
        vae::VaeConfig,
    },
    pipeline::STEPS,
    roles::{Autoencoder, DenoiserNetwork, PromptEncoder, RatedWeight, StepNetwork, StoredNetwork},
    tokenizer::{Tokenizer, TokenizerFiles},
};

/// An arrangement of networks: the role of each, and how they work together.
#[derive(Debug)]
pub struct Model {
    /// Prompt → text states; SDXL has two, its refiner only the second of them.
    pub text_encoders: Vec<Box<dyn PromptEncoder>>,
    /// How the text states of several encoders are combined.
    pub joined_text_states: JoinedTextStates,
    /// Latents → predicted noise.
    pub denoiser: Box<dyn DenoiserNetwork>,
    /// Networks that run beside the denoiser in each step.
    pub companions: Vec<Box<dyn StepNetwork>>,
    /// Latents ↔ pixels.
    pub autoencoder: Box<dyn Autoencoder>,
    /// How the denoiser was trained and must be sampled.
    pub scheduler: SchedulerConfig,
    /// The published models whose networks have the same structure, whatever their size is.
    pub family: Family,
    /// Properties of the pipeline class.
    pub index: ModelIndex,
    /// The input of the denoiser beside the latents.
    pub extra_input: ExtraInput,
}

/// How the text states of several encoders are combined into one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinedTextStates {
    /// Concatenated along the channels, token by token: the encoders read the same number of tokens. SDXL;
    /// Podell et al. 2023, arXiv:2307.01952, section 2.1.
    Channels,
    /// One encoder's tokens after the other's: the encoders have the same width.
    Tokens,
}

impl Model {
    /// Reads the `config.json` of each component and the embedded texts, by their names in a diffusers
    /// directory (`unet`, `tokenizer/vocab.json`).
    ///
    /// # Errors
    /// When a part is missing, requires something that is not supported, or does not fit the others.
    pub fn new<'a>(
        config: impl Fn(&str) -> Option<&'a Value>,
        text: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Model, Error> {
        let index = ModelIndex::from_text(text("model_index.json"))?;
        let required = |component| config(component).ok_or(Error::MissingComponent { component });
        let text_encoders = text_encoders(&index, &config, &text)?;
        let unet = required("unet")?;
        let family = Family::of_config(unet, text_encoders.len());
        let unet = UNetConfig::from_json(unet)?;
        let vae = VaeConfig::from_json(required("vae")?)?;
        let vae = if index.normalises_latents() { vae } else { vae.without_statistics() };
        check_widths(&index, &text_encoders, &unet, &vae)?;
        let extra_input = extra_input(&index, &unet, &vae)?;
        let scheduler = SchedulerConfig::from_json(text("scheduler/scheduler_config.json").unwrap_or("{}"))?;
        let scheduler = index.corrected(scheduler)?;
        let text_encoders = text_encoders.into_iter().map(|encoder| Box::new(encoder) as _).collect();
        Ok(Model {
            text_encoders,
            joined_text_states: JoinedTextStates::Channels,
            denoiser: Box::new(unet),
            companions: Vec::new(),
            autoencoder: Box::new(vae),
            scheduler,
            family,
            index,
            extra_input,
        })
    }

    /// Name of the scheduler for a model whose file names none: the one for its config's class.
    pub fn default_scheduler(&self) -> &'static str {
        let class = self.scheduler.class_name.as_deref();
        class.and_then(sdq_schedulers::default_for_class).unwrap_or("ddim")
    }

    /// Checks that a request without a scheduler and steps can be run: with `scheduler` and `steps` of the model's card, or
    /// with the defaults if these are `None`.
    ///
    /// # Errors
    /// When the scheduler does not support the model's config.
    pub fn check_defaults(&self, scheduler: Option<&str>, steps: Option<usize>) -> Result<(), Error> {
        let name = scheduler.unwrap_or(self.default_scheduler());
        sdq_schedulers::create(name, &self.scheduler, steps.unwrap_or(STEPS))?;
        Ok(())
    }

    /// Tokens and channels of a prompt's text states, for a prompt of `chunks` chunks.
    pub fn text_states_shape(&self, chunks: usize) -> [usize; 2] {
        let tokens = self.text_encoders.iter().map(|encoder| chunks * encoder.chunk_tokens());
        let widths = self.text_encoders.iter().map(|encoder| encoder.width());
        match self.joined_text_states {
            JoinedTextStates::Channels => [tokens.max().unwrap_or(0), widths.sum()],
            JoinedTextStates::Tokens => [tokens.sum(), widths.max().unwrap_or(0)],
        }
    }

    /// Combines the text states of each encoder, `[prompts, tokens, channels]`, into one tensor.
    pub(crate) fn join_text_states(&self, states: &[&[f32]], prompts: usize) -> Vec<f32> {
        let length = states.iter().map(|states| states.len()).sum();
        let mut joined = Vec::with_capacity(length);
        match self.joined_text_states {
            JoinedTextStates::Channels => {
                let tokens = states[0].len() / self.text_encoders[0].width();
                for token in 0..tokens {
                    for (encoder, states) in self.text_encoders.iter().zip(states) {
                        joined.extend_from_slice(&states[token * encoder.width()..][..encoder.width()]);
                    }
                }
            }
            JoinedTextStates::Tokens => {
                for prompt in 0..prompts {
                    for states in states {
                        let each = states.len() / prompts;
                        joined.extend_from_slice(&states[prompt * each..][..each]);
                    }
                }
            }
        }
        joined
    }

    /// The networks, in the order in which a run reads them.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &dyn StoredNetwork> {
        let text_encoders = self.text_encoders.iter().map(|encoder| &**encoder as &dyn StoredNetwork);
        let companions = self.companions.iter().map(|network| &**network as &dyn StoredNetwork);
        let denoiser: &dyn StoredNetwork = &*self.denoiser;
        let autoencoder: &dyn StoredNetwork = &*self.autoencoder;
        text_encoders.chain([denoiser]).chain(companions).chain([autoencoder])
    }

    /// The weights of each component, in reading order; components in the order in which a run reads them.
    pub fn weights(&self) -> Vec<(&'static str, Vec<WeightSpec>)> {
        self.networks().map(|network| (network.component(), network.weights())).collect()
    }

    /// The same weights, each with its sensitivity to storage in fewer bits.
    pub fn rated_weights(&self) -> Vec<(&'static str, Vec<RatedWeight>)> {
        self.networks().map(|network| (network.component(), network.rated_weights())).collect()
    }

    /// The weights of an autoencoder alone, given its `config.json`, as in
    /// [`rated_weights`](Model::rated_weights).
    ///
    /// # Errors
    /// Names the key whose value is not supported.
    pub fn vae_weights(config: &Value) -> Result<Vec<RatedWeight>, Error> {
        Ok(VaeConfig::from_json(config)?.rated_weights())
    }

    /// Names of the components, in the order in which a run reads them.
    pub fn components(&self) -> Vec<&'static str> {
        self.networks().map(|network| network.component()).collect()
    }
}

fn text_encoders<'a>(
    index: &ModelIndex,
    config: impl Fn(&str) -> Option<&'a Value>,
    text: impl Fn(&str) -> Option<&'a str>,
) -> Result<Vec<ClipTextEncoder>, Error> {
    // Only SDXL's pipelines have more than one text encoder.
    let known = if index.layer() == Layer::Last { &TEXT_ENCODERS[..1] } else { &TEXT_ENCODERS[..] };
    let mut encoders = Vec::new();
    for &(component, folder) in known {
        let Some(config) = config(component) else { continue };
        let config = TextEncoderConfig::from_json(component, config, index.has_projection(component))?;
        let file = |name: &str| text(&format!("{folder}/{name}"));
        let files = TokenizerFiles {
            tokenizer: file("tokenizer.json"),
            vocab: file("vocab.json"),
            merges: file("merges.txt"),
            config: file("tokenizer_config.json"),
            special_tokens: file("special_tokens_map.json"),
            added_tokens: file("added_tokens.json"),
        };
        let tokenizer = Tokenizer::new(&files, config.max_position_embeddings, config.vocab_size)?;
        encoders.push(ClipTextEncoder { component, tokenizer, config, layer: index.layer() });
    }
    let (Some(first), Some(last)) = (encoders.first(), encoders.last()) else {
        return Err(Error::MissingComponent { component: known[known.len() - 1].0 });
    };
    let lengths = [first, last].map(|encoder| encoder.tokenizer.length());
    if lengths[0] != lengths[1] {
        let message = format!(
            "the two text encoders read {} and {} tokens, expected the same number",
            lengths[0], lengths[1]
        );
        return Err(Error::Tokenizer(message));
    }
    Ok(encoders)
}

/// Checks that the output size of each part is the input size of the next.
fn check_widths(
    index: &ModelIndex,
    text_encoders: &[ClipTextEncoder],
    unet: &UNetConfig,
    vae: &VaeConfig,
) -> Result<(), Error> {
    let width: usize = text_encoders.iter().map(|encoder| encoder.config.hidden_size).sum();
    if unet.cross_attention_dim != width {
        let expected = format!("{width}, the width of the text states");
        return Err(mismatch("cross_attention_dim", unet.cross_attention_dim, expected));
    }
    if unet.out_channels != vae.latent_channels() {
        let expected = format!("{}, the latent_channels of the VAE", vae.latent_channels());
        return Err(mismatch("out_channels", unet.out_channels, expected));
    }
    let Some(addition) = unet.addition_embedding else { return Ok(()) };
    let pooled = text_encoders.iter().find_map(|encoder| encoder.config.projection_dim);
    let Some(pooled) = pooled.filter(|_| index.layer() == Layer::Penultimate) else {
        return Err(Error::Config {
            component: "unet",
            key: "addition_embed_type".to_owned(),
            found: "\"text_time\"".to_owned(),
            expected: "null, unless the pipeline is SDXL with a CLIPTextModelWithProjection".to_owned(),
        });
    };
    let numbers = added_numbers(index.requires_aesthetics_score);
    let expected = pooled + numbers * addition.time_embed_dim;
    match addition.input_dim == expected {
        true => Ok(()),
        false => Err(mismatch(
            "projection_class_embeddings_input_dim",
            addition.input_dim,
            format!("{expected}, the size of a pooled prompt of {pooled} and {numbers} embedded numbers"),
        )),
    }
}

fn extra_input(index: &ModelIndex, unet: &UNetConfig, vae: &VaeConfig) -> Result<ExtraInput, Error> {
    let latents = vae.latent_channels();
    let possible: &[ExtraInput] = match index.image_guidance() {
        false => &[ExtraInput::None, ExtraInput::MaskedPicture],
        true => &[ExtraInput::Picture],
    };
    if let Some(extra) = possible.iter().find(|extra| extra.input_channels(latents) == unet.in_channels) {
        return Ok(*extra);
    }
    let expected = match index.image_guidance() {
        false => {
            let inpainting = ExtraInput::MaskedPicture.input_channels(latents);
            format!("{latents}, the latent_channels of the VAE, or {inpainting} for inpainting")
        }
        true => format!("{}, for the latents of two pictures", ExtraInput::Picture.input_channels(latents)),
    };
    Err(mismatch("in_channels", unet.in_channels, expected))
}

fn mismatch(key: &str, found: usize, expected: String) -> Error {
    Error::Config { component: "unet", key: key.to_owned(), found: found.to_string(), expected }
}
