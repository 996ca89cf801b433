//! The three networks of Stable Diffusion, each written once as a graph.
//!
//! A model is data: a config read from the checkpoint says how many levels, widths and heads, and the functions
//! here append the ops. They name no backend and no weight type.

pub mod autoencoder;
pub mod config;
mod layers;
pub mod text_encoder;
pub mod unet;

use sdq_formats::WeightSpec;
use serde_json::Value;

use crate::Error;

/// The weights that `component` (`text_encoder`, `unet` or `vae`) with this `config.json` reads, in reading order.
///
/// # Errors
/// When the config asks for something sdq does not run, naming the key.
pub fn weight_specs(component: &str, config: &Value) -> Result<Vec<WeightSpec>, Error> {
    match component {
        "text_encoder" => Ok(text_encoder::weights(&config::TextEncoderConfig::from_json(config)?)),
        "unet" => Ok(unet::weights(&config::UNetConfig::from_json(config)?)),
        "vae" => Ok(autoencoder::weights(&config::AutoencoderConfig::from_json(config)?)),
        _ => Err(Error::Request {
            field: "component",
            found: component.to_owned(),
            expected: "text_encoder, unet or vae".to_owned(),
        }),
    }
}
