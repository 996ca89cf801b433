//! Schedulers against trajectories saved from diffusers (`goldens/schedulers.py`).

use std::path::Path;

use sdq_schedulers::{NoiseSchedule, NoiseSource, SchedulerConfig, create};
use serde::Deserialize;
use serde_json::Value;

/// Largest error allowed at any step, relative to the largest of the latents there. Each side rounds to `f32` in its
/// own places and the difference is carried along up to 50 steps.
///
/// Latents that start at σ = 4096 (zero terminal SNR) or 20,000 (cosine betas) lose most of their digits to
/// cancellation in diffusers' first steps, which round after each operation; ours round once.
fn tolerance(init_noise_sigma: f64) -> f64 {
    f64::max(1e-5, 5e-7 * init_noise_sigma)
}

/// Length of the latents; every third value is in the files.
const COUNT: usize = 24;
const STRIDE: usize = 3;

#[derive(Deserialize)]
struct Trajectory {
    config: Value,
    steps: usize,
    eta: Option<f64>,
    timesteps: Vec<f64>,
    init_noise_sigma: f64,
    added_noise: Vec<f64>,
    noise_draws: Vec<usize>,
    latents: Vec<Vec<f64>>,
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

/// Noise, start and model as `goldens/schedulers.py` has them.
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

fn follows_diffusers(name: &str) {
    let mut worst = 0.0;
    for case in golden::<Trajectory>(name) {
        let label = format!("{name}, {} steps, eta {:?}, {}", case.steps, case.eta, case.config);
        let mut config: SchedulerConfig = serde_json::from_value(case.config).expect(&label);
        if let Some(eta) = case.eta {
            config.set("eta", eta.into()).expect(&label);
        }
        let mut scheduler = create(name, &config, case.steps).expect(&label);
        // Nine digits tell any two f32 apart, and a timestep is exact in f32.
        let timesteps: Vec<f64> = case.timesteps.iter().map(|t| f64::from(*t as f32)).collect();
        assert_eq!(scheduler.timesteps(), timesteps, "{label}");
        let sigma = scheduler.init_noise_sigma();
        assert!((sigma / case.init_noise_sigma - 1.0).abs() < 1e-6, "{label}: {sigma}");

        let mut added = vec![0.0; COUNT];
        scheduler
            .add_noise(&formula_noise(-1), &formula_noise(-2), case.steps / 2, &mut added)
            .expect(&label);
        assert!(relative_error(&added, &case.added_noise) < 1e-6, "{label}: {added:?}");

        let mut noise = FormulaNoise::default();
        let mut latents: Vec<f32> =
            formula_noise(0).iter().map(|value| (f64::from(*value) * sigma) as f32).collect();
        for (step_index, expected) in case.latents.iter().enumerate() {
            let mut model_input = latents.clone();
            scheduler.scale_model_input(&mut model_input, step_index).expect(&label);
            let noise_pred = formula_model(&model_input, case.timesteps[step_index]);
            let draws_before = noise.draws;
            scheduler.step(&noise_pred, step_index, &mut latents, &mut noise).expect(&label);
            let error = relative_error(&latents, expected);
            assert!(error <= tolerance(sigma), "{label}: off by {error:.1e} after step {step_index}");
            worst = error.max(worst);

            assert_eq!(scheduler.noise_draws(step_index), case.noise_draws[step_index], "{label}");
            assert_eq!(noise.draws - draws_before, case.noise_draws[step_index] as i32, "{label}");
        }
    }
    println!("{name}: largest relative error {worst:.1e}");
}

#[test]
fn ddpm_follows_diffusers() {
    follows_diffusers("ddpm");
}

#[test]
fn ddim_follows_diffusers() {
    follows_diffusers("ddim");
}

#[test]
fn euler_follows_diffusers() {
    follows_diffusers("euler");
}

#[test]
fn euler_ancestral_follows_diffusers() {
    follows_diffusers("euler-ancestral");
}

/// The tables that everything else is computed from, to the last bit: an error there would be blamed on a scheduler.
#[test]
fn noise_schedules_are_those_of_diffusers() {
    for table in golden::<NoiseScheduleTable>("noise_schedules") {
        let schedule = NoiseSchedule::new(&table.config).unwrap();
        let found: Vec<f64> = table.indices.iter().map(|&t| schedule.alphas_cumprod()[t]).collect();
        // PyTorch takes the square roots for rescaling from MKL, which rounds some of them the other way.
        let tolerance = if table.config.rescale_betas_zero_snr { 1e-6 } else { 0.0 };
        for ((&found, &expected), timestep) in found.iter().zip(&table.alphas_cumprod).zip(&table.indices) {
            let expected = f64::from(expected as f32);
            let error = (found - expected).abs();
            assert!(error <= tolerance * expected, "{found} at timestep {timestep} of {:?}", table.config);
        }
    }
}
