//! Pseudo numerical methods. Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds",
//! arXiv:2202.09778: pseudo linear multistep (PLMS), with or without a pseudo Runge–Kutta start (PRK).

use crate::choices::TimestepSpacing;
use crate::config::SchedulerConfig;
use crate::dpm_solver::refuse_sample;
use crate::error::SchedulerError;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::noise_schedule::NoiseSchedule;
use crate::prediction::PredictionType;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{ALIGN_YOUR_STEPS_KEY, SPACING_KEY, refuse_own_schedules};
use crate::timesteps::whole_timesteps;

/// Steps of a Runge–Kutta start, with four evaluations each.
const RUNGE_KUTTA_STEPS: usize = 3;

struct Pndm {
    alphas_cumprod: Vec<f64>,
    final_alpha_prod: f64,
    prediction_type: PredictionType,
    timesteps: Vec<usize>,
    /// Training timesteps in one inference step.
    stride: usize,
    /// Evaluations of the Runge–Kutta start.
    start: usize,
}

/// Adams–Bashforth's weights for the outputs of the model so far, e' = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) /
/// 24 and its lower orders, then the transfer of eq. 11. The first outputs come from Runge–Kutta's method
/// (three steps of four evaluations), or, with `skip_prk_steps`, from one step of Heun's.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("pndm")?;
    refuse_own_schedules("pndm", config, &[ALIGN_YOUR_STEPS_KEY, SPACING_KEY])?;
    refuse_sample("pndm", config)?;
    let skips_start = config.flag("skip_prk_steps")?.unwrap_or(false);
    let spaced = whole_timesteps(config, num_inference_steps, TimestepSpacing::Leading)?;
    let stride = config.num_train_timesteps / num_inference_steps;
    let timesteps = match skips_start {
        true => linear_multistep_timesteps(&spaced),
        false if spaced.len() > RUNGE_KUTTA_STEPS => runge_kutta_timesteps(&spaced, stride / 2),
        false => {
            let advice =
                format!("set the option to true, or use at least 4 steps instead of {num_inference_steps}");
            return Err(SchedulerError::Unsupported {
                scheduler: "pndm".to_owned(),
                key: "skip_prk_steps".to_owned(),
                value: "false".to_owned(),
                advice,
            });
        }
    };
    let schedule = NoiseSchedule::new(config)?;
    let ends_at_one = config.flag("set_alpha_to_one")?.unwrap_or(false);
    let pndm = Pndm {
        final_alpha_prod: if ends_at_one { 1.0 } else { schedule.alphas_cumprod()[0] },
        alphas_cumprod: schedule.alphas_cumprod().to_vec(),
        prediction_type: config.prediction_type,
        start: if skips_start { 0 } else { 4 * RUNGE_KUTTA_STEPS },
        timesteps,
        stride,
    };
    let evaluations = pndm.timesteps.iter().map(|&timestep| Evaluation {
        timestep: timestep as f64,
        signal_and_noise: schedule.signal_and_noise(timestep),
        noised: schedule.signal_and_noise(timestep),
        input_scale: 1.0,
        draws_noise: false,
    });
    let evaluations = evaluations.collect();
    let plan = move |step_index, remembered| pndm.plan(step_index, remembered);
    let kind = config.prediction_type;
    Ok(Box::new(HistoryScheduler::new(evaluations, kind, Limit::None, 1.0, Box::new(plan))))
}

/// The second timestep occurs twice: Heun's step evaluates at its end.
fn linear_multistep_timesteps(spaced: &[usize]) -> Vec<usize> {
    let repeated = spaced.iter().skip(1).take(1);
    spaced.iter().take(2).chain(repeated).chain(spaced.iter().skip(2)).copied().collect()
}

/// Each Runge–Kutta step evaluates at its start, twice in its middle, and at its end.
fn runge_kutta_timesteps(spaced: &[usize], half: usize) -> Vec<usize> {
    let block = |pair: &[usize]| [pair[0], pair[1] + half, pair[1] + half, pair[1]];
    let start = spaced.windows(2).take(RUNGE_KUTTA_STEPS).flat_map(block);
    start.chain(spaced.iter().skip(RUNGE_KUTTA_STEPS).copied()).collect()
}

impl Pndm {
    fn plan(&self, step_index: usize, remembered: usize) -> Option<HistoryStep> {
        if step_index < self.start {
            self.runge_kutta(step_index, remembered)
        } else {
            self.linear_multistep(step_index, remembered)
        }
    }

