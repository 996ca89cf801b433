//! Euler's method with ancestral sampling: each step goes past the next level, then adds fresh noise. The
//! sampler of that name in k-diffusion (Crowson 2022, `sample_euler_ancestral`), on the levels of Karras et
//! al. 2022, arXiv:2206.00364.

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::euler::{euler_step, linear_scheduler};
use crate::linear::LinearStep;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SigmaLevels};

/// An Euler step down to σ_down, then fresh noise of deviation σ_up, so that σ_next² = σ_down² + σ_up²:
///
/// ```text
/// σ_up² = σ_next² (σ² - σ_next²) / σ²
/// ```
///
/// Noise is drawn at each step, even at the last one (σ_up = 0), as in diffusers.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    // diffusers' class reads no flag for a schedule; sdq's own key, `sigma_spacing`, is read by all schedulers.
    let rules = LevelRules { schedules: &[], karras_reads_ends: true, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    Ok(Box::new(linear_scheduler(levels, 0.0, |sigma, sigma_next| {
        let (sigma_down, sigma_up) = down_and_up(sigma, sigma_next);
        LinearStep { noise_std: Some(sigma_up), ..euler_step(config.prediction_type, sigma, sigma_down) }
    })))
}

/// (σ_down, σ_up) of an ancestral step from `sigma` to `sigma_next`.
pub(crate) fn down_and_up(sigma: f64, sigma_next: f64) -> (f64, f64) {
    let ratio = sigma_next / sigma;
    // σ_down is √(σ_next² - σ_up²), without the cancellation.
    (sigma_next * ratio, sigma_next * (1.0 - ratio * ratio).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoiseSource;

    struct Constant(f32);

    impl NoiseSource for Constant {
        fn fill_standard_normal(&mut self, out: &mut [f32]) {
            out.fill(self.0);
        }
    }

    /// Pure noise has the next level's deviation after a step: old and fresh noise add up to σ_next².
    #[test]
    fn deviations_add_up_to_the_next_level() {
        let config = SchedulerConfig::default();
        let mut scheduler = build(&config, 5).unwrap();
        let mut level = |step_index: usize| {
            let mut out = [0.0];
            scheduler.add_noise(&[0.0], &[1.0], step_index, &mut out).unwrap();
            out[0]
        };
        let levels = [0, 1, 2, 3, 4].map(&mut level);
        for step_index in 0..4 {
            // x_0 = 0 and ε = 1, correctly predicted; then fresh noise alone.
            let (mut old, mut fresh) = ([levels[step_index]], [0.0]);
            scheduler.step(&[1.0], step_index, &mut old, &mut Constant(0.0)).unwrap();
            scheduler.step(&[0.0], step_index, &mut fresh, &mut Constant(1.0)).unwrap();
            assert!(fresh[0] > 0.1 * old[0]);
            assert!(
                (old[0].hypot(fresh[0]) / levels[step_index + 1] - 1.0).abs() < 1e-5,
                "step {step_index}"
            );
        }
        assert!((0..5).all(|step_index| scheduler.noise_draws(step_index) == 1));
    }
}
