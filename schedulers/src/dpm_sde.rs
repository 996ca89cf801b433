//! Second-order steps of the SDE in data prediction ("DPM++ SDE"). The sampler `sample_dpmpp_sde` of k-diffusion
//! (Crowson 2022), after Lu et al. 2022, arXiv:2211.01095.

use crate::choices::BetaSchedule;
use crate::config::SchedulerConfig;
use crate::dpm_solver::refuse_sample;
use crate::error::SchedulerError;
use crate::euler_ancestral::down_and_up;
use crate::heun::with_between;
use crate::history::{Combination, Evaluation, HistoryScheduler, HistoryStep};
use crate::limit::Limit;
use crate::scheduler::Scheduler;
use crate::sigma_schedule::{LevelRules, SCHEDULES, SigmaLevels};

/// An ancestral step from σ to the intermediate level √(σ σ_next), then the whole ancestral step from the
/// start with the x_0 predicted there:
///
/// ```text
/// x_to = σ_down / σ · x + (1 - σ_down / σ) · x_0 + σ_up · noise
/// ```
///
/// The last step, to σ = 0, goes directly to x_0. Both noises belong to one Brownian path with time σ: the
/// noise of the whole step is the weighted sum of the remembered noise of its first half and of fresh noise,
/// where the weights are the square roots of their shares.
///
/// diffusers draws that path from a Brownian tree with a seed of its own; here it comes from the run's
/// generator, two draws per step, so pictures differ from those of diffusers as for another seed.
pub(crate) fn build(
    config: &SchedulerConfig,
    num_inference_steps: usize,
) -> Result<Box<dyn Scheduler>, SchedulerError> {
    config.refuse_zero_snr("dpm-sde")?;
    refuse_sample("dpm-sde", config)?;
    let config = &config.or_betas(0.00085, 0.012, BetaSchedule::Linear);
    let rules = LevelRules { schedules: SCHEDULES, karras_reads_ends: false, karras_rounds: false };
    let levels = SigmaLevels::fractional(config, num_inference_steps, rules)?;
    let between = levels.sigmas.windows(2).map(|pair| (pair[0] * pair[1]).sqrt());
    let asked = between.map(|sigma| Evaluation::at_sigma(levels.timestep_of(sigma), sigma)).collect();
    let mut evaluations = with_between(&levels, asked);
    let last = evaluations.len() - 1;
    evaluations.iter_mut().take(last).for_each(|at| at.draws_noise = true);
    let sigmas: Vec<f64> = levels.sigmas.iter().copied().chain([0.0]).collect();
    let plan = move |step_index: usize, remembered: usize| {
        let (sigma, sigma_next) = (sigmas[step_index / 2], sigmas[step_index / 2 + 1]);
        let between = (sigma * sigma_next).sqrt();
        let latents = Combination { latents: 1.0, ..Combination::default() };
        match (step_index % 2, remembered) {
            (0, 0) => {
                let fresh = Combination { noise: 1.0, ..Combination::default() };
                let next = ancestral(sigma, between, &latents, &fresh);
                Some(HistoryStep { next, remember: vec![latents, fresh] })
            }
            (1, 2) => {
                let first_half = (sigma - between) / (sigma - sigma_next);
                let mut noise = Combination { noise: (1.0 - first_half).sqrt(), ..Combination::default() };
                noise.add(first_half.sqrt(), &Combination::remembered(1));
                let next = ancestral(sigma, sigma_next, &Combination::remembered(0), &noise);
                Some(HistoryStep { next, remember: Vec::new() })
            }
            _ => None,
        }
    };
    let (kind, sigma_max) = (config.prediction_type, levels.init_noise_sigma);
    Ok(Box::new(
        HistoryScheduler::new(evaluations, kind, Limit::None, sigma_max, Box::new(plan)).with_order(2),
    ))
}

fn ancestral(sigma: f64, to: f64, start: &Combination, noise: &Combination) -> Combination {
    let (down, up) = down_and_up(sigma, to);
    let mut next = Combination { original: 1.0 - down / sigma, ..Combination::default() };
    next.add(down / sigma, start);
    next.add(up, noise);
    next
}
