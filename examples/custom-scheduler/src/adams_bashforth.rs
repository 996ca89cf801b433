//! A second-order method: Euler's step, corrected by the change of the derivative since the step before.
//! Adams–Bashforth; Hairer, Nørsett & Wanner 1993, "Solving Ordinary Differential Equations I", section
//! III.1.

use sdq_schedulers::{
    NoiseSchedule, NoiseSource, PredictionType, Scheduler, SchedulerConfig, SchedulerEntry, SchedulerError,
    TimestepSpacing, check_history, fractional_timesteps,
};

/// Latents are x_0 + σ · ε; dx/dσ = ε.
struct AdamsBashforth {
    /// What the model predicts: ε, or something from which ε follows.
    prediction_type: PredictionType,
    timesteps: Vec<f64>,
    /// One per timestep, and the 0 at the end of the last step.
    sigmas: Vec<f64>,
    /// The previous step and its derivative.
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
        let prediction_type = config.prediction_type;
        Ok(Box::new(AdamsBashforth { prediction_type, timesteps, sigmas, previous: None }))
    }

    /// ε, from what the model predicts.
    fn derivative(&self, noise_pred: &[f32], step_index: usize, latents: &[f32]) -> Vec<f32> {
        let (a, b) = self.prediction_type.noise(1.0, self.sigmas[step_index]);
        let noise =
            |(&latents, &predicted): (&f32, &f32)| (a * f64::from(latents) + b * f64::from(predicted)) as f32;
        latents.iter().zip(noise_pred).map(noise).collect()
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
        let derivative = self.derivative(noise_pred, step_index, latents);
        let width = self.sigmas[step_index + 1] - self.sigmas[step_index];
        // The first step of a run has no previous one, and is Euler's.
        let (slope, before) = match self.previous.take() {
            Some((before, derivative)) if before + 1 == step_index && derivative.len() == latents.len() => {
                (width / (self.sigmas[step_index] - self.sigmas[before]) / 2.0, derivative)
            }
            _ => (0.0, derivative.clone()),
        };
        for ((value, &derivative), &before) in latents.iter_mut().zip(&derivative).zip(&before) {
            let (derivative, before) = (f64::from(derivative), f64::from(before));
            *value += (width * (derivative + slope * (derivative - before))) as f32;
        }
        self.previous = Some((step_index, derivative));
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
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &[f32],
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        self.check(step_index)?;
        let (a, b) = self.prediction_type.original_sample(1.0, self.sigmas[step_index]);
        for ((out, &latents), &predicted) in out.iter_mut().zip(latents).zip(noise_pred) {
            *out = (a * f64::from(latents) + b * f64::from(predicted)) as f32;
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

/// Registers the scheduler, so that it is found by name everywhere in this process.
///
/// # Errors
/// If its name is already in use.
pub(crate) fn register() -> Result<(), SchedulerError> {
    sdq_schedulers::register(SchedulerEntry {
        name: "adams-bashforth",
        aliases: &["ab2"],
        presets: &[],
        summary: "second order from the step before; predicts noise only",
        options: &[],
        classes: &[],
        build: AdamsBashforth::build,
    })
}
