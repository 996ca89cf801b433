//! The lines that AUTOMATIC1111's web UI writes into pictures, and that Forge, stable-diffusion.cpp and
//! others adopted: the prompt, the negative prompt, and a line of names and values.

use std::fmt::Write as _;

use sdq_engine::{Request, Variation, pipeline::as_typed};
use serde_json::{Value, json};

use super::{Found, Recipe};

const NEGATIVE_PROMPT: &str = "Negative prompt:";
/// The web UI's line of settings begins with it.
const FIRST_FIELD: &str = "Steps:";
/// A line with fewer names and values than this is part of the prompt.
const MIN_FIELDS: usize = 3;
/// Maximum length of the name of a value, in bytes.
const MAX_NAME_LEN: usize = 60;

/// Writes `recipe` in this format.
pub(super) fn write(recipe: &Recipe) -> String {
    let request = &recipe.request;
    let mut text = request.prompt.clone();
    for lora in &recipe.loras {
        let _ = write!(text, " {}", lora.tag());
    }
    if !request.negative_prompt.is_empty() {
        let _ = write!(text, "\n{NEGATIVE_PROMPT} {}", request.negative_prompt);
    }
    let number = |number: f32| json!(as_typed(number)).to_string();
    let size = request.width.zip(request.height).map(|(width, height)| format!("{width}x{height}"));
    let vae = (!recipe.vae.is_empty()).then(|| recipe.vae.join(", "));
    let caching =
        (request.caching != sdq_engine::pipeline::Caching::None).then(|| request.caching.to_string());
    let (variation_seed, variation_strength) =
        request.variation.map(|variation| (variation.seed, variation.strength)).unzip();
    let (sampler, schedule) = request.scheduler.as_deref().map(|name| labels(name, request)).unzip();
    let schedule = schedule.flatten();
    let fields = [
        ("Steps", request.steps.map(|steps| steps.to_string())),
        ("Sampler", sampler),
        ("Schedule type", schedule.map(str::to_owned)),
        ("CFG scale", request.guidance_scale.map(number)),
        ("Seed", Some(request.seed.to_string())),
        ("Size", size),
        ("Model", Some(recipe.model.clone())),
        ("Clip skip", request.reading.clip_skip.map(|count| count.to_string())),
        ("VAE", vae),
        ("Denoising strength", request.strength.map(|strength| json!(strength).to_string())),
        ("Inpaint area", request.only_masked.map(|_| "Only masked".to_owned())),
        ("Masked area padding", request.only_masked.map(|padding| padding.to_string())),
        ("Image CFG scale", request.image_guidance_scale.map(number)),
        ("Cache", caching),
        ("Variation seed", variation_seed.map(|seed| seed.to_string())),
        ("Variation seed strength", variation_strength.map(|strength| json!(strength).to_string())),
        ("Version", Some(recipe.version.clone())),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", quoted(&value?))));
    text.push('\n');
    text.push_str(&fields.collect::<Vec<_>>().join(", "));
    text
}

/// The web UI's names of the scheduler called `name` and of its sigma schedule.
fn labels(name: &str, request: &Request) -> (String, Option<&'static str>) {
    match sdq_schedulers::find(name) {
        Ok(named) => named.labels(&request.scheduler_options),
        Err(_) => (name.to_owned(), None),
    }
}

/// `value`, as a JSON string if it could not be read back otherwise.
fn quoted(value: &str) -> String {
    let plain = !value.contains([',', '\n']) && !value.starts_with(['"', '[', '{']) && value.trim() == value;
    if plain { value.to_owned() } else { json!(value).to_string() }
}

/// The recipe in `text`; `None` if it does not have this format.
pub(super) fn read(text: &str) -> Option<Found> {
    let text = text.trim_end().replace("\r\n", "\n");
    if text.starts_with('{') {
        return None;
    }
    let (prompts, fields, after) = parts(&text);
    let mut found = Found { program: "AUTOMATIC1111", ..Found::default() };
    found.recipe.request.reading.syntax = sdq_engine::PromptSyntax::Weighted;
    let (prompt, negative_prompt) = split_prompts(prompts);
    found.recipe.request.prompt = prompt.to_owned();
    found.recipe.request.negative_prompt = negative_prompt.to_owned();
    found.take_tags();
    set_fields(&mut found, &fields);
    let lines = after.lines().filter(|line| !line.trim().is_empty());
    found.unused.extend(lines.map(str::to_owned));
    Some(found)
}

/// The prompts, the names and values of the line of settings, and the lines after it: extensions of the web UI write
/// some. The line of settings is the last one that begins with [`FIRST_FIELD`], or the last one of all.
fn parts(text: &str) -> (&str, Vec<(String, String)>, &str) {
    let starts = text.rmatch_indices('\n').map(|(place, _)| place + 1).chain([0]);
    let lines = starts.map(|start| (start, text[start..].lines().next().unwrap_or_default()));
    let settings = |(start, line): (usize, &'_ str)| {
        let fields = fields(line);
        (fields.len() >= MIN_FIELDS).then_some((start, start + line.len(), fields))
    };
    let found = lines.clone().filter(|(_, line)| line.starts_with(FIRST_FIELD)).find_map(settings);
    match found.or_else(|| lines.take(1).find_map(settings)) {
        Some((start, end, fields)) => {
            (text[..start].strip_suffix('\n').unwrap_or_default(), fields, &text[end..])
        }
        None => (text, Vec::new(), ""),
    }
}

/// Prompt and negative prompt, each of which may have several lines.
fn split_prompts(prompts: &str) -> (&str, &str) {
    let starts = std::iter::once(0).chain(prompts.match_indices('\n').map(|(place, _)| place + 1));
    let negative = starts.into_iter().find(|&start| prompts[start..].starts_with(NEGATIVE_PROMPT));
    match negative {
        None => (prompts, ""),
        Some(start) => {
            let text = &prompts[start + NEGATIVE_PROMPT.len()..];
            let prompt = &prompts[..start];
            (prompt.strip_suffix('\n').unwrap_or(prompt), text.strip_prefix(' ').unwrap_or(text))
        }
    }
}

/// The names and values of `line`. A value ends at a comma, or is JSON: a quoted string, a list or an object.
fn fields(line: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = line;
    // If JSON extends past the end of the line once, it does so from any later start as well.
    let mut json_ends = true;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let Some((name, value)) = rest.split_once(':') else { return fields };
        if name.is_empty() || name.len() > MAX_NAME_LEN || name.contains(['"', ',']) {
            return fields;
        }
        let mut value = value.trim_start_matches(' ');
        let mut text = None;
        if json_ends && value.starts_with(['"', '[', '{']) {
            let mut json = serde_json::Deserializer::from_str(value).into_iter::<Value>();
            match json.next() {
                Some(Ok(parsed)) => {
                    value = &value[json.byte_offset()..];
                    text = Some(parsed.as_str().map_or_else(|| parsed.to_string(), str::to_owned));
                }
                Some(Err(error)) => json_ends = !error.is_eof(),
                None => {}
            }
        }
        let (until_comma, after) = value.split_once(',').unwrap_or((value, ""));
        fields.push((name.trim().to_owned(), text.unwrap_or_else(|| until_comma.trim().to_owned())));
        rest = after;
    }
}

