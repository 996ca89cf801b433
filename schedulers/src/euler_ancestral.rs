//! Euler's method with ancestral sampling: each step overshoots, then adds fresh noise. The sampler of that name in
//! k-diffusion (Crowson 2022, `sample_euler_ancestral`), on the levels of Karras et al. 2022, arXiv:2206.00364.

use crate::euler::{SigmaLevels, euler_step};
use crate::linear::LinearStep;
use crate::{Scheduler, SchedulerConfig, SchedulerError};

/// An Euler step down to σ_down, then fresh noise of deviation σ_up, so that σ_next² = σ_down² + σ_up²:
///
/// ```text
/// σ_up² = σ_next² (σ² - σ_next²) / σ²
/// ```
///
/// Noise is drawn at each step, at the last one (σ_up = 0) too, as in diffusers.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    let levels = SigmaLevels::new(config, num_inference_steps, true)?;
    Ok(Box::new(levels.scheduler(|sigma, sigma_next| {
        let ratio = sigma_next / sigma;
        let sigma_up = sigma_next * (1.0 - ratio * ratio).sqrt();
        // √(σ_next² - σ_up²), without the cancellation.
        let sigma_down = sigma_next * ratio;
        LinearStep { noise_std: Some(sigma_up), ..euler_step(config.prediction_type, sigma, sigma_down) }
    })))
}
