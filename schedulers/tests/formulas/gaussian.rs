//! Data with a known distribution: for a normal distribution, the best output of a model is a formula, the
//! ODE has an exact solution, and samplers that draw noise must end with the deviation of the data.

use sdq_schedulers::{NoiseSource, Scheduler, create};

use crate::config;

const MEAN: f64 = 0.4;
const DEVIATION: f64 = 0.8;

/// (signal, noise level) of latents at a step.
fn level(scheduler: &dyn Scheduler, step_index: usize) -> (f64, f64) {
    let (mut signal, mut noise_level) = ([0.0], [0.0]);
    scheduler.add_noise(&[1.0], &[0.0], step_index, &mut signal).unwrap();
    scheduler.add_noise(&[0.0], &[1.0], step_index, &mut noise_level).unwrap();
    (f64::from(signal[0]), f64::from(noise_level[0]))
}

/// The levels of the model's evaluations: those of [`level`], except the intermediate ones of `kdpm2`, which
/// adds noise up to the next level.
fn asked_levels(name: &str, scheduler: &dyn Scheduler) -> Vec<(f64, f64)> {
    let levels: Vec<_> = (0..scheduler.timesteps().len()).map(|step| level(scheduler, step)).collect();
    let mut asked = levels.clone();
    if name == "kdpm2" {
        for step in (1..levels.len()).step_by(2) {
            asked[step].1 = (levels[step - 1].1 * levels[step].1).sqrt();
        }
    }
    asked
}

/// E[ε | latents] of data with this `mean`: the output of a perfect model.
fn expected_noise(latents: f64, (signal, noise_level): (f64, f64), mean: f64) -> f64 {
    let variance = (signal * DEVIATION).powi(2) + noise_level * noise_level;
    noise_level * (latents - signal * mean) / variance
}

/// Noise that is 0.
struct NoNoise;

impl NoiseSource for NoNoise {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        out.fill(0.0);
    }
}

/// The error of `name` compared with the solution of the ODE at its last level, relative to the deviation
/// there. Along a path the distance from the mean is proportional to the deviation.
fn error_of_the_ode(name: &str, settings: &str, steps: usize) -> f64 {
    let mut scheduler = create(name, &config(settings), steps).unwrap();
    let levels = asked_levels(name, &*scheduler);
    let deviation = |(signal, noise_level): (f64, f64)| (signal * DEVIATION).hypot(noise_level);
    let mut latents = [(levels[0].0 * MEAN + deviation(levels[0])) as f32];
    let last = levels.len() - 1;
    for (step_index, &level) in levels.iter().enumerate().take(last) {
        let answer = [expected_noise(f64::from(latents[0]), level, MEAN) as f32];
        scheduler.step(&answer, step_index, &mut latents, &mut NoNoise).unwrap();
    }
    ((f64::from(latents[0]) - levels[last].0 * MEAN) / deviation(levels[last]) - 1.0).abs()
}

