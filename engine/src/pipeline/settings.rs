//! A request filled up with what the model's file says, checked before anything runs.

use sdq_schedulers::{Scheduler, SchedulerConfig};
use serde_json::Value;

use super::{Caching, Pipeline, Request, Variation, guidance::Guidance};
use crate::{Error, ExtraInput, Mask, Picture, PromptReading};

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
const IMAGE_GUIDANCE_SCALE: f32 = 1.5;
/// Strength of image to image and of inpainting, as in diffusers' pipelines.
const STRENGTH: f64 = 0.8;
const INPAINTING_STRENGTH: f64 = 1.0;
/// Default side of the latents where the U-Net's config does not say.
const SAMPLE_SIZE: usize = 64;

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
    /// How strongly an editing model's picture pulls.
    pub image_guidance_scale: f32,
}

/// What a run starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Noise alone.
    TextToImage,
    /// A picture of which the noise of `strength` leaves something.
    ImageToImage {
        /// The picture.
        image: Picture,
        /// From 0, keep all, to 1.
        strength: f64,
    },
    /// A picture of which a part is drawn anew.
    Inpainting {
        /// The picture.
        image: Picture,
        /// The part.
        mask: Mask,
        /// From 0, keep all, to 1, start from noise alone.
        strength: f64,
    },
    /// Noise, beside a picture that an editing model looks at.
    Editing {
        /// The picture.
        image: Picture,
    },
}

impl Job {
    /// Of the steps, the share that is taken.
    fn strength(&self) -> f64 {
        match *self {
            Job::TextToImage | Job::Editing { .. } => 1.0,
            Job::ImageToImage { strength, .. } | Job::Inpainting { strength, .. } => strength,
        }
    }
}

/// A request with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the picture shows.
    pub prompt: String,
    /// What it does not show.
    pub negative_prompt: String,
    /// How both are read.
    pub reading: PromptReading,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Denoising steps of a run from noise alone.
    pub steps: usize,
    /// Canonical name of the scheduler.
    pub scheduler: String,
    /// The request's overrides of the model's scheduler config.
    pub scheduler_options: Vec<(String, String)>,
    /// The model's scheduler config with the overrides.
    pub scheduler_config: SchedulerConfig,
    /// How strongly the prompt pulls.
    pub guidance_scale: f32,
    /// How much of the contrast that guidance adds is taken back.
    pub guidance_rescale: f32,
    /// How strongly an editing model's picture pulls.
    pub image_guidance_scale: f32,
    /// Of the first picture.
    pub seed: u64,
    /// Where the noise is bent to.
    pub variation: Option<Variation>,
    /// Number of pictures.
    pub count: usize,
    /// What the run starts from.
    pub job: Job,
    /// What evaluations of the U-Net take from earlier ones.
    pub caching: Caching,
    /// Evaluations of the U-Net that are left out, because the job starts with less noise.
    pub first_step: usize,
    /// Evaluations of the U-Net for each picture, all branches of guidance counted as one.
    pub evaluations: usize,
    /// What is evaluated, and what is made of it.
    pub(super) guidance: Guidance,
}

impl Settings {
    /// Whether the U-Net is evaluated without the prompt too.
    pub fn guided(&self) -> bool {
        self.guidance != Guidance::None
    }

    /// A scheduler that has not stepped yet.
    pub(super) fn new_scheduler(&self) -> Result<Box<dyn Scheduler>, Error> {
        Ok(sdq_schedulers::create(&self.scheduler, &self.scheduler_config, self.steps)?)
    }

    /// The seed of every picture, and that of its variation.
    pub(super) fn seeds(&self, image: usize) -> (u64, Option<Variation>) {
        match self.variation {
            None => (self.seed.wrapping_add(image as u64), None),
            Some(variation) => {
                let seed = variation.seed.wrapping_add(image as u64);
                (self.seed, Some(Variation { seed, ..variation }))
            }
        }
    }

    /// The settings of picture `image` alone.
    pub fn of_image(&self, image: usize) -> Settings {
        let (seed, variation) = self.seeds(image);
        Settings { seed, variation, count: 1, ..self.clone() }
    }

