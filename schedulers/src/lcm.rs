//! Latent consistency models. Luo et al. 2023, "Latent Consistency Models: Synthesizing High-Resolution Images with
//! Few-Step Inference", arXiv:2310.04378, algorithm 3.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::error::{SchedulerError, StepLimit};
use crate::limit::Limit;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::{NoiseSchedule, refuse_pure_noise};
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{ALIGN_YOUR_STEPS_KEY, SPACING_KEY, refuse_own_schedules};

/// Standard deviation of the data, as in the boundary condition of Song et al. 2023, arXiv:2303.01469, section 3.
const SIGMA_DATA: f64 = 0.5;

/// Each step estimates the end of the path, f = c_skip(t) · x + c_out(t) · x_0, and adds noise up to the next
/// level: √ᾱ_next · f + √(1 - ᾱ_next) · noise. The last estimate is the result. With s = `timestep_scaling` ·
/// t:
///
/// ```text
/// c_skip = σ_data² / (s² + σ_data²),  c_out = s / √(s² + σ_data²)
/// ```
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    refuse_own_schedules("lcm", config, &[ALIGN_YOUR_STEPS_KEY, SPACING_KEY])?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::ScaledLinear);
    let limit = Limit::from_config(config, Some(false))?;
    let scaling = config.number("timestep_scaling")?.unwrap_or(10.0);
    let timesteps = distilled_timesteps(config, num_inference_steps)?;
    let schedule = NoiseSchedule::new(config)?;
    refuse_pure_noise("lcm", config, &schedule, &timesteps)?;
    let step = |(step_index, &timestep): (usize, &usize)| {
        let next = timesteps.get(step_index + 1).map(|&next| schedule.signal_and_noise(next));
        let (next_signal, noise_std) = next.map_or((1.0, None), |(signal, noise)| (signal, Some(noise)));
        let scaled = timestep as f64 * scaling;
        let c_skip = SIGMA_DATA * SIGMA_DATA / (scaled * scaled + SIGMA_DATA * SIGMA_DATA);
        let c_out = scaled / scaled.hypot(SIGMA_DATA);
        let (signal, noise_level) = schedule.signal_and_noise(timestep);
        let (original_from_latents, original_from_output) =
            config.prediction_type.original_sample(signal, noise_level);
        LinearStep {
            original_from_latents,
            original_from_output,
            from_original: next_signal * c_out,
            from_latents: next_signal * c_skip,
            from_output: 0.0,
            noise_std,
            signal_and_noise: (signal, noise_level),
            input_scale: 1.0,
        }
    };
    let steps = timesteps.iter().enumerate().map(step).collect();
    let timesteps = timesteps.iter().map(|&timestep| timestep as f64).collect();
    Ok(Box::new(LinearScheduler::new(timesteps, steps, 1.0, limit)))
}

/// The timesteps of a distilled model: `num_inference_steps` evenly spaced ones, from the noisiest on, of the
/// `original_inference_steps` (default 50) that it was distilled from.
///
/// # Errors
/// If there are more of these than in training, or fewer than requested.
pub(crate) fn distilled_timesteps(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Vec<usize>, SchedulerError> {
    let train = config.num_train_timesteps;
    let original = config.whole("original_inference_steps", 1, train as u64)?.unwrap_or(50.min(train));
    if !(1..=original).contains(&num_inference_steps) {
        let limit = StepLimit::Distilled;
        return Err(SchedulerError::StepCount { found: num_inference_steps, max: original, limit });
    }
    let stride = train / original;
    let ratio = original as f64 / num_inference_steps as f64;
    Ok((0..num_inference_steps)
        .map(|i| (original - (i as f64 * ratio).floor() as usize) * stride - 1)
        .collect())
}
