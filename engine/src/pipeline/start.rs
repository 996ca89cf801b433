//! What a run starts from: the request's picture and mask → latents, once for all pictures of the run.

use super::{Job, Moments, Pipeline, Settings};
use crate::{Error, ExtraInput, Mask, Tensor};

/// The parts of a run's start that its pictures share. Empty for text to image.
#[derive(Default)]
pub(super) struct Start {
    /// The picture, where it is mixed into the latents at the start or at every step.
    pub(super) image: Option<Moments>,
    /// Whether the picture leaves no trace in the first latents.
    pub(super) from_noise_alone: bool,
    /// What is to be drawn anew.
    pub(super) mask: Option<LatentMask>,
    /// Latents of the picture that an editing model reads, `[1, latent_channels, h, w]`.
    pub(super) edited: Option<Tensor>,
}

/// A mask, and what it leaves of the picture.
pub(super) struct LatentMask {
    /// 1 where the picture is drawn anew, `[h, w]`.
    pub(super) values: Vec<f32>,
    /// The picture with grey in place of what is drawn anew.
    pub(super) image: Moments,
    /// Whether the kept part is put back at every step, for want of channels in which the model could read it.
    pub(super) blend: bool,
}

impl Pipeline {
    /// Encodes what `settings` start from, as diffusers' pipelines of the same jobs do.
    pub(super) fn start(&self, settings: &Settings) -> Result<Start, Error> {
        match &settings.job {
            Job::TextToImage => Ok(Start::default()),
            Job::ImageToImage { image, .. } => {
                Ok(Start { image: Some(self.scaled_moments(&image.to_tensor()?)?), ..Start::default() })
            }
            Job::Inpainting { image, mask, strength } => {
                let blend = self.model.extra_input == ExtraInput::None;
                let from_noise_alone = *strength == 1.0;
                let pixels = image.to_tensor()?;
                let start_image = (blend || !from_noise_alone).then(|| self.scaled_moments(&pixels));
                let masked = self.scaled_moments(&without_drawn(pixels.clone(), mask))?;
                let values = mask.of_latents(settings.latent_size(&self.model.vae));
                let mask = Some(LatentMask { values, image: masked, blend });
                Ok(Start { image: start_image.transpose()?, from_noise_alone, mask, edited: None })
            }
            // As they come from the encoder: the model was trained on unscaled ones.
            Job::Editing { image } => {
                Ok(Start { edited: Some(self.encode_pixels(&image.to_tensor()?)?.mean), ..Start::default() })
            }
        }
    }

    /// Moments of the latents of `pixels [1, 3, height, width]`, scaled as the U-Net reads them.
    fn scaled_moments(&self, pixels: &Tensor) -> Result<Moments, Error> {
        Ok(self.encode_pixels(pixels)?.scaled(&self.model.vae))
    }
}

/// `pixels [1, 3, height, width]` in -1..=1 with grey, 0, where `mask` says to draw.
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