    /// Within a step, the latents at its start and the weighted sum of its outputs are remembered, followed
    /// by the outputs at the starts so far.
    fn runge_kutta(&self, step_index: usize, remembered: usize) -> Option<HistoryStep> {
        let (block, stage) = (step_index / 4, step_index % 4);
        let within = if stage == 0 { 0 } else { 2 };
        let answers = block + usize::from(stage > 0);
        if remembered != within + answers {
            return None;
        }
        let output = Combination { output: 1.0, ..Combination::default() };
        let here = Combination { latents: 1.0, ..Combination::default() };
        let latents = if stage == 0 { here } else { Combination::remembered(0) };
        let mut sum =
            Combination { output: [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0][stage], ..output.clone() };
        if stage > 0 {
            sum.add_remembered(1, 1.0);
        }
        let answer = if stage == 3 { &sum } else { &output };
        let half = if stage % 2 == 0 { self.stride / 2 } else { 0 };
        let previous = self.timesteps[step_index].checked_sub(half);
        let next = self.transfer(&latents, self.timesteps[4 * block], previous, answer)?;
        let fresh = (stage == 0).then(|| output.clone());
        let starts = fresh.into_iter().chain((within..within + answers).map(Combination::remembered));
        let remember = match stage {
            3 => starts.collect(),
            _ => [latents, sum].into_iter().chain(starts).collect(),
        };
        Some(HistoryStep { next, remember })
    }

    /// The latents at the start of the last step and up to three outputs are remembered, latest first; after
    /// the second evaluation, which repeats the first step, only the output. So their number identifies the
    /// progress of a run.
    fn linear_multistep(&self, step_index: usize, remembered: usize) -> Option<HistoryStep> {
        let timestep = self.timesteps[step_index];
        let output = Combination { output: 1.0, ..Combination::default() };
        let here = Combination { latents: 1.0, ..Combination::default() };
        let started = self.start > 0 && step_index == self.start;
        if remembered > 0 && step_index < [0, 2, 1].get(remembered).copied().unwrap_or(remembered) {
            return None;
        }
        if remembered == 2 && !started {
            let mut mean = Combination { output: 0.5, ..Combination::default() };
            mean.add_remembered(1, 0.5);
            let start = timestep + self.stride;
            let next = self.transfer(&Combination::remembered(0), start, Some(timestep), &mean)?;
            return Some(HistoryStep { next, remember: vec![Combination::remembered(1)] });
        }
        let earlier = match remembered {
            0 if self.start == 0 => Vec::new(),
            1 if self.start == 0 => vec![Combination::remembered(0)],
            // The Runge–Kutta start leaves three outputs.
            3 if started => (0..3).map(Combination::remembered).collect(),
            3 if self.start == 0 => (1..3).map(Combination::remembered).collect(),
            4 if !started => (1..4).map(Combination::remembered).collect(),
            _ => return None,
        };
        let weights: &[f64] = match earlier.len() {
            0 => &[1.0],
            1 => &[3.0 / 2.0, -1.0 / 2.0],
            2 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        };
        let answers: Vec<Combination> = std::iter::once(output).chain(earlier).collect();
        let mut answer = Combination::default();
        weights.iter().zip(&answers).for_each(|(weight, other)| answer.add(*weight, other));
        let next = self.transfer(&here, timestep, timestep.checked_sub(self.stride), &answer)?;
        let remember = std::iter::once(here).chain(answers.into_iter().take(3)).collect();
        Some(HistoryStep { next, remember })
    }

    /// The transfer part φ of the paper, eq. 11: from `timestep` to `previous`, or to the end of the run.
    fn transfer(
        &self,
        latents: &Combination,
        timestep: usize,
        previous: Option<usize>,
        answer: &Combination,
    ) -> Option<Combination> {
        let alpha_prod = *self.alphas_cumprod.get(timestep)?;
        let alpha_prod_prev =
            previous.map_or(self.final_alpha_prod, |previous| self.alphas_cumprod[previous]);
        let (signal, noise_level) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());
        let (from_latents, from_output) = self.prediction_type.noise(signal, noise_level);
        let mut epsilon = Combination::default();
        epsilon.add(from_latents, latents);
        epsilon.add(from_output, answer);
        let divisor = alpha_prod * (1.0 - alpha_prod_prev).sqrt()
            + (alpha_prod * (1.0 - alpha_prod) * alpha_prod_prev).sqrt();
        let mut next = Combination::default();
        next.add((alpha_prod_prev / alpha_prod).sqrt(), latents);
        next.add(-(alpha_prod_prev - alpha_prod) / divisor, &epsilon);
        Some(next)
    }
}
