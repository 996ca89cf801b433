//! The similarity between noise and a U-Net's prediction for it, which shows whether the network predicts
//! noise or velocity.

use sdq_schedulers::NoiseSource as _;

use super::{Pipeline, Request};
use crate::{Error, rng::TorchCpuGenerator};

/// Height and width of the picture in pixels: small, so that it is fast, with enough latents for a stable
/// mean.
const SIDE: usize = 256;

impl Pipeline {
    /// The cosine between standard noise and the U-Net's prediction for it at the last timestep of training,
    /// without a prompt; between -1 and 1.
    ///
    /// At that timestep the input is almost pure noise. A network that predicts the noise returns it: near 1.
    /// One that predicts velocity, sqrt(ᾱ)·ε - sqrt(1 - ᾱ)·x₀ (Salimans and Ho 2022, arXiv:2202.00512,
    /// section 2.4), returns minus its estimate of the picture: near 0.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn noise_likeness(&self) -> Result<f64, Error> {
        let request = Request {
            width: Some(SIDE),
            height: Some(SIDE),
            guidance_scale: Some(1.0),
            ..Request::default()
        };
        let settings = self.settings(&request)?;
        let conditioning = self.condition(&settings)?;
        let last = self.model.scheduler.num_train_timesteps.saturating_sub(1) as f64;
        let mut denoiser = self.denoiser(&settings, &conditioning, &[last])?;
        let (height, width) = settings.latent_size(self.scale_factor());
        let mut noise = vec![0.0; self.model.autoencoder.latent_channels() * height * width];
        TorchCpuGenerator::new(settings.request.seed).fill_standard_normal(&mut noise);
        let mut prediction = vec![0.0; noise.len()];
        denoiser.predict(&noise, 0, &mut prediction)?;
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let norms = dot(&noise, &noise) * dot(&prediction, &prediction);
        Ok(if norms > 0.0 { dot(&noise, &prediction) / norms.sqrt() } else { 0.0 })
    }
}
