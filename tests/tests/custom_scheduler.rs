//! A scheduler from outside the workspace (`examples/custom-scheduler`), found by name and run by the same
//! loop as the built-in ones.

#[path = "../../examples/custom-scheduler/src/adams_bashforth.rs"]
mod adams_bashforth;

use std::ops::ControlFlow;

use sdq_engine::{Event, Request, SavedRun};
use sdq_formats::WeightType;
use sdq_schedulers::{NoiseSource, SchedulerConfig, SchedulerError, create};
use sdq_tests::{
    measure::psnr,
    models::{Model, demo_model},
};
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
fn relative_error(name: &str, prediction_type: &str, steps: usize) -> Result<f64, SchedulerError> {
    let config = format!(
        r#"{{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
             "prediction_type": "{prediction_type}"}}"#
    );
    let config = SchedulerConfig::from_json(&config)?;
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
        // The latents times `noise` are the best prediction of ε, times `original` that of x_0.
        let variance = DEVIATION * DEVIATION + sigma * sigma;
        let (noise, original) = (sigma / variance, DEVIATION * DEVIATION / variance);
        let factor = sigma.hypot(1.0)
            * match prediction_type {
                "v_prediction" => (noise - sigma * original) / sigma.hypot(1.0),
                "sample" => original,
                _ => noise,
            };
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
    for (prediction_type, steps) in
        ["epsilon", "v_prediction", "sample"].into_iter().flat_map(|it| [(it, 20), (it, 80)])
    {
        let [euler, adams_bashforth] =
            ["euler", "ab2"].map(|name| relative_error(name, prediction_type, steps).unwrap());
        assert!(
            adams_bashforth < 0.5 * euler,
            "{prediction_type}, {steps} steps: {adams_bashforth} against {euler}"
        );
    }
    assert!(adams_bashforth::register().is_err(), "a name is taken once");
}

/// The command in the example's documentation: with the built-in model, which predicts v, both draw one picture.
#[test]
fn it_draws_what_a_built_in_scheduler_draws() {
    // The first of the tests registers it.
    let _ = adams_bashforth::register();
    let pipeline = Model::convert_folder(&demo_model(), WeightType::F16).open(2);
    let draw = |scheduler: &str, steps: usize| {
        let request = Request::new("a red apple on a blue background").steps(steps).scheduler(scheduler);
        let drawn = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        drawn.pictures.into_iter().next().unwrap().rgb
    };
    let expected = draw("euler", 48);
    let found = psnr(&draw("ab2", 12), &expected);
    println!(
        "ab2 in 12 steps against Euler in 48: {found:.1} dB; Euler in 12: {:.1} dB",
        psnr(&draw("euler", 12), &expected)
    );
    assert!(found > 24.0, "{found:.1} dB");
}

/// It draws with a converted model, and its runs can be resumed from its history.
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
