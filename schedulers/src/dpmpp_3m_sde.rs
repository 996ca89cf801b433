//! The SDE in data prediction over three steps ("DPM++ 3M SDE"). The sampler `sample_dpmpp_3m_sde` of k-diffusion (Crowson
//! 2023), after Lu et al. 2022, arXiv:2211.01095.

use crate::config::SchedulerConfig;
use crate::dpm_solver::lambda;
use crate::error::SchedulerError;
use crate::history::{Combination, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::lms::at_sigmas;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// Predictions that a step looks back on, besides its own.
const MOST_REMEMBERED: usize = 2;

/// With h = log(σ / σ_next), the widths h_1, h_2 of the two steps before in the same measure, their predictions m_1, m_2
/// and that of this step, m_0:
///
/// ```text
/// x_next = e^(-2h) · x + (1 - e^(-2h)) · m_0 + σ_next · √(1 - e^(-2h)) · noise + φ_2 · D1 - φ_3 · D2
/// φ_2 = (e^(-2h) - 1) / 2h + 1,  φ_3 = φ_2 / 2h - 1/2
///
/// second step:  D1 = h / h_1 · (m_0 - m_1), D2 = 0
/// later steps:  D1_0 = h / h_1 · (m_0 - m_1), D1_1 = h / h_2 · (m_1 - m_2)
///               D1 = D1_0 + h_1 / (h_1 + h_2) · (D1_0 - D1_1), D2 = h / (h_1 + h_2) · (D1_0 - D1_1)
/// ```
///
/// The last step, to σ = 0, goes straight to m_0. Noise is drawn at each step but the last.
///
/// diffusers' `DPMSolverMultistepScheduler` with `solver_order` = 3 and `algorithm_type` = sde-dpmsolver++ is another
/// method: it takes up the second derivative with another weight, and the second step by the midpoint rule.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    let mut evaluations = at_sigmas(&levels);
    let last = evaluations.len() - 1;
    evaluations.iter_mut().take(last).for_each(|at| at.draws_noise = true);
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([0.0]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        if remembered > step_index.min(MOST_REMEMBERED) {
            return None;
        }
        let original = Combination { original: 1.0, ..Combination::default() };
        let predictions: Vec<Combination> =
            std::iter::once(original).chain((0..remembered).map(Combination::remembered)).collect();
        let next = match sigmas[step_index + 1] {
            0.0 => predictions[0].clone(),
            _ => step(&sigmas[step_index - remembered..step_index + 2], &predictions),
        };
        Some(HistoryStep { next, remember: predictions.into_iter().take(MOST_REMEMBERED).collect() })
    };
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(HistoryScheduler::new(evaluations, kind, Limit::None, sigma_max, Box::new(plan))))
}

/// The step from the last but one of `sigmas` to the last, with the `predictions` at those before the last, latest first.
fn step(sigmas: &[f64], predictions: &[Combination]) -> Combination {
    let place = sigmas.len() - 2;
    let (from, to) = (sigmas[place], sigmas[place + 1]);
    let kept = (to / from) * (to / from);
    let mut next = Combination { latents: kept, noise: to * (1.0 - kept).sqrt(), ..Combination::default() };
    next.add(1.0 - kept, &predictions[0]);
    if from == to {
        return next;
    }
    let h = lambda(to) - lambda(from);
    let phi_2 = (-2.0 * h).exp_m1() / (2.0 * h) + 1.0;
    let phi_3 = phi_2 / (2.0 * h) - 0.5;
    let width = |back: usize| lambda(sigmas[place - back + 1]) - lambda(sigmas[place - back]);
    // The difference of two predictions by the width of the step between them.
    let mut add_slope = |back: usize, weight: f64| {
        let weight = weight * h / width(back);
        next.add(weight, &predictions[back - 1]);
        next.add(-weight, &predictions[back]);
    };
    match predictions.len() {
        1 => {}
        2 => add_slope(1, phi_2),
        _ => {
            let both = width(1) + width(2);
            let of_change = phi_2 * width(1) / both - phi_3 * h / both;
            add_slope(1, phi_2 + of_change);
            add_slope(2, -of_change);
        }
    }
    next
}
