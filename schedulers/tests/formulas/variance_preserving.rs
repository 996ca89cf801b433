//! The samplers whose latents are √ᾱ · x_0 + √(1 - ᾱ) · ε, from their papers.

use crate::{ALL_TYPES, NOISE_AND_VELOCITY, Walk, alphas_cumprod, check, check_each, config, leading};

/// Pairs of a timestep and the next; `None` is the end of the run.
fn strides(timesteps: &[usize]) -> impl Iterator<Item = (usize, Option<usize>)> {
    timesteps.iter().enumerate().map(|(step, &timestep)| (timestep, timesteps.get(step + 1).copied()))
}

/// Song et al. 2020, eq. 12 and 16.
#[test]
fn ddim_noises_its_original_again() {
    let alphas_cumprod = alphas_cumprod();
    for eta in [0.0_f64, 0.4, 1.0] {
        for (to_one, end) in [("true", 1.0), ("false", alphas_cumprod[0])] {
            let settings = format!(r#""clip_sample": false, "eta": {eta}, "set_alpha_to_one": {to_one}"#);
            for steps in [1, 2, 8, 20] {
                check_each(&ALL_TYPES, "ddim", &settings, steps, |walk, start| {
                    strides(&leading(steps)).fold(start, |x, (timestep, next)| {
                        let (from, to) = (alphas_cumprod[timestep], next.map_or(end, |t| alphas_cumprod[t]));
                        let (original, epsilon) = walk.original_and_noise(x, from);
                        let variance = eta * eta * (1.0 - to) / (1.0 - from) * (1.0 - from / to);
                        let noise = if eta > 0.0 { variance.sqrt() * walk.noise() } else { 0.0 };
                        to.sqrt() * original + (1.0 - to - variance).max(0.0).sqrt() * epsilon + noise
                    })
                });
            }
        }
    }
}

/// The limit applies to x_0; the ε of the step is that of the model.
#[test]
fn ddim_clips_the_original_alone() {
    let alphas_cumprod = alphas_cumprod();
    let settings = r#""clip_sample": true, "clip_sample_range": 0.7"#;
    check_each(&ALL_TYPES, "ddim", settings, 8, |walk, start| {
        strides(&leading(8)).fold(start, |x, (timestep, next)| {
            let to = next.map_or(1.0, |t| alphas_cumprod[t]);
            let (original, epsilon) = walk.original_and_noise(x, alphas_cumprod[timestep]);
            to.sqrt() * original.clamp(-0.7, 0.7) + (1.0 - to).sqrt() * epsilon
        })
    });
}

/// By Bayes' rule: the distributions of the next latents given x_0 and given the present latents are normal,
/// and their product has the sum of their precisions.
#[test]
fn ddpm_draws_from_the_posterior() {
    let alphas_cumprod = alphas_cumprod();
    for (variance_type, is_large) in
        [("fixed_small", false), ("fixed_large", true), ("fixed_small_log", false)]
    {
        let settings = format!(r#""clip_sample": false, "variance_type": "{variance_type}""#);
        for steps in [1, 2, 8, 20] {
            check_each(&ALL_TYPES, "ddpm", &settings, steps, |walk, start| {
                strides(&leading(steps)).fold(start, |x, (timestep, next)| {
                    let from = alphas_cumprod[timestep];
                    let (original, _) = walk.original_and_noise(x, from);
                    let Some(next) = next else { return original };
                    let to = alphas_cumprod[next];
                    let (alpha, beta) = (from / to, 1.0 - from / to);
                    let (from_latents, from_original) = (alpha / beta, 1.0 / (1.0 - to));
                    let precision = from_latents + from_original;
                    let mean =
                        (from_latents * x / alpha.sqrt() + from_original * to.sqrt() * original) / precision;
                    let variance = if is_large { beta } else { 1.0 / precision };
                    mean + variance.sqrt() * walk.noise()
                })
            });
        }
    }
}

/// Timesteps of a model distilled from 50 steps.
fn distilled(steps: usize) -> Vec<usize> {
    (0..steps).map(|i| (50 - i * 50 / steps) * 20 - 1).collect()
}

/// Luo et al. 2023, algorithm 3, with the boundary condition of consistency models.
#[test]
fn lcm_noises_the_end_of_the_path() {
    let alphas_cumprod = alphas_cumprod();
    let spaced = |steps: usize| (0..steps).map(|i| 999 - i * 1000 / steps).collect();
    for (scaling, steps, spacing, timesteps) in [
        (10.0, 1, "", distilled(1)),
        (10.0, 4, "", distilled(4)),
        (0.001, 4, "", distilled(4)),
        (10.0, 7, "", distilled(7)),
        // As in ComfyUI, where the schedule is chosen for itself.
        (10.0, 1, r#", "sigma_spacing": "simple""#, spaced(1)),
        (0.001, 4, r#", "sigma_spacing": "simple""#, spaced(4)),
        (10.0, 7, r#", "sigma_spacing": "simple""#, spaced(7)),
    ] {
        let settings = format!(r#""timestep_scaling": {scaling}{spacing}"#);
        check_each(&ALL_TYPES, "lcm", &settings, steps, |walk, start| {
            strides(&timesteps).fold(start, |x, (timestep, next)| {
                let (original, _) = walk.original_and_noise(x, alphas_cumprod[timestep]);
                let scaled = timestep as f64 * scaling;
                let sum = scaled * scaled + 0.25;
                let end = 0.25 / sum * x + scaled / sum.sqrt() * original;
                let Some(next) = next else { return end };
                let to = alphas_cumprod[next];
                to.sqrt() * end + (1.0 - to).sqrt() * walk.noise()
            })
        });
    }
}

/// Zheng et al. 2024, algorithm 4.
#[test]
fn tcd_jumps_below_the_next_level_and_noises_up_to_it() {
    let alphas_cumprod = alphas_cumprod();
    for (eta, steps) in [(0.0, 1), (0.0, 4), (0.3, 4), (1.0, 4), (0.3, 7)] {
        check_each(&ALL_TYPES, "tcd", &format!(r#""eta": {eta}"#), steps, |walk, start| {
            strides(&distilled(steps)).fold(start, |x, (timestep, next)| {
                let (original, epsilon) = walk.original_and_noise(x, alphas_cumprod[timestep]);
                let below = ((1.0 - eta) * next.unwrap_or(0) as f64 + 1e-9).floor() as usize;
                let target = alphas_cumprod[below];
                let x = target.sqrt() * original + (1.0 - target).sqrt() * epsilon;
                match next {
                    Some(next) if eta > 0.0 => {
                        let kept = alphas_cumprod[next] / target;
                        kept.sqrt() * x + (1.0 - kept).sqrt() * walk.noise()
                    }
                    _ => x,
                }
            })
        });
    }
}

/// Liu et al. 2022, eq. 11: from ᾱ `from` to ᾱ `to` along ε.
fn transfer(x: f64, epsilon: f64, from: f64, to: f64) -> f64 {
    let divisor = from.sqrt() * (((1.0 - to) * from).sqrt() + ((1.0 - from) * to).sqrt());
    (to / from).sqrt() * x - (to - from) / divisor * epsilon
}

/// The ε for the transfer, computed from the model's outputs as if each were of this level.
fn epsilon_of(walk: &Walk, x: f64, answer: f64, alpha_prod: f64) -> f64 {
    match walk.prediction_type {
        sdq_schedulers::PredictionType::VPrediction => {
            alpha_prod.sqrt() * answer + (1.0 - alpha_prod).sqrt() * x
        }
        _ => answer,
    }
}

/// The weights of Adams and Bashforth for the outputs so far, the latest first.
fn adams_bashforth(answers: &[f64]) -> f64 {
    match *answers {
        [a] => a,
        [a, b] => (3.0 * a - b) / 2.0,
        [a, b, c] => (23.0 * a - 16.0 * b + 5.0 * c) / 12.0,
        [a, b, c, d, ..] => (55.0 * a - 59.0 * b + 37.0 * c - 9.0 * d) / 24.0,
        [] => 0.0,
    }
}

/// PLMS: a step of Heun's method for the first, then linear multistep.
#[test]
fn pndm_without_runge_kutta_starts_with_heun() {
    let alphas_cumprod = alphas_cumprod();
    for (to_one, end) in [("true", 1.0), ("false", alphas_cumprod[0])] {
        let settings = format!(r#""skip_prk_steps": true, "set_alpha_to_one": {to_one}"#);
        for steps in [2, 3, 8, 20] {
            check_each(&NOISE_AND_VELOCITY, "pndm", &settings, steps, |walk, start| {
                let mut answers: Vec<f64> = Vec::new();
                strides(&leading(steps)).fold(start, |x, (timestep, next)| {
                    let (from, to) = (alphas_cumprod[timestep], next.map_or(end, |t| alphas_cumprod[t]));
                    let answer = walk.answer(x);
                    answers.insert(0, answer);
                    let epsilon = epsilon_of(walk, x, adams_bashforth(&answers), from);
                    let there = transfer(x, epsilon, from, to);
                    if answers.len() > 1 {
                        return there;
                    }
                    let mean = (answer + walk.answer(there)) / 2.0;
                    transfer(x, epsilon_of(walk, x, mean, from), from, to)
                })
            });
        }
    }
}

/// PRK: three steps of the classical Runge–Kutta method, then linear multistep.
#[test]
fn pndm_starts_with_runge_kutta() {
    let alphas_cumprod = alphas_cumprod();
    for steps in [4, 5, 10, 20] {
        let half = 1000 / steps / 2;
        check_each(&["epsilon"], "pndm", "", steps, |walk, start| {
            let mut answers: Vec<f64> = Vec::new();
            strides(&leading(steps)).enumerate().fold(start, |x, (step, (timestep, next))| {
                let from = alphas_cumprod[timestep];
                let to = alphas_cumprod[next.unwrap_or(0)];
                let first = walk.answer(x);
                answers.insert(0, first);
                if step >= 3 {
                    return transfer(x, adams_bashforth(&answers), from, to);
                }
                let middle = alphas_cumprod[timestep - half];
                let second = walk.answer(transfer(x, first, from, middle));
                let third = walk.answer(transfer(x, second, from, middle));
                let fourth = walk.answer(transfer(x, third, from, to));
                transfer(x, (first + 2.0 * second + 2.0 * third + fourth) / 6.0, from, to)
            })
        });
    }
}

/// With zero terminal SNR the first latents are pure noise, and a predicted velocity still determines x_0 =
/// -v.
#[test]
fn a_velocity_can_start_from_pure_noise() {
    let mut config = config(r#""clip_sample": false, "timestep_spacing": "trailing""#);
    config.set("rescale_betas_zero_snr", true.into()).unwrap();
    config.set("prediction_type", "v_prediction".into()).unwrap();
    let schedule = sdq_schedulers::NoiseSchedule::new(&config).unwrap();
    check("ddim", &config, 1, |walk, start| {
        let answer = walk.answer(start);
        // diffusers takes a whole stride down from the last timestep, past the end.
        assert_eq!(schedule.alphas_cumprod()[999], 0.0);
        -answer
    });
}
