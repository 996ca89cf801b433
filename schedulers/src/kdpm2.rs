//! Second-order steps with an evaluation at an intermediate level, after DPM-Solver-2. The sampler
//! `sample_dpm_2` of k-diffusion (Crowson 2022), after Lu et al. 2022, arXiv:2206.00927, algorithm 1, and
//! Karras et al. 2022, arXiv:2206.00364.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::dpm_solver::refuse_sample;
use crate::error::SchedulerError;
use crate::heun::with_between;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::lms::derivative;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// An Euler step from σ to the intermediate level √(σ σ_next), then the whole step from the start with the
/// derivative at that level. The last step, to σ = 0, is Euler's.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("kdpm2")?;
    refuse_sample("kdpm2", config)?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::Linear);
    let levels = SigmaLevels::fractional(config, num_inference_steps, RULES)?;
    let between: Vec<f64> = levels.sigmas.windows(2).map(|pair| (pair[0] * pair[1]).sqrt()).collect();
    let asked = between.iter().zip(&levels.sigmas[1..]).map(|(&sigma, &sigma_next)| Evaluation {
        // Not of the intermediate level: this is how diffusers adds noise to the part that inpainting keeps.
        noised: (1.0, sigma_next),
        ..Evaluation::at_sigma(levels.timestep_of(sigma), sigma)
    });
    let evaluations = with_between(&levels, asked.collect());
    let plan = midpoint_plan(levels.sigmas, between, |_, sigma_next| (sigma_next, 0.0));
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(
        HistoryScheduler::new(evaluations, kind, Limit::None, sigma_max, Box::new(plan)).with_order(2),
    ))
}

/// How diffusers' two classes of this method choose their levels.
pub(crate) const RULES: LevelRules =
    LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: true };

/// The steps with the intermediate levels `between`: from `sigmas[i]` to the first value that `goal` returns
/// for it and the next level, with noise of the second value.
pub(crate) fn midpoint_plan(
    sigmas: Vec<f64>,
    between: Vec<f64>,
    goal: impl Fn(f64, f64) -> (f64, f64) + Send,
) -> impl Fn(usize, usize) -> Option<HistoryStep> + Send {
    move |step_index, remembered| {
        let place = step_index / 2;
        let sigma = sigmas[place];
        let latents = Combination { latents: 1.0, ..Combination::default() };
        match (step_index % 2, remembered) {
            (0, 0) => {
                let to = between.get(place).copied().unwrap_or(0.0);
                let mut next = latents.clone();
                next.add(to - sigma, &derivative(sigma));
                Some(HistoryStep { next, remember: vec![latents] })
            }
            (1, 1) => {
                let (to, noise) = goal(sigma, sigmas[place + 1]);
                let mut next = Combination { noise, ..Combination::remembered(0) };
                next.add(to - sigma, &derivative(between[place]));
                Some(HistoryStep { next, remember: Vec::new() })
            }
            _ => None,
        }
    }
}
