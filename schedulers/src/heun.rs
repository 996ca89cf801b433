//! Heun's method on the probability-flow ODE. Karras et al. 2022, arXiv:2206.00364, algorithm 1 (algorithm 2 without
//! churn).

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::lms::derivative;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// An Euler step from σ to σ_next, then the same step again with the mean of the derivatives at both ends.
/// The last step, to σ = 0, has no second derivative.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("heun")?;
    let limit = Limit::clip(config, false)?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::Linear);
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    let ends = levels.timesteps.iter().zip(&levels.sigmas).skip(1);
    let evaluations = with_between(
        &levels,
        ends.map(|(&timestep, &sigma)| Evaluation::at_sigma(timestep, sigma)).collect(),
    );
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([0.0]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        let (sigma, sigma_next) = (sigmas[step_index / 2], sigmas[step_index / 2 + 1]);
        let width = sigma_next - sigma;
        match (step_index % 2, remembered) {
            (0, 0) => {
                let mut next = Combination { latents: 1.0, ..Combination::default() };
                next.add(width, &derivative(sigma));
                let latents = Combination { latents: 1.0, ..Combination::default() };
                Some(HistoryStep { next, remember: vec![latents, derivative(sigma)] })
            }
            (1, 2) => {
                let mut next = Combination::remembered(0);
                next.add_remembered(1, width / 2.0);
                next.add(width / 2.0, &derivative(sigma_next));
                Some(HistoryStep { next, remember: Vec::new() })
            }
            _ => None,
        }
    };
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(HistoryScheduler::new(evaluations, kind, limit, sigma_max, Box::new(plan)).with_order(2)))
}

/// The evaluations at the levels, and an intermediate one after each level but the last.
pub(crate) fn with_between(levels: &SigmaLevels, between: Vec<Evaluation>) -> Vec<Evaluation> {
    let mut between = between.into_iter();
    let at = |(&timestep, &sigma): (&f64, &f64)| Evaluation::at_sigma(timestep, sigma);
    let levels = levels.timesteps.iter().zip(&levels.sigmas).map(at);
    levels.flat_map(|level| [Some(level), between.next()]).flatten().collect()
}
