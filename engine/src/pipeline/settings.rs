//! Completes a request with the defaults of the model's file, and checks it before anything runs.

use std::collections::BTreeMap;

use sdq_formats::sdq::Component;
use sdq_schedulers::{Scheduler, SchedulerConfig};
use serde_json::Value;

use super::{Area, MaskedContent, Pipeline, Request, Variation, guidance::Guidance, paste::MASK_BLUR};
use crate::{Error, ExtraInput, JobProblem, Picture, PromptReading};

/// Height and width of a picture must be divisible by it, for any model: diffusers has the same rule, so a
/// size is valid in both or in neither.
pub const SIZE_STEP: usize = 8;
/// Longest side of a picture in pixels.
pub const MAX_SIDE: usize = 16_384;
/// Maximum number of pictures of one request.
const MAX_COUNT: usize = 10_000;

/// Denoising steps where neither the user nor the model's file says.
pub const STEPS: usize = 20;
/// Used if neither the user nor the model's file sets it.
const GUIDANCE_SCALE: f32 = 7.5;
const IMAGE_GUIDANCE_SCALE: f32 = 1.5;
/// Strength of image to image and of inpainting, as in diffusers' pipelines.
const STRENGTH: f64 = 0.8;
const INPAINTING_STRENGTH: f64 = 1.0;
/// Widest soft edge of a mask, in pixels.
const MAX_MASK_BLUR: u8 = 64;
/// Default side of the latents where the U-Net's config does not say.
const SAMPLE_SIZE: usize = 64;

/// A model's values for fields that the request leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Name of a scheduler.
    pub scheduler: String,
    /// How strongly the picture follows the prompt.
    pub guidance_scale: f32,
    /// How strongly an editing model follows its input picture.
    pub image_guidance_scale: f32,
}

/// The pictures that requests for a model may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// Whether a request must have a start picture; every model can start from one.
    pub needs_picture: bool,
    /// Whether a request may have a mask.
    pub mask: bool,
    /// Whether it must have one.
    pub needs_mask: bool,
}

/// What a run starts from. The picture and the mask are in the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Job {
    /// Noise alone.
    TextToImage,
    /// A picture, with noise according to `strength`.
    ImageToImage {
        /// From 0, keep everything, to 1, redraw everything.
        strength: f64,
    },
    /// A picture of which a part is redrawn.
    Inpainting {
        /// From 0, keep everything, to 1, start from noise alone.
        strength: f64,
    },
    /// Noise, with a picture that an editing model reads.
    Editing,
}

impl Job {
    /// The share of the steps that the run takes.
    fn share_of_steps(self) -> f64 {
        self.strength().unwrap_or(1.0)
    }

    /// How much of the picture is redrawn, for jobs that have this parameter.
    pub fn strength(self) -> Option<f64> {
        match self {
            Job::TextToImage | Job::Editing => None,
            Job::ImageToImage { strength } | Job::Inpainting { strength } => Some(strength),
        }
    }
}

/// A request and everything that follows from it for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The request.
    pub request: Request,
    /// Width in pixels of what is drawn.
    pub width: usize,
    /// Height in pixels of what is drawn.
    pub height: usize,
    /// Denoising steps of a run from noise alone.
    pub steps: usize,
    /// Canonical name of the scheduler.
    pub scheduler: String,
    /// The model's scheduler config with the request's options.
    pub scheduler_config: SchedulerConfig,
    /// How strongly the picture follows the prompt.
    pub guidance_scale: f32,
    /// How strongly an editing model follows its input picture.
    pub image_guidance_scale: f32,
    /// What the run starts from.
    pub job: Job,
    /// Width in pixels of the soft edge between what a mask draws and the start picture's own pixels; `None` where those are
    /// not pasted back.
    pub mask_blur: Option<u8>,
    /// The part of the start picture that is drawn, if only the masked part is.
    pub masked_area: Option<Area>,
    /// Evaluations of the denoiser that are left out, because the job starts with less noise.
    pub first_step: usize,
    /// Evaluations of the denoiser for each picture, all branches of guidance counted as one.
    pub evaluations: usize,
    /// The branches that are evaluated, and how they are combined.
    pub(super) guidance: Guidance,
}

