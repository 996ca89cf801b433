//! DDIM. Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502.

use crate::choices::TimestepSpacing;
use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::limit::Limit;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::{NoiseSchedule, refuse_pure_noise};
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{SPACING_KEY, align_your_steps_timesteps, refuse_own_schedules};
use crate::timesteps::whole_timesteps;
use crate::values::invalid;

/// Noise is added to the predicted x_0 again: the predicted ε and, for eta > 0, fresh noise:
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
    refuse_own_schedules("ddim", config, &[SPACING_KEY])?;
    let eta = config.number("eta")?.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&eta) {
        return Err(invalid("eta", "a number from 0 to 1", eta));
    }
    let set_alpha_to_one = config.flag("set_alpha_to_one")?.unwrap_or(true);
    let limit = Limit::from_config(config, Some(true))?;
    let schedule = NoiseSchedule::new(config)?;
    let aligned = align_your_steps_timesteps(config, &schedule, num_inference_steps)?;
    let is_aligned = aligned.is_some();
    let timesteps = match aligned {
        Some(timesteps) => timesteps,
        None => whole_timesteps(config, num_inference_steps, TimestepSpacing::Leading)?,
    };
    refuse_pure_noise("ddim", config, &schedule, &timesteps)?;

    let alphas_cumprod = schedule.alphas_cumprod();
    let final_alpha_prod = if set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    // The next level is always one leading step further, even with other spacings, as in diffusers. The
    // timesteps of Align Your Steps, which diffusers does not support here, are used as they follow each
    // other.
    let stride = config.num_train_timesteps / num_inference_steps;
    let step = |(step_index, &timestep): (usize, &usize)| {
        let next =
            if is_aligned { timesteps.get(step_index + 1).copied() } else { timestep.checked_sub(stride) };
        let alpha_prod = alphas_cumprod[timestep];
        let alpha_prod_prev = next.map_or(final_alpha_prod, |t| alphas_cumprod[t]);
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
    let steps = timesteps.iter().enumerate().map(step).collect();
    let timesteps = timesteps.iter().map(|&t| t as f64).collect();
    Ok(Box::new(LinearScheduler::new(timesteps, steps, 1.0, limit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NoiseSource, create};

    fn config(json: &str) -> SchedulerConfig {
        SchedulerConfig::from_json(json).unwrap()
    }

    #[test]
    fn refuses_what_it_does_not_implement() {
        for json in [
            r#"{"eta": -0.1}"#,
            r#"{"eta": 1.5}"#,
            r#"{"eta": "NaN"}"#,
            r#"{"clip_sample_range": 0}"#,
            r#"{"set_alpha_to_one": 1}"#,
            r#"{"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
        ] {
            assert!(build(&config(json), 10).is_err(), "{json}");
        }
    }

    #[test]
    fn draws_noise_at_each_step_if_eta_is_above_0() {
        for (json, draws) in [("{}", 0), (r#"{"eta": 0.01}"#, 1)] {
            let scheduler = build(&config(json), 10).unwrap();
            assert!((0..10).all(|step_index| scheduler.noise_draws(step_index) == draws), "{json}");
        }
    }

    struct Wave(f32);

    impl NoiseSource for Wave {
        fn fill_standard_normal(&mut self, out: &mut [f32]) {
            self.0 += 1.0;
            out.iter_mut().zip(1..).for_each(|(value, i)| *value = (self.0 * i as f32).sin());
        }
    }

    /// Section 5 of the paper: eta = 1 is DDPM. Two independent formulas must agree.
    #[test]
    fn eta_1_is_ddpm() {
        for prediction_type in ["epsilon", "v_prediction", "sample"] {
            // With clipping they would differ: DDIM uses the ε of the unclipped x_0.
            let mut config = config(r#"{"clip_sample": false}"#);
            config.set("prediction_type", prediction_type.into()).unwrap();
            let mut ddpm = create("ddpm", &config, 10).unwrap();
            config.set("eta", 1.into()).unwrap();
            let mut ddim = create("ddim", &config, 10).unwrap();
            let mut latents = [[0.3, -1.2, 2.0]; 2];
            let mut noise = [Wave(0.0), Wave(0.0)];
            for step_index in 0..10 {
                for ((latents, noise), scheduler) in
                    latents.iter_mut().zip(&mut noise).zip([&mut ddpm, &mut ddim])
                {
                    let noise_pred = latents.map(f32::cos);
                    scheduler.step(&noise_pred, step_index, latents, noise).unwrap();
                }
                for (ddpm, ddim) in latents[0].iter().zip(&latents[1]) {
                    assert!((ddpm - ddim).abs() < 1e-5, "{prediction_type}, step {step_index}: {latents:?}");
                }
            }
        }
    }
}
