//! A scheduler from outside this workspace: one file, one `register` call.
//!
//! It is a second-order method: Euler's step, corrected by how the derivative changed since the step before
//! (Adams–Bashforth). The "model" is the best possible one for data that is normal with standard deviation s, whose
//! answer and whose whole path are known in closed form, so that the error of a run is known too.
//!
//! ```text
//! cargo run -p sdq-schedulers --example custom_scheduler
//! ```

use sdq_schedulers::{
    NoiseSchedule, NoiseSource, Scheduler, SchedulerConfig, SchedulerEntry, SchedulerError, TimestepSpacing,
    check_history, create, fractional_timesteps, register,
};

/// Latents are x_0 + σ · ε; dx/dσ = ε, the model's prediction.
struct AdamsBashforth {
    timesteps: Vec<f64>,
    /// One per timestep, and the 0 that the last step arrives at.
    sigmas: Vec<f64>,
    /// The step last taken and its derivative.
    previous: Option<(usize, Vec<f32>)>,
}

impl AdamsBashforth {
    fn build(
        config: &SchedulerConfig,
        num_inference_steps: usize,
    ) -> Result<Box<dyn Scheduler>, SchedulerError> {
        let timesteps = fractional_timesteps(config, num_inference_steps, TimestepSpacing::Linspace)?;
        let schedule = NoiseSchedule::with_finite_sigmas(config)?;
        let sigmas = timesteps.iter().map(|&timestep| schedule.sigma(timestep)).chain([0.0]).collect();
        Ok(Box::new(AdamsBashforth { timesteps, sigmas, previous: None }))
    }

    fn check(&self, step_index: usize) -> Result<(), SchedulerError> {
        let steps = self.timesteps.len();
        if step_index < steps { Ok(()) } else { Err(SchedulerError::StepIndex { found: step_index, steps }) }
    }
}

impl Scheduler for AdamsBashforth {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.sigmas[0]
    }

    fn scale_model_input(&self, latents: &mut [f32], step_index: usize) -> Result<(), SchedulerError> {
        self.check(step_index)?;
        let scale = 1.0 / self.sigmas[step_index].hypot(1.0);
        latents.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
        Ok(())
    }

    fn step(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &mut [f32],
        _noise: &mut dyn NoiseSource,
    ) -> Result<(), SchedulerError> {
        self.check(step_index)?;
        if noise_pred.len() != latents.len() {
            let (found, expected) = (noise_pred.len(), latents.len());
            return Err(SchedulerError::Length { what: "noise_pred", found, expected });
        }
        let width = self.sigmas[step_index + 1] - self.sigmas[step_index];
        // The first step of a run has no past, and is Euler's.
        let (slope, before) = match self.previous.take() {
            Some((before, derivative)) if before + 1 == step_index && derivative.len() == latents.len() => {
                (width / (self.sigmas[step_index] - self.sigmas[before]) / 2.0, derivative)
            }
            _ => (0.0, noise_pred.to_vec()),
        };
        for ((value, &derivative), &before) in latents.iter_mut().zip(noise_pred).zip(&before) {
            let (derivative, before) = (f64::from(derivative), f64::from(before));
            *value += (width * (derivative + slope * (derivative - before))) as f32;
        }
        self.previous = Some((step_index, noise_pred.to_vec()));
        Ok(())
    }

    fn noise_draws(&self, _step_index: usize) -> usize {
        0
    }

    fn add_noise(
        &self,
        original: &[f32],
        noise: &[f32],
        step_index: usize,
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        self.check(step_index)?;
        let sigma = self.sigmas[step_index];
        for ((out, &original), &noise) in out.iter_mut().zip(original).zip(noise) {
            *out = (f64::from(original) + sigma * f64::from(noise)) as f32;
        }
        Ok(())
    }

    fn predict_original(
        &self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &[f32],
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        self.check(step_index)?;
        let sigma = self.sigmas[step_index];
        for ((out, &latents), &noise) in out.iter_mut().zip(latents).zip(noise_pred) {
            *out = (f64::from(latents) - sigma * f64::from(noise)) as f32;
        }
        Ok(())
    }

    fn history(&self) -> Vec<Vec<f32>> {
        self.previous.iter().map(|(_, derivative)| derivative.clone()).collect()
    }

    fn restore(&mut self, step_index: usize, mut history: Vec<Vec<f32>>) -> Result<(), SchedulerError> {
        check_history(step_index, self.timesteps.len(), &history, 0..=step_index.min(1))?;
        self.previous = history.pop().map(|derivative| (step_index - 1, derivative));
        Ok(())
    }
}

/// Neither this scheduler nor Euler's draws noise.
struct NoNoise;

impl NoiseSource for NoNoise {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        out.fill(0.0);
    }
}

/// Standard deviation s of the toy data.
const DEVIATION: f64 = 0.5;

/// Largest error over a run of `steps` steps, relative to where the exact path from the same start ends.
///
/// For normal data the best prediction of ε from x at level σ is σ · x / (s² + σ²), and so the path of dx/dσ = ε is
/// x(σ) ∝ √(s² + σ²).
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
        // A real model knows σ from the timestep; this one asks what noise alone looks like.
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

fn register_adams_bashforth() -> Result<(), SchedulerError> {
    register(SchedulerEntry {
        name: "adams-bashforth",
        aliases: &["ab2"],
        presets: &[],
        summary: "second order from the step before; predicts noise only",
        options: &[],
        classes: &[],
        build: AdamsBashforth::build,
        preset: &[],
    })
}

fn main() -> Result<(), SchedulerError> {
    register_adams_bashforth()?;
    println!("steps  euler  ab2    (relative error to the exact path)");
    for steps in [10, 20, 40, 80] {
        println!("{steps:5}  {:.3}  {:.3}", relative_error("euler", steps)?, relative_error("ab2", steps)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by name, run by the same loop as the built-in ones, and better than first order.
    #[test]
    fn registers_and_beats_euler() {
        register_adams_bashforth().unwrap();
        for steps in [20, 80] {
            let (euler, adams_bashforth) =
                (relative_error("euler", steps).unwrap(), relative_error("ab2", steps).unwrap());
            assert!(adams_bashforth < 0.5 * euler, "{steps} steps: {adams_bashforth} against {euler}");
        }
    }
}
