//! Euler's method on the probability-flow ODE. Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
//! Generative Models", arXiv:2206.00364, algorithm 2 without churn and without its second-order correction.

use crate::config::SchedulerConfig;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::NoiseSchedule;
use crate::prediction::PredictionType;
use crate::timesteps::{TimestepSpacing, fractional_timesteps};
use crate::{Scheduler, SchedulerError};

/// Steps down the sigmas of the inference timesteps: dx/dσ = (x - x_0) / σ with the predicted x_0, so
/// x_next = x + (x - x_0) / σ · (σ_next - σ).
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    for key in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
        config.refuse_unless("euler", key, false)?;
    }
    config.refuse_unless("euler", "interpolation_type", "linear")?;
    config.refuse_unless("euler", "timestep_type", "discrete")?;
    let ends_at_zero = config.choice("final_sigmas_type", &[("zero", true), ("sigma_min", false)])?;
    let levels = SigmaLevels::new(config, num_inference_steps, ends_at_zero.unwrap_or(true))?;
    Ok(Box::new(levels.scheduler(|sigma, sigma_next| euler_step(config.prediction_type, sigma, sigma_next))))
}

/// The deterministic step from `sigma` to `sigma_next`.
pub(crate) fn euler_step(prediction_type: PredictionType, sigma: f64, sigma_next: f64) -> LinearStep {
    let (original_from_latents, original_from_output) = prediction_type.original_sample(1.0, sigma);
    let ratio = sigma_next / sigma;
    LinearStep {
        original_from_latents,
        original_from_output,
        from_original: 1.0 - ratio,
        from_latents: ratio,
        from_output: 0.0,
        noise_std: None,
        signal_and_noise: (1.0, sigma),
        // The model was trained on latents of unit variance.
        input_scale: 1.0 / sigma.hypot(1.0),
    }
}

/// What the schedulers that work on sigmas share: latents are x_0 + σ · ε, and the σ of inference are read off the
/// training schedule at the inference timesteps.
pub(crate) struct SigmaLevels {
    timesteps: Vec<f64>,
    /// One more than `timesteps`: the level that the last step arrives at.
    sigmas: Vec<f64>,
    init_noise_sigma: f64,
}

impl SigmaLevels {
    pub(crate) fn new(
        config: &SchedulerConfig,
        num_inference_steps: usize,
        ends_at_zero: bool,
    ) -> Result<Self, SchedulerError> {
        let timesteps = fractional_timesteps(config, num_inference_steps, TimestepSpacing::Linspace)?;
        let schedule = NoiseSchedule::with_finite_sigmas(config)?;
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| schedule.sigma(timestep)).collect();
        let sigma_max = sigmas[0];
        sigmas.push(if ends_at_zero { 0.0 } else { schedule.sigma(0.0) });
        let init_noise_sigma = match config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace) {
            // The first level is the noisiest of training: nearly all noise.
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => sigma_max,
            // Some signal would be left at the first level; its variance is made up for.
            TimestepSpacing::Leading => sigma_max.hypot(1.0),
        };
        Ok(SigmaLevels { timesteps, sigmas, init_noise_sigma })
    }

    /// The scheduler whose step from one sigma to the next is what `step` says.
    pub(crate) fn scheduler(self, step: impl Fn(f64, f64) -> LinearStep) -> LinearScheduler {
        let steps = self.sigmas.windows(2).map(|pair| step(pair[0], pair[1])).collect();
        LinearScheduler::new(self.timesteps, steps, self.init_noise_sigma, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> SchedulerConfig {
        SchedulerConfig::from_json(json).unwrap()
    }

    #[test]
    fn refuses_what_it_does_not_implement() {
        for (key, value) in [
            ("use_karras_sigmas", "true"),
            ("use_exponential_sigmas", "true"),
            ("use_beta_sigmas", "true"),
            ("interpolation_type", "\"log_linear\""),
            ("timestep_type", "\"continuous\""),
            ("final_sigmas_type", "\"one\""),
        ] {
            let error = build(&config(&format!("{{\"{key}\": {value}}}")), 10).err().unwrap().to_string();
            assert!(error.contains(&format!("`{key}`")) && error.contains(value), "{error}");
        }
    }

    /// Steps are exact where the derivative is constant: with ε predicted rightly, from σ to any other level.
    #[test]
    fn a_step_follows_constant_noise_exactly() {
        let (original, noise, sigma, sigma_next) = (0.25, -1.5, 14.6, 3.2);
        let step = euler_step(PredictionType::Epsilon, sigma, sigma_next);
        let latents = original + sigma * noise;
        let predicted = step.original_from_latents * latents + step.original_from_output * noise;
        let next = step.from_original * predicted + step.from_latents * latents + step.from_output * noise;
        assert!((next - (original + sigma_next * noise)).abs() < 1e-12);
    }

    #[test]
    fn the_model_sees_unit_variance() {
        let config = SchedulerConfig::default();
        for spacing in ["leading", "trailing", "linspace"] {
            let mut config = config.clone();
            config.set("timestep_spacing", spacing.into()).unwrap();
            let levels = SigmaLevels::new(&config, 4, true).unwrap();
            let scheduler = levels.scheduler(|sigma, next| euler_step(PredictionType::Epsilon, sigma, next));
            for step_index in 0..4 {
                let (mut original, mut noise) = ([0.0], [0.0]);
                scheduler.add_noise(&[1.0], &[0.0], step_index, &mut original).unwrap();
                scheduler.add_noise(&[0.0], &[1.0], step_index, &mut noise).unwrap();
                scheduler.scale_model_input(&mut original, step_index).unwrap();
                scheduler.scale_model_input(&mut noise, step_index).unwrap();
                assert!((original[0].hypot(noise[0]) - 1.0).abs() < 1e-6, "{spacing}");
            }
        }
    }

    #[test]
    fn may_stop_at_the_least_noise_of_training() {
        let levels =
            |ends_at_zero| SigmaLevels::new(&SchedulerConfig::default(), 3, ends_at_zero).unwrap().sigmas;
        assert_eq!(levels(true)[3], 0.0);
        assert_eq!(levels(false)[3], levels(false)[2]);
    }
}
