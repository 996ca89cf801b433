//! The JSON that InvokeAI and NovelAI write into PNG files, and unknown fields in sdq's own.

use sdq_engine::{PromptSyntax, Request};
use serde_json::{Map, Value};

use super::{Found, RecipeError, UsedLora, of_python, parameters::set_option, python_json};

/// Keyword of InvokeAI's text.
pub(super) const INVOKEAI: &str = "invokeai_metadata";
/// Keyword of the text of InvokeAI 2.
pub(super) const INVOKEAI_2: &str = "sd-metadata";
/// Keyword of NovelAI's text.
pub(super) const NOVELAI: &str = "Comment";

/// The fields of an object, which are removed one by one, so that those that are left are known to be unused.
struct Fields(Map<String, Value>);

impl Fields {
    fn new(json: &Value) -> Fields {
        Fields(json.as_object().cloned().unwrap_or_default())
    }

    /// Removes the field if `convert` accepts it.
    fn take<T>(&mut self, key: &str, convert: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let converted = convert(self.0.get(key)?)?;
        self.0.shift_remove(key);
        Some(converted)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, |value| value.as_str().map(str::to_owned))
    }

    fn size(&mut self, key: &str) -> Option<usize> {
        self.take(key, |value| usize::try_from(value.as_u64()?).ok())
    }

    fn float(&mut self, key: &str) -> Option<f32> {
        self.take(key, |value| value.as_f64().map(|number| number as f32))
    }

    /// Sets the fields that have the same names in all programs. Returns whether there is a seed.
    fn set_common(&mut self, request: &mut Request) -> bool {
        (request.width, request.height) = (self.size("width"), self.size("height"));
        request.steps = self.size("steps");
        request.strength = self.take("strength", Value::as_f64);
        let seed = self.take("seed", Value::as_u64);
        request.seed = seed.unwrap_or(request.seed);
        seed.is_some()
    }

    /// Lists the remaining fields, except those in `silent` and those that are empty or off.
    fn skip_rest(self, found: &mut Found, silent: &[&str]) {
        for (key, value) in self.0 {
            let says = match &value {
                Value::Null | Value::Bool(false) => false,
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                Value::Bool(true) => true,
            };
            if says && !silent.contains(&key.as_str()) {
                found.skip(&key, value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str());
            }
        }
    }
}

/// Lists the fields of `json`, a recipe of sdq's own, that `found` does not contain.
pub(super) fn skip_unread(found: &mut Found, json: &Value) {
    let mut fields = Fields::new(json);
    if let Value::Object(read) = found.recipe.json() {
        read.keys().for_each(|key| drop(fields.0.shift_remove(key)));
    }
    fields.skip_rest(found, &[]);
}

/// The name of a model: `name`, or `model_name` in older files.
fn model_name(model: &Value) -> Option<String> {
    let name = ["name", "model_name"].iter().find_map(|key| model[*key].as_str());
    name.or_else(|| model.as_str()).map(str::to_owned)
}

/// Reads InvokeAI's format.
pub(super) fn invoke_ai(json: &Value) -> Found {
    let mut fields = Fields::new(json);
    let mut found = Found { program: "InvokeAI", ..Found::default() };
    let recipe = &mut found.recipe;
    let request = &mut recipe.request;
    request.reading.syntax = PromptSyntax::Weighted;
    request.prompt = fields.text("positive_prompt").unwrap_or_default();
    request.negative_prompt = fields.text("negative_prompt").unwrap_or_default();
    found.has_seed = fields.set_common(request);
    request.guidance_scale = fields.float("cfg_scale");
    request.guidance_rescale = fields.float("cfg_rescale_multiplier").unwrap_or_default();
    // InvokeAI counts the blocks that are left out.
    request.reading.clip_skip =
        fields.size("clip_skip").filter(|&left_out| left_out > 0).map(|count| count.saturating_add(1));
    recipe.init_image = fields.text("init_image");
    recipe.model = fields.take("model", model_name).unwrap_or_default();
    recipe.vae = fields.take("vae", model_name).into_iter().collect();
    recipe.version =
        fields.text("app_version").map(|version| format!("InvokeAI {version}")).unwrap_or_default();
    let loras = fields.take("loras", |loras| Some(loras.as_array()?.clone())).unwrap_or_default();
    for lora in &loras {
        let name = ["model", "lora"].iter().find_map(|key| model_name(&lora[*key]));
        match (name, lora["weight"].as_f64()) {
            (Some(file), Some(weight)) => {
                let strength = weight as f32;
                found.recipe.loras.push(UsedLora { file, strength, text_strength: None });
            }
            _ => found.skip("LoRA", &lora.to_string()),
        }
    }
    if let Some(scheduler) = fields.text("scheduler") {
        found.set_sampler(&scheduler, None);
    }
    fields.skip_rest(&mut found, &["generation_mode", "rand_device"]);
    found
}

