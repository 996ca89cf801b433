//! How a picture was made, written into it: as the line of text that other tools read, and as JSON for our own.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use sdq_engine::{Request, pipeline::as_typed};
use sdq_formats::picture;
use serde_json::{Value, json};

use sdq::add_ons::AddOns;

/// Everything needed to draw a picture again.
pub(crate) struct Recipe {
    json: Value,
}

impl Recipe {
    /// The recipe of the picture that `request` draws with `model`. `init_image` and `mask` are the files that the job
    /// starts from.
    pub(crate) fn new(
        request: &Request,
        model: &str,
        init_image: Option<&Path>,
        mask: Option<&Path>,
    ) -> Recipe {
        let mut json = serde_json::to_value(request).unwrap_or_default();
        for (key, file) in [("init_image", init_image), ("mask", mask)] {
            if let Some(name) = file.and_then(Path::file_name) {
                json[key] = name.to_string_lossy().into();
            }
        }
        json["model"] = model.into();
        json["version"] = concat!("sdq ", env!("CARGO_PKG_VERSION")).into();
        Recipe { json }
    }

    /// The recipe of a picture that these were beside the model for.
    pub(crate) fn with_add_ons(mut self, add_ons: &AddOns) -> Recipe {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let loras = add_ons.loras.iter().map(|lora| {
            json!({ "file": name(&lora.path), "strength": as_typed(lora.strength), "tag": lora.to_string() })
        });
        let embeddings = add_ons
            .embeddings
            .iter()
            .map(|embedding| json!({ "file": name(&embedding.path), "word": embedding.word }));
        let vae = add_ons.vae.iter().map(|path| name(path)).collect::<Vec<_>>().join(", ");
        let add_ons: [(&str, Value); 3] =
            [("loras", loras.collect()), ("embeddings", embeddings.collect()), ("vae", vae.into())];
        for (key, value) in add_ons {
            if value.as_array().is_none_or(|list| !list.is_empty()) && value != "" {
                self.json[key] = value;
            }
        }
        self
    }

    /// Texts for the picture, key and value.
    pub(crate) fn texts(&self) -> [(&'static str, String); 2] {
        [(picture::PARAMETERS, self.parameters()), (picture::RECIPE, self.json.to_string())]
    }

    /// The recipe as JSON.
    pub(crate) fn json(&self) -> &Value {
        &self.json
    }

    /// The recipe found among a picture's texts.
    pub(crate) fn from_texts(texts: &[(String, String)]) -> anyhow::Result<Recipe> {
        let (_, text) =
            texts.iter().find(|(key, _)| key == picture::RECIPE).context("holds no sdq recipe")?;
        Ok(Recipe { json: serde_json::from_str(text).context("its sdq recipe is damaged")? })
    }

    fn parameters(&self) -> String {
        let text = |key: &str| match &self.json[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut out = text("prompt");
        for lora in self.json["loras"].as_array().into_iter().flatten() {
            let _ = write!(out, " {}", lora["tag"].as_str().unwrap_or_default());
        }
        let negative_prompt = text("negative_prompt");
        if !negative_prompt.is_empty() {
            let _ = write!(out, "\nNegative prompt: {negative_prompt}");
        }
        let (width, height) = (text("width"), text("height"));
        let _ = write!(
            out,
            "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {width}x{height}, Model: {}",
            text("steps"),
            text("scheduler"),
            text("guidance_scale"),
            text("seed"),
            text("model"),
        );
        // Under the names that the web UI gives them.
        for (key, name) in [
            ("clip_skip", "Clip skip"),
            ("vae", "VAE"),
            ("strength", "Denoising strength"),
            ("image_guidance_scale", "Image CFG scale"),
            ("cache", "Cache"),
            ("variation_seed", "Variation seed"),
            ("variation_strength", "Variation seed strength"),
        ] {
            if !self.json[key].is_null() {
                let _ = write!(out, ", {name}: {}", text(key));
            }
        }
        let _ = write!(out, ", Version: {}", text("version"));
        out
    }
}
