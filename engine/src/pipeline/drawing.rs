//! A picture in progress: everything that changes from step to step, and its start.

use sdq_schedulers::{NoiseSource, Scheduler};

use super::{
    Compiled, Pipeline, Settings, Variation,
    caching::CacheSchedule,
    start::{LatentMask, Start},
};
use crate::{Error, Tensor, rng::TorchCpuGenerator};

/// A picture in progress.
pub(super) struct Drawing {
    /// Index of the picture in its request.
    pub(super) image: usize,
    /// The next step.
    pub(super) step: usize,
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) generator: TorchCpuGenerator,
    /// `[1, channels, h, w]`.
    pub(super) latents: Tensor,
    /// The model's last estimate of the clean latents, likewise.
    pub(super) predicted_original: Tensor,
    /// The channels that the model reads beside the latents, `[1, extra channels, h, w]`.
    pub(super) extra_channels: Option<Tensor>,
    /// The part to keep, for a model that has no such channels.
    pub(super) kept: Option<Kept>,
    /// The full evaluations.
    pub(super) schedule: CacheSchedule,
    /// With caching: the model's input at the last full evaluation, `[1, channels, h, w]`. The content of the
    /// caches follows from it.
    pub(super) full_input: Option<Tensor>,
}

/// The part of a picture that inpainting preserves. Lugmayr et al. 2022, arXiv:2201.09865, eq. 8, without its
/// resampling.
pub(super) struct Kept {
    /// Clean latents of the whole picture, `[1, channels, h, w]`.
    pub(super) original: Tensor,
    /// The noise that is added to them, likewise.
    pub(super) noise: Tensor,
    /// 1 where the picture is redrawn, `[h, w]`.
    pub(super) mask: Vec<f32>,
    /// Buffer for `original` at the noise level of a step.
    pub(super) noised: Vec<f32>,
}

impl Drawing {
    /// Picture `image` of `settings` before its first step; latents are `shape`, `[1, channels, h, w]`.
    /// Random numbers are drawn in the order of diffusers' pipelines: the picture's latents, the noise, the
    /// masked picture's latents.
    pub(super) fn new(
        settings: &Settings,
        start: &Start,
        image: usize,
        shape: [usize; 4],
    ) -> Result<Drawing, Error> {
        let scheduler = settings.new_scheduler()?;
        let (seed, variation) = settings.seeds(image);
        let mut generator = TorchCpuGenerator::new(seed);
        let tensor = |values: Vec<f32>| Tensor::new(shape.to_vec(), values);

        let mut original = start.image.as_ref().map(|image| image.sample(&mut generator));
        let noise = initial_noise(&mut generator, variation, shape.iter().product());
        if let (Some(original), Some(mask)) = (&mut original, &start.mask) {
            settings.request.masked_content.put_into(original, &mask.values, &noise);
        }
        let mut latents = noise.clone();
        match &original {
            Some(original) if !start.from_noise_alone => {
                scheduler.add_noise(original, &noise, settings.first_step, &mut latents)?;
            }
            _ => {
                let sigma = scheduler.init_noise_sigma() as f32;
                latents.iter_mut().for_each(|value| *value *= sigma);
            }
        }
        let (extra_channels, kept) = match (&start.mask, start.image.as_ref().zip(original)) {
            (Some(LatentMask { values, masked: Some(masked) }), _) => {
                let masked = masked.sample(&mut generator);
                let channels = 1 + masked.len() / values.len();
                let shape = vec![1, channels, shape[2], shape[3]];
                (Some(Tensor::new(shape, [&values[..], &masked].concat())?), None)
            }
            (Some(LatentMask { values, masked: None }), Some((image, original))) => {
                // diffusers draws the masked picture's latents here for every model, even if no network reads
                // them.
                image.skip_sample(&mut generator);
                let (original, noise) = (tensor(original)?, tensor(noise)?);
                let noised = original.values().to_vec();
                (None, Some(Kept { original, noise, mask: values.clone(), noised }))
            }
            // Without a start picture there is nothing to keep.
            (None, _) | (Some(_), None) => (start.edited.clone(), None),
        };
        let latents = tensor(latents)?;
        let predicted_original = latents.clone();
        let schedule = settings.cache_schedule();
        Ok(Drawing {
            image,
            step: settings.first_step,
            scheduler,
            generator,
            full_input: schedule.caches().then(|| latents.clone()),
            latents,
            predicted_original,
            extra_channels,
            kept,
            schedule,
        })
    }

