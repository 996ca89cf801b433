//! Diffusion schedulers: the noise levels of a run, and the step of the latents from one level to the next,
//! given a prediction of the model.
//!
//! Plain arithmetic on slices, independent of tensors, models and files: latents may have any shape as long
//! as every slice of a call has the same length and the same order of elements.
//!
//! ```
//! use sdq_schedulers::{NoiseSource, SchedulerConfig, create};
//!
//! /// Real runs draw from a seeded generator; DDIM with eta = 0 draws nothing after the start.
//! struct NoNoise;
//! impl NoiseSource for NoNoise {
//!     fn fill_standard_normal(&mut self, out: &mut [f32]) {
//!         out.fill(0.0);
//!     }
//! }
//!
//! let config = SchedulerConfig::from_json(r#"{"beta_schedule": "scaled_linear", "clip_sample": false}"#)?;
//! let mut scheduler = create("ddim", &config, 20)?;
//! let mut latents = vec![scheduler.init_noise_sigma() as f32; 16];
//! for step_index in 0..scheduler.timesteps().len() {
//!     let mut model_input = latents.clone();
//!     scheduler.scale_model_input(&mut model_input, step_index)?;
//!     let noise_pred = vec![0.0; 16]; // the model's answer to `model_input` at `timesteps()[step_index]`
//!     scheduler.step(&noise_pred, step_index, &mut latents, &mut NoNoise)?;
//! }
//! # Ok::<(), sdq_schedulers::SchedulerError>(())
//! ```
//!
//! A scheduler whose step is linear in `latents`, `noise_pred` and fresh noise is a table of coefficients:
//! its file computes them from its paper's formulas and [`LinearScheduler`] applies them;
//! [`HistoryScheduler`] does the same for steps that are also linear in values that earlier steps remembered.
//! Others implement [`Scheduler`].
#![forbid(unsafe_code)]

mod beta;
mod classes;
mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm_multistep;
mod dpm_sde;
mod dpm_singlestep;
mod dpm_solver;
mod dpmpp_2s_ancestral;
mod dpmpp_3m_sde;
mod error;
mod euler;
mod euler_ancestral;
mod heun;
mod history;
mod kdpm2;
mod kdpm2_ancestral;
mod lcm;
mod limit;
mod linear;
mod lms;
mod lookup;
mod names;
mod noise_schedule;
mod pndm;
mod prediction;
#[cfg(test)]
mod properties;
mod registry;
mod sigma_schedule;
mod tcd;
mod timesteps;
mod unipc;

pub use classes::check_class;
pub use config::{AlignedSteps, SchedulerConfig, value_from_text};
pub use error::{SchedulerError, StepLimit};
pub use history::{Combination, Evaluation, HistoryScheduler, HistoryStep, PlanStep};
pub use limit::Limit;
pub use linear::{LinearScheduler, LinearStep};
pub use lookup::{
    BuildScheduler, Preset, SchedulerEntry, SchedulerOption, create, default_for_class, register, schedulers,
};
pub use names::{NamedScheduler, ScheduleName, find, schedules};
pub use noise_schedule::{BetaSchedule, NoiseSchedule};
pub use prediction::PredictionType;
pub use timesteps::{TimestepSpacing, fractional_timesteps, whole_timesteps};

/// A source of random numbers for schedulers.
pub trait NoiseSource {
    /// Fills `out` with independent draws from the standard normal distribution.
    ///
    /// One call is one draw of a whole tensor: two calls of half the length may give other numbers (with
    /// PyTorch's generator they do).
    fn fill_standard_normal(&mut self, out: &mut [f32]);
}

/// The reverse process, divided into a fixed number of steps.
///
/// Built for one run from a [`SchedulerConfig`] and a number of inference steps. `step_index` counts
/// evaluations of the model from 0 (most noise) upwards; a run may start later: image to image starts at the
/// step up to whose noise level [`Scheduler::add_noise`] added noise. A step that does not follow the one
/// before starts a new run.
pub trait Scheduler: Send {
    /// The timesteps of the model's evaluations, in training timesteps (`0.0` is the least noisy). Fractional
    /// if a level is between two training timesteps; always exact in `f32`.
    ///
    /// For most schedulers there are as many as inference steps. Those of second order ([`Scheduler::order`])
    /// have nearly twice as many, and PNDM has additional ones at its start.
    fn timesteps(&self) -> &[f64];

