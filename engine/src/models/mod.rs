//! The networks of Stable Diffusion, each written once as a graph.
//!
//! A model is data: a config read from the checkpoint says how many levels, widths and heads, and the functions
//! here append the ops. They name no backend and no weight type.

pub mod clip;
mod config;
mod layers;
pub mod naming;
pub mod unet;
pub mod vae;