    /// A request for just this.
    pub fn to_request(&self) -> Request {
        let (init_image, mask, strength) = match self.job.clone() {
            Job::TextToImage => (None, None, None),
            Job::ImageToImage { image, strength } => (Some(image), None, Some(strength)),
            Job::Inpainting { image, mask, strength } => (Some(image), Some(mask), Some(strength)),
            Job::Editing { image } => (Some(image), None, None),
        };
        Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            reading: self.reading,
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            scheduler: Some(self.scheduler.clone()),
            scheduler_options: self.scheduler_options.clone(),
            guidance_scale: Some(self.guidance_scale),
            guidance_rescale: self.guidance_rescale,
            image_guidance_scale: Some(self.image_guidance_scale),
            seed: self.seed,
            variation: self.variation,
            count: self.count,
            init_image,
            strength,
            mask,
            caching: self.caching,
        }
    }

    /// Height and width of the latents, each of which stands for `scale_factor` pixels along each axis.
    pub(super) fn latent_size(&self, scale_factor: usize) -> (usize, usize) {
        (self.height / scale_factor, self.width / scale_factor)
    }
}

impl Pipeline {
    /// What this model does where a request is silent.
    ///
    /// # Errors
    /// When the file's defaults are of the wrong kind.
    pub fn defaults(&self) -> Result<Defaults, Error> {
        let (height, width) = self.model.denoiser.sample_size().unwrap_or((SAMPLE_SIZE, SAMPLE_SIZE));
        let pixels = |side: usize| side.saturating_mul(self.scale_factor());
        let class = self.model.scheduler.class_name.as_deref();
        let scheduler = class.and_then(sdq_schedulers::default_for_class).unwrap_or(SCHEDULER);
        let from_file = FileDefaults(&self.manifest().defaults);
        Ok(Defaults {
            width: from_file.size("width", pixels(width))?,
            height: from_file.size("height", pixels(height))?,
            steps: from_file.size("steps", STEPS)?,
            scheduler: from_file.text("scheduler", scheduler)?,
            guidance_scale: from_file.float("guidance_scale", GUIDANCE_SCALE)?,
            image_guidance_scale: from_file.float("image_guidance_scale", IMAGE_GUIDANCE_SCALE)?,
        })
    }

    /// A block that counts as the last has to be there, in every text encoder.
    fn checked_reading(&self, reading: PromptReading) -> Result<PromptReading, Error> {
        let layers = self.model.text_encoders.iter().map(|encoder| encoder.blocks()).min();
        let layers = layers.unwrap_or(0);
        match reading.clip_skip {
            Some(count) if !(1..=layers).contains(&count) => Err(Error::Request {
                field: "clip-skip",
                found: count.to_string(),
                expected: format!("from 1, the last block, to {layers}"),
            }),
            _ => Ok(reading),
        }
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
        let (mut width, mut height) = (defaults.width, defaults.height);
        if let Some(image) = &request.init_image {
            (width, height) = (image.width, image.height);
        }
        let guidance_scale = request.guidance_scale.unwrap_or(defaults.guidance_scale);
        let mut settings = Settings {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            reading: self.checked_reading(request.reading)?,
            width: self.side("width", request.width.unwrap_or(width))?,
            height: self.side("height", request.height.unwrap_or(height))?,
            steps: request.steps.unwrap_or(defaults.steps),
            scheduler: entry.name.to_owned(),
            scheduler_options: request.scheduler_options.clone(),
            scheduler_config,
            guidance_scale: finite("guidance-scale", guidance_scale)?,
            guidance_rescale: share("guidance-rescale", request.guidance_rescale)?,
            image_guidance_scale: finite(
                "image-guidance-scale",
                request.image_guidance_scale.unwrap_or(defaults.image_guidance_scale),
            )?,
            seed: request.seed,
            variation: request.variation,
            count: check(
                "count",
                request.count,
                (1..=MAX_COUNT).contains(&request.count),
                &format!("from 1 to {MAX_COUNT}"),
            )?,
            job: self.job(request)?,
            caching: self.checked_caching(request.caching)?,
            first_step: 0,
            evaluations: 0,
            guidance: Guidance::None,
        };
        settings.guidance = self.guidance(&settings);
        if let Some(variation) = settings.variation {
            share("variation-strength", variation.strength)?;
        }
        check_sizes(&settings)?;
        // Building it once tells whether config and steps go together.
        let scheduler = settings.new_scheduler()?;
        settings.first_step = first_step(&settings, &*scheduler)?;
        settings.evaluations = scheduler.timesteps().len() - settings.first_step;
        Ok(settings)
    }

