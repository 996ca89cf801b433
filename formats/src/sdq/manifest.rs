//! The description of a model and its origin.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::SdqProblem;
use crate::names::{PATH_RULE, is_printable, is_relative_path, quote};

/// The description of a model and its origin. Contains no date and no absolute path: the same input gives the
/// same file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the model, for display. This and the other texts are printable.
    pub name: String,
    /// Description of the pictures that it draws, in a sentence or two; may be empty.
    #[serde(default)]
    pub description: String,
    /// Licence of the weights: an SPDX identifier or a short statement; may be empty. The full text is the embedded
    /// text `LICENSE`.
    #[serde(default)]
    pub license: String,
    /// The diffusers class of the pipeline: `StableDiffusionPipeline`.
    pub pipeline_class: String,
    /// Program and version that wrote the file, such as `sdq 0.1.0`.
    pub converter: String,
    /// Defaults where the user sets no value: an object with any of `width`, `height` (pixels), `steps`,
    /// `scheduler` (name), `guidance_scale`.
    #[serde(deserialize_with = "super::table::config")]
    pub defaults: Value,
    /// The files it was converted from.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// How the weights were quantized; absent if none were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

/// How a converter chose the types and integers of a quantized model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantization {
    /// The recipe of each component, such as `unet: q4`.
    pub recipes: Vec<String>,
    /// Rules that take precedence over the recipes, first match first, such as `attn2=q8`.
    #[serde(default)]
    pub rules: Vec<String>,
    /// Number of prompts whose activations weighted the error; zero if there were none.
    #[serde(default)]
    pub calibration_prompts: usize,
}

/// A file that a model was converted from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Path inside the model directory, `/` between its parts.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The manifest of a file whose weights do not belong to a published model: no pipeline, no sources, no
    /// defaults.
    pub fn of_no_model(name: &str, converter: &str) -> Manifest {
        Manifest {
            name: name.to_owned(),
            description: String::new(),
            license: String::new(),
            pipeline_class: "none".to_owned(),
            converter: converter.to_owned(),
            defaults: Value::Object(serde_json::Map::new()),
            sources: Vec::new(),
            quantization: None,
        }
    }

    /// Checks properties that the types do not ensure: both the reader and the writer call it.
    pub(super) fn check(&self) -> Result<(), SdqProblem> {
        let Manifest {
            name,
            description,
            license,
            pipeline_class,
            converter,
            defaults,
            sources,
            quantization,
        } = self;
        for (field, text) in [
            ("name", name),
            ("license", license),
            ("pipeline_class", pipeline_class),
            ("converter", converter),
        ] {
            if !text.is_empty() && !is_printable(text) {
                return Err(SdqProblem::Manifest(format!("`{field}` is not a short printable line")));
            }
        }
        if description.chars().any(|c| c.is_control() && c != '\n') {
            return Err(SdqProblem::Manifest("`description` contains control characters".into()));
        }
        let Some(defaults) = defaults.as_object() else {
            return Err(SdqProblem::Manifest("`defaults` is not an object".into()));
        };
        for (setting, value) in defaults {
            if !is_printable(setting) || !(value.is_number() || value.as_str().is_some_and(is_printable)) {
                let message =
                    format!("default `{}` is neither a number nor a printable string", quote(setting));
                return Err(SdqProblem::Manifest(message));
            }
        }
        for source in sources {
            if !is_relative_path(&source.file) {
                return Err(SdqProblem::Name {
                    what: "source file",
                    name: quote(&source.file),
                    rule: PATH_RULE,
                });
            }
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if source.sha256.len() != 64 || !source.sha256.bytes().all(digit) {
                let message =
                    format!("`sha256` of source `{}` is not 64 lower-case hexadecimal digits", source.file);
                return Err(SdqProblem::Manifest(message));
            }
        }
        for line in quantization.iter().flat_map(|how| how.recipes.iter().chain(&how.rules)) {
            if !is_printable(line) {
                let message =
                    format!("`quantization` contains \"{}\", expected a short printable line", quote(line));
                return Err(SdqProblem::Manifest(message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        serde_json::from_value(json!({
            "name": "m", "pipeline_class": "StableDiffusionPipeline", "converter": "sdq 0.1.0", "defaults": {},
            "sources": [{"file": "unet/a.safetensors", "bytes": 1, "sha256": "0".repeat(64)}]
        }))
        .unwrap()
    }

    #[test]
    fn rejects_fields_out_of_place() {
        manifest().check().unwrap();
        for defaults in [json!([]), json!({"steps": []}), json!({"scheduler": "a\u{1b}[2J"}), json!({"": 1})]
        {
            assert!(Manifest { defaults: defaults.clone(), ..manifest() }.check().is_err(), "{defaults}");
        }
        Manifest { defaults: json!({"steps": 4, "scheduler": "ddim"}), ..manifest() }.check().unwrap();
        assert!(Manifest { name: "a\nb".into(), ..manifest() }.check().is_err());
        assert!(Manifest { description: "a\u{7}".into(), ..manifest() }.check().is_err());
        Manifest { description: "two\nlines".into(), ..manifest() }.check().unwrap();
        let with = |change: &dyn Fn(&mut Source)| {
            let mut manifest = manifest();
            change(&mut manifest.sources[0]);
            manifest.check()
        };
        assert!(with(&|s| s.file = "/home/me/a".into()).is_err());
        assert!(with(&|s| s.sha256 = "0".repeat(63)).is_err());
        assert!(with(&|s| s.sha256 = "X".repeat(64)).is_err());
        let quantization = Some(Quantization { rules: vec!["a\u{7}=q8".into()], ..Quantization::default() });
        assert!(Manifest { quantization, ..manifest() }.check().is_err());
    }
}
