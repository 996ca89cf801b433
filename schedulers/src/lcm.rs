//! Latent consistency models. Luo et al. 2023, "Latent Consistency Models: Synthesizing High-Resolution Images with
//! Few-Step Inference", arXiv:2310.04378, algorithm 3.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::error::{SchedulerError, StepLimit};
use crate::history::alpha_sigma;
use crate::limit::Limit;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::{NoiseSchedule, refuse_pure_noise};
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{ALIGN_YOUR_STEPS_KEY, LevelRules, SigmaLevels, is_spaced, refuse_own_schedules};

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
    refuse_own_schedules("lcm", config, &[ALIGN_YOUR_STEPS_KEY])?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::ScaledLinear);
    let limit = Limit::from_config(config, Some(false))?;
    let scaling = config.number("timestep_scaling")?.unwrap_or(10.0);
    let levels = levels(config, num_inference_steps)?;
    let step = |(step_index, level): (usize, &Level)| {
        let &Level { timestep, signal, noise: noise_level } = level;
        let next = levels.get(step_index + 1);
        let (next_signal, noise_std) = next.map_or((1.0, None), |next| (next.signal, Some(next.noise)));
        let scaled = timestep * scaling;
        let c_skip = SIGMA_DATA * SIGMA_DATA / (scaled * scaled + SIGMA_DATA * SIGMA_DATA);
        let c_out = scaled / scaled.hypot(SIGMA_DATA);
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
    let steps = levels.iter().enumerate().map(step).collect();
    let timesteps = levels.iter().map(|level| level.timestep).collect();
    Ok(Box::new(LinearScheduler::new(timesteps, steps, 1.0, limit)))
}

/// A level of noise that a run visits.
struct Level {
    timestep: f64,
    signal: f64,
    noise: f64,
}

/// The levels of the distilled model, or those of the config's sigma schedule, as in ComfyUI and AUTOMATIC1111's web UI.
fn levels(config: &SchedulerConfig, num_inference_steps: usize) -> Result<Vec<Level>, SchedulerError> {
    if is_spaced(config)? {
        let rules = LevelRules { schedules: &[], karras_reads_ends: false, karras_rounds: true };
        let levels = SigmaLevels::whole(config, num_inference_steps, f64::NEG_INFINITY, rules)?;
        let level = |(&timestep, &sigma): (&f64, &f64)| {
            let (signal, noise) = alpha_sigma(sigma);
            Level { timestep, signal, noise }
        };
        return Ok(levels.timesteps.iter().zip(&levels.sigmas).map(level).collect());
    }
    let timesteps = distilled_timesteps(config, num_inference_steps)?;
    let schedule = NoiseSchedule::new(config)?;
    refuse_pure_noise("lcm", config, &schedule, &timesteps)?;
    let level = |timestep: usize| {
        let (signal, noise) = schedule.signal_and_noise(timestep);
        Level { timestep: timestep as f64, signal, noise }
    };
    Ok(timesteps.into_iter().map(level).collect())
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
