//! DEIS: exponential integrator with polynomial extrapolation. Zhang & Chen 2022, "Fast Sampling of Diffusion Models
//! with Exponential Integrator", arXiv:2204.13902 (ρAB-DEIS, polynomials in log ρ).

use crate::config::SchedulerConfig;
use crate::dpm_multistep::{predictions, variance_preserving};
use crate::dpm_solver::{epsilon, refuse_flow};
use crate::error::SchedulerError;
use crate::history::{Combination, HistoryScheduler, HistoryStep, alpha_sigma};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// With ρ = σ_t / α the ODE is d(x / α) / dρ = ε. In each step ε is approximated by the polynomial in log ρ
/// through the predictions m_0, m_1, … of this step and those before (section 3.3):
///
/// ```text
/// x_next = α_next (x / α + Σ m_j ∫ L_j(log ρ) dρ)
/// ```
///
/// with the Lagrange polynomials L_j. The run ends at the least noisy level of training.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    refuse_flow("deis", config)?;
    config.refuse_zero_snr("deis")?;
    // diffusers accepts the values of its other classes and uses its own.
    config.choice("algorithm_type", &[("deis", ()), ("dpmsolver", ()), ("dpmsolver++", ())])?;
    config
        .choice("solver_type", &[("logrho", ()), ("midpoint", ()), ("heun", ()), ("bh1", ()), ("bh2", ())])?;
    let solver_order = config.whole("solver_order", 1, 3)?.unwrap_or(2);
    let lower_order_final = config.flag("lower_order_final")?.unwrap_or(true);
    let limit = Limit::from_config(config, None)?;
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: true };
    let levels = SigmaLevels::whole(config, num_inference_steps, f64::NEG_INFINITY, rules)?;
    let end = levels.own_end;
    let evaluations = variance_preserving(&levels);
    let steps = evaluations.len();
    let short = lower_order_final && steps < 15;
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([end]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        if remembered > step_index.min(solver_order - 1) {
            return None;
        }
        let order = match steps - step_index {
            1 if short => 1,
            2 if short => solver_order.min(2),
            _ => solver_order,
        };
        let predictions = predictions(epsilon(sigmas[step_index]), remembered);
        let order = order.min(predictions.len());
        let (from, to) = (sigmas[step_index], sigmas[step_index + 1]);
        let (alpha_from, alpha_to) = (alpha_sigma(from).0, alpha_sigma(to).0);
        let mut next = Combination { latents: alpha_to / alpha_from, ..Combination::default() };
        let nodes: Vec<f64> = (0..order).map(|back| sigmas[step_index - back].ln()).collect();
        for (place, prediction) in predictions.iter().take(order).enumerate() {
            next.add(alpha_to * lagrange_integral(&nodes, place, from, to), prediction);
        }
        Some(HistoryStep { next, remember: predictions.into_iter().take(solver_order - 1).collect() })
    };
    Ok(Box::new(HistoryScheduler::new(evaluations, config.prediction_type, limit, 1.0, Box::new(plan))))
}

/// ∫ L_place(log ρ) dρ from `from` to `to`, where L is 1 at its own and 0 at the other of up to three `nodes`.
fn lagrange_integral(nodes: &[f64], place: usize, from: f64, to: f64) -> f64 {
    let others: Vec<f64> =
        nodes.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, node)| *node).collect();
    let scale: f64 = others.iter().map(|other| nodes[place] - other).product();
    let antiderivative = |rho: f64| {
        let l = rho.ln();
        rho * match others[..] {
            [] => 1.0,
            [a] => l - 1.0 - a,
            // ∫ l² dρ = ρ (l² - 2 l + 2), ∫ l dρ = ρ (l - 1).
            [a, b, ..] => l * l - 2.0 * l + 2.0 - (a + b) * (l - 1.0) + a * b,
        }
    };
    (antiderivative(to) - antiderivative(from)) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with the midpoint rule, which needs no antiderivative.
    #[test]
    fn integrals_are_those_of_the_polynomials() {
        let (from, to) = (4.0_f64, 2.5_f64);
        for nodes in
            [vec![from.ln()], vec![from.ln(), 6.0_f64.ln()], vec![from.ln(), 6.0_f64.ln(), 9.0_f64.ln()]]
        {
            for place in 0..nodes.len() {
                let polynomial = |l: f64| -> f64 {
                    let others = nodes.iter().enumerate().filter(|(other, _)| *other != place);
                    others.map(|(_, node)| (l - node) / (nodes[place] - node)).product()
                };
                let width = (to - from) / 10_000.0;
                let sum: f64 =
                    (0..10_000).map(|i| polynomial((from + (f64::from(i) + 0.5) * width).ln())).sum();
                let found = lagrange_integral(&nodes, place, from, to);
                assert!((found - sum * width).abs() < 1e-7, "{nodes:?}, {place}: {found}");
            }
        }
    }
}
