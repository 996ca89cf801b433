//! DPM-Solver, DEIS and UniPC, in terms of the latents divided by their signal, y = x / α = x_0 + σ · ε,
//! where each formula is short.

use crate::{ALL_TYPES, Walk, alphas_cumprod, check_each, lagrange_integral};

const KARRAS: &str = r#""use_karras_sigmas": true"#;

fn sigma_of(alpha_prod: f64) -> f64 {
    ((1.0 - alpha_prod) / alpha_prod).sqrt()
}

/// The Karras levels from end to end of training, then `end`.
fn karras(steps: usize, end: f64) -> Vec<f64> {
    let alphas_cumprod = alphas_cumprod();
    let (max, min) = (sigma_of(alphas_cumprod[999]), sigma_of(alphas_cumprod[0]));
    let at = |i: usize| {
        let share = i as f64 / (steps - 1) as f64;
        (max.powf(1.0 / 7.0) * (1.0 - share) + min.powf(1.0 / 7.0) * share).powi(7)
    };
    (0..steps).map(at).chain([end]).collect()
}

/// The smallest level of training.
fn least() -> f64 {
    sigma_of(alphas_cumprod()[0])
}

/// The share of signal in latents of unit variance.
fn alpha(sigma: f64) -> f64 {
    1.0 / sigma.hypot(1.0)
}

/// λ, half the log-SNR.
fn lambda(sigma: f64) -> f64 {
    -sigma.ln()
}

/// Applies `step` in y from one level of `sigmas` to the next, with the step's index; converts from latents
/// and back.
fn follow(
    walk: &mut Walk,
    start: f64,
    sigmas: &[f64],
    mut step: impl FnMut(&mut Walk, usize, f64) -> f64,
) -> f64 {
    let y = start / alpha(sigmas[0]);
    let end = (0..sigmas.len() - 1).fold(y, |y, index| step(walk, index, y));
    end * alpha(sigmas[sigmas.len() - 1])
}

