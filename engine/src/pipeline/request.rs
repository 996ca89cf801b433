//! Requests: the description of a run by the user, and its JSON form.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Caching, MaskedContent};
use crate::{Mask, Picture, PromptReading, PromptSyntax};

/// The description of a run. `None` selects the model's default.
///
/// The JSON form is one flat object: saved runs contain it, recipes in pictures begin with it, and servers
/// can accept it. Fields that are left open or off are absent. The start picture and the mask are not part of
/// it.
///
/// ```
/// use sdq_engine::Request;
///
/// let request = Request::new("a red apple on a blue background").steps(30).seed(7).count(4);
/// assert_eq!(request.seed, 7);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// What the picture should show.
    pub prompt: String,
    /// What it should not show; ignored without guidance.
    pub negative_prompt: String,
    /// Width in pixels, divisible by 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Height in pixels, divisible by 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// Denoising steps of a run from noise alone; a run that starts from a picture takes the share `strength`
    /// of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Name or alias of a registered scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Keys of the model's scheduler config to override, such as `("eta", "0.5")`.
    #[serde(with = "options")]
    pub scheduler_options: Vec<(String, String)>,
    /// How strongly the picture follows the prompt; values of 1 and less switch off guidance and the negative
    /// prompt.
    #[serde(with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f32>,
    /// Seed of the first picture; each further picture takes the next number, so that any of them can be
    /// drawn alone.
    pub seed: u64,
    /// How both prompts are parsed and encoded.
    #[serde(flatten, with = "reading")]
    pub reading: PromptReading,
    /// The share of the contrast added by guidance that is removed again, 0 to 1.
    #[serde(with = "decimal", skip_serializing_if = "is_zero")]
    pub guidance_rescale: f32,
    /// Moves the noise of `seed` towards that of another seed: the pictures are similar but not the same.
    #[serde(flatten)]
    pub variation: Option<Variation>,
    /// What evaluations of the denoiser reuse of earlier ones: faster, and not quite the same picture.
    #[serde(rename = "cache", with = "caching", skip_serializing_if = "is_not_cached")]
    pub caching: Caching,
    /// How much of `init_image` is redrawn: from 0, nothing, to 1, everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// How strongly an editing model follows its input picture.
    #[serde(with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub image_guidance_scale: Option<f32>,
    /// Width of the soft edge of what `mask` draws, in pixels inside it, from 0 to 64; only with `paste`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_blur: Option<u8>,
    /// Whether pixels that `mask` keeps are those of `init_image`. Otherwise they have gone through the VAE too, as in
    /// diffusers' pipelines.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub paste: bool,
    /// Draws only the part that `mask` redraws, with so many pixels of `init_image` around it, in `width` and `height`, and
    /// puts it back into the whole picture in its own size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_masked: Option<u16>,
    /// What the part that `mask` redraws starts from.
    #[serde(with = "masked_content", skip_serializing_if = "is_original")]
    pub masked_content: MaskedContent,
    /// Number of pictures.
    #[serde(skip_serializing_if = "is_one")]
    pub count: usize,
    /// The picture to start from, of the size of the picture to be drawn; of any size with `only_masked`.
    #[serde(skip)]
    pub init_image: Option<Picture>,
    /// The part of `init_image` to be redrawn, of its size.
    #[serde(skip)]
    pub mask: Option<Mask>,
}

/// Another seed, and the strength of its influence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variation {
    /// Seed of the first picture's variation; each further picture takes the next number, while the request's
    /// own seed stays the same.
    #[serde(rename = "variation_seed")]
    pub seed: u64,
    /// From 0, the noise of the request's seed, to 1, that of this one.
    #[serde(rename = "variation_strength")]
    pub strength: f64,
}

impl Request {
    /// The keys of the JSON form.
    pub const KEYS: [&str; 22] = [
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "steps",
        "scheduler",
        "scheduler_options",
        "guidance_scale",
        "seed",
        "plain_prompt",
        "clip_skip",
        "guidance_rescale",
        "variation_seed",
        "variation_strength",
        "cache",
        "strength",
        "image_guidance_scale",
        "mask_blur",
        "paste",
        "only_masked",
        "masked_content",
        "count",
    ];
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: String::new(),
            negative_prompt: String::new(),
            reading: PromptReading::default(),
            width: None,
            height: None,
            steps: None,
            scheduler: None,
            scheduler_options: Vec::new(),
            guidance_scale: None,
            guidance_rescale: 0.0,
            image_guidance_scale: None,
            seed: 42,
            variation: None,
            count: 1,
            init_image: None,
            strength: None,
            mask: None,
            mask_blur: None,
            paste: true,
            only_masked: None,
            masked_content: MaskedContent::Original,
            caching: Caching::None,
        }
    }
}

/// Each method sets the field of its name.
#[expect(missing_docs, reason = "the fields of the same names say it")]
impl Request {
    /// A request for `prompt` that leaves everything else to the model.
    pub fn new(prompt: impl Into<String>) -> Request {
        Request { prompt: prompt.into(), ..Request::default() }
    }

    #[must_use]
    pub fn negative_prompt(self, negative_prompt: impl Into<String>) -> Request {
        Request { negative_prompt: negative_prompt.into(), ..self }
    }