    fn job(&self, request: &Request) -> Result<Job, Error> {
        // The field, what it was found to be and what it should be, wherever `wrong`.
        let refused =
            |wrong: bool, field, found: &str, expected| check(field, found, !wrong, expected).map(drop);
        let strength = |default| share("strength", request.strength.unwrap_or(default));
        let (extra, mask) = (self.model.extra_input, request.mask.clone());
        let Some(image) = request.init_image.clone() else {
            for (wrong, expected) in [
                (extra != ExtraInput::None, "a picture, which this model works on"),
                (mask.is_some(), "a picture for the mask to lie on"),
                (request.strength.is_some(), "a picture for strength to change"),
            ] {
                refused(wrong, "init-image", "none", expected)?;
            }
            return Ok(Job::TextToImage);
        };
        match (extra, mask) {
            (ExtraInput::Picture, mask) => {
                refused(mask.is_some(), "mask", "a picture", "of use: this model edits all of it")?;
                let strength = request.strength;
                refused(strength.is_some(), "strength", "a number", "of use: this model starts from noise")?;
                Ok(Job::Editing { image })
            }
            (ExtraInput::None | ExtraInput::MaskedPicture, Some(mask)) => {
                Ok(Job::Inpainting { image, mask, strength: strength(INPAINTING_STRENGTH)? })
            }
            (ExtraInput::None, None) => Ok(Job::ImageToImage { image, strength: strength(STRENGTH)? }),
            (ExtraInput::MaskedPicture, None) => Err(Error::Request {
                field: "mask",
                found: "none".to_owned(),
                expected: "the part of the picture that this model is to draw anew".to_owned(),
            }),
        }
    }

    /// What both sides of a picture must divide by.
    pub(super) fn size_step(&self) -> usize {
        SIZE_STEP.max(self.scale_factor())
    }

    fn side(&self, field: &'static str, pixels: usize) -> Result<usize, Error> {
        let step = self.size_step();
        let fits = pixels.is_multiple_of(step) && (step..=MAX_SIDE).contains(&pixels);
        let below = (pixels / step * step).clamp(step, MAX_SIDE / step * step);
        check(field, pixels, fits, &format!("a multiple of {step} up to {MAX_SIDE}; {below} would do"))
    }
}

/// The evaluations before the noise level that the job's strength asks for, counted as diffusers'
/// `StableDiffusionImg2ImgPipeline.get_timesteps` counts.
fn first_step(settings: &Settings, scheduler: &dyn Scheduler) -> Result<usize, Error> {
    let strength = settings.job.strength();
    let taken = ((settings.steps as f64 * strength) as usize).min(settings.steps);
    let first_step = (settings.steps - taken) * scheduler.order();
    let some_left = taken > 0 && first_step < scheduler.timesteps().len();
    check("strength", strength, some_left, &format!("enough for one of {} steps", settings.steps))?;
    Ok(first_step)
}

/// Picture and mask are as large as what is to be drawn, and hold as many values as they say.
fn check_sizes(settings: &Settings) -> Result<(), Error> {
    let expected = (settings.width, settings.height);
    let check_size = |field, found: (usize, usize), values: usize, channels: usize| {
        let area = settings.width * settings.height * channels;
        let fits = found == expected && values == area;
        let found = format!("{}x{} ({values} values)", found.0, found.1);
        check(field, found, fits, &format!("{}x{} ({area} values)", expected.0, expected.1)).map(|_| ())
    };
    let picture = |image: &Picture| check_size("init-image", (image.width, image.height), image.rgb.len(), 3);
    match &settings.job {
        Job::TextToImage => Ok(()),
        Job::ImageToImage { image, .. } | Job::Editing { image } => picture(image),
        Job::Inpainting { image, mask, .. } => {
            picture(image)?;
            check_size("mask", (mask.width, mask.height), mask.values.len(), 1)
        }
    }
}

fn finite(field: &'static str, value: f32) -> Result<f32, Error> {
    check(field, value, value.is_finite(), "a finite number")
}

fn share<T: Copy + ToString + Into<f64>>(field: &'static str, value: T) -> Result<T, Error> {
    check(field, value, (0.0..=1.0).contains(&value.into()), "from 0 to 1")
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
