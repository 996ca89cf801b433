//! The networks of Stable Diffusion, each written once as a graph.
//!
//! A model is data: a config read from the checkpoint gives the numbers of levels, channels and heads, and
//! the functions here append the ops. They are independent of backends and weight types.

pub mod clip;
mod config;
mod layers;
pub mod naming;
pub mod unet;
pub mod vae;
