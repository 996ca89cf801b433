//! The samplers of k-diffusion, whose latents are x_0 + σ · ε, in the form of that library.

use sdq_schedulers::NoiseSchedule;

use crate::{ALL_TYPES, NOISE_AND_VELOCITY, check_each, config, lagrange_integral};

/// The sigmas of training at `steps` evenly spaced times, and the 0 at the end.
fn training_sigmas(steps: usize) -> Vec<f64> {
    let schedule = NoiseSchedule::new(&config("")).unwrap();
    let at = |i: usize| schedule.sigma(999.0 - 999.0 * i as f64 / (steps - 1) as f64);
    (0..steps).map(at).chain([0.0]).collect()
}

/// The sigmas of Karras et al. 2022, eq. 5, and the 0 at the end.
fn karras_sigmas(steps: usize) -> Vec<f64> {
    let schedule = NoiseSchedule::new(&config("")).unwrap();
    let (max, min) = (schedule.sigma(999.0), schedule.sigma(0.0));
    let at = |i: usize| {
        let share = i as f64 / (steps - 1) as f64;
        (max.powf(1.0 / 7.0) * (1.0 - share) + min.powf(1.0 / 7.0) * share).powi(7)
    };
    (0..steps).map(at).chain([0.0]).collect()
}

/// The settings and the resulting sigmas.
fn schedules(steps: usize) -> [(&'static str, Vec<f64>); 2] {
    [
        (r#""timestep_spacing": "linspace""#, training_sigmas(steps)),
        (r#""timestep_spacing": "linspace", "use_karras_sigmas": true"#, karras_sigmas(steps)),
    ]
}

/// (σ_down, σ_up) of `get_ancestral_step`.
fn ancestral(from: f64, to: f64) -> (f64, f64) {
    let up = (to * to * (from * from - to * to) / (from * from)).sqrt().min(to);
    ((to * to - up * up).sqrt(), up)
}

#[test]
fn euler_follows_the_slope() {
    for steps in [2, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&ALL_TYPES, "euler", settings, steps, |walk, start| {
                sigmas.windows(2).fold(start, |x, level| x + (level[1] - level[0]) * walk.slope(x, level[0]))
            });
        }
    }
}

/// `final_sigmas_type` = sigma_min leaves the smallest noise of training, for any schedule.
#[test]
fn euler_may_stop_at_the_least_noisy_level() {
    let schedule = NoiseSchedule::new(&config("")).unwrap();
    let (max, least) = (schedule.sigma(999.0), schedule.sigma(0.0));
    let exponential = (0..6).map(|i| max * (0.5 / max).powf(f64::from(i) / 5.0));
    let sigmas: Vec<f64> = exponential.chain([least]).collect();
    let settings = r#""use_exponential_sigmas": true, "sigma_min": 0.5, "final_sigmas_type": "sigma_min""#;
    check_each(&ALL_TYPES, "euler", settings, 6, |walk, start| {
        sigmas.windows(2).fold(start, |x, level| x + (level[1] - level[0]) * walk.slope(x, level[0]))
    });
}

#[test]
fn euler_ancestral_goes_down_and_up_again() {
    for steps in [2, 7, 20] {
        let (settings, sigmas) = &schedules(steps)[0];
        check_each(&ALL_TYPES, "euler-ancestral", settings, steps, |walk, start| {
            sigmas.windows(2).fold(start, |x, level| {
                let (down, up) = ancestral(level[0], level[1]);
                x + (down - level[0]) * walk.slope(x, level[0]) + up * walk.noise()
            })
        });
    }
}

#[test]
fn heun_takes_the_mean_of_two_slopes() {
    for steps in [2, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&ALL_TYPES, "heun", settings, steps, |walk, start| {
                sigmas.windows(2).fold(start, |x, level| {
                    let width = level[1] - level[0];
                    let slope = walk.slope(x, level[0]);
                    match level[1] {
                        0.0 => x + width * slope,
                        next => x + width * (slope + walk.slope(x + width * slope, next)) / 2.0,
                    }
                })
            });
        }
    }
}

#[test]
fn kdpm2_takes_the_slope_in_the_middle() {
    for steps in [2, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&NOISE_AND_VELOCITY, "kdpm2", settings, steps, |walk, start| {
                sigmas.windows(2).fold(start, |x, level| {
                    let slope = walk.slope(x, level[0]);
                    if level[1] == 0.0 {
                        return x - level[0] * slope;
                    }
                    let middle = ((level[0].ln() + level[1].ln()) / 2.0).exp();
                    let slope = walk.slope(x + (middle - level[0]) * slope, middle);
                    x + (level[1] - level[0]) * slope
                })
            });
        }
    }
}

#[test]
fn kdpm2_ancestral_does_so_on_its_way_down() {
    for steps in [2, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&NOISE_AND_VELOCITY, "kdpm2-ancestral", settings, steps, |walk, start| {
                sigmas.windows(2).fold(start, |x, level| {
                    let slope = walk.slope(x, level[0]);
                    if level[1] == 0.0 {
                        return x - level[0] * slope;
                    }
                    let (down, up) = ancestral(level[0], level[1]);
                    let middle = ((level[0].ln() + down.ln()) / 2.0).exp();
                    let slope = walk.slope(x + (middle - level[0]) * slope, middle);
                    x + (down - level[0]) * slope + up * walk.noise()
                })
            });
        }
    }
}

/// `sample_dpmpp_sde` with r = 1/2. The noise of the whole step and that of its first part belong to one
/// Brownian path with time σ.
#[test]
fn dpm_sde_takes_two_ancestral_steps_on_one_path() {
    for steps in [2, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&NOISE_AND_VELOCITY, "dpm-sde", settings, steps, |walk, start| {
                sigmas.windows(2).fold(start, |x, level| {
                    let (from, to) = (level[0], level[1]);
                    let original = walk.original_at_sigma(x, from);
                    if to == 0.0 {
                        return original;
                    }
                    let middle = (from * to).sqrt();
                    let (down, up) = ancestral(from, middle);
                    let first = walk.noise();
                    let between = down / from * x - (down / from - 1.0) * original + up * first;
                    let original = walk.original_at_sigma(between, middle);
                    let (down, up) = ancestral(from, to);
                    let path = (from - middle).sqrt() * first + (middle - to).sqrt() * walk.noise();
                    down / from * x - (down / from - 1.0) * original + up * path / (from - to).sqrt()
                })
            });
        }
    }
}

#[test]
fn lms_integrates_the_polynomial_through_four_slopes() {
    for steps in [2, 3, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&ALL_TYPES, "lms", settings, steps, |walk, start| {
                let mut x = start;
                let mut slopes: Vec<f64> = Vec::new();
                for (step, level) in sigmas.windows(2).enumerate() {
                    slopes.insert(0, walk.slope(x, level[0]));
                    let order = slopes.len().min(4);
                    let nodes: Vec<f64> = (0..order).map(|back| sigmas[step - back]).collect();
                    for (place, slope) in slopes.iter().take(order).enumerate() {
                        x += slope * lagrange_integral(&nodes, place, level[0], level[1], |sigma| sigma);
                    }
                }
                x
            });
        }
    }
}
