//! DDPM: ancestral sampling. Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239.

use crate::choices::TimestepSpacing;
use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::limit::Limit;
use crate::linear::{LinearScheduler, LinearStep};
use crate::noise_schedule::{NoiseSchedule, refuse_pure_noise};
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{ALIGN_YOUR_STEPS_KEY, SPACING_KEY, refuse_own_schedules};
use crate::timesteps::whole_timesteps;

/// The variance that a step adds (section 3.2 of the paper, where both choices gave similar pictures).
#[derive(Clone, Copy)]
enum Variance {
    /// β̃_t, the variance of q(x_{t-1} | x_t, x_0).
    Small,
    /// β_t.
    Large,
}

const VARIANCES: [(&str, Variance); 3] = [
    ("fixed_small", Variance::Small),
    // The same, computed with a logarithm.
    ("fixed_small_log", Variance::Small),
    ("fixed_large", Variance::Large),
];

/// Algorithm 2 over `num_inference_steps` timesteps: x_{t-1} is drawn from N(μ̃(x_t, x_0), σ_t² I), with the
/// predicted x_0 and
///
/// ```text
/// μ̃ = √ᾱ_prev β_t / (1 - ᾱ_t) · x_0 + √α_t (1 - ᾱ_prev) / (1 - ᾱ_t) · x_t        (eq. 7)
/// β̃_t = (1 - ᾱ_prev) / (1 - ᾱ_t) · β_t                                           (eq. 7)
/// ```
///
/// where α_t = ᾱ_t / ᾱ_prev and β_t = 1 - α_t include the skipped timesteps. No noise is drawn at t = 0.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    refuse_own_schedules("ddpm", config, &[ALIGN_YOUR_STEPS_KEY, SPACING_KEY])?;
    let variance = config.choice("variance_type", &VARIANCES)?.unwrap_or(Variance::Small);
    let limit = Limit::from_config(config, Some(true))?;
    let timesteps = whole_timesteps(config, num_inference_steps, TimestepSpacing::Leading)?;
    let schedule = NoiseSchedule::new(config)?;
    refuse_pure_noise("ddpm", config, &schedule, &timesteps)?;

    let step = |index: usize| {
        let timestep = timesteps[index];
        let alpha_prod = schedule.alphas_cumprod()[timestep];
        let alpha_prod_prev = timesteps.get(index + 1).map_or(1.0, |&t| schedule.alphas_cumprod()[t]);
        let alpha = alpha_prod / alpha_prod_prev;
        let beta = 1.0 - alpha;
        let small_variance = (1.0 - alpha_prod_prev) / (1.0 - alpha_prod) * beta;
        let noise_variance = match variance {
            // diffusers keeps it above 0, because it takes its logarithm.
            Variance::Small => small_variance.max(1e-20),
            Variance::Large => beta,
        };
        let (signal, noise_level) = schedule.signal_and_noise(timestep);
        let (original_from_latents, original_from_output) =
            config.prediction_type.original_sample(signal, noise_level);
        LinearStep {
            original_from_latents,
            original_from_output,
            from_original: alpha_prod_prev.sqrt() * beta / (1.0 - alpha_prod),
            from_latents: alpha.sqrt() * (1.0 - alpha_prod_prev) / (1.0 - alpha_prod),
            from_output: 0.0,
            noise_std: (timestep > 0).then(|| noise_variance.sqrt()),
            signal_and_noise: (signal, noise_level),
            input_scale: 1.0,
        }
    };
    let steps = (0..timesteps.len()).map(step).collect();
    let timesteps = timesteps.iter().map(|&t| t as f64).collect();
    Ok(Box::new(LinearScheduler::new(timesteps, steps, 1.0, limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> SchedulerConfig {
        SchedulerConfig::from_json(json).unwrap()
    }

    /// Learned variances need a second half of the model's output; `fixed_large_log` is NaN in diffusers.
    #[test]
    fn refuses_what_it_does_not_implement() {
        for (json, key) in [
            (r#"{"variance_type": "learned"}"#, "variance_type"),
            (r#"{"variance_type": "learned_range"}"#, "variance_type"),
            (r#"{"variance_type": "fixed_large_log"}"#, "variance_type"),
            (r#"{"use_align_your_steps": "sd1"}"#, "use_align_your_steps"),
        ] {
            let error = build(&config(json), 10).err().unwrap().to_string();
            assert!(error.contains(key), "{error}");
        }
        // The value in DPM-Solver's files.
        assert!(build(&config(r#"{"variance_type": null}"#), 10).is_ok());
    }

    #[test]
    fn no_noise_is_drawn_at_timestep_0() {
        let draws = |json| {
            let scheduler = build(&config(json), 3).unwrap();
            [0, 1, 2].map(|step_index| scheduler.noise_draws(step_index))
        };
        assert_eq!(draws("{}"), [1, 1, 0]);
        assert_eq!(draws(r#"{"steps_offset": 1}"#), [1, 1, 1]);
    }

    #[test]
    fn refuses_to_predict_noise_from_pure_noise() {
        let zero_snr = r#"{"rescale_betas_zero_snr": true, "timestep_spacing": "trailing""#;
        assert!(build(&config(&format!("{zero_snr}}}")), 10).is_err());
        assert!(build(&config(&format!("{zero_snr}, \"prediction_type\": \"v_prediction\"}}")), 10).is_ok());
    }
}