fn set_fields(found: &mut Found, fields: &[(String, String)]) {
    let value =
        |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    if let Some(sampler) = value("Sampler") {
        found.set_sampler(sampler, value("Schedule type"));
    }
    if let Some(strength) = value("Variation seed strength").and_then(|strength| strength.parse().ok())
        && let Some(seed) = value("Variation seed").and_then(|seed| seed.parse().ok())
    {
        found.recipe.request.variation = Some(Variation { seed, strength });
    }
    let enlarged = fields.iter().any(|(name, _)| name.starts_with("Hires"));
    for (name, value) in fields {
        let used = match name.as_str() {
            "Variation seed" | "Variation seed strength" => found.recipe.request.variation.is_some(),
            // The strength with which the enlarged picture is drawn over.
            "Denoising strength" if enlarged => false,
            // The hashes of other programs' models are not those of sdq's files; LoRAs are named in the
            // prompt.
            "Sampler" | "Schedule type" | "Model hash" | "VAE hash" | "Lora hashes" | "TI hashes"
            | "Hashes" => true,
            name => set_field(&mut found.recipe, name, value).is_some(),
        };
        found.has_seed |= used && name == "Seed";
        if !used {
            found.skip(name, value);
        }
    }
    let version = &found.recipe.version;
    found.program = match version.as_str() {
        version if version.starts_with("sdq ") => "sdq",
        version if version.starts_with("stable-diffusion.cpp") => "stable-diffusion.cpp",
        // Forge's version numbers begin with `f`.
        version if version.starts_with('f') => "Forge",
        _ => found.program,
    };
}

/// Sets one field; `None` if sdq has no such field or the value has the wrong type.
fn set_field(recipe: &mut Recipe, name: &str, value: &str) -> Option<()> {
    let request = &mut recipe.request;
    match name {
        "Steps" => request.steps = Some(value.parse().ok()?),
        "CFG scale" => request.guidance_scale = Some(value.parse().ok()?),
        "Seed" => request.seed = value.parse().ok()?,
        "Size" => {
            let (width, height) = value.split_once('x')?;
            let (width, height) = (width.trim().parse().ok()?, height.trim().parse().ok()?);
            (request.width, request.height) = (Some(width), Some(height));
        }
        // Values below 1 select the model's default in some programs.
        "Clip skip" => {
            let count = value.parse::<i64>().ok()?;
            request.reading.clip_skip = usize::try_from(count).ok().filter(|&count| count > 0);
        }
        "Denoising strength" => request.strength = Some(value.parse().ok()?),
        "Image CFG scale" => request.image_guidance_scale = Some(value.parse().ok()?),
        "Cache" => request.caching = value.parse().ok()?,
        "Eta" => set_option(request, "eta", value)?,
        "Model" => recipe.model = value.to_owned(),
        "VAE" if matches!(value, "None" | "Automatic") => {}
        "VAE" => recipe.vae = value.split(", ").map(str::to_owned).collect(),
        "Version" => recipe.version = value.to_owned(),
        _ => return None,
    }
    Some(())
}

/// Sets an option of the scheduler; `None` if it has no such option.
pub(super) fn set_option(request: &mut Request, key: &str, value: &str) -> Option<()> {
    let named = sdq_schedulers::find(request.scheduler.as_deref()?).ok()?;
    named.entry.all_options().find(|option| option.key == key)?;
    request.scheduler_options.push((key.to_owned(), value.to_owned()));
    Some(())
}

#[cfg(test)]
mod tests;