impl Settings {
    /// A new scheduler, before its first step.
    pub(super) fn new_scheduler(&self) -> Result<Box<dyn Scheduler>, Error> {
        Ok(sdq_schedulers::create(&self.scheduler, &self.scheduler_config, self.steps)?)
    }

    /// Whether the run is guided: whether the denoiser is also evaluated with the negative prompt.
    pub fn is_guided(&self) -> bool {
        self.guidance != Guidance::None
    }

    /// The seed of every picture, and that of its variation.
    pub(super) fn seeds(&self, image: usize) -> (u64, Option<Variation>) {
        let Request { seed, variation, .. } = self.request;
        match variation {
            None => (seed.wrapping_add(image as u64), None),
            Some(variation) => {
                let varied = variation.seed.wrapping_add(image as u64);
                (seed, Some(Variation { seed: varied, ..variation }))
            }
        }
    }

    /// The request for picture `image` alone, with no field left open: it draws the same picture even where
    /// the model's defaults differ.
    pub fn request_of_image(&self, image: usize) -> Request {
        let (seed, variation) = self.seeds(image);
        Request { seed, variation, count: 1, ..self.complete_request() }
    }

    /// The request with no field left open.
    pub fn complete_request(&self) -> Request {
        Request {
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            scheduler: Some(self.scheduler.clone()),
            guidance_scale: Some(self.guidance_scale),
            image_guidance_scale: (self.job == Job::Editing).then_some(self.image_guidance_scale),
            strength: self.job.strength(),
            mask_blur: self.mask_blur,
            ..self.request.clone()
        }
    }

    /// Height and width of the latents; each latent pixel covers `scale_factor` pixels along each axis.
    pub(super) fn latent_size(&self, scale_factor: usize) -> (usize, usize) {
        (self.height / scale_factor, self.width / scale_factor)
    }
}

impl Pipeline {
    /// This model's values for fields that a request leaves open.
    ///
    /// # Errors
    /// When the file's defaults are of the wrong type.
    pub fn defaults(&self) -> Result<Defaults, Error> {
        let (height, width) = self.model.denoiser.sample_size().unwrap_or((SAMPLE_SIZE, SAMPLE_SIZE));
        let pixels = |side: usize| side.saturating_mul(self.scale_factor());
        let from_file = FileDefaults(&self.manifest().defaults);
        Ok(Defaults {
            width: from_file.size("width", pixels(width))?,
            height: from_file.size("height", pixels(height))?,
            steps: from_file.size("steps", STEPS)?,
            scheduler: from_file.text("scheduler", self.model.default_scheduler())?,
            guidance_scale: from_file.float("guidance_scale", GUIDANCE_SCALE)?,
            image_guidance_scale: from_file.float("image_guidance_scale", IMAGE_GUIDANCE_SCALE)?,
        })
    }

    /// The pictures that requests for this model may have.
    pub fn accepts(&self) -> Accepts {
        let extra = self.model.extra_input;
        Accepts {
            needs_picture: extra != ExtraInput::None,
            mask: extra != ExtraInput::Picture,
            needs_mask: extra == ExtraInput::MaskedPicture,
        }
    }

