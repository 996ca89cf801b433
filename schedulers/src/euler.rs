//! Euler's method on the probability-flow ODE. Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
//! Generative Models", arXiv:2206.00364, algorithm 2 without churn and without its second-order correction.

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::limit::Limit;
use crate::linear::{LinearScheduler, LinearStep};
use crate::prediction::PredictionType;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// Steps down the sigmas of the inference timesteps: dx/dσ = (x - x_0) / σ with the predicted x_0, so
/// x_next = x + (x - x_0) / σ · (σ_next - σ).
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_unless("euler", "interpolation_type", "linear")?;
    config.refuse_unless("euler", "timestep_type", "discrete")?;
    config.refuse_unless("euler", "use_flow_sigmas", false)?;
    let ends_at_zero = config.choice("final_sigmas_type", &[("zero", true), ("sigma_min", false)])?;
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    let end = if ends_at_zero.unwrap_or(true) { 0.0 } else { levels.least };
    Ok(Box::new(linear_scheduler(levels, end, |sigma, sigma_next| {
        euler_step(config.prediction_type, sigma, sigma_next)
    })))
}

/// A scheduler whose steps from one sigma to the next, and at last to `end`, are computed by `step`.
pub(crate) fn linear_scheduler(
    levels: SigmaLevels,
    end: f64,
    step: impl Fn(f64, f64) -> LinearStep,
) -> LinearScheduler {
    let next = levels.sigmas.iter().skip(1).copied().chain([end]);
    let steps = levels.sigmas.iter().zip(next).map(|(&sigma, sigma_next)| step(sigma, sigma_next)).collect();
    LinearScheduler::new(levels.timesteps, steps, levels.init_noise_sigma, Limit::None)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> SchedulerConfig {
        SchedulerConfig::from_json(json).unwrap()
    }

    #[test]
    fn refuses_what_it_does_not_implement() {
        for (key, value) in [
            ("interpolation_type", "\"log_linear\""),
            ("timestep_type", "\"continuous\""),
            ("final_sigmas_type", "\"one\""),
            ("use_align_your_steps", "\"sd3\""),
        ] {
            let error = build(&config(&format!("{{\"{key}\": {value}}}")), 10).err().unwrap().to_string();
            assert!(error.contains(&format!("`{key}`")) && error.contains(value), "{error}");
        }
    }

    /// Steps are exact for a constant derivative: with correctly predicted ε, from σ to any other level.
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
            let scheduler = build(&config, 4).unwrap();
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
}
