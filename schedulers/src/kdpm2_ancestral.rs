//! Second-order steps with an evaluation at an intermediate level, and fresh noise after each. The sampler
//! `sample_dpm_2_ancestral` of k-diffusion (Crowson 2022).

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::dpm_solver::refuse_sample;
use crate::error::SchedulerError;
use crate::euler_ancestral::down_and_up;
use crate::heun::with_between;
use crate::history::{Evaluation, HistoryScheduler};
use crate::kdpm2::{RULES, midpoint_plan};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::SigmaLevels;

/// As [`kdpm2`](crate::kdpm2) with the intermediate level √(σ σ_down), to σ_down, then fresh noise of
/// deviation σ_up, both as in [`euler_ancestral`](crate::euler_ancestral). Noise is drawn once per inference
/// step except the last.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("kdpm2-ancestral")?;
    refuse_sample("kdpm2-ancestral", config)?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::Linear);
    let levels = SigmaLevels::fractional(config, num_inference_steps, RULES)?;
    let middle = |pair: &[f64]| (pair[0] * down_and_up(pair[0], pair[1]).0).sqrt();
    let between: Vec<f64> = levels.sigmas.windows(2).map(middle).collect();
    let asked = between.iter().map(|&sigma| Evaluation {
        draws_noise: true,
        ..Evaluation::at_sigma(levels.timestep_of(sigma), sigma)
    });
    let evaluations = with_between(&levels, asked.collect());
    let plan = midpoint_plan(levels.sigmas, between, down_and_up);
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(
        HistoryScheduler::new(evaluations, kind, Limit::None, sigma_max, Box::new(plan)).with_order(2),
    ))
}
