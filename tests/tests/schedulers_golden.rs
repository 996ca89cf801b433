//! Schedulers compared with trajectories saved from diffusers (`goldens/schedulers.py`).

use std::path::Path;

use sdq_schedulers::{NoiseSchedule, NoiseSource, Scheduler, SchedulerConfig, create};
use serde::Deserialize;
use serde_json::Value;

/// Bound of the errors of nearly all runs at every step, relative to the largest of the latents there:
/// diffusers ran in double precision and rounded latents between steps, as this code does.
const TOLERANCE: f64 = 1e-5;

/// The number of runs whose error may be larger. Their history is rounded to `f32`, and the formula that
/// replaces the model, which is not smooth like a trained one, amplifies this: up to `REMEMBERED`, and more
/// if one step reduces the noise level more than `FAR` times, as from σ = 20,000 with cosine betas. Such a
/// step shrinks the latents but keeps the error of the large ones.
const STRAYING: usize = 16;
const REMEMBERED: f64 = 3e-5;
const FAR: f64 = 20.0;

fn tolerance(scheduler: &dyn Scheduler) -> f64 {
    let relative_level = |step_index| {
        let (mut signal, mut noise) = ([0.0], [0.0]);
        scheduler.add_noise(&[1.0], &[0.0], step_index, &mut signal).unwrap();
        scheduler.add_noise(&[0.0], &[1.0], step_index, &mut noise).unwrap();
        f64::from(noise[0]) / f64::from(signal[0])
    };
    let levels: Vec<f64> = (0..scheduler.timesteps().len()).map(relative_level).collect();
    let largest = levels.windows(2).map(|pair| pair[0] / pair[1]).fold(1.0, f64::max);
    REMEMBERED * f64::max(1.0, largest / FAR)
}

/// Timesteps that are computed from sigmas depend on logarithms in single precision, whose last digits differ
/// in numpy.
const TIMESTEP_TOLERANCE: f64 = 2e-4;

/// Length of the latents; every third value is in the files.
const COUNT: usize = 24;
const STRIDE: usize = 3;

#[derive(Deserialize)]
struct Trajectory {
    config: Value,
    steps: usize,
    eta: Option<f64>,
    /// The step at which the run starts.
    begin: usize,
    timesteps: Vec<f64>,
    init_noise_sigma: f64,
    added_noise: Vec<f64>,
    noise_draws: Vec<usize>,
    /// The latents after each recorded step.
    latents: Vec<Option<Vec<f64>>>,
}

#[derive(Deserialize)]
struct NoiseScheduleTable {
    config: SchedulerConfig,
    indices: Vec<usize>,
    alphas_cumprod: Vec<f64>,
}

fn golden<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/schedulers").join(name).with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Noise, start and model as in `goldens/schedulers.py`.
fn formula_noise(draw: i32) -> Vec<f32> {
    (0..COUNT).map(|i| ((0.7 + 1.3 * f64::from(draw) + 2.1 * i as f64).sin() * 2f64.sqrt()) as f32).collect()
}

fn formula_model(latents: &[f32], timestep: f64) -> Vec<f32> {
    latents.iter().map(|value| (f64::from(*value) + timestep / 1000.0).sin() as f32).collect()
}

#[derive(Default)]
struct FormulaNoise {
    draws: i32,
}

impl NoiseSource for FormulaNoise {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        self.draws += 1;
        out.copy_from_slice(&formula_noise(self.draws));
    }
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len().div_ceil(STRIDE), expected.len());
    let size = expected.iter().fold(0.0, |size, value| value.abs().max(size));
    let differences = found.iter().step_by(STRIDE).zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    differences.fold(0.0, |worst, difference| if difference <= worst { worst } else { difference }) / size
}