/// DPM-Solver++(2M) of arXiv:2211.01095, algorithm 2. Runs of fewer than 15 steps end with one of first
/// order, and so do runs that end without noise.
#[test]
fn second_order_multistep_extrapolates_the_original() {
    for (settings, end) in [("zero", 0.0), ("sigma_min", least())] {
        let settings = format!(r#"{KARRAS}, "final_sigmas_type": "{settings}""#);
        for steps in [2, 9, 20] {
            let sigmas = karras(steps, end);
            check_each(&ALL_TYPES, "dpm-multistep", &settings, steps, |walk, start| {
                let mut last = None;
                follow(walk, start, &sigmas, |walk, index, y| {
                    let (from, to) = (sigmas[index], sigmas[index + 1]);
                    let original = walk.original_at_sigma(y, from);
                    let first_order = index + 1 == steps && (steps < 15 || end == 0.0);
                    let extrapolated = match last.replace(original) {
                        Some(before) if !first_order => {
                            let h = lambda(to) - lambda(from);
                            let r =
                                if h == 0.0 { 1.0 } else { (lambda(from) - lambda(sigmas[index - 1])) / h };
                            original + (original - before) / (2.0 * r)
                        }
                        _ => original,
                    };
                    to / from * y + (1.0 - to / from) * extrapolated
                })
            });
        }
    }
}

/// The SDE of k-diffusion's `sample_dpmpp_2m_sde`, with either solver type.
#[test]
fn the_sde_decays_twice_as_fast_and_adds_noise() {
    for is_heun in [false, true] {
        let kind = if is_heun { "heun" } else { "midpoint" };
        let settings = format!(r#"{KARRAS}, "algorithm_type": "sde-dpmsolver++", "solver_type": "{kind}""#);
        for steps in [2, 9, 20] {
            let sigmas = karras(steps, 0.0);
            check_each(&ALL_TYPES, "dpm-multistep", &settings, steps, |walk, start| {
                let mut last = None;
                follow(walk, start, &sigmas, |walk, index, y| {
                    let (from, to) = (sigmas[index], sigmas[index + 1]);
                    let original = walk.original_at_sigma(y, from);
                    let noise = walk.noise();
                    if to == 0.0 {
                        return original;
                    }
                    let h = lambda(to) - lambda(from);
                    let kept = (-2.0 * h).exp();
                    let mut next = kept * y + (1.0 - kept) * original + to * (1.0 - kept).sqrt() * noise;
                    if let Some(before) = last {
                        let difference: f64 = original - before;
                        let r = (lambda(from) - lambda(sigmas[index - 1])) / h;
                        let weight =
                            if is_heun { 1.0 - (1.0 - kept) / (2.0 * h) } else { (1.0 - kept) / 2.0 };
                        next += weight * difference / r;
                    }
                    last = Some(original);
                    next
                })
            });
        }
    }
}

/// In noise prediction the ODE is dy/dσ = ε; the SDE goes twice as far and adds noise.
#[test]
fn noise_prediction_extrapolates_the_noise() {
    for is_sde in [false, true] {
        let kind = if is_sde { "sde-dpmsolver" } else { "dpmsolver" };
        let settings = format!(r#"{KARRAS}, "algorithm_type": "{kind}", "final_sigmas_type": "sigma_min""#);
        for steps in [3, 9] {
            let sigmas = karras(steps, least());
            check_each(&ALL_TYPES, "dpm-multistep", &settings, steps, |walk, start| {
                let mut last = None;
                follow(walk, start, &sigmas, |walk, index, y| {
                    let (from, to) = (sigmas[index], sigmas[index + 1]);
                    let epsilon = walk.slope(y, from);
                    let extrapolated = match last.replace(epsilon) {
                        Some(before) if index + 1 < steps => {
                            let h = lambda(to) - lambda(from);
                            epsilon
                                + (epsilon - before) * h / (lambda(from) - lambda(sigmas[index - 1])) / 2.0
                        }
                        _ => epsilon,
                    };
                    match is_sde {
                        false => y + (to - from) * extrapolated,
                        true => {
                            let up = (from * from - to * to).max(0.0).sqrt();
                            y + 2.0 * (to - from) * extrapolated + up * walk.noise()
                        }
                    }
                })
            });
        }
    }
}

/// Third order as in `sample_dpmpp_3m_sde` without noise, after the authors of DPM-Solver; the first and the
/// last steps of a run have lower order.
#[test]
fn third_order_multistep_extrapolates_twice() {
    let settings = format!(r#"{KARRAS}, "solver_order": 3, "solver_type": "heun""#);
    for steps in [3, 9, 20] {
        let sigmas = karras(steps, 0.0);
        check_each(&ALL_TYPES, "dpm-multistep", &settings, steps, |walk, start| {
            let mut originals: Vec<f64> = Vec::new();
            follow(walk, start, &sigmas, |walk, index, y| {
                let (from, to) = (sigmas[index], sigmas[index + 1]);
                originals.insert(0, walk.original_at_sigma(y, from));
                if index + 1 == steps {
                    return originals[0];
                }
                let h = lambda(to) - lambda(from);
                // Differences between consecutive predictions, divided by their distance in h.
                let distance =
                    |back: usize| (lambda(sigmas[index - back]) - lambda(sigmas[index - back - 1])) / h;
                let slope = |back: usize| (originals[back] - originals[back + 1]) / distance(back);
                let phi_2 = (-h).exp_m1() / h + 1.0;
                let phi_3 = phi_2 / h - 0.5;
                let next = to / from * y + (1.0 - to / from) * originals[0];
                match originals.len() {
                    1 => next,
                    count if count == 2 || steps < 15 && index + 2 == steps => next + phi_2 * slope(0),
                    _ => {
                        let (r_0, r_1) = (distance(0), distance(1));
                        let change = slope(0) - slope(1);
                        next + phi_2 * (slope(0) + change * r_0 / (r_0 + r_1)) - phi_3 * change / (r_0 + r_1)
                    }
                }
            })
        });
    }
}

/// DPM-Solver++(2S) of arXiv:2211.01095, algorithm 1, on a fixed grid: two evaluations, then both steps again
/// from the start of the first. A run that ends without noise has a separate last step.
#[test]
fn singlestep_goes_over_its_blocks_again() {
    for steps in [2, 3, 6, 9] {
        let sigmas = karras(steps, 0.0);
        check_each(&ALL_TYPES, "dpm-singlestep", KARRAS, steps, |walk, start| {
            let (mut block, mut index) = (start / alpha(sigmas[0]), 0);
            loop {
                let (from, middle) = (sigmas[index], sigmas[index + 1]);
                let first = walk.original_at_sigma(block, from);
                let y = middle / from * block + (1.0 - middle / from) * first;
                if index + 1 == steps {
                    return y;
                }
                if index + 2 == steps {
                    return walk.original_at_sigma(y, middle);
                }
                let to = sigmas[index + 2];
                let second = walk.original_at_sigma(y, middle);
                let r = (lambda(middle) - lambda(from)) / (lambda(to) - lambda(from));
                let mean = first + (second - first) / (2.0 * r);
                block = to / from * block + (1.0 - to / from) * mean;
                index += 2;
            }
        });
    }
}

/// Zhang & Chen 2022: ε is a polynomial in log σ, integrated over σ.
#[test]
fn deis_integrates_polynomials_in_the_logarithm() {
    for order in [1, 2, 3] {
        let settings = format!(r#"{KARRAS}, "solver_order": {order}"#);
        for steps in [3, 9, 20] {
            let sigmas = karras(steps, least());
            check_each(&ALL_TYPES, "deis", &settings, steps, |walk, start| {
                let mut slopes: Vec<f64> = Vec::new();
                follow(walk, start, &sigmas, |walk, index, y| {
                    let (from, to) = (sigmas[index], sigmas[index + 1]);
                    slopes.insert(0, walk.slope(y, from));
                    let left = if steps < 15 { steps - index } else { order };
                    let order = slopes.len().min(order).min(left);
                    let nodes: Vec<f64> = (0..order).map(|back| sigmas[index - back]).collect();
                    let weight = |place| lagrange_integral(&nodes, place, from, to, f64::ln);
                    y + slopes.iter().take(order).enumerate().map(|(place, e)| weight(place) * e).sum::<f64>()
                })
            });
        }
    }
}

/// The state of UniPC of second order: the previous level, the latents there, and the predictions so far.
struct Remembered {
    level: usize,
    y: f64,
    predictions: Vec<f64>,
}

/// A step of arXiv:2302.04867, eq. 3 and 9, from `from` to `to` in x_0 prediction: `others` are further
/// predictions, with their distance from the start in steps and their weight.
fn unified_step(
    y: f64,
    (from, to): (f64, f64),
    b_h: f64,
    prediction: f64,
    others: &[(f64, f64, f64)],
) -> f64 {
    let sum: f64 =
        others.iter().map(|(other, distance, weight)| weight * (other - prediction) / distance).sum();
    to / from * y + (1.0 - to / from) * prediction - b_h * sum
}

/// Predictor and corrector of second order in x_0 prediction; their two weights are computed by Cramer's
/// rule.
#[test]
fn unipc_corrects_with_the_answer_it_predicts_from() {
    for is_linear in [false, true] {
        let settings = format!(r#"{KARRAS}, "solver_type": "{}""#, if is_linear { "bh1" } else { "bh2" });
        for steps in [2, 3, 9, 20] {
            let sigmas = karras(steps, 0.0);
            let b = |h: f64| if is_linear { -h } else { (-h).exp_m1() };
            let width = |index: usize| lambda(sigmas[index + 1]) - lambda(sigmas[index]);
            check_each(&ALL_TYPES, "unipc", &settings, steps, |walk, start| {
                let mut remembered: Option<Remembered> = None;
                follow(walk, start, &sigmas, |walk, index, predicted| {
                    let here = walk.original_at_sigma(predicted, sigmas[index]);
                    let mut known = vec![here];
                    let mut corrected = predicted;
                    if let Some(Remembered { level, y, predictions }) = &remembered {
                        let (h, levels) = (width(*level), (sigmas[*level], sigmas[*level + 1]));
                        let others = match predictions.len() {
                            1 => vec![(here, 1.0, 0.5)],
                            _ => {
                                let r = -width(level - 1) / h;
                                let phi_1 = (-h).exp_m1() / -h - 1.0;
                                let first = phi_1 / b(h);
                                let second = 2.0 * (phi_1 / -h - 0.5) / b(h);
                                let weight = (first - second) / (1.0 - r);
                                vec![(predictions[1], r, weight), (here, 1.0, first - weight)]
                            }
                        };
                        corrected = unified_step(*y, levels, b(h), predictions[0], &others);
                        known.push(predictions[0]);
                    }
                    let levels = (sigmas[index], sigmas[index + 1]);
                    let next = if index + 1 == steps || known.len() == 1 {
                        unified_step(corrected, levels, 0.0, here, &[])
                    } else {
                        let h = width(index);
                        let others = [(known[1], -width(index - 1) / h, 0.5)];
                        unified_step(corrected, levels, b(h), here, &others)
                    };
                    remembered = Some(Remembered { level: index, y: corrected, predictions: known });
                    next
                })
            });
        }
    }
}

/// Without its corrector UniPC of second order is DPM-Solver++(2M): B_2(h) and the weight 1/2 give the same
/// step.
#[test]
fn unipc_without_corrector_is_second_order_multistep() {
    for steps in [3, 9] {
        let off: Vec<String> = (0..steps).map(|step| step.to_string()).collect();
        let settings = format!(r#"{KARRAS}, "disable_corrector": [{}]"#, off.join(", "));
        let sigmas = karras(steps, 0.0);
        check_each(&ALL_TYPES, "unipc", &settings, steps, |walk, start| {
            let mut last: Option<f64> = None;
            follow(walk, start, &sigmas, |walk, index, y| {
                let (from, to) = (sigmas[index], sigmas[index + 1]);
                let original = walk.original_at_sigma(y, from);
                let change = match last.replace(original) {
                    Some(before) if index + 1 < steps => {
                        let widths = (lambda(to) - lambda(from), lambda(from) - lambda(sigmas[index - 1]));
                        (original - before) * widths.0 / widths.1 / 2.0
                    }
                    _ => 0.0,
                };
                to / from * y + (1.0 - to / from) * (original + change)
            })
        });
    }
}
