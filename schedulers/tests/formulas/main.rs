//! Compares each scheduler with the formulas of its paper, or of the sampler that it implements, in their
//! plainest form: one value of the latents at a time, in `f64`; only the noise levels of training are shared.

mod exponential;
mod gaussian;
mod levels;
mod sigma_samplers;
mod variance_preserving;

use sdq_schedulers::{NoiseSchedule, NoiseSource, PredictionType, SchedulerConfig, create};

const ELEMENTS: usize = 3;

/// A config with the noise levels of Stable Diffusion and the `settings`, members of a JSON object.
fn config(settings: &str) -> SchedulerConfig {
    let separator = if settings.is_empty() { "" } else { "," };
    SchedulerConfig::from_json(&format!(
        r#"{{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012{separator} {settings}}}"#
    ))
    .unwrap()
}

/// Element `element` of draw `draw`: numbers of both signs with the magnitude of standard normal ones.
fn noise_value(draw: usize, element: usize) -> f64 {
    f64::from((1.7 * (3 * draw + element + 1) as f32).sin() * 1.4)
}

/// Noise with known values.
struct KnownNoise {
    draws: usize,
}

impl NoiseSource for KnownNoise {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        for (element, value) in out.iter_mut().enumerate() {
            *value = noise_value(self.draws, element) as f32;
        }
        self.draws += 1;
    }
}

/// A model that is neither linear nor the same at two timesteps.
fn model(input: f64, timestep: f64) -> f64 {
    (input + timestep / 1000.0).sin()
}

/// One value of the latents in a reference sampler.
struct Walk<'a> {
    prediction_type: PredictionType,
    timesteps: &'a [f64],
    element: usize,
    asked: usize,
    draws: usize,
}

impl Walk<'_> {
    /// The model's output for `input`, which has unit variance. It is evaluated at the scheduler's timesteps
    /// in turn.
    fn answer(&mut self, input: f64) -> f64 {
        let timestep = self.timesteps[self.asked];
        self.asked += 1;
        model(input, timestep)
    }

    /// Fresh noise.
    fn noise(&mut self) -> f64 {
        self.draws += 1;
        noise_value(self.draws - 1, self.element)
    }

    /// The model's x_0 for `latents` x_0 + σ · ε.
    fn original_at_sigma(&mut self, latents: f64, sigma: f64) -> f64 {
        let variance = 1.0 + sigma * sigma;
        let answer = self.answer(latents / variance.sqrt());
        match self.prediction_type {
            PredictionType::Epsilon => latents - sigma * answer,
            PredictionType::VPrediction => latents / variance - answer * sigma / variance.sqrt(),
            PredictionType::Sample => answer,
        }
    }

    /// dx/dσ for such latents.
    fn slope(&mut self, latents: f64, sigma: f64) -> f64 {
        (latents - self.original_at_sigma(latents, sigma)) / sigma
    }

    /// The model's (x_0, ε) for `latents` √ᾱ · x_0 + √(1 - ᾱ) · ε.
    fn original_and_noise(&mut self, latents: f64, alpha_prod: f64) -> (f64, f64) {
        let (signal, noise_level) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());
        let answer = self.answer(latents);
        match self.prediction_type {
            PredictionType::Epsilon => ((latents - noise_level * answer) / signal, answer),
            PredictionType::Sample => (answer, (latents - signal * answer) / noise_level),
            PredictionType::VPrediction => {
                (signal * latents - noise_level * answer, signal * answer + noise_level * latents)
            }
        }
    }
}

/// Runs the scheduler `name` from start to end and checks that `reference`, given the start of a value,
/// returns its end after the same number of evaluations and noise draws.
fn check(name: &str, config: &SchedulerConfig, steps: usize, reference: impl Fn(&mut Walk, f64) -> f64) {
    let label = format!("{name}, {steps} steps, {config:?}");
    let mut scheduler = create(name, config, steps).unwrap();
    let timesteps = scheduler.timesteps().to_vec();
    let start = [0, 1, 2].map(|element| (scheduler.init_noise_sigma() * noise_value(100, element)) as f32);
    let (mut latents, mut noise) = (start, KnownNoise { draws: 0 });
    for (step_index, timestep) in timesteps.iter().enumerate() {
        let mut input = latents;
        scheduler.scale_model_input(&mut input, step_index).unwrap();
        let answer = input.map(|value| model(f64::from(value), *timestep) as f32);
        let draws = noise.draws;
        scheduler.step(&answer, step_index, &mut latents, &mut noise).unwrap();
        assert_eq!(noise.draws - draws, scheduler.noise_draws(step_index), "{label}, step {step_index}");
    }
    for element in 0..ELEMENTS {
        let prediction_type = config.prediction_type;
        let mut walk = Walk { prediction_type, timesteps: &timesteps, element, asked: 0, draws: 0 };
        let expected = reference(&mut walk, f64::from(start[element]));
        assert_eq!((walk.asked, walk.draws), (timesteps.len(), noise.draws), "{label}: asked and drawn");
        let found = f64::from(latents[element]);
        assert!((found - expected).abs() < 3e-5, "{label}, element {element}: {found}, expected {expected}");
    }
}

/// [`check`] for each of the prediction types.
fn check_each(
    types: &[&str],
    name: &str,
    settings: &str,
    steps: usize,
    reference: impl Fn(&mut Walk, f64) -> f64,
) {
    for kind in types {
        let mut config = config(settings);
        config.set("prediction_type", (*kind).into()).unwrap();
        check(name, &config, steps, &reference);
    }
}

const ALL_TYPES: [&str; 3] = ["epsilon", "v_prediction", "sample"];

/// Some of diffusers' classes do not support models that predict x_0.
const NOISE_AND_VELOCITY: [&str; 2] = ["epsilon", "v_prediction"];

/// ᾱ of training.
fn alphas_cumprod() -> Vec<f64> {
    NoiseSchedule::new(&config("")).unwrap().alphas_cumprod().to_vec()
}

/// Leading timesteps of `steps` of 1000, without an offset.
fn leading(steps: usize) -> Vec<usize> {
    (0..steps).rev().map(|i| i * (1000 / steps)).collect()
}

/// ∫ from `from` to `to` of the Lagrange polynomial in `coordinate` that is 1 at `nodes[place]` and 0 at the
/// others, by Simpson's rule in many parts.
fn lagrange_integral(
    nodes: &[f64],
    place: usize,
    from: f64,
    to: f64,
    coordinate: impl Fn(f64) -> f64,
) -> f64 {
    const PARTS: usize = 400;
    let polynomial = |position: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(other, _)| *other != place);
        others
            .map(|(_, node)| {
                (coordinate(position) - coordinate(*node)) / (coordinate(nodes[place]) - coordinate(*node))
            })
            .product()
    };
    let width = (to - from) / PARTS as f64;
    let part = |index: usize| {
        let start = from + index as f64 * width;
        polynomial(start) + 4.0 * polynomial(start + width / 2.0) + polynomial(start + width)
    };
    (0..PARTS).map(part).sum::<f64>() * width / 6.0
}
