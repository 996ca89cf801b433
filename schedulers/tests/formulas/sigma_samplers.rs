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

/// `sample_dpmpp_2s_ancestral`: two steps in t = -log σ, the second from the start.
#[test]
fn dpmpp_2s_ancestral_goes_halfway_in_log_sigma() {
    let (sigma_of, time_of) = (|time: f64| (-time).exp(), |sigma: f64| -sigma.ln());
    for steps in [2, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&ALL_TYPES, "dpmpp-2s-ancestral", settings, steps, |walk, start| {
                sigmas.windows(2).fold(start, |x, level| {
                    let original = walk.original_at_sigma(x, level[0]);
                    let (down, up) = ancestral(level[0], level[1]);
                    if down == 0.0 {
                        return x + (x - original) / level[0] * (down - level[0]);
                    }
                    let (time, next) = (time_of(level[0]), time_of(down));
                    let (h, middle) = (next - time, time + 0.5 * (next - time));
                    let between = sigma_of(middle) / sigma_of(time) * x - (-0.5 * h).exp_m1() * original;
                    let original = walk.original_at_sigma(between, sigma_of(middle));
                    sigma_of(next) / sigma_of(time) * x - (-h).exp_m1() * original + up * walk.noise()
                })
            });
        }
    }
}

/// `sample_dpmpp_3m_sde` with eta = 1.
#[test]
fn dpmpp_3m_sde_extrapolates_twice() {
    for steps in [2, 3, 7, 20] {
        for (settings, sigmas) in schedules(steps) {
            check_each(&ALL_TYPES, "dpmpp-3m-sde", settings, steps, |walk, start| {
                let mut x = start;
                let (mut originals, mut widths): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
                for level in sigmas.windows(2) {
                    originals.insert(0, walk.original_at_sigma(x, level[0]));
                    if level[1] == 0.0 {
                        x = originals[0];
                        continue;
                    }
                    let h = level[0].ln() - level[1].ln();
                    let doubled = 2.0 * h;
                    x = (-doubled).exp() * x - (-doubled).exp_m1() * originals[0];
                    let phi_2 = (-doubled).exp_m1() / doubled + 1.0;
                    let phi_3 = phi_2 / doubled - 0.5;
                    match widths[..] {
                        [] => {}
                        [h_1] => x += phi_2 * (originals[0] - originals[1]) / (h_1 / h),
                        [h_1, h_2, ..] => {
                            let (r_0, r_1) = (h_1 / h, h_2 / h);
                            let first = (originals[0] - originals[1]) / r_0;
                            let before = (originals[1] - originals[2]) / r_1;
                            let slope = first + (first - before) * r_0 / (r_0 + r_1);
                            x += phi_2 * slope - phi_3 * (first - before) / (r_0 + r_1);
                        }
                    }
                    x += walk.noise() * level[1] * (-(-doubled).exp_m1()).sqrt();
                    widths.insert(0, h);
                }
                x
            });
        }
    }
}
