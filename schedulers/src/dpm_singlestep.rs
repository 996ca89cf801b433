//! DPM-Solver and DPM-Solver++ in blocks of one, two or three steps ("DPM++ 2S"). Lu et al. 2022, arXiv:2206.00927 and
//! arXiv:2211.01095.

use crate::choices::TimestepSpacing;
use crate::config::SchedulerConfig;
use crate::dpm_multistep::{predictions, variance_preserving};
use crate::dpm_solver::{Algorithm, Solver, SolverType, Weights, lambda};
use crate::error::SchedulerError;
use crate::history::{Combination, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};
use crate::values::invalid;

/// A block of order k starts at a level s and evaluates the model at k levels; each step starts again from
/// the latents at s (arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095, algorithm 1), with the
/// predictions m_2 (at s), m_1 and m_0 (the latest):
///
/// ```text
/// second order:  D1 = (m_0 - m_1) / r_0
/// third order:   D1_0 = (m_1 - m_2) / r_1, D1_1 = (m_0 - m_2) / r_0; midpoint takes D1_1 for D1, heun
///                D1 = (r_0 D1_0 - r_1 D1_1) / (r_0 - r_1), D2 = 2 (D1_1 - D1_0) / (r_0 - r_1)
/// ```
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("dpm-singlestep")?;
    let solver = Solver::from_config("dpm-singlestep", config)?;
    if solver.algorithm == Algorithm::NoiseSde {
        let expected = "one of dpmsolver++, dpmsolver, sde-dpmsolver++";
        return Err(invalid("algorithm_type", expected, "sde-dpmsolver"));
    }
    let limit = Limit::from_config(config, None)?;
    if solver.algorithm == Algorithm::Noise && limit != Limit::None {
        return Err(invalid("thresholding", "false with `algorithm_type` = dpmsolver", true));
    }
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: true };
    // diffusers' class supports no other spacing.
    let mut linear = config.clone();
    linear.timestep_spacing = Some(TimestepSpacing::Linspace);
    let levels = SigmaLevels::whole(&linear, num_inference_steps, config.lambda_min_clipped()?, rules)?;
    let end = if solver.ends_at_zero { 0.0 } else { levels.least };
    let lower_order_final = config.flag("lower_order_final")?.unwrap_or(false)
        || !num_inference_steps.is_multiple_of(solver.order)
        || solver.ends_at_zero;
    let orders = orders(solver, num_inference_steps, lower_order_final);

    let mut evaluations = variance_preserving(&levels);
    evaluations.iter_mut().for_each(|at| at.draws_noise = solver.draws_noise());
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([end]).collect();
    // First the latents at the start of the block are remembered, then the predictions.
    let plan = move |step_index: usize, remembered: usize| {
        let predicted = remembered.saturating_sub(1);
        // Predictions are only remembered together with latents, and there is at least one of them if the
        // order allows it.
        if predicted > step_index.min(solver.order - 1)
            || remembered > 0 && (step_index == 0 || predicted == 0 && solver.order > 1)
        {
            return None;
        }
        // A run that starts inside a block has fewer predictions than the order requires.
        let order = orders[step_index].min(predicted + 1);
        let start = match order {
            1 => Combination { latents: 1.0, ..Combination::default() },
            _ => Combination::remembered(0),
        };
        let mut known = predictions(solver.converted(sigmas[step_index]), remembered);
        if remembered > 0 {
            known.remove(1);
        }
        let next = step(solver, &sigmas[..=step_index + 1], order, &start, &known);
        let remember = std::iter::once(start).chain(known.into_iter().take(solver.order - 1)).collect();
        Some(HistoryStep { next, remember })
    };
    Ok(Box::new(HistoryScheduler::new(evaluations, config.prediction_type, limit, 1.0, Box::new(plan))))
}

/// The order of each step: blocks of 1, 2, … up to the solver's, the last of them shortened.
fn orders(solver: Solver, steps: usize, lower_order_final: bool) -> Vec<usize> {
    let mut orders: Vec<usize> = (0..steps).map(|step| step % solver.order + 1).collect();
    // If the number of steps is a multiple of the order, the run ends with a separate last step.
    if lower_order_final && solver.order > 1 && steps.is_multiple_of(solver.order) {
        orders[steps - 1] = 1;
    }
    if solver.ends_at_zero {
        orders[steps - 1] = 1;
    }
    orders
}

/// The step from the level of the block's start to the last of `sigmas`; `known` are the predictions, latest
/// first.
fn step(
    solver: Solver,
    sigmas: &[f64],
    order: usize,
    start: &Combination,
    known: &[Combination],
) -> Combination {
    let last = sigmas.len() - 1;
    let (from, to) = (sigmas[last - order], sigmas[last]);
    let weights = Weights::new(solver.algorithm, from, to);
    let mut next = Combination { noise: weights.noise, ..Combination::default() };
    next.add(weights.latents, start);
    next.add(weights.d0, &known[order - 1]);
    let h = lambda(to) - lambda(from);
    // The distance of an earlier prediction from the start, as a share of the step.
    let share = |back: usize| (lambda(sigmas[last - 1 - back]) - lambda(from)) / h;
    let mut add_difference = |back: usize, weight: f64| {
        let weight = weight / share(back);
        next.add(weight, &known[back]);
        next.add(-weight, &known[order - 1]);
    };
    match (order, solver.solver_type) {
        (1, _) => {}
        (2, solver_type) => add_difference(0, weights.first_derivative(solver_type)),
        (_, SolverType::Midpoint) => add_difference(0, weights.d1),
        (_, SolverType::Heun) => {
            let (r_0, r_1) = (share(0), share(1));
            add_difference(1, (weights.d1 * r_0 - 2.0 * weights.d2) / (r_0 - r_1));
            add_difference(0, (2.0 * weights.d2 - weights.d1 * r_1) / (r_0 - r_1));
        }
    }
    next
}