    #[must_use]
    pub fn reading(self, reading: PromptReading) -> Request {
        Request { reading, ..self }
    }

    /// Width and height in pixels, divisible by 8.
    #[must_use]
    pub fn size(self, width: usize, height: usize) -> Request {
        Request { width: Some(width), height: Some(height), ..self }
    }

    #[must_use]
    pub fn steps(self, steps: usize) -> Request {
        Request { steps: Some(steps), ..self }
    }

    #[must_use]
    pub fn scheduler(self, name: impl Into<String>) -> Request {
        Request { scheduler: Some(name.into()), ..self }
    }

    /// Adds one option of the scheduler, such as `("eta", "0.5")`.
    #[must_use]
    pub fn scheduler_option(mut self, key: impl Into<String>, value: impl Into<String>) -> Request {
        self.scheduler_options.push((key.into(), value.into()));
        self
    }

    #[must_use]
    pub fn guidance_scale(self, guidance_scale: f32) -> Request {
        Request { guidance_scale: Some(guidance_scale), ..self }
    }

    #[must_use]
    pub fn guidance_rescale(self, guidance_rescale: f32) -> Request {
        Request { guidance_rescale, ..self }
    }

    #[must_use]
    pub fn image_guidance_scale(self, image_guidance_scale: f32) -> Request {
        Request { image_guidance_scale: Some(image_guidance_scale), ..self }
    }

    #[must_use]
    pub fn seed(self, seed: u64) -> Request {
        Request { seed, ..self }
    }

    /// Moves the noise towards that of `seed`, by `strength` from 0 to 1.
    #[must_use]
    pub fn variation(self, seed: u64, strength: f64) -> Request {
        Request { variation: Some(Variation { seed, strength }), ..self }
    }

    #[must_use]
    pub fn count(self, count: usize) -> Request {
        Request { count, ..self }
    }

    #[must_use]
    pub fn init_image(self, picture: Picture) -> Request {
        Request { init_image: Some(picture), ..self }
    }

    #[must_use]
    pub fn strength(self, strength: f64) -> Request {
        Request { strength: Some(strength), ..self }
    }

    #[must_use]
    pub fn mask(self, mask: Mask) -> Request {
        Request { mask: Some(mask), ..self }
    }

    #[must_use]
    pub fn mask_blur(self, mask_blur: u8) -> Request {
        Request { mask_blur: Some(mask_blur), ..self }
    }

    #[must_use]
    pub fn paste(self, paste: bool) -> Request {
        Request { paste, ..self }
    }

    #[must_use]
    pub fn only_masked(self, padding: u16) -> Request {
        Request { only_masked: Some(padding), ..self }
    }

    #[must_use]
    pub fn masked_content(self, masked_content: MaskedContent) -> Request {
        Request { masked_content, ..self }
    }

    #[must_use]
    pub fn caching(self, caching: Caching) -> Request {
        Request { caching, ..self }
    }
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

fn is_original(content: &MaskedContent) -> bool {
    *content == MaskedContent::Original
}

fn is_not_cached(caching: &Caching) -> bool {
    *caching == Caching::None
}

/// The decimal number that was typed: 7.1 and not 7.099999904632568, the value in f64 of the nearest f32.
/// Converting back is exact.
pub fn as_typed(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// An f32 as the decimal number that was typed.
mod decimal {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(as_typed(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        f64::deserialize(deserializer).map(|value| value as f32)
    }
}

/// The same for a number that may be left open.
mod decimal_option {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(as_typed).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.map(|value| value as f32))
    }
}

/// Scheduler options: an object of texts. Numbers and booleans are accepted too, and so is the list of pairs
/// in older saved runs.
mod options {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        options: &[(String, String)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(options.iter().map(|(key, value)| (key, value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, String)>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Object(Map<String, Value>),
            Pairs(Vec<(String, String)>),
        }
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(match Spelling::deserialize(deserializer)? {
            Spelling::Object(object) => object.into_iter().map(|(key, value)| (key, text(value))).collect(),
            Spelling::Pairs(pairs) => pairs,
        })
    }
}

/// How prompts are read: `plain_prompt` and `clip_skip`.
mod reading {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Spelling {
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        plain_prompt: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip_skip: Option<usize>,
    }

    pub(super) fn serialize<S: Serializer>(
        reading: &PromptReading,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let plain_prompt = reading.syntax == PromptSyntax::Plain;
        Spelling { plain_prompt, clip_skip: reading.clip_skip }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PromptReading, D::Error> {
        let Spelling { plain_prompt, clip_skip } = Spelling::deserialize(deserializer)?;
        let syntax = if plain_prompt { PromptSyntax::Plain } else { PromptSyntax::Weighted };
        Ok(PromptReading { syntax, clip_skip })
    }
}

/// Step caching in the form of the command line.
mod caching {
    use super::*;

    pub(super) fn serialize<S: Serializer>(caching: &Caching, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(caching)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Caching, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Caching::None),
            Some(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// The masked content by its name.
mod masked_content {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        content: &MaskedContent,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(content.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MaskedContent, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(MaskedContent::Original),
            Some(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests;
