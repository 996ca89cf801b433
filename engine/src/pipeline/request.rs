//! What to draw, in the words of the user.

use super::Caching;
use crate::{Mask, Picture, PromptReading};

/// What to draw. `None` takes the model's default.
///
/// ```
/// use sdq_engine::Request;
///
/// let request = Request::new("a red apple on a blue background").steps(30).seed(7).count(4);
/// assert_eq!(request.seed, 7);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the picture shows.
    pub prompt: String,
    /// What it does not show; read only where guidance is on.
    pub negative_prompt: String,
    /// How both are read.
    pub reading: PromptReading,
    /// In pixels, divisible by 8.
    pub width: Option<usize>,
    /// In pixels, divisible by 8.
    pub height: Option<usize>,
    /// Denoising steps of a run from noise alone; one that starts from a picture takes its `strength`'s share of them.
    pub steps: Option<usize>,
    /// Name or alias of a registered scheduler.
    pub scheduler: Option<String>,
    /// Keys of the model's scheduler config to override, such as `("eta", "0.5")`.
    pub scheduler_options: Vec<(String, String)>,
    /// How strongly the prompt pulls; 1 and less switch guidance off, and with it the negative prompt.
    pub guidance_scale: Option<f32>,
    /// How much of the contrast that guidance adds is taken back, 0 to 1.
    pub guidance_rescale: f32,
    /// How strongly an editing model's picture pulls.
    pub image_guidance_scale: Option<f32>,
    /// Of the first picture; each further one takes the next number, so that any of them can be drawn alone.
    pub seed: u64,
    /// Bends the noise of `seed` towards another: pictures alike but not the same.
    pub variation: Option<Variation>,
    /// Number of pictures.
    pub count: usize,
    /// The picture to start from, as large as the one to be drawn.
    pub init_image: Option<Picture>,
    /// How much of `init_image` is drawn anew: from 0, nothing, to 1, everything.
    pub strength: Option<f64>,
    /// The part of `init_image` to be drawn anew, of its size.
    pub mask: Option<Mask>,
    /// What evaluations of the U-Net take from earlier ones: faster, and not quite the same picture.
    pub caching: Caching,
}

/// Another seed, and the way towards it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variation {
    /// Of the first picture; each further one takes the next number, while the request's own seed stays.
    pub seed: u64,
    /// From 0, the noise of the request's seed, to 1, that of this one.
    pub strength: f64,
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
            caching: Caching::None,
        }
    }
}

/// Each sets the field of its name.
#[expect(missing_docs, reason = "the fields of the same names say it")]
impl Request {
    /// A request for `prompt` in which the model decides the rest.
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

    /// Bends the noise towards that of `seed`, by `strength` from 0 to 1.
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
    pub fn caching(self, caching: Caching) -> Request {
        Request { caching, ..self }
    }
}
