//! The `config.json` of an autoencoder of either kind.

use serde_json::Value;

use super::{AutoencoderConfig, AutoencoderTinyConfig};
use crate::Error;

/// The network between pixels and latents, by its class.
#[derive(Clone, Debug, PartialEq)]
pub enum VaeConfig {
    /// diffusers' `AutoencoderKL`.
    Kl(AutoencoderConfig),
    /// diffusers' `AutoencoderTiny`.
    Tiny(AutoencoderTinyConfig),
}

impl VaeConfig {
    /// Reads a `vae/config.json`; the class is `AutoencoderKL` if the file does not name one.
    ///
    /// # Errors
    /// Names the key that is unknown or whose value is not supported.
    pub fn from_json(config: &Value) -> Result<VaeConfig, Error> {
        match config.get("_class_name") {
            None | Some(Value::Null) => AutoencoderConfig::from_json(config).map(VaeConfig::Kl),
            Some(class) if class == "AutoencoderKL" => {
                AutoencoderConfig::from_json(config).map(VaeConfig::Kl)
            }
            Some(class) if class == "AutoencoderTiny" => {
                AutoencoderTinyConfig::from_json(config).map(VaeConfig::Tiny)
            }
            Some(other) => Err(Error::Config {
                component: "vae",
                key: "_class_name".to_owned(),
                found: other.to_string(),
                expected: "AutoencoderKL or AutoencoderTiny".to_owned(),
            }),
        }
    }

    /// The same network with latents that are not normalised: most pipelines ignore the statistics.
    pub fn without_statistics(self) -> VaeConfig {
        match self {
            VaeConfig::Kl(config) => VaeConfig::Kl(AutoencoderConfig { latents_statistics: None, ..config }),
            tiny @ VaeConfig::Tiny(_) => tiny,
        }
    }
}
