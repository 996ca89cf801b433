//! The roles that networks play in a pipeline. A model is an arrangement of them; a pipeline runs the
//! arrangement and is independent of the kinds of networks.
//!
//! | role | task | example |
//! |---|---|---|
//! | [`PromptEncoder`] | prompts → text states | CLIP's text transformer |
//! | [`DenoiserNetwork`] | latents and a timestep → predicted noise | a U-Net |
//! | [`StepNetwork`] | runs beside the denoiser in each step and adds to its inputs | a control network |
//! | [`Autoencoder`] | pixels ↔ latents | `AutoencoderKL` |
//! | [`PictureNetwork`] | picture → picture | an upscaler |
//!
//! An implementation of a role returns its graphs and computes their inputs. It compiles and runs nothing
//! itself, so that plans of memory and time use the same graphs as the run.

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

/// Name of the latents as an input or output of graphs, `[batch, h, w, channels]`: a step graph's input,
/// which includes extra channels; a decoder's input; the output of encoders that return no distribution.
pub const LATENTS: &str = "latents";
