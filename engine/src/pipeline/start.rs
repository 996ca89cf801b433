//! The start of a run: the request's picture and mask → latents, once for all pictures of the run.

use super::{
    Compiled, EncodedPicture, Job, MaskedContent, Moments, Pipeline, Request, RunPlan, Settings,
    masked_content::with_surroundings,
};
use crate::{Error, Mask, Tensor, picture};

/// The parts of a run's start that its pictures share. Empty for text to image.
#[derive(Default)]
pub(super) struct Start {
    /// The picture, if it is mixed into the latents at the start or at every step.
    pub(super) image: Option<Moments>,
    /// Whether the first latents are independent of the picture.
    pub(super) from_noise_alone: bool,
    /// The part to be redrawn.
    pub(super) mask: Option<LatentMask>,
    /// Latents of the picture that an editing model reads, `[1, latent_channels, h, w]`.
    pub(super) edited: Option<Tensor>,
}

/// The part of a picture to be redrawn.
pub(super) struct LatentMask {
    /// 1 where the picture is redrawn, `[h, w]`.
    pub(super) values: Vec<f32>,
    /// The picture with grey in the part to be redrawn, if the model reads it. For other models the kept part
    /// is restored at every step.
    pub(super) masked: Option<Moments>,
}

impl Pipeline {
    /// Encodes the pictures that `plan` lists, as diffusers' pipelines of the same jobs do.
    pub(super) fn start<'w>(
        &'w self,
        settings: &Settings,
        plan: &RunPlan,
        compiled: &mut Compiled<'w>,
    ) -> Result<Start, Error> {
        let mut start = Start::default();
        let Request { init_image, mask, masked_content, .. } = &settings.request;
        let Some(image) = init_image else { return Ok(start) };
        let masked_start = settings.masked_start()?;
        let (image, mask) = match &masked_start {
            Some((image, mask)) => (image, Some(mask)),
            None => (image, mask.as_ref()),
        };
        let pixels = match mask {
            Some(mask) if *masked_content == MaskedContent::Surroundings => {
                picture::to_tensor(&with_surroundings(image, mask))?
            }
            _ => picture::to_tensor(image)?,
        };
        let mut masked = None;
        for picture in &plan.encodes {
            match picture {
                EncodedPicture::Start => start.image = Some(self.scaled_moments(&pixels, compiled)?),
                EncodedPicture::Masked => {
                    let kept = match mask {
                        Some(mask) => &without_drawn(pixels.clone(), mask),
                        None => &pixels,
                    };
                    masked = Some(self.scaled_moments(kept, compiled)?);
                }
                // Without scaling: the model was trained on unscaled latents.
                EncodedPicture::Edited => {
                    start.edited = Some(self.encode_pixels_with(&pixels, compiled)?.mean);
                }
            }
        }
        if let Some(mask) = mask {
            let values = mask.of_latents(settings.latent_size(self.scale_factor()));
            start.mask = Some(LatentMask { values, masked });
            start.from_noise_alone = settings.job == Job::Inpainting { strength: 1.0 };
        }
        Ok(start)
    }

    /// Moments of the latents of `pixels [1, 3, height, width]`, scaled as the denoiser reads them.
    fn scaled_moments<'w>(&'w self, pixels: &Tensor, compiled: &mut Compiled<'w>) -> Result<Moments, Error> {
        Ok(self.encode_pixels_with(pixels, compiled)?.scaled(&*self.model.autoencoder))
    }
}

/// `pixels [1, 3, height, width]` in -1..=1, with grey, 0, in the part to be redrawn.
fn without_drawn(mut pixels: Tensor, mask: &Mask) -> Tensor {
    for plane in pixels.values_mut().chunks_exact_mut(mask.values.len()) {
        for (index, value) in plane.iter_mut().enumerate() {
            if mask.is_drawn(index) {
                *value = 0.0;
            }
        }
    }
    pixels
}
