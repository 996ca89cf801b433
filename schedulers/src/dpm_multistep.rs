//! DPM-Solver and DPM-Solver++ over several steps ("DPM++ 2M" and its relatives). Lu et al. 2022, arXiv:2206.00927 and
//! arXiv:2211.01095.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::dpm_solver::{Algorithm, Solver, Weights, lambda};
use crate::error::SchedulerError;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SigmaLevels};
use crate::values::invalid;

const SCHEDULES: &[&str] =
    &["use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas"];

/// An exponential integrator with derivatives with respect to λ = log(α / σ_t), computed from the predictions
/// m_0, m_1, m_2 of this step and the two before (arXiv:2211.01095, algorithm 2; the third order and its D1,
/// D2 as in the authors' code):
///
/// ```text
/// r_0 = h_0 / h, r_1 = h_1 / h
/// second order:  D1 = (m_0 - m_1) / r_0
/// third order:   D1_0 = (m_0 - m_1) / r_0, D1_1 = (m_1 - m_2) / r_1
///                D1 = D1_0 + r_0 / (r_0 + r_1) · (D1_0 - D1_1), D2 = (D1_0 - D1_1) / (r_0 + r_1)
/// ```
///
/// The first steps of a run are of lower order, and so are the last of a run that ends without noise or is
/// short.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    let solver = Solver::from_config("dpm-multistep", config)?;
    if solver.algorithm == Algorithm::NoiseSde && solver.order == 3 {
        return Err(invalid("solver_order", "1 or 2 with `algorithm_type` = sde-dpmsolver", 3));
    }
    let limit = Limit::from_config(config, None)?;
    let rules = LevelRules {
        schedules: SCHEDULES,
        karras_reads_ends: true,
        // diffusers truncates the timesteps of a cosine schedule instead of rounding them.
        karras_rounds: config.beta_schedule != Some(BetaSchedule::SquaredCosCapV2),
    };
    let levels = SigmaLevels::whole(config, num_inference_steps, config.lambda_min_clipped()?, rules)?;
    let end = if solver.ends_at_zero { 0.0 } else { levels.least };
    let lower_order_final = config.flag("lower_order_final")?.unwrap_or(true);
    let euler_at_final = config.flag("euler_at_final")?.unwrap_or(false);

    let mut evaluations = variance_preserving(&levels);
    evaluations.iter_mut().for_each(|at| at.draws_noise = solver.draws_noise());
    let steps = evaluations.len();
    let short = lower_order_final && steps < 15;
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([end]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        if remembered > step_index.min(solver.order - 1) {
            return None;
        }
        let last = step_index + 1 == steps && (euler_at_final || short || solver.ends_at_zero);
        let last_but_one = step_index + 2 == steps && short;
        let order = match remembered {
            0 => 1,
            _ if last => 1,
            1 => 2,
            _ if last_but_one => 2,
            _ => 3,
        };
        let predictions = predictions(solver.converted(sigmas[step_index]), remembered);
        Some(HistoryStep {
            next: step(solver, &sigmas, step_index, order, &predictions),
            remember: predictions.into_iter().take(solver.order - 1).collect(),
        })
    };
    Ok(Box::new(HistoryScheduler::new(evaluations, config.prediction_type, limit, 1.0, Box::new(plan))))
}

/// The evaluations of a scheduler of variance-preserving latents.
pub(crate) fn variance_preserving(levels: &SigmaLevels) -> Vec<Evaluation> {
    let at = |(&timestep, &sigma): (&f64, &f64)| Evaluation::variance_preserving(timestep, sigma);
    levels.timesteps.iter().zip(&levels.sigmas).map(at).collect()
}

/// This step's prediction and the remembered ones, latest first.
pub(crate) fn predictions(converted: Combination, remembered: usize) -> Vec<Combination> {
    std::iter::once(converted).chain((0..remembered).map(Combination::remembered)).collect()
}

fn step(
    solver: Solver,
    sigmas: &[f64],
    step_index: usize,
    order: usize,
    predictions: &[Combination],
) -> Combination {
    let (from, to) = (sigmas[step_index], sigmas[step_index + 1]);
    let weights = Weights::new(solver.algorithm, from, to);
    let mut next = Combination { latents: weights.latents, noise: weights.noise, ..Combination::default() };
    next.add(weights.d0, &predictions[0]);
    if from == to {
        return next;
    }
    let h = lambda(to) - lambda(from);
    let width = |back: usize| lambda(sigmas[step_index - back]) - lambda(sigmas[step_index - back - 1]);
    // w · D1_0 and w · D1_1.
    let mut add_difference = |back: usize, weight: f64| {
        let weight = weight * h / width(back);
        next.add(weight, &predictions[back]);
        next.add(-weight, &predictions[back + 1]);
    };
    match order {
        1 => {}
        2 => add_difference(0, weights.first_derivative(solver.solver_type)),
        _ => {
            let (r_0, r_1) = (width(0) / h, width(1) / h);
            let of_change = weights.d1 * r_0 / (r_0 + r_1) + weights.d2 / (r_0 + r_1);
            add_difference(0, weights.d1 + of_change);
            add_difference(1, -of_change);
        }
    }
    next
}
