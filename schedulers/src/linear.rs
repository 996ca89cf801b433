//! Schedulers with linear steps: a table of coefficients and the only loop that applies them.

use crate::error::SchedulerError;
use crate::limit::{Limit, Originals};
use crate::noise_schedule::{check_length, mix, scale};
use crate::scheduler::{NoiseSource, Scheduler};

/// One step from noise level to noise level, linear except for the limit of the predicted clean latents:
///
/// ```text
/// original = limit(original_from_latents · latents + original_from_output · noise_pred)
/// latents ← from_original · original + from_latents · latents + from_output · noise_pred + noise_std · noise
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearStep {
    /// Share of `latents` in the predicted clean latents, before the limit.
    pub original_from_latents: f64,
    /// Share of the model's output in the predicted clean latents, before the limit.
    pub original_from_output: f64,
    /// Share of the predicted clean latents in the next latents.
    pub from_original: f64,
    /// Share of the current latents in the next latents, in addition to the above.
    pub from_latents: f64,
    /// Share of the model's output in the next latents, in addition to the above.
    pub from_output: f64,
    /// Standard deviation of the fresh noise; `None` draws none (a draw of deviation 0 still advances the generator).
    pub noise_std: Option<f64>,
    /// How latents at the start of this step consist of clean ones and noise: signal · x_0 + noise level · ε.
    pub signal_and_noise: (f64, f64),
    /// The factor of the model's input.
    pub input_scale: f64,
}

/// A scheduler whose steps are [`LinearStep`]s, which are computed as soon as the number of steps is known.
///
/// Each value is computed in `f64` and rounded to `f32` once per step. diffusers rounds after each operation,
/// which differs by some 1e-6 of the latents' size over a run; the cost of `f64` is negligible beside a model
/// evaluation.
#[derive(Clone, Debug)]
pub struct LinearScheduler {
    timesteps: Vec<f64>,
    steps: Vec<LinearStep>,
    init_noise_sigma: f64,
    originals: Originals,
    fresh_noise: Vec<f32>,
}

impl LinearStep {
    /// Shares of latents and output in the predicted clean latents.
    fn original(&self) -> (f64, f64) {
        (self.original_from_latents, self.original_from_output)
    }
}

impl LinearScheduler {
    /// A scheduler with `steps`, one for each of `timesteps`, that limits predicted clean latents to `limit`.
    ///
    /// # Panics
    /// If `timesteps` and `steps` differ in length.
    pub fn new(timesteps: Vec<f64>, steps: Vec<LinearStep>, init_noise_sigma: f64, limit: Limit) -> Self {
        assert_eq!(timesteps.len(), steps.len(), "one step per timestep");
        let originals = Originals::new(limit);
        LinearScheduler { timesteps, steps, init_noise_sigma, originals, fresh_noise: Vec::new() }
    }

    fn at(&self, step_index: usize) -> Result<LinearStep, SchedulerError> {
        let steps = self.steps.len();
        self.steps.get(step_index).copied().ok_or(SchedulerError::StepIndex { found: step_index, steps })
    }
}

