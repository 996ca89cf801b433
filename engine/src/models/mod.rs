//! The networks of Stable Diffusion, each written once as a graph.
//!
//! A model is data: a config read from the checkpoint says how many levels, widths and heads, and the functions
//! here append the ops. They name no backend and no weight type.

pub mod autoencoder;
pub mod autoencoder_tiny;
pub mod clip;
pub mod config;
mod layers;
pub mod text_encoder;
pub mod unet;
pub mod vae;