    /// Evaluations of the model per inference step: 1, or 2 for methods with an intermediate evaluation
    /// (Heun).
    ///
    /// Image to image with k of n inference steps left starts at `step_index` (n - k) · `order`.
    fn order(&self) -> usize {
        1
    }

    /// Standard deviation of the latents at the start: a run starts from standard normal noise times this.
    fn init_noise_sigma(&self) -> f64;

    /// Scales `latents` in place to the range that the model was trained with at `step_index`.
    ///
    /// # Errors
    /// If there is no such step.
    fn scale_model_input(&self, latents: &mut [f32], step_index: usize) -> Result<(), SchedulerError>;

    /// Moves `latents` in place from the noise level of `step_index` to that of the next step.
    ///
    /// `noise_pred` is the model's output for any prediction type, with guidance. Draws
    /// [`Scheduler::noise_draws`] times `latents.len()` normal values from `noise`. sdq's own schedulers
    /// allocate all their memory in the first step of a run.
    ///
    /// # Errors
    /// If there is no such step, the lengths differ, or the [restored](Scheduler::restore) state has another
    /// length; `latents` is then unchanged.
    fn step(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &mut [f32],
        noise: &mut dyn NoiseSource,
    ) -> Result<(), SchedulerError>;

    /// The number of times that [`Scheduler::step`] draws noise for all latents at `step_index`.
    fn noise_draws(&self, step_index: usize) -> usize;

    /// The forward process: writes to `out` the latents `original` (x_0) with the standard normal `noise` at
    /// the noise level of `step_index`, in the scaling of [`Scheduler::step`].
    ///
    /// # Errors
    /// If there is no such step or the lengths differ.
    fn add_noise(
        &self,
        original: &[f32],
        noise: &[f32],
        step_index: usize,
        out: &mut [f32],
    ) -> Result<(), SchedulerError>;

    /// Writes to `out` the clean latents (x_0) according to the model's output `noise_pred`, given the
    /// `latents` that [`Scheduler::step`] would take at `step_index`. Previews show them.
    ///
    /// # Errors
    /// If there is no such step or the lengths differ.
    fn predict_original(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &[f32],
        out: &mut [f32],
    ) -> Result<(), SchedulerError>;

    /// The state that is remembered from earlier steps; each vector is as long as the latents. Empty for
    /// most.
    fn history(&self) -> Vec<Vec<f32>> {
        Vec::new()
    }

    /// Resumes a run that was stopped before `step_index` with the [`Scheduler::history`] of that moment, by
    /// a scheduler built from the same config and step count: all further steps are bit-identical.
    ///
    /// # Errors
    /// If `step_index` is past the end, or no run can have such a history there. The next step checks that
    /// the vectors are as long as the latents.
    fn restore(&mut self, step_index: usize, history: Vec<Vec<f32>>) -> Result<(), SchedulerError> {
        check_history(step_index, self.timesteps().len(), &history, 0..=0)
    }
}

/// Checks the state from which a scheduler resumes: that the run has `step_index`, and that `history` is
/// `expected` vectors of one length.
///
/// # Errors
/// [`SchedulerError::StepIndex`] or [`SchedulerError::History`] otherwise.
pub fn check_history(
    step_index: usize,
    steps: usize,
    history: &[Vec<f32>],
    expected: std::ops::RangeInclusive<usize>,
) -> Result<(), SchedulerError> {
    // A run that is stopped after its last step is complete, and can be resumed with no steps left.
    if step_index > steps {
        return Err(SchedulerError::StepIndex { found: step_index, steps: steps.saturating_add(1) });
    }
    let history_error =
        |found: String, expected: String| Err(SchedulerError::History { step_index, found, expected });
    if !expected.contains(&history.len()) {
        let (fewest, most) = expected.into_inner();
        let expected = if fewest == most { format!("{most}") } else { format!("{fewest} to {most}") };
        return history_error(format!("{} vectors", history.len()), expected);
    }
    let length = history.first().map_or(0, Vec::len);
    match history.iter().find(|vector| vector.len() != length) {
        Some(other) => history_error(
            format!("vectors of {length} and {} values", other.len()),
            "one length, that of the latents".to_owned(),
        ),
        None => Ok(()),
    }
}
