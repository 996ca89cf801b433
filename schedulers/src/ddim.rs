//! DDIM. Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502.

use crate::config::invalid;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::NoiseSchedule;
use crate::prediction::refuse_pure_noise;
use crate::timesteps::{TimestepSpacing, whole_timesteps};
use crate::{Scheduler, SchedulerConfig, SchedulerError};

/// The predicted x_0 is noised again, by the predicted ε and, for eta > 0, by fresh noise:
///
/// ```text
/// x_prev = √ᾱ_prev · x_0 + √(1 - ᾱ_prev - σ_t²) · ε + σ_t · noise                  (eq. 12)
/// σ_t = eta · √((1 - ᾱ_prev) / (1 - ᾱ_t)) · √(1 - ᾱ_t / ᾱ_prev)                   (eq. 16)
/// ```
///
/// eta = 0 is deterministic, eta = 1 has the variance of DDPM. Noise is drawn at each step if eta > 0.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_unless("ddim", "thresholding", false)?;
    let eta = config.number("eta")?.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&eta) {
        return Err(invalid("eta", "a number from 0 to 1", eta));
    }
    let set_alpha_to_one = config.flag("set_alpha_to_one")?.unwrap_or(true);
    let clip_range = config.clip_range()?;
    let timesteps = whole_timesteps(config, num_inference_steps, TimestepSpacing::Leading)?;
    let schedule = NoiseSchedule::new(config)?;
    refuse_pure_noise("ddim", config, &schedule, &timesteps)?;

    let alphas_cumprod = schedule.alphas_cumprod();
    let final_alpha_prod = if set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    // The next level is always one leading step on, also under other spacings, as in diffusers.
    let stride = config.num_train_timesteps / num_inference_steps;
    let step = |&timestep: &usize| {
        let alpha_prod = alphas_cumprod[timestep];
        let alpha_prod_prev = timestep.checked_sub(stride).map_or(final_alpha_prod, |t| alphas_cumprod[t]);
        let variance = (1.0 - alpha_prod_prev) / (1.0 - alpha_prod) * (1.0 - alpha_prod / alpha_prod_prev);
        let noise_std = eta * variance.sqrt();
        // Rounding may leave it just below 0 for eta = 1.
        let direction = (1.0 - alpha_prod_prev - noise_std * noise_std).max(0.0).sqrt();

        let (signal, noise_level) = schedule.signal_and_noise(timestep);
        let (original_from_latents, original_from_output) =
            config.prediction_type.original_sample(signal, noise_level);
        let (epsilon_from_latents, epsilon_from_output) = config.prediction_type.noise(signal, noise_level);
        LinearStep {
            original_from_latents,
            original_from_output,
            from_original: alpha_prod_prev.sqrt(),
            from_latents: direction * epsilon_from_latents,
            from_output: direction * epsilon_from_output,
            noise_std: (eta > 0.0).then_some(noise_std),
            signal_and_noise: (signal, noise_level),
            input_scale: 1.0,
        }
    };
    let steps = timesteps.iter().map(step).collect();
    let timesteps = timesteps.iter().map(|&t| t as f64).collect();
    Ok(Box::new(LinearScheduler::new(timesteps, steps, 1.0, clip_range)))
}