impl Scheduler for LinearScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn scale_model_input(&self, latents: &mut [f32], step_index: usize) -> Result<(), SchedulerError> {
        scale(latents, self.at(step_index)?.input_scale);
        Ok(())
    }

    fn step(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &mut [f32],
        noise: &mut dyn NoiseSource,
    ) -> Result<(), SchedulerError> {
        let step = self.at(step_index)?;
        check_length("noise_pred", noise_pred.len(), latents.len())?;
        self.fresh_noise.resize(latents.len(), 0.0);
        match step.noise_std {
            Some(_) => noise.fill_standard_normal(&mut self.fresh_noise),
            None => self.fresh_noise.fill(0.0),
        }
        let noise_std = step.noise_std.unwrap_or(0.0);
        let original = self.originals.predict(step.original(), noise_pred, latents);
        for (((value, &output), &noise), &original) in
            latents.iter_mut().zip(noise_pred).zip(&self.fresh_noise).zip(original)
        {
            *value = (step.from_original * original
                + step.from_latents * f64::from(*value)
                + step.from_output * f64::from(output)
                + noise_std * f64::from(noise)) as f32;
        }
        Ok(())
    }

    fn noise_draws(&self, step_index: usize) -> usize {
        self.steps.get(step_index).map_or(0, |step| usize::from(step.noise_std.is_some()))
    }

    fn add_noise(
        &self,
        original: &[f32],
        noise: &[f32],
        step_index: usize,
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        mix(self.at(step_index)?.signal_and_noise, original, noise, out)
    }

    fn predict_original(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &[f32],
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        let shares = self.at(step_index)?.original();
        self.originals.write(shares, noise_pred, latents, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(f32);

    impl NoiseSource for Constant {
        fn fill_standard_normal(&mut self, out: &mut [f32]) {
            out.fill(self.0);
        }
    }

    const STEP: LinearStep = LinearStep {
        original_from_latents: 2.0,
        original_from_output: -1.0,
        from_original: 10.0,
        from_latents: 0.5,
        from_output: 0.25,
        noise_std: Some(100.0),
        signal_and_noise: (3.0, 4.0),
        input_scale: 0.5,
    };

    fn scheduler(limit: Limit) -> LinearScheduler {
        LinearScheduler::new(vec![7.0, 3.0], vec![STEP, LinearStep { noise_std: None, ..STEP }], 1.0, limit)
    }

    #[test]
    fn applies_the_formula_it_documents() {
        let mut latents = [1.0, 3.0];
        scheduler(Limit::None).step(&[4.0, 4.0], 0, &mut latents, &mut Constant(0.5)).unwrap();
        // original: -2, 2
        assert_eq!(latents, [-20.0 + 0.5 + 1.0 + 50.0, 20.0 + 1.5 + 1.0 + 50.0]);
    }

    /// Only the predicted original is clipped.
    #[test]
    fn clips_the_predicted_original() {
        let mut latents = [1.0, 3.0, 2.5];
        scheduler(Limit::Clip(1.5)).step(&[4.0; 3], 1, &mut latents, &mut Constant(9.0)).unwrap();
        assert_eq!(latents, [-15.0 + 0.5 + 1.0, 15.0 + 1.5 + 1.0, 10.0 + 1.25 + 1.0]);
    }

    #[test]
    fn shows_the_original_that_its_step_uses() {
        let mut out = [0.0; 2];
        scheduler(Limit::None).predict_original(&[4.0, 4.0], 0, &[1.0, 3.0], &mut out).unwrap();
        assert_eq!(out, [-2.0, 2.0]);
        scheduler(Limit::Clip(1.5)).predict_original(&[4.0, 4.0], 0, &[1.0, 3.0], &mut out).unwrap();
        assert_eq!(out, [-1.5, 1.5]);
    }

    #[test]
    fn has_nothing_to_remember() {
        let mut scheduler = scheduler(Limit::None);
        assert_eq!(scheduler.history(), Vec::<Vec<f32>>::new());
        assert_eq!(scheduler.restore(2, Vec::new()), Ok(()));
        let past = scheduler.restore(3, Vec::new());
        assert_eq!(past, Err(SchedulerError::StepIndex { found: 3, steps: 3 }));
        let surplus = scheduler.restore(1, vec![vec![0.0; 4]]);
        assert!(matches!(surplus, Err(SchedulerError::History { step_index: 1, .. })), "{surplus:?}");
    }

    #[test]
    fn draws_what_it_says() {
        let scheduler = scheduler(Limit::None);
        assert_eq!([0, 1, 2].map(|step_index| scheduler.noise_draws(step_index)), [1, 0, 0]);
    }

    #[test]
    fn scales_input_and_adds_noise() {
        let scheduler = scheduler(Limit::None);
        let mut latents = [8.0];
        scheduler.scale_model_input(&mut latents, 1).unwrap();
        assert_eq!(latents, [4.0]);
        scheduler.add_noise(&[1.0], &[2.0], 0, &mut latents).unwrap();
        assert_eq!(latents, [11.0]);
    }

    #[test]
    fn refuses_bad_calls_and_leaves_the_latents() {
        let mut scheduler = scheduler(Limit::None);
        let mut latents = [1.0; 3];
        let no_step = SchedulerError::StepIndex { found: 2, steps: 2 };
        assert_eq!(scheduler.step(&[0.0; 3], 2, &mut latents, &mut Constant(0.0)), Err(no_step.clone()));
        assert_eq!(scheduler.scale_model_input(&mut latents, 2), Err(no_step.clone()));
        assert_eq!(scheduler.add_noise(&[0.0; 3], &[0.0; 3], 2, &mut latents), Err(no_step));
        let too_short = SchedulerError::Length { what: "noise_pred", found: 2, expected: 3 };
        assert_eq!(scheduler.step(&[0.0; 2], 0, &mut latents, &mut Constant(0.0)), Err(too_short));
        assert_eq!(latents, [1.0; 3]);
    }
}
