//! What to draw: what the user said, filled up with what the model's file says, checked before anything runs.

use sdq_schedulers::{Scheduler, SchedulerConfig};
use serde_json::Value;

use super::Pipeline;
use crate::{Error, models::config::AutoencoderConfig};

/// Both sides of a picture must divide by it, whatever the model: diffusers has the same rule, so a size works in
/// both or in neither.
const SIZE_STEP: usize = 8;
/// Longest side of a picture in pixels.
const MAX_SIDE: usize = 16_384;
/// Most pictures of one request.
const MAX_COUNT: usize = 10_000;

/// Used where neither the user nor the model's file says.
const STEPS: usize = 20;
const SCHEDULER: &str = "ddim";
const GUIDANCE_SCALE: f32 = 7.5;
/// Default side of the latents where the U-Net's config does not say.
const SAMPLE_SIZE: usize = 64;

/// What to draw. `None` takes the model's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the picture shows.
    pub prompt: String,
    /// What it does not show; read only where guidance is on.
    pub negative_prompt: String,
    /// In pixels, divisible by 8.
    pub width: Option<usize>,
    /// In pixels, divisible by 8.
    pub height: Option<usize>,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Name or alias of a registered scheduler.
    pub scheduler: Option<String>,
    /// Keys of the model's scheduler config to override, such as `("eta", "0.5")`.
    pub scheduler_options: Vec<(String, String)>,
    /// How strongly the prompt pulls; 1 and less switch guidance off, and with it the negative prompt.
    pub guidance_scale: Option<f32>,
    /// Of the first picture; each further one takes the next number, so that any of them can be drawn alone.
    pub seed: u64,
    /// Number of pictures.
    pub count: usize,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: String::new(),
            negative_prompt: String::new(),
            width: None,
            height: None,
            steps: None,
            scheduler: None,
            scheduler_options: Vec::new(),
            guidance_scale: None,
            seed: 42,
            count: 1,
        }
    }
}

/// What a model does where the request is silent.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Name of a scheduler.
    pub scheduler: String,
    /// How strongly the prompt pulls.
    pub guidance_scale: f32,
}

/// A request with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the picture shows.
    pub prompt: String,
    /// What it does not show.
    pub negative_prompt: String,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Canonical name of the scheduler.
    pub scheduler: String,
    /// The model's scheduler config with the request's overrides.
    pub scheduler_config: SchedulerConfig,
    /// How strongly the prompt pulls.
    pub guidance_scale: f32,
    /// Of the first picture.
    pub seed: u64,
    /// Number of pictures.
    pub count: usize,
}

impl Settings {
    /// Whether the U-Net sees an unconditional half too.
    pub fn guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// What the text encoder reads: with guidance, the negative prompt stands before the prompt.
    pub(super) fn prompts(&self) -> Vec<&str> {
        match self.guided() {
            true => vec![&self.negative_prompt, &self.prompt],
            false => vec![&self.prompt],
        }
    }

    /// A scheduler at its first step.
    pub(super) fn new_scheduler(&self) -> Result<Box<dyn Scheduler>, Error> {
        Ok(sdq_schedulers::create(&self.scheduler, &self.scheduler_config, self.steps)?)
    }

    /// The seed of every picture.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.seed;
        (0..self.count as u64).map(move |image| first.wrapping_add(image))
    }

    /// Height and width of the latents.
    pub(super) fn latent_size(&self, vae: &AutoencoderConfig) -> (usize, usize) {
        (self.height / vae.scale_factor(), self.width / vae.scale_factor())
    }
}

impl Pipeline {
    /// What this model does where a request is silent.
    ///
    /// # Errors
    /// When the file's defaults are of the wrong kind.
    pub fn defaults(&self) -> Result<Defaults, Error> {
        let (height, width) = self.model.unet.sample_size.unwrap_or((SAMPLE_SIZE, SAMPLE_SIZE));
        let pixels = |side: usize| side.saturating_mul(self.model.vae.scale_factor());
        let class = self.model.scheduler.class_name.as_deref();
        let scheduler = class.and_then(sdq_schedulers::default_for_class).unwrap_or(SCHEDULER);
        let from_file = FileDefaults(&self.manifest().defaults);
        Ok(Defaults {
            width: from_file.size("width", pixels(width))?,
            height: from_file.size("height", pixels(height))?,
            steps: from_file.size("steps", STEPS)?,
            scheduler: from_file.text("scheduler", scheduler)?,
            guidance_scale: from_file.float("guidance_scale", GUIDANCE_SCALE)?,
        })
    }

    /// Fills up and checks `request`.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn settings(&self, request: &Request) -> Result<Settings, Error> {
        let defaults = self.defaults()?;
        let scheduler = request.scheduler.as_deref().unwrap_or(&defaults.scheduler);
        let entry = sdq_schedulers::find(scheduler)?;
        let scheduler_config = entry.configure(&self.model.scheduler, &request.scheduler_options)?;
        let guidance_scale = request.guidance_scale.unwrap_or(defaults.guidance_scale);
        check("guidance-scale", guidance_scale, guidance_scale.is_finite(), "a finite number")?;
        check(
            "count",
            request.count,
            (1..=MAX_COUNT).contains(&request.count),
            &format!("from 1 to {MAX_COUNT}"),
        )?;
        let settings = Settings {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            width: self.side("width", request.width.unwrap_or(defaults.width))?,
            height: self.side("height", request.height.unwrap_or(defaults.height))?,
            steps: request.steps.unwrap_or(defaults.steps),
            scheduler: entry.name.to_owned(),
            scheduler_config,
            guidance_scale,
            seed: request.seed,
            count: request.count,
        };
        // Building it once tells whether config and steps go together.
        settings.new_scheduler()?;
        Ok(settings)
    }

    fn side(&self, field: &'static str, pixels: usize) -> Result<usize, Error> {
        let step = SIZE_STEP.max(self.model.vae.scale_factor());
        let fits = pixels.is_multiple_of(step) && (step..=MAX_SIDE).contains(&pixels);
        let below = (pixels / step * step).clamp(step, MAX_SIDE / step * step);
        check(field, pixels, fits, &format!("a multiple of {step} up to {MAX_SIDE}; {below} would do"))
    }
}

fn check<T: ToString>(field: &'static str, value: T, fits: bool, expected: &str) -> Result<T, Error> {
    match fits {
        true => Ok(value),
        false => Err(Error::Request { field, found: value.to_string(), expected: expected.to_owned() }),
    }
}

/// The `defaults` object of a model file's manifest.
struct FileDefaults<'a>(&'a Value);

impl FileDefaults<'_> {
    fn size(&self, key: &'static str, otherwise: usize) -> Result<usize, Error> {
        let convert = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        self.get(key, otherwise, convert, "a whole number")
    }

    fn float(&self, key: &'static str, otherwise: f32) -> Result<f32, Error> {
        self.get(key, otherwise, |value| value.as_f64().map(|number| number as f32), "a number")
    }

    fn text(&self, key: &'static str, otherwise: &str) -> Result<String, Error> {
        self.get(key, otherwise.to_owned(), |value| value.as_str().map(str::to_owned), "a string")
    }

    fn get<T>(
        &self,
        key: &'static str,
        otherwise: T,
        convert: impl Fn(&Value) -> Option<T>,
        expected: &str,
    ) -> Result<T, Error> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(otherwise),
            Some(value) => convert(value).ok_or_else(|| Error::Request {
                field: key,
                found: format!("{value} (the model file's default)"),
                expected: expected.to_owned(),
            }),
        }
    }
}
