//! UniPC, a predictor and a corrector of any order. Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework
//! for Fast Sampling of Diffusion Models", arXiv:2302.04867.

use serde_json::Value;

use crate::config::SchedulerConfig;
use crate::dpm_multistep::variance_preserving;
use crate::dpm_solver::{ends_at_zero, epsilon, lambda, refuse_flow};
use crate::error::SchedulerError;
use crate::history::{Combination, HistoryScheduler, HistoryStep, alpha_sigma};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};
use crate::values::invalid;

/// B(h) of the paper's section 3.2: any function of order h is possible.
#[derive(Clone, Copy)]
enum Scaling {
    /// B_1(h) = h.
    H,
    /// B_2(h) = e^h - 1.
    ExpM1,
}

const SOLVER_TYPES: [(&str, Scaling); 5] = [
    ("bh1", Scaling::H),
    ("bh2", Scaling::ExpM1),
    // diffusers interprets the configs of other classes in this way.
    ("midpoint", Scaling::ExpM1),
    ("heun", Scaling::ExpM1),
    ("logrho", Scaling::ExpM1),
];

#[derive(Clone)]
struct UniPc {
    sigmas: Vec<f64>,
    order: usize,
    predicts_original: bool,
    scaling: Scaling,
    lower_order_final: bool,
    disable_corrector: Vec<usize>,
}

/// Each output of the model is used twice: to correct the step before it (UniC-p), then to predict the next
/// (UniP-p), both in the form (arXiv:2302.04867, eq. 3 and 9, for x_0 prediction, -h for h):
///
/// ```text
/// x_t = σ_t / σ_s · x_s - α_t (e^-h - 1) m_0 - α_t B(h) Σ ρ_k D_k / r_k,  D_k = m_k - m_0
/// ```
///
/// where ρ solves R(h) ρ = φ(h) / B(h) (eq. 5) and the corrector uses the latest output in its last D.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    refuse_flow("unipc", config)?;
    config.refuse_unless("unipc", "solver_p", Value::Null)?;
    config.refuse_unless("unipc", "shift_terminal", Value::Null)?;
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: true, karras_rounds: true };
    let levels = SigmaLevels::whole(config, num_inference_steps, f64::NEG_INFINITY, rules)?;
    let end = if ends_at_zero(config)? { 0.0 } else { levels.own_end };
    let unipc = UniPc {
        sigmas: levels.sigmas.iter().copied().chain([end]).collect(),
        order: config.whole("solver_order", 1, 4)?.unwrap_or(2),
        predicts_original: config.flag("predict_x0")?.unwrap_or(true),
        scaling: config.choice("solver_type", &SOLVER_TYPES)?.unwrap_or(Scaling::ExpM1),
        lower_order_final: config.flag("lower_order_final")?.unwrap_or(true),
        disable_corrector: config.whole_numbers("disable_corrector")?.unwrap_or_default(),
    };
    if end == 0.0 && !unipc.lower_order_final && unipc.order > 1 {
        let expected = "true with `final_sigmas_type` = zero: the last step would divide by 0";
        return Err(invalid("lower_order_final", expected, false));
    }
    let limit = match unipc.predicts_original {
        true => Limit::from_config(config, None)?,
        // As in diffusers, whose noise prediction ignores thresholding.
        false => Limit::None,
    };
    let evaluations = variance_preserving(&levels);
    let plan = move |step_index, remembered| unipc.plan(step_index, remembered);
    Ok(Box::new(HistoryScheduler::new(evaluations, config.prediction_type, limit, 1.0, Box::new(plan))))
}

impl UniPc {
    /// The corrected latents at the start of the last step and the predictions, latest first, are remembered.
    fn plan(&self, step_index: usize, remembered: usize) -> Option<HistoryStep> {
        let predicted = remembered.saturating_sub(1);
        if predicted > step_index.min(self.order) || remembered == 1 {
            return None;
        }
        let converted = match self.predicts_original {
            true => Combination { original: 1.0, ..Combination::default() },
            false => epsilon(self.sigmas[step_index]),
        };
        let earlier: Vec<Combination> = (1..=predicted).map(Combination::remembered).collect();
        let corrects = predicted > 0 && !self.disable_corrector.contains(&(step_index - 1));
        let latents = match corrects {
            true => {
                let order = self.order_at(step_index - 1).min(predicted);
                self.update(step_index - 1, order, &Combination::remembered(0), &earlier, Some(&converted))
            }
            false => Combination { latents: 1.0, ..Combination::default() },
        };
        let known: Vec<Combination> = std::iter::once(converted).chain(earlier).take(self.order).collect();
        let order = self.order_at(step_index).min(predicted + 1);
        let next = self.update(step_index, order, &latents, &known, None);
        let remember = std::iter::once(latents).chain(known).collect();
        Some(HistoryStep { next, remember })
    }

