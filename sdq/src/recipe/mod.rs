//! Recipes: how a picture was made, written into the picture and read from it.
//!
//! A [`Recipe`] is a request with the model and its files. sdq writes it twice: as JSON of its own, which is
//! complete, and as the line that AUTOMATIC1111's web UI introduced. Both can be read, and so can the texts
//! of other programs, as far as sdq supports their content; a [`Found`] recipe lists the rest.

mod comfy;
mod files;
mod foreign;
mod parameters;
mod python_json;
mod source;

use std::collections::BTreeMap;

use sdq_engine::{Pipeline, Request};
use sdq_formats::picture;
use sdq_schedulers::SchedulerError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use files::{UsedEmbedding, UsedLora};
pub use source::Source;

use crate::tags::{self, Tag};

/// Maximum length of a text with a recipe, in bytes.
const MAX_TEXT_LEN: usize = 1 << 20;

/// Everything that is needed to draw a picture again.
///
/// The JSON form is one flat object: the fields of the request, then those below. Empty fields are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The request, with no field left open if sdq drew the picture.
    #[serde(flatten)]
    pub request: Request,
    /// Name of the file that the run started from, without its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_image: Option<String>,
    /// Name of the mask's file, without its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// Name of the model.
    #[serde(default)]
    pub model: String,
    /// The fingerprint of the model with all add-ons, see [`Pipeline::fingerprint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The weight type of most parameters of each component, such as `unet` and `q4`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, String>,
    /// Program and version that drew the picture, such as `sdq 0.1.0`.
    #[serde(default)]
    pub version: String,
    /// LoRAs, in the order in which they are added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<UsedLora>,
    /// Textual inversions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<UsedEmbedding>,
    /// The files of the VAE that replaced the model's.
    #[serde(default, with = "files::vae", skip_serializing_if = "Vec::is_empty")]
    pub vae: Vec<String>,
}

/// The value of [`Recipe::version`].
pub const VERSION: &str = concat!("sdq ", env!("CARGO_PKG_VERSION"));

impl Recipe {
    /// The recipe for `request` and `pipeline`, including its add-ons. The caller sets the names of files.
    pub fn new(request: Request, pipeline: &Pipeline) -> Recipe {
        Recipe {
            request: Request { init_image: None, mask: None, ..request },
            model: pipeline.manifest().name.clone(),
            fingerprint: Some(pipeline.fingerprint()),
            weights: pipeline.weight_types(),
            version: VERSION.to_owned(),
            ..Recipe::default()
        }
    }

    /// Texts for the picture: keywords and contents.
    pub fn texts(&self) -> [(&'static str, String); 2] {
        [(picture::PARAMETERS, self.parameters()), (picture::RECIPE, self.json().to_string())]
    }

    /// The complete recipe as JSON.
    pub fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The recipe in the format of AUTOMATIC1111's web UI, which has no place for scheduler options and for
    /// fields that only sdq has.
    pub fn parameters(&self) -> String {
        parameters::write(self)
    }

    /// The differences between `pipeline`, including its add-ons, and the recipe's model, one sentence each.
    /// Empty if the picture will be the same, on the same kind of processor.
    pub fn differences(&self, pipeline: &Pipeline) -> Vec<String> {
        let mut differences = Vec::new();
        let name = &pipeline.manifest().name;
        let weights = pipeline.weight_types();
        match &self.fingerprint {
            None if self.model.is_empty() => {
                differences.push("the recipe does not say which model drew the picture".to_owned());
            }
            None if self.model == *name => {
                differences
                    .push("the recipe does not say which version of the model drew the picture".to_owned());
            }
            None => differences
                .push(format!("the picture was drawn with the model `{}`, not with `{name}`", self.model)),
            Some(fingerprint) => {
                let found = pipeline.fingerprint();
                let base = |text: &str| text.split('+').next().map(str::to_owned);
                let same_model = base(fingerprint) == base(&found);
                if !same_model && self.model == *name && self.weights != weights {
                    let (was, is) = (types(&self.weights), types(&weights));
                    differences.push(format!(
                        "the picture was drawn with other weight types of `{name}` ({was}, not {is})"
                    ));
                } else if !same_model {
                    differences.push(format!(
                        "the picture was drawn with the model `{}` ({fingerprint}), not with `{name}` ({found})",
                        self.model
                    ));
                } else if *fingerprint != found {
                    differences
                        .push("the picture was drawn with other LoRAs, embeddings or another VAE".to_owned());
                }
            }
        }
        if self.version.starts_with("sdq ") && self.version != VERSION {
            differences.push(format!("the picture was drawn by {}, not by {VERSION}", self.version));
        }
        differences
    }
}

fn types(weights: &BTreeMap<String, String>) -> String {
    match weights.is_empty() {
        true => "unknown".to_owned(),
        false => weights.iter().map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>().join(", "),
    }
}

/// A recipe that was read from a picture's texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The part that sdq can use.
    pub recipe: Recipe,
    /// Whether the texts contain a seed. Otherwise that of `recipe` is the default.
    pub has_seed: bool,
    /// The program whose format it has: `sdq`, or another one.
    pub program: &'static str,
    /// Names and values of the parts that are not used, and why, in the order of the text.
    pub unused: Vec<String>,
}

/// Why a picture's texts contain no usable recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// No text has a known format.
    #[error("the picture contains no recipe that sdq can read")]
    None,
    /// The text of a known keyword does not have the expected format.
    #[error("the {program} recipe is damaged: {reason}")]
    Damaged {
        /// The program of the expected format.
        program: &'static str,
        /// The reason.
        reason: String,
    },
    /// The text is longer than any recipe.
    #[error("the recipe has {len} bytes, expected at most {MAX_TEXT_LEN}")]
    TooLong {
        /// Length of the text in bytes.
        len: usize,
    },
}

