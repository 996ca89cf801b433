//! How a picture was made, written into it: as the line of text that other tools read, and as JSON for our own.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use sdq_engine::{
    PromptSyntax,
    pipeline::{Caching, Job, Settings},
};
use sdq_formats::picture;
use serde_json::{Value, json};

use crate::add_ons::AddOns;

/// Everything needed to draw a picture again.
pub(crate) struct Recipe {
    json: Value,
}

impl Recipe {
    /// The recipe of the picture that `settings` draw alone with `model`. `init_image` and `mask` are the files that
    /// the job starts from.
    pub(crate) fn new(
        settings: &Settings,
        model: &str,
        init_image: Option<&Path>,
        mask: Option<&Path>,
    ) -> Recipe {
        let options =
            settings.scheduler_options.iter().map(|(key, value)| (key.clone(), value.clone().into()));
        let options: serde_json::Map<String, Value> = options.collect();
        let mut json = json!({
            "prompt": settings.prompt,
            "negative_prompt": settings.negative_prompt,
            "width": settings.width,
            "height": settings.height,
            "steps": settings.steps,
            "scheduler": settings.scheduler,
            "scheduler_options": options,
            "guidance_scale": as_written(settings.guidance_scale),
            "seed": settings.seed,
        });
        if settings.reading.syntax == PromptSyntax::Plain {
            json["plain_prompt"] = true.into();
        }
        if let Some(clip_skip) = settings.reading.clip_skip {
            json["clip_skip"] = clip_skip.into();
        }
        if settings.guidance_rescale > 0.0 {
            json["guidance_rescale"] = as_written(settings.guidance_rescale).into();
        }
        if let Some(variation) = settings.variation {
            json["variation_seed"] = variation.seed.into();
            json["variation_strength"] = variation.strength.into();
        }
        if settings.caching != Caching::None {
            json["cache"] = settings.caching.to_string().into();
        }
        match settings.job {
            Job::TextToImage => {}
            Job::ImageToImage { strength, .. } | Job::Inpainting { strength, .. } => {
                json["strength"] = strength.into();
            }
            Job::Editing { .. } => {
                json["image_guidance_scale"] = as_written(settings.image_guidance_scale).into();
            }
        }
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
            json!({ "file": name(&lora.path), "strength": as_written(lora.strength), "tag": lora.to_string() })
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

/// The number a person typed: 7.1 and not the 7.099999904632568 that the nearest f32 is in f64.
pub(crate) fn as_written(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

#[cfg(test)]
mod tests {
    use super::as_written;

    #[test]
    fn numbers_read_as_they_were_typed() {
        for (number, text) in [(7.1, "7.1"), (7.5, "7.5"), (3.0, "3.0"), (-0.1, "-0.1")] {
            assert_eq!(serde_json::json!(as_written(number)).to_string(), text);
        }
    }
}