    fn order_at(&self, step_index: usize) -> usize {
        let left = self.sigmas.len() - 1 - step_index;
        if self.lower_order_final { self.order.min(left) } else { self.order }
    }

    /// The step from the level at `from_index`, where the latents are `start` and the predictions there and
    /// before are `known`, to the next level; with the prediction `there`, corrected.
    fn update(
        &self,
        from_index: usize,
        order: usize,
        start: &Combination,
        known: &[Combination],
        there: Option<&Combination>,
    ) -> Combination {
        let (from, to) = (self.sigmas[from_index], self.sigmas[from_index + 1]);
        let mut next = Combination::default();
        if from == to {
            // h = 0: nothing changes, and the quotients below would be undefined.
            next.add(1.0, start);
            return next;
        }
        let (alpha_from, sigma_from) = alpha_sigma(from);
        let (alpha_to, sigma_to) = alpha_sigma(to);
        let h = lambda(to) - lambda(from);
        // scale · (e^hh - 1) is written out, because at a level without noise it is 0 times infinity.
        let (hh, scale, from_latents, of_first) = match self.predicts_original {
            true => (-h, alpha_to, sigma_to / sigma_from, alpha_to - sigma_to * alpha_from / sigma_from),
            false => (h, sigma_to, alpha_to / alpha_from, sigma_to - alpha_to * sigma_from / alpha_from),
        };
        next.add(from_latents, start);
        next.add(of_first, &known[0]);
        if order == 1 && there.is_none() {
            return next;
        }
        let b_h = match self.scaling {
            Scaling::H => hh,
            Scaling::ExpM1 => hh.exp_m1(),
        };
        let back = |k: usize| (lambda(self.sigmas[from_index - k]) - lambda(from)) / h;
        let distances: Vec<f64> = (1..order).map(back).chain(there.map(|_| 1.0)).collect();
        // The predictor of second order and the corrector of first order have a single weight, from the
        // paper's appendix.
        let weights = match (order, there) {
            (2, None) | (1, Some(_)) => vec![0.5],
            _ => solve(&distances, hh, b_h),
        };
        let others = known.iter().skip(1).take(order - 1).chain(there);
        for ((weight, distance), other) in weights.into_iter().zip(distances).zip(others) {
            let weight = -scale * b_h * weight / distance;
            next.add(weight, other);
            next.add(-weight, &known[0]);
        }
        next
    }
}

/// Solves R ρ = b by elimination with the largest pivot, where the rows of R are the powers 0, 1, … of
/// `distances` and b_i = i! φ_{i+1}(hh) · hh / B(h).
fn solve(distances: &[f64], hh: f64, b_h: f64) -> Vec<f64> {
    let count = distances.len();
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(count);
    let (mut factorial, mut phi) = (1.0, hh.exp_m1() / hh - 1.0);
    for power in 0..count as i32 {
        let mut row: Vec<f64> = distances.iter().map(|distance| distance.powi(power)).collect();
        row.push(phi * factorial / b_h);
        rows.push(row);
        factorial *= f64::from(power + 2);
        phi = phi / hh - 1.0 / factorial;
    }
    for column in 0..count {
        let pivot = (column..count).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let (done, rest) = rows.split_at_mut(column + 1);
        let pivot_row = &done[column];
        for row in rest {
            let factor = row[column] / pivot_row[column];
            row.iter_mut().zip(pivot_row).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    let mut solution = vec![0.0; count];
    for i in (0..count).rev() {
        let known: f64 = (i + 1..count).map(|j| rows[i][j] * solution[j]).sum();
        solution[i] = (rows[i][count] - known) / rows[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights satisfy the equations that define them.
    #[test]
    fn solves_the_order_conditions() {
        let (distances, hh) = ([-0.8, -1.9, 1.0], -0.7_f64);
        let weights = solve(&distances, hh, hh);
        // Σ ρ r^(i-1) = ∫ of the Taylor term: phi is computed by its own series.
        for power in 0..3 {
            let found: f64 = weights.iter().zip(distances).map(|(weight, r)| weight * r.powi(power)).sum();
            let factorial = |n: i32| (1..=n).map(f64::from).product::<f64>();
            let phi: f64 = (0..30).map(|k| hh.powi(k + 1) / factorial(k + power + 2)).sum();
            assert!((found - phi * factorial(power + 1) / hh).abs() < 1e-12, "{power}");
        }
    }
}
