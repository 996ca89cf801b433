//! Second-order ancestral steps in data prediction ("DPM++ 2S a"). The sampler `sample_dpmpp_2s_ancestral` of k-diffusion
//! (Crowson 2022), after Lu et al. 2022, arXiv:2211.01095, algorithm 1.

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::euler_ancestral::down_and_up;
use crate::heun::with_between;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// From σ to the level √(σ σ_down) between, halfway in log σ, then from the start to σ_down with the x_0 predicted there,
/// then fresh noise of deviation σ_up, both those of [`euler_ancestral`](crate::euler_ancestral):
///
/// ```text
/// x_to = to / σ · x + (1 - to / σ) · x_0
/// ```
///
/// The last step, to σ = 0, goes straight to x_0. Noise is drawn once per inference step but the last.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    let between = |sigma: f64, sigma_next: f64| (sigma * down_and_up(sigma, sigma_next).0).sqrt();
    let asked = levels.sigmas.windows(2).map(|pair| {
        let sigma = between(pair[0], pair[1]);
        Evaluation { draws_noise: true, ..Evaluation::at_sigma(levels.timestep_of(sigma), sigma) }
    });
    let evaluations = with_between(&levels, asked.collect());
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([0.0]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        let (sigma, sigma_next) = (sigmas[step_index / 2], sigmas[step_index / 2 + 1]);
        let latents = Combination { latents: 1.0, ..Combination::default() };
        match (step_index % 2, remembered) {
            (0, 0) => {
                let next = towards_original(between(sigma, sigma_next) / sigma, &latents);
                Some(HistoryStep { next, remember: vec![latents] })
            }
            (1, 1) => {
                let (down, up) = down_and_up(sigma, sigma_next);
                let mut next = towards_original(down / sigma, &Combination::remembered(0));
                next.noise = up;
                Some(HistoryStep { next, remember: Vec::new() })
            }
            _ => None,
        }
    };
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(
        HistoryScheduler::new(evaluations, kind, Limit::None, sigma_max, Box::new(plan)).with_order(2),
    ))
}

/// The share `kept` of `start`, the rest x_0.
fn towards_original(kept: f64, start: &Combination) -> Combination {
    let mut next = Combination { original: 1.0 - kept, ..Combination::default() };
    next.add(kept, start);
    next
}