    /// The weight type of most parameters of each component of the file, such as `unet` and `q4`.
    pub fn weight_types(&self) -> BTreeMap<String, String> {
        let most = |component: Component<'_>| {
            let mut parameters = BTreeMap::<&str, usize>::new();
            for weight in component.weights() {
                *parameters.entry(weight.weight_type.name()).or_default() +=
                    weight.spec.shape.iter().product::<usize>();
            }
            let (name, _) = parameters.into_iter().max_by_key(|(_, count)| *count)?;
            Some((component.name().to_owned(), name.to_owned()))
        };
        self.file.components().filter_map(most).collect()
    }

    /// Checks that the block selected by `clip_skip` exists in every text encoder.
    fn check_reading(&self, reading: PromptReading) -> Result<(), Error> {
        let layers = self.model.text_encoders.iter().map(|encoder| encoder.blocks()).min();
        let layers = layers.unwrap_or(0);
        match reading.clip_skip {
            Some(count) if !(1..=layers).contains(&count) => Err(Error::Request {
                field: "clip-skip",
                found: count.to_string(),
                expected: format!("from 1 (the last block) to {layers}"),
            }),
            _ => Ok(()),
        }
    }

    /// Completes and checks `request`.
    ///
    /// # Errors
    /// Names the first field that is not valid.
    pub fn settings(&self, request: &Request) -> Result<Settings, Error> {
        let defaults = self.defaults()?;
        let scheduler = request.scheduler.as_deref().unwrap_or(&defaults.scheduler);
        let scheduler = sdq_schedulers::find(scheduler)?;
        let scheduler_config = scheduler.configure(&self.model.scheduler, &request.scheduler_options)?;
        let (mut width, mut height) = (defaults.width, defaults.height);
        if let Some(image) = request.init_image.as_ref().filter(|_| request.only_masked.is_none()) {
            (width, height) = (image.width, image.height);
        }
        let guidance_scale = request.guidance_scale.unwrap_or(defaults.guidance_scale);
        self.check_reading(request.reading)?;
        self.check_caching(request.caching)?;
        share("guidance-rescale", request.guidance_rescale)?;
        let count_fits = (1..=MAX_COUNT).contains(&request.count);
        check("count", request.count, count_fits, &format!("from 1 to {MAX_COUNT}"))?;
        let image_guidance_scale = request.image_guidance_scale.unwrap_or(defaults.image_guidance_scale);
        let mut settings = Settings {
            request: request.clone(),
            width: self.side("width", request.width.unwrap_or(width))?,
            height: self.side("height", request.height.unwrap_or(height))?,
            steps: request.steps.unwrap_or(defaults.steps),
            scheduler: scheduler.name(),
            scheduler_config,
            guidance_scale: finite("guidance-scale", guidance_scale)?,
            image_guidance_scale: finite("image-guidance-scale", image_guidance_scale)?,
            job: self.job(request)?,
            mask_blur: None,
            masked_area: None,
            first_step: 0,
            evaluations: 0,
            guidance: Guidance::None,
        };
        settings.guidance = self.guidance(&settings);
        if let Some(variation) = request.variation {
            share("variation-strength", variation.strength)?;
        }
        check_sizes(&settings)?;
        settings.mask_blur = mask_blur(request)?;
        settings.masked_area = masked_area(&settings)?;
        // Building it once tells whether config and steps go together.
        let scheduler = settings.new_scheduler()?;
        settings.first_step = first_step(&settings, &*scheduler)?;
        settings.evaluations = scheduler.timesteps().len() - settings.first_step;
        Ok(settings)
    }

    fn job(&self, request: &Request) -> Result<Job, Error> {
        let (image, mask) = (request.init_image.is_some(), request.mask.is_some());
        if image && !self.model.autoencoder.has_encoder() {
            return Err(Error::Job(JobProblem::NoEncoder));
        }
        let strength = |default| share("strength", request.strength.unwrap_or(default));
        match (self.model.extra_input, image, mask) {
            (ExtraInput::None, false, _) if mask => Err(Error::Job(JobProblem::MaskWithoutPicture)),
            (ExtraInput::None, false, _) if request.strength.is_some() => {
                Err(Error::Job(JobProblem::StrengthWithoutPicture))
            }
            (ExtraInput::None, false, _) => Ok(Job::TextToImage),
            (ExtraInput::MaskedPicture | ExtraInput::Picture, false, _) => {
                Err(Error::Job(JobProblem::NoPicture))
            }
            (ExtraInput::Picture, true, true) => Err(Error::Job(JobProblem::MaskForEditing)),
            (ExtraInput::Picture, true, false) if request.strength.is_some() => {
                Err(Error::Job(JobProblem::StrengthForEditing))
            }
            (ExtraInput::Picture, true, false) => Ok(Job::Editing),
            (ExtraInput::None | ExtraInput::MaskedPicture, true, true) => {
                Ok(Job::Inpainting { strength: strength(INPAINTING_STRENGTH)? })
            }
            (ExtraInput::None, true, false) => Ok(Job::ImageToImage { strength: strength(STRENGTH)? }),
            (ExtraInput::MaskedPicture, true, false) => Err(Error::Job(JobProblem::NoMask)),
        }
    }

    /// The number by which height and width of a picture must be divisible.
    pub(super) fn size_step(&self) -> usize {
        SIZE_STEP.max(self.scale_factor())
    }

    fn side(&self, field: &'static str, pixels: usize) -> Result<usize, Error> {
        let step = self.size_step();
        let fits = pixels.is_multiple_of(step) && (step..=MAX_SIDE).contains(&pixels);
        let below = (pixels / step * step).clamp(step, MAX_SIDE / step * step);
        check(field, pixels, fits, &format!("a multiple of {step} up to {MAX_SIDE}, such as {below}"))
    }
}

