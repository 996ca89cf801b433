//! `sdq.json`: recommended settings of a model, for which a diffusers directory has no place.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The optional file `sdq.json` at the top of a model directory. All fields are optional, and unknown ones
/// are ignored: authors of a model may store other data there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelCard {
    /// Name of the model, for display.
    pub name: Option<String>,
    /// Description of the pictures that it draws.
    pub description: Option<String>,
    /// Licence of the weights, an SPDX identifier or a short statement.
    pub license: Option<String>,
    /// Width in pixels.
    pub width: Option<u32>,
    /// Height in pixels.
    pub height: Option<u32>,
    /// Number of denoising steps.
    pub steps: Option<u32>,
    /// Name of a scheduler.
    pub scheduler: Option<String>,
    /// Strength of the prompt; 1 is no guidance.
    pub guidance_scale: Option<f64>,
}

impl ModelCard {
    /// The given settings, in the form of the manifest's `defaults`.
    pub fn defaults(&self) -> Value {
        let mut defaults = Map::new();
        let mut add = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                defaults.insert(key.to_owned(), value);
            }
        };
        add("width", self.width.map(Value::from));
        add("height", self.height.map(Value::from));
        add("steps", self.steps.map(Value::from));
        add("scheduler", self.scheduler.clone().map(Value::from));
        add("guidance_scale", self.guidance_scale.map(Value::from));
        Value::Object(defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_defaults_and_mistakes_errors() {
        let card: ModelCard = serde_json::from_str(
            r#"{"name": "emoji", "width": 64, "scheduler": "ddim", "guidance_scale": 3}"#,
        )
        .unwrap();
        assert_eq!(card.name.as_deref(), Some("emoji"));
        assert_eq!(card.defaults().to_string(), r#"{"width":64,"scheduler":"ddim","guidance_scale":3.0}"#);
        let more = r#"{"steps": 4, "things": ["apple"]}"#;
        assert_eq!(serde_json::from_str::<ModelCard>(more).unwrap().steps, Some(4));
        for bad in [r#"{"steps": -1}"#, r#"{"steps": 2.5}"#, r#"{"scheduler": 1}"#] {
            assert!(serde_json::from_str::<ModelCard>(bad).is_err(), "{bad}");
        }
    }
}