/// Halving the steps' width divides the error by 2^order. UniPC's corrector adds one to its order, as stated
/// in its paper. The third order of `dpm-multistep` is that of its authors' code, which includes half the
/// second derivative.
#[test]
fn errors_fall_as_the_order_says() {
    let karras = r#""use_karras_sigmas": true, "sigma_min": 0.2"#;
    let with = |settings: &str| format!("{karras}, {settings}");
    let noise = r#""algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min""#;
    for (name, settings, order) in [
        ("euler", karras.to_owned(), 1.0),
        ("heun", karras.to_owned(), 2.0),
        ("kdpm2", karras.to_owned(), 2.0),
        ("lms", karras.to_owned(), 3.0),
        ("dpm-multistep", with(r#""solver_order": 1"#), 1.0),
        ("dpm-multistep", with(r#""solver_order": 2"#), 2.0),
        ("dpm-multistep", with(r#""solver_order": 2, "solver_type": "heun""#), 2.0),
        ("dpm-multistep", with(r#""solver_order": 3"#), 2.0),
        ("dpm-multistep", with(noise), 2.0),
        ("dpm-singlestep", with(r#""solver_order": 1"#), 1.0),
        ("dpm-singlestep", with(r#""solver_order": 2"#), 2.0),
        ("dpm-singlestep", with(r#""solver_order": 3, "solver_type": "heun""#), 3.0),
        ("deis", with(r#""solver_order": 1"#), 1.0),
        ("deis", with(r#""solver_order": 2"#), 2.0),
        ("deis", with(r#""solver_order": 3"#), 3.0),
        ("unipc", with(r#""solver_order": 1"#), 2.0),
        ("unipc", with(r#""solver_order": 2"#), 3.0),
        ("unipc", with(r#""solver_order": 2, "solver_type": "bh1""#), 3.0),
        ("unipc", with(r#""solver_order": 2, "predict_x0": false"#), 3.0),
        ("unipc", with(r#""solver_order": 3"#), 3.0),
    ] {
        // Odd and not a multiple of any order, so that all blocks but the last are whole.
        let [coarse, fine] = [25, 49].map(|steps| error_of_the_ode(name, &settings, steps));
        let found = (coarse / fine).log2();
        assert!(found > order - 0.35, "{name}, {settings}: errors {coarse:e} and {fine:e}, order {found}");
    }
}

/// Draw k is 1 in element k + 1 and 0 elsewhere: each element follows one source of randomness to the end.
struct OneByOne {
    draws: usize,
}

impl NoiseSource for OneByOne {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        self.draws += 1;
        out.fill(0.0);
        out[self.draws] = 1.0;
    }
}

/// The deviation of the results of `name`. A sampler of normal data is linear, so the variances of its
/// sources add up.
fn deviation_of_samples(name: &str, settings: &str, steps: usize) -> f64 {
    let mut scheduler = create(name, &config(settings), steps).unwrap();
    let levels = asked_levels(name, &*scheduler);
    let draws: usize = (0..levels.len()).map(|step_index| scheduler.noise_draws(step_index)).sum();
    let mut latents = vec![0.0_f32; draws + 1];
    latents[0] = (levels[0].0 * DEVIATION).hypot(levels[0].1) as f32;
    let mut noise = OneByOne { draws: 0 };
    for (step_index, &level) in levels.iter().enumerate() {
        let answer: Vec<f32> =
            latents.iter().map(|x| expected_noise(f64::from(*x), level, 0.0) as f32).collect();
        scheduler.step(&answer, step_index, &mut latents, &mut noise).unwrap();
    }
    assert_eq!(noise.draws, draws, "{name}");
    latents.iter().map(|share| f64::from(*share).powi(2)).sum::<f64>().sqrt()
}

/// Slightly too little or too much noise in each step would change the deviation of the samples.
#[test]
fn samplers_keep_the_deviation_of_the_data() {
    let sde = r#""use_karras_sigmas": true, "algorithm_type": "sde-dpmsolver++""#;
    for (name, settings) in [
        ("ddim", r#""clip_sample": false, "timestep_spacing": "trailing""#),
        ("ddim", r#""clip_sample": false, "timestep_spacing": "trailing", "eta": 0.5"#),
        ("ddim", r#""clip_sample": false, "timestep_spacing": "trailing", "eta": 1"#),
        ("ddpm", r#""clip_sample": false, "timestep_spacing": "trailing""#),
        ("euler", ""),
        ("euler-ancestral", ""),
        ("heun", ""),
        ("kdpm2", r#""use_karras_sigmas": true"#),
        ("kdpm2-ancestral", r#""use_karras_sigmas": true"#),
        ("dpm-sde", r#""use_karras_sigmas": true"#),
        ("dpm-multistep", r#""use_karras_sigmas": true"#),
        ("dpm-multistep", &format!("{sde}, \"solver_order\": 1")),
        ("dpm-multistep", &format!("{sde}, \"solver_order\": 2")),
        ("dpm-multistep", &format!("{sde}, \"solver_order\": 2, \"solver_type\": \"heun\"")),
        ("dpm-singlestep", sde),
        ("unipc", r#""use_karras_sigmas": true"#),
        ("deis", r#""use_karras_sigmas": true"#),
        ("lms", r#""use_karras_sigmas": true"#),
    ] {
        let [coarse, fine] =
            [60, 240].map(|steps| deviation_of_samples(name, settings, steps) / DEVIATION - 1.0);
        // At least of first order, until only the error of the ends of training's levels is left.
        let falls = fine.abs() < coarse.abs() / 3.0 || fine.abs() < 1e-3;
        assert!(falls && fine.abs() < 0.03, "{name}, {settings}: off by {coarse} and {fine} of it");
    }
}