/// The evaluations before the noise level that the job's strength selects, counted as in diffusers'
/// `StableDiffusionImg2ImgPipeline.get_timesteps`.
fn first_step(settings: &Settings, scheduler: &dyn Scheduler) -> Result<usize, Error> {
    let strength = settings.job.share_of_steps();
    let taken = ((settings.steps as f64 * strength) as usize).min(settings.steps);
    let first_step = (settings.steps - taken) * scheduler.order();
    let some_left = taken > 0 && first_step < scheduler.timesteps().len();
    check("strength", strength, some_left, &format!("enough to leave one of {} steps", settings.steps))?;
    Ok(first_step)
}

/// Checks that picture and mask have the size of the picture to be drawn, or one that can be drawn where only the masked part
/// is, and as many values as their size requires.
fn check_sizes(settings: &Settings) -> Result<(), Error> {
    let mut expected = (settings.width, settings.height);
    let Request { only_masked, init_image, .. } = &settings.request;
    if let (Some(_), Some(Picture { width, height, .. })) = (only_masked, init_image) {
        let fits = |side| (1..=MAX_SIDE).contains(&side);
        let found = format!("{width}x{height}");
        check("init-image", found, fits(*width) && fits(*height), &format!("sides from 1 to {MAX_SIDE}"))?;
        expected = (*width, *height);
    }
    let check_size = |field, found: (usize, usize), values: usize, channels: usize| {
        let area = expected.0 * expected.1 * channels;
        let fits = found == expected && values == area;
        let found = format!("{}x{} ({values} values)", found.0, found.1);
        check(field, found, fits, &format!("{}x{} ({area} values)", expected.0, expected.1)).map(|_| ())
    };
    if let Some(image) = &settings.request.init_image {
        check_size("init-image", (image.width, image.height), image.rgb.len(), 3)?;
    }
    match &settings.request.mask {
        Some(mask) => check_size("mask", (mask.width, mask.height), mask.values.len(), 1),
        None => Ok(()),
    }
}

/// Width of the soft edge where pixels are pasted back.
fn mask_blur(request: &Request) -> Result<Option<u8>, Error> {
    let is_masked = request.mask.is_some();
    check(
        "no-paste",
        !request.paste,
        request.paste || is_masked,
        "a mask, without which no pixels are kept",
    )?;
    let Some(blur) = request.mask_blur else { return Ok((is_masked && request.paste).then_some(MASK_BLUR)) };
    check("mask-blur", blur, is_masked && request.paste, "a mask whose kept pixels are pasted back")?;
    check("mask-blur", blur, blur <= MAX_MASK_BLUR, &format!("from 0 to {MAX_MASK_BLUR} pixels"))?;
    Ok(Some(blur))
}

/// The part of the picture that is drawn, if only the masked part is. Sizes must have been checked.
fn masked_area(settings: &Settings) -> Result<Option<Area>, Error> {
    let Request { only_masked, masked_content, mask, .. } = &settings.request;
    let is_possible = *masked_content == MaskedContent::Original || mask.is_some();
    check("masked-content", masked_content, is_possible, "a mask, which selects the part to redraw")?;
    let Some(padding) = *only_masked else { return Ok(None) };
    check("only-masked", padding, mask.is_some(), "a mask, which selects the part to redraw")?;
    let around = |mask| Area::around(mask, padding.into(), (settings.width, settings.height));
    let area = mask.as_ref().and_then(around);
    check("mask", "black", area.is_some(), "white pixels, because only what they redraw is drawn")?;
    Ok(area)
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

#[cfg(test)]
mod tests;
