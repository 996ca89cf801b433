//! A scheduler from outside the workspace (`examples/custom-scheduler`), found by name and run by the same
//! loop as the built-in ones.

#[path = "../../examples/custom-scheduler/src/adams_bashforth.rs"]
mod adams_bashforth;

use std::ops::ControlFlow;

use sdq_engine::{Event, Request, SavedRun};
use sdq_formats::WeightType;
use sdq_schedulers::{NoiseSource, SchedulerConfig, SchedulerError, create};
use sdq_tests::models::Model;
use tempfile::TempDir;

/// Neither this scheduler nor Euler's draws noise.
struct NoNoise;

impl NoiseSource for NoNoise {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        out.fill(0.0);
    }
}

/// Standard deviation s of the toy data.
const DEVIATION: f64 = 0.5;

/// Largest error over a run of `steps` steps, relative to the end point of the exact path from the same
/// start.
///
/// For normal data the best prediction of ε from x at level σ is σ · x / (s² + σ²), and so the path of dx/dσ
/// = ε is x(σ) ∝ √(s² + σ²).
fn relative_error(name: &str, steps: usize) -> Result<f64, SchedulerError> {
    let config = SchedulerConfig::from_json(
        r#"{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}"#,
    )?;
    let mut scheduler = create(name, &config, steps)?;
    let sigma_max = scheduler.init_noise_sigma();
    let start: Vec<f32> = [-2.0, -0.3, 0.1, 1.7].map(|noise| (sigma_max * noise) as f32).to_vec();
    let mut latents = start.clone();
    for step_index in 0..scheduler.timesteps().len() {
        let mut model_input = latents.clone();
        scheduler.scale_model_input(&mut model_input, step_index)?;
        // A real model knows σ from the timestep; this one derives it from pure noise.
        let mut sigma = [0.0];
        scheduler.add_noise(&[0.0], &[1.0], step_index, &mut sigma)?;
        let sigma = f64::from(sigma[0]);
        let factor = sigma.hypot(1.0) * sigma / (DEVIATION * DEVIATION + sigma * sigma);
        let noise_pred: Vec<f32> =
            model_input.iter().map(|value| (f64::from(*value) * factor) as f32).collect();
        scheduler.step(&noise_pred, step_index, &mut latents, &mut NoNoise)?;
    }
    let shrink = DEVIATION / DEVIATION.hypot(sigma_max);
    let errors = latents
        .iter()
        .zip(&start)
        .map(|(end, start)| (f64::from(*end) / f64::from(*start) / shrink - 1.0).abs());
    Ok(errors.fold(0.0, f64::max))
}

/// The "model" is the best possible one for normal data, so the error of a run is known: second order has a
/// smaller one than first.
#[test]
fn it_registers_and_beats_euler() {
    // The first of the tests registers it.
    let _ = adams_bashforth::register();
    for steps in [20, 80] {
        let (euler, adams_bashforth) =
            (relative_error("euler", steps).unwrap(), relative_error("ab2", steps).unwrap());
        assert!(adams_bashforth < 0.5 * euler, "{steps} steps: {adams_bashforth} against {euler}");
    }
    assert!(adams_bashforth::register().is_err(), "a name is taken once");
}

/// It draws with the built-in model, and its runs can be resumed from its history.
#[test]
fn it_draws_and_resumes() {
    // The first of the tests registers it.
    let _ = adams_bashforth::register();
    let pipeline = Model::convert("old", WeightType::F16).open(2);
    let request = Request::new("a red apple").size(16, 16).steps(6).scheduler("ab2");
    let folder = TempDir::new().unwrap();
    let mut saved = Vec::new();
    let observer = &mut |event: Event<'_>| {
        if let Event::Saveable(checkpoint) = event {
            let path = folder.path().join(saved.len().to_string());
            checkpoint.save(&path, &[]).unwrap();
            saved.push(path);
        }
        ControlFlow::Continue(())
    };
    let expected = pipeline.generate(&request, observer).unwrap();
    for path in saved {
        let resumed = pipeline.resume(&SavedRun::open(&path).unwrap(), &mut |_| ControlFlow::Continue(()));
        assert_eq!(resumed.unwrap().latents, expected.latents, "{}", path.display());
    }
}