    /// Writes the model's input: the latents, scaled.
    pub(super) fn write_model_input(&mut self, model_input: &mut [f32]) -> Result<(), Error> {
        model_input.copy_from_slice(self.latents.values());
        self.scheduler.scale_model_input(model_input, self.step)?;
        if let Some(full_input) = self.full_input.as_mut().filter(|_| self.schedule.is_full(self.step)) {
            full_input.values_mut().copy_from_slice(model_input);
        }
        Ok(())
    }

    /// Moves the latents to the next step, given the predicted noise with guidance.
    pub(super) fn advance(&mut self, noise_pred: &[f32]) -> Result<(), Error> {
        let Drawing { step, scheduler, generator, latents, predicted_original, kept, .. } = self;
        scheduler.predict_original(noise_pred, *step, latents.values(), predicted_original.values_mut())?;
        scheduler.step(noise_pred, *step, latents.values_mut(), generator)?;
        *step += 1;
        if let Some(kept) = kept {
            kept.put_back(&**scheduler, *step, latents.values_mut())?;
        }
        Ok(())
    }
}

impl Pipeline {
    /// The first picture of `settings` before its first step.
    pub(super) fn begin(&self, settings: &Settings) -> Result<[Drawing; 1], Error> {
        let size = settings.latent_size(self.scale_factor());
        let start = self.start(settings, &self.run_plan_of(settings)?, &mut Compiled::dropped())?;
        Ok([Drawing::new(settings, &start, 0, self.latents_shape(size))?])
    }
}

impl Kept {
    /// Sets the kept part of `latents` to the original's values at the noise level of `step`, or without
    /// noise after the last one.
    fn put_back(&mut self, scheduler: &dyn Scheduler, step: usize, latents: &mut [f32]) -> Result<(), Error> {
        let Kept { original, noise, mask, noised } = self;
        match step < scheduler.timesteps().len() {
            true => scheduler.add_noise(original.values(), noise.values(), step, noised)?,
            false => noised.copy_from_slice(original.values()),
        }
        for ((latent, original), mask) in latents.iter_mut().zip(noised).zip(mask.iter().cycle()) {
            *latent = (1.0 - mask) * *original + mask * *latent;
        }
        Ok(())
    }
}

/// Standard normal noise for `count` latents.
fn initial_noise(generator: &mut TorchCpuGenerator, variation: Option<Variation>, count: usize) -> Vec<f32> {
    let mut noise = vec![0.0; count];
    generator.fill_standard_normal(&mut noise);
    if let Some(variation) = variation {
        let mut other = vec![0.0; count];
        TorchCpuGenerator::new(variation.seed).fill_standard_normal(&mut other);
        rotate_towards(&mut noise, &other, variation.strength);
    }
    noise
}

/// Spherical interpolation: moves `noise` along the great circle towards `other` by the share `strength` of
/// the angle between them, which preserves the norm that noise has. Shoemake 1985, "Animating rotation with
/// quaternion curves", section 3.3.
fn rotate_towards(noise: &mut [f32], other: &[f32], strength: f64) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(noise, other) / (dot(noise, noise) * dot(other, other)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    // For equal noise the circle is undefined, and not needed.
    if angle.sin().abs() < 1e-6 {
        return;
    }
    let from = ((1.0 - strength) * angle).sin() / angle.sin();
    let to = (strength * angle).sin() / angle.sin();
    for (value, other) in noise.iter_mut().zip(other) {
        *value = (from * f64::from(*value) + to * f64::from(*other)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variation_leads_from_one_noise_to_the_other_and_stays_as_long() {
        let normal = |seed| {
            let mut noise = vec![0.0; 4096];
            TorchCpuGenerator::new(seed).fill_standard_normal(&mut noise);
            noise
        };
        let (start, end) = (normal(1), normal(2));
        let length = |noise: &[f32]| noise.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let distance =
            |a: &[f32], b: &[f32]| length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>());
        for (strength, nearer) in [(0.0, &start), (0.3, &start), (0.7, &end), (1.0, &end)] {
            let mut noise = start.clone();
            rotate_towards(&mut noise, &end, strength);
            assert!((length(&noise) / length(&start) - 1.0).abs() < 0.03, "{strength}");
            let farther = if nearer == &start { &end } else { &start };
            assert!(distance(&noise, nearer) < distance(&noise, farther), "{strength}");
            if strength == 0.0 || strength == 1.0 {
                assert!(distance(&noise, nearer) < 1e-4, "{strength}");
            }
        }
        let mut same = start.clone();
        rotate_towards(&mut same, &start, 0.5);
        assert_eq!(same, start);
    }
}