/// Follows one run, and returns the largest error of the latents, or a description of the problem.
fn follow(name: &str, case: &Trajectory) -> Result<f64, String> {
    let mut config: SchedulerConfig =
        serde_json::from_value(case.config.clone()).map_err(|error| error.to_string())?;
    // The class's own default; pipelines pass 0, and so does this crate.
    let eta = case.eta.or((name == "tcd").then_some(0.3));
    if let Some(eta) = eta {
        config.set("eta", eta.into()).map_err(|error| error.to_string())?;
    }
    let mut scheduler = create(name, &config, case.steps).map_err(|error| error.to_string())?;
    check_timesteps(scheduler.timesteps(), &case.timesteps)?;
    let sigma = scheduler.init_noise_sigma();
    if (sigma / case.init_noise_sigma - 1.0).abs() > 1e-6 {
        return Err(format!("init_noise_sigma is {sigma}, not {}", case.init_noise_sigma));
    }

    let mut added = vec![0.0; COUNT];
    let middle = if case.begin > 0 { case.begin } else { case.steps / 2 * scheduler.order() };
    let add = scheduler.add_noise(&formula_noise(-1), &formula_noise(-2), middle, &mut added);
    add.map_err(|error| error.to_string())?;
    if relative_error(&added, &case.added_noise) > 1e-6 {
        return Err(format!("noise at step {middle} is {added:?}, not {:?}", case.added_noise));
    }

    let start = |value: &f32| (f64::from(*value) * sigma) as f32;
    let mut latents = if case.begin > 0 { added } else { formula_noise(0).iter().map(start).collect() };
    let tolerance = tolerance(&*scheduler);
    let mut noise = FormulaNoise::default();
    let mut worst = 0.0;
    for (expected, step_index) in case.latents.iter().zip(case.begin..) {
        let mut model_input = latents.clone();
        scheduler.scale_model_input(&mut model_input, step_index).map_err(|error| error.to_string())?;
        let noise_pred = formula_model(&model_input, f64::from(case.timesteps[step_index] as f32));
        let draws_before = noise.draws;
        let step = scheduler.step(&noise_pred, step_index, &mut latents, &mut noise);
        step.map_err(|error| error.to_string())?;
        if let Some(expected) = expected {
            let error = relative_error(&latents, expected);
            if error > tolerance || error.is_nan() {
                return Err(format!("off by {error:.1e} after step {step_index}"));
            }
            worst = error.max(worst);
        }
        let draws = case.noise_draws[step_index - case.begin];
        let drawn = noise.draws - draws_before;
        if (scheduler.noise_draws(step_index), drawn) != (draws, draws as i32) {
            return Err(format!("drew {drawn} times at step {step_index}, not {draws}"));
        }
    }
    Ok(worst)
}

fn check_timesteps(found: &[f64], expected: &[f64]) -> Result<(), String> {
    // Nine digits distinguish any two f32, and a timestep is exact in f32.
    let expected: Vec<f64> = expected.iter().map(|timestep| f64::from(*timestep as f32)).collect();
    let near = |(found, expected): (&f64, &f64)| {
        let whole = expected.fract() == 0.0 && found.fract() == 0.0;
        let tolerance = if whole { 0.0 } else { TIMESTEP_TOLERANCE };
        (found - expected).abs() <= tolerance
    };
    if found.len() == expected.len() && found.iter().zip(&expected).all(near) {
        Ok(())
    } else {
        Err(format!("timesteps are {found:?}, not {expected:?}"))
    }
}

/// Every scheduler of the registry that has a class in diffusers has its file, and every run in it is followed.
#[test]
fn schedulers_follow_diffusers() {
    let (mut failures, mut straying) = (Vec::new(), 0);
    let with_a_class = sdq_schedulers::schedulers().into_iter().filter(|entry| !entry.classes.is_empty());
    for entry in with_a_class {
        let (name, cases) = (entry.name, golden::<Trajectory>(entry.name));
        let (mut worst, count) = (0.0, cases.len());
        for case in cases {
            match follow(name, &case) {
                Ok(error) => {
                    straying += usize::from(error > TOLERANCE);
                    worst = error.max(worst);
                }
                Err(error) => {
                    let Trajectory { steps, eta, begin, config, .. } = case;
                    let label = format!("{name}, {steps} steps from {begin}, eta {eta:?}, {config}");
                    failures.push(format!("{label}: {error}"));
                }
            }
        }
        println!("{name}: {count} runs, largest relative error {worst:.1e}");
    }
    assert!(straying <= STRAYING, "{straying} runs stray by more than {TOLERANCE}");
    assert!(failures.is_empty(), "{} runs differ:\n{}", failures.len(), failures.join("\n"));
}

/// The tables from which everything else is computed, bit for bit: an error there would be attributed to a
/// scheduler.
#[test]
fn noise_schedules_are_those_of_diffusers() {
    for table in golden::<NoiseScheduleTable>("noise_schedules") {
        let schedule = NoiseSchedule::new(&table.config).unwrap();
        let found: Vec<f64> = table.indices.iter().map(|&t| schedule.alphas_cumprod()[t]).collect();
        // PyTorch computes the square roots for rescaling with MKL, which rounds some of them differently.
        let tolerance = if table.config.rescale_betas_zero_snr { 1e-6 } else { 0.0 };
        for ((&found, &expected), timestep) in found.iter().zip(&table.alphas_cumprod).zip(&table.indices) {
            let expected = f64::from(expected as f32);
            let error = (found - expected).abs();
            assert!(error <= tolerance * expected, "{found} at timestep {timestep} of {:?}", table.config);
        }
    }
}
