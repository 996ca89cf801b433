//! Linear multistep (Adams–Bashforth) on the probability-flow ODE. The sampler of that name in k-diffusion (Crowson
//! 2022, `sample_lms`), on the levels of Karras et al. 2022, arXiv:2206.00364.

use crate::config::SchedulerConfig;
use crate::error::SchedulerError;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// Number of derivatives that a step uses, including its own.
const ORDER: usize = 4;

/// dx/dσ is the polynomial through the derivatives d = (x - x_0) / σ of this step and up to three before:
/// x_next = x + Σ d_j ∫ L_j(τ) dτ with the Lagrange polynomials L_j.
///
/// A run that starts late uses the weights of its usual order, as in diffusers: its first three steps lack
/// the terms of the missing derivatives.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("lms")?;
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: false, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    let evaluations = at_sigmas(&levels);
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([0.0]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        if remembered > step_index.min(ORDER - 1) {
            return None;
        }
        let order = ORDER.min(step_index + 1);
        let sigma = sigmas[step_index];
        let derivatives: Vec<Combination> =
            std::iter::once(derivative(sigma)).chain((0..remembered).map(Combination::remembered)).collect();
        let mut next = Combination { latents: 1.0, ..Combination::default() };
        let nodes: Vec<f64> = (0..order).map(|back| sigmas[step_index - back]).collect();
        for (place, derivative) in derivatives.iter().enumerate() {
            next.add(lagrange_integral(&nodes, place, sigma, sigmas[step_index + 1]), derivative);
        }
        Some(HistoryStep { next, remember: derivatives.into_iter().take(ORDER - 1).collect() })
    };
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(HistoryScheduler::new(evaluations, kind, Limit::None, sigma_max, Box::new(plan))))
}

/// The evaluations of a scheduler on the levels x_0 + σ · ε, one at each level.
pub(crate) fn at_sigmas(levels: &SigmaLevels) -> Vec<Evaluation> {
    let at = |(&timestep, &sigma): (&f64, &f64)| Evaluation::at_sigma(timestep, sigma);
    levels.timesteps.iter().zip(&levels.sigmas).map(at).collect()
}

/// dx/dσ = (x - x_0) / σ.
pub(crate) fn derivative(sigma: f64) -> Combination {
    Combination { latents: 1.0 / sigma, original: -1.0 / sigma, ..Combination::default() }
}

/// ∫ L_place(τ) dτ from `from` to `to`, where L is 1 at its own and 0 at the other of up to four `nodes`: Gauss's rule
/// with two points, exact for polynomials of third degree.
fn lagrange_integral(nodes: &[f64], place: usize, from: f64, to: f64) -> f64 {
    let polynomial = |tau: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(other, _)| *other != place);
        others.map(|(_, node)| (tau - node) / (nodes[place] - node)).product()
    };
    let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
    let offset = half / 3.0_f64.sqrt();
    half * (polynomial(middle - offset) + polynomial(middle + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The classical weights of Adams–Bashforth on equal steps.
    #[test]
    fn equal_steps_have_the_classical_weights() {
        let nodes = [4.0, 5.0, 6.0, 7.0];
        for (place, weight) in [55.0, -59.0, 37.0, -9.0].into_iter().enumerate() {
            let found = lagrange_integral(&nodes, place, 4.0, 3.0);
            assert!((found + weight / 24.0).abs() < 1e-14, "{place}: {found}");
        }
    }
}
