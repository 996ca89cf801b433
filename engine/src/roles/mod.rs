//! The roles that networks play in a pipeline. A model is an arrangement of them; a pipeline runs the arrangement and
//! knows no network by name.
//!
//! | role | what it does | for example |
//! |---|---|---|
//! | [`PromptEncoder`] | prompts → text states | CLIP's text transformer |
//! | [`DenoiserNetwork`] | latents and a timestep → predicted noise | a U-Net |
//! | [`StepNetwork`] | runs beside the denoiser in each step and adds to what it reads | a control network |
//! | [`Autoencoder`] | pixels ↔ latents | `AutoencoderKL` |
//! | [`PictureNetwork`] | picture → picture | an upscaler |
//!
//! A role describes itself as graphs and says how their inputs are made. It compiles and runs nothing by itself, so that
//! plans of memory and time see the very graphs that run.

mod autoencoder;
mod denoiser;
mod picture_network;
mod prompt_encoder;
mod stored;

pub use autoencoder::{Autoencoder, MOMENTS, PIXELS};
pub use denoiser::{
    ADDED_CONDITION, DEEP_STATES, DenoiserNetwork, NOISE_PRED, StepGraphs, StepNetwork, StepShape,
    TEXT_STATES,
};
pub use picture_network::PictureNetwork;
pub use prompt_encoder::{EncodedText, PromptEncoder, PromptShape, Prompts};
pub use stored::{RatedWeight, StoredNetwork};

/// Name of the latents wherever they cross a graph's border, `[batch, h, w, channels]`: a step graph's input, with the channels
/// that are shown beside them; a decoder's input; the output of encoders that give no distribution.
pub const LATENTS: &str = "latents";
