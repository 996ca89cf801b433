//! Trajectory consistency distillation. Zheng et al. 2024, "Trajectory Consistency Distillation", arXiv:2402.19159.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::lcm::distilled_timesteps;
use crate::limit::Limit;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::{NoiseSchedule, refuse_pure_noise};
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{ALIGN_YOUR_STEPS_KEY, SPACING_KEY, refuse_own_schedules};
use crate::values::invalid;

/// Strategic stochastic sampling (algorithm 4): from t directly to the timestep s = (1 - eta) · t_next, below
/// the next one, then noise up to it:
///
/// ```text
/// x_s = √ᾱ_s · x_0 + √(1 - ᾱ_s) · ε
/// x_next = √(ᾱ_next / ᾱ_s) · x_s + √(1 - ᾱ_next / ᾱ_s) · noise
/// ```
///
/// eta (γ in the paper) is 0 by default, the value that diffusers' pipelines pass to every scheduler; the
/// default of the paper and of the class is 0.3. The last step, to timestep 0, draws no noise. As in
/// diffusers, predictions are never clipped or thresholded, whatever the config says.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    refuse_own_schedules("tcd", config, &[ALIGN_YOUR_STEPS_KEY, SPACING_KEY])?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::ScaledLinear);
    let eta = config.number("eta")?.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&eta) {
        return Err(invalid("eta", "a number from 0 to 1", eta));
    }
    let timesteps = distilled_timesteps(config, num_inference_steps)?;
    let schedule = NoiseSchedule::new(config)?;
    refuse_pure_noise("tcd", config, &schedule, &timesteps)?;
    let step = |(step_index, &timestep): (usize, &usize)| {
        let next = timesteps.get(step_index + 1).copied();
        // In `f32`, as in diffusers: a product just below a whole number becomes the timestep below.
        let target = ((1.0 - eta) as f32 * next.unwrap_or(0) as f32).floor() as usize;
        let (signal, noise_level) = schedule.signal_and_noise(timestep);
        let (target_signal, target_noise) = schedule.signal_and_noise(target);
        let noised = next.filter(|_| eta > 0.0);
        let kept =
            noised.map_or(1.0, |next| schedule.alphas_cumprod()[next] / schedule.alphas_cumprod()[target]);
        let (original_from_latents, original_from_output) =
            config.prediction_type.original_sample(signal, noise_level);
        let (epsilon_from_latents, epsilon_from_output) = config.prediction_type.noise(signal, noise_level);
        LinearStep {
            original_from_latents,
            original_from_output,
            from_original: kept.sqrt() * target_signal,
            from_latents: kept.sqrt() * target_noise * epsilon_from_latents,
            from_output: kept.sqrt() * target_noise * epsilon_from_output,
            noise_std: noised.map(|_| (1.0 - kept).max(0.0).sqrt()),
            signal_and_noise: (signal, noise_level),
            input_scale: 1.0,
        }
    };
    let steps = timesteps.iter().enumerate().map(step).collect();
    let timesteps = timesteps.iter().map(|&timestep| timestep as f64).collect();
    Ok(Box::new(LinearScheduler::new(timesteps, steps, 1.0, Limit::None)))
}
