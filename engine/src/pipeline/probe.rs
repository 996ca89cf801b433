//! Measures the effect of changed weights on a model, stage by stage on fixed inputs.

use std::ops::ControlFlow;

use super::{Conditioning, Drawing, Event, Pipeline, Request, Settings, Teller, denoise};
use crate::{Error, Tensor, metrics::relative_error};

/// Inputs and outputs of every stage during a run of a reference.
#[derive(Clone, Debug)]
pub struct Probe {
    settings: Settings,
    conditioning: Conditioning,
    points: Vec<Point>,
    /// The channels that the U-Net read beside the latents, `[1, extra channels, h, w]`.
    extra_channels: Option<Tensor>,
    /// The final latents, `[1, channels, h, w]`.
    latents: Tensor,
    /// `[height, width, 3]` in -1..=1.
    pixels: Vec<f32>,
}

/// One evaluation of the U-Net.
#[derive(Clone, Debug)]
struct Point {
    timestep: f64,
    /// `[channels, h, w]`, scaled for the model.
    latents: Vec<f32>,
    /// The predicted noise with guidance, likewise.
    noise_pred: Vec<f32>,
}

impl Probe {
    /// Runs `request`'s first picture with `reference` and records inputs and outputs of its stages; of the
    /// U-Net's steps up to `points`, evenly spaced. Every evaluation is full, even if the request asks for
    /// caching.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn new(
        reference: &Pipeline,
        request: &Request,
        points: usize,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Probe, Error> {
        let settings = reference.settings(&Request { count: 1, ..request.clone() })?;
        let mut observer = Teller { observer, step: 0, steps: settings.evaluations };
        let conditioning = reference.condition(&settings)?;
        let timesteps = settings.new_scheduler()?.timesteps().to_vec();
        let evaluations = settings.evaluations;
        let count = points.clamp(1, evaluations);
        // The middles of equal parts of the run.
        let middle = |i: usize| settings.first_step + (2 * i + 1) * evaluations / (2 * count);
        let kept: Vec<usize> = (0..count).map(middle).collect();
        let mut drawing = reference.begin(&settings)?;
        let mut denoiser = reference.denoiser(&settings, &conditioning, &timesteps)?;
        denoiser.set_extra_channels(drawing[0].extra_channels.as_slice());
        let mut points = Vec::with_capacity(count);
        let predict = |latents: &[f32], step: usize, noise_pred: &mut [f32]| {
            denoiser.predict(latents, step, noise_pred)?;
            if kept.contains(&step) {
                let (latents, noise_pred) = (latents.to_vec(), noise_pred.to_vec());
                points.push(Point { timestep: timesteps[step], latents, noise_pred });
            }
            Ok(())
        };
        denoise(&mut drawing, timesteps.len(), predict, |drawing, step| {
            observer.tell_step(reference, &drawing[0], step - settings.first_step)
        })?;
        let [Drawing { latents, extra_channels, .. }] = drawing;
        let size = settings.latent_size(reference.scale_factor());
        let pixels = reference.decoder(size)?.pixels(latents.values())?.to_vec();
        Ok(Probe { settings, conditioning, points, extra_channels, latents, pixels })
    }

    /// Squared relative error of the output of `component` of `changed`, a version of the reference, for the
    /// reference's inputs: text states, predicted noise (the mean over the points) or pixels.
    ///
    /// # Errors
    /// When `component` is none of [`crate::Model::components`], memory runs out, or values are not finite.
    pub fn error(&self, changed: &Pipeline, component: &str) -> Result<f64, Error> {
        let size = self.settings.latent_size(changed.scale_factor());
        match component {
            component
                if changed.model.text_encoders.iter().any(|encoder| encoder.component() == component) =>
            {
                let found = changed.condition(&self.settings)?;
                Ok(relative_error(&found.values(), &self.conditioning.values()).powi(2))
            }
            "unet" => {
                let timesteps: Vec<f64> = self.points.iter().map(|point| point.timestep).collect();
                let mut denoiser = changed.denoiser(&self.settings, &self.conditioning, &timesteps)?;
                denoiser.set_extra_channels(self.extra_channels.as_slice());
                let mut sum = 0.0;
                for (step, point) in self.points.iter().enumerate() {
                    let mut found = vec![0.0; point.noise_pred.len()];
                    denoiser.predict(&point.latents, step, &mut found)?;
                    sum += relative_error(&found, &point.noise_pred).powi(2);
                }
                Ok(sum / self.points.len() as f64)
            }
            "vae" => {
                let mut decoder = changed.decoder(size)?;
                Ok(relative_error(decoder.pixels(self.latents.values())?, &self.pixels).powi(2))
            }
            other => Err(Error::Request {
                field: "component",
                found: other.to_owned(),
                expected: changed.model.components().join(", "),
            }),
        }
    }
}