impl Found {
    /// The recipe among `texts`, the keywords and contents of a picture's texts. sdq's own takes precedence.
    ///
    /// # Errors
    /// When there is none, or the first one in a known format cannot be read.
    pub fn from_texts(texts: &[(String, String)]) -> Result<Found, RecipeError> {
        let text =
            |wanted: &str| texts.iter().find(|(keyword, _)| keyword == wanted).map(|(_, text)| text.as_str());
        let bounded = |text: &str| match text.len() {
            len if len > MAX_TEXT_LEN => Err(RecipeError::TooLong { len }),
            _ => Ok(()),
        };
        if let Some(json) = text(picture::RECIPE) {
            bounded(json)?;
            let recipe = from_json::<Recipe>("sdq", json)?;
            let value = from_json::<Value>("sdq", json)?;
            let has_seed = value["seed"].is_u64();
            let mut found = Found { recipe, has_seed, program: "sdq", ..Found::default() };
            foreign::skip_unread(&mut found, &value);
            return Ok(found);
        }
        if let Some(text) = text(picture::PARAMETERS) {
            bounded(text)?;
            if let Some(found) = parameters::read(text) {
                return Ok(found);
            }
        }
        if let Some(json) = text(foreign::INVOKEAI) {
            bounded(json)?;
            return Ok(foreign::invoke_ai(&of_python("InvokeAI", json)?));
        }
        if let Some(json) = text(foreign::INVOKEAI_2) {
            bounded(json)?;
            return Ok(foreign::invoke_ai_2(&of_python("InvokeAI", json)?));
        }
        if let Some(json) = text(foreign::NOVELAI)
            && let Some(parameters) = foreign::novel_ai_parameters(json, text("Software"), bounded)?
        {
            let description = text("Description").unwrap_or_default();
            bounded(description)?;
            return Ok(foreign::novel_ai(&parameters, description));
        }
        if let Some(json) = text(picture::GRAPH) {
            bounded(json)?;
            // Other programs write the words of the prompt under this keyword.
            match of_python("ComfyUI", json) {
                Ok(graph) if graph.is_object() || graph.is_array() => return comfy::read(&graph),
                Err(damaged) if json.contains(comfy::CLASS) => return Err(damaged),
                _ => {}
            }
        }
        match text(picture::PARAMETERS).and_then(foreign::texts_of_object) {
            // The object's own texts are not read as objects again.
            Some(texts) => Found::from_texts(
                &texts.into_iter().filter(|(keyword, _)| keyword != picture::PARAMETERS).collect::<Vec<_>>(),
            ),
            None => Err(RecipeError::None),
        }
    }

    /// Records that `value` under `name` is not used.
    fn skip(&mut self, name: &str, value: &str) {
        self.unused.push(match value.is_empty() {
            true => name.to_owned(),
            false => format!("{name}: {value}"),
        });
    }

    /// Sets the scheduler from another program's names.
    fn set_sampler(&mut self, sampler: &str, schedule: Option<&str>) {
        let schedule = schedule.map(str::trim).filter(|schedule| !schedule.is_empty());
        let (named, unusable) = match sdq_schedulers::find(sampler) {
            Ok(named) => (Ok(named), None),
            // The name ends in a schedule that the scheduler does not support.
            Err(SchedulerError::UnusableSchedule { scheduler, schedule, .. }) => {
                (sdq_schedulers::find(&scheduler), Some(schedule))
            }
            Err(error) => (Err(error), None),
        };
        let Ok(named) = named else {
            self.skip("sampler", sampler);
            schedule.into_iter().for_each(|schedule| self.skip("schedule", schedule));
            return;
        };
        unusable.into_iter().for_each(|schedule| self.skip("schedule", &schedule));
        let scheduled = schedule.map(|schedule| named.with_schedule(schedule).map_err(|_| schedule));
        let scheduled = scheduled.transpose();
        if let Err(schedule) = scheduled {
            self.skip("schedule", schedule);
        }
        self.recipe.request.scheduler = Some(scheduled.ok().flatten().unwrap_or(named).name());
    }

    /// Removes LoRA tags from both prompts, in the format of the web UI and similar programs.
    fn take_tags(&mut self) {
        let request = &mut self.recipe.request;
        for prompt in [&mut request.prompt, &mut request.negative_prompt] {
            for tag in tags::take(prompt) {
                match tag {
                    Tag::Lora { name, strength, text_strength, says_more } => {
                        self.recipe.loras.push(UsedLora { file: name, strength, text_strength });
                        self.unused.extend(
                            says_more.map(|tag| format!("the parameters of {tag} other than strengths")),
                        );
                    }
                    Tag::WrongStrength(tag) | Tag::Nameless(tag) | Tag::Other(tag) => self.unused.push(tag),
                    // It is read as words, as in the program that drew the picture.
                    Tag::Open(_) => {}
                }
            }
        }
    }
}

/// JSON of a program in Python.
fn of_python(program: &'static str, json: &str) -> Result<Value, RecipeError> {
    python_json::parse(json).map_err(|error| RecipeError::Damaged { program, reason: error.to_string() })
}

fn from_json<T: serde::de::DeserializeOwned>(program: &'static str, json: &str) -> Result<T, RecipeError> {
    serde_json::from_str(json).map_err(|error| RecipeError::Damaged { program, reason: error.to_string() })
}

#[cfg(test)]
mod tests;