/// Reads the format of InvokeAI 2.
pub(super) fn invoke_ai_2(json: &Value) -> Found {
    let mut fields = Fields::new(&json["image"]);
    let mut found = Found { program: "InvokeAI", ..Found::default() };
    let recipe = &mut found.recipe;
    let request = &mut recipe.request;
    request.reading.syntax = PromptSyntax::Weighted;
    let prompt = |value: &Value| match value {
        Value::Array(prompts) => {
            let texts: Vec<&str> = prompts.iter().filter_map(|prompt| prompt["prompt"].as_str()).collect();
            Some(texts.join(" "))
        }
        value => value.as_str().map(str::to_owned),
    };
    (request.prompt, request.negative_prompt) =
        split_brackets(&fields.take("prompt", prompt).unwrap_or_default());
    found.has_seed = fields.set_common(request);
    request.guidance_scale = fields.float("cfg_scale");
    recipe.model = json["model_weights"].as_str().unwrap_or_default().to_owned();
    recipe.version =
        json["app_version"].as_str().map(|version| format!("InvokeAI {version}")).unwrap_or_default();
    if let Some(sampler) = fields.text("sampler") {
        found.set_sampler(&sampler, None);
    }
    fields.skip_rest(&mut found, &["type", "postprocessing", "variations"]);
    found
}

/// The text outside square brackets and the text inside them, which was the negative prompt in InvokeAI 2.
fn split_brackets(text: &str) -> (String, String) {
    let (mut outside, mut inside) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, bracketed)) = rest.split_once('[') {
        let Some((words, after)) = bracketed.split_once(']') else { break };
        outside.push_str(before);
        inside.push(words.trim());
        rest = after;
    }
    outside.push_str(rest);
    (outside.trim().to_owned(), inside.join(", "))
}

/// Reads the texts of a picture from one JSON object, as in the Exif of NovelAI's WebP files.
pub(super) fn texts_of_object(json: &str) -> Option<Vec<(String, String)>> {
    let Ok(Value::Object(fields)) = python_json::parse(json) else { return None };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Some(fields.into_iter().map(|(keyword, value)| (keyword, text(value))).collect())
}

/// The JSON under NovelAI's keyword; `None` if another program wrote it. `software` is the text that names the program.
///
/// # Errors
/// When NovelAI wrote it and it is damaged, or `bounded` refuses its length.
pub(super) fn novel_ai_parameters(
    json: &str,
    software: Option<&str>,
    bounded: impl Fn(&str) -> Result<(), RecipeError>,
) -> Result<Option<Value>, RecipeError> {
    match software {
        Some(software) if software.starts_with("NovelAI") => {
            bounded(json)?;
            of_python("NovelAI", json).map(Some)
        }
        Some(_) => Ok(None),
        // Draw Things has a field for the negative prompt of the same name, but another one for the prompt.
        None if bounded(json).is_ok() => Ok(python_json::parse(json)
            .ok()
            .filter(|parameters| parameters.get("uc").is_some() && parameters.get("c").is_none())),
        None => Ok(None),
    }
}

/// Reads NovelAI's format: `json`, and the `description` next to it, which contains the prompt in older
/// files.
pub(super) fn novel_ai(json: &Value, description: &str) -> Found {
    let mut fields = Fields::new(json);
    let mut found = Found { program: "NovelAI", ..Found::default() };
    let request = &mut found.recipe.request;
    request.reading.syntax = PromptSyntax::Weighted;
    request.prompt = fields.text("prompt").unwrap_or_else(|| description.to_owned());
    request.negative_prompt = fields.text("uc").unwrap_or_default();
    found.has_seed = fields.set_common(request);
    request.guidance_scale = fields.float("scale");
    request.guidance_rescale = fields.float("cfg_rescale").unwrap_or_default();
    let schedule = fields.text("noise_schedule");
    if let Some(sampler) = fields.text("sampler") {
        found.set_sampler(&sampler, schedule.as_deref());
    }
    if let Some(eta) = fields.take("eta", Value::as_f64) {
        let _ = set_option(&mut found.recipe.request, "eta", &eta.to_string());
    }
    if found.recipe.request.prompt.contains(['{', '[']) {
        found.skip("braces and brackets that weight words as in NovelAI", "");
    }
    fields.skip_rest(&mut found, &["n_samples", "signed_hash", "request_type", "version"]);
    found
}

#[cfg(test)]
mod tests;
