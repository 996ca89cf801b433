//! Diffusion schedulers: which noise levels a run visits, and how one prediction of the model moves the latents
//! from one level to the next.
//!
//! Plain arithmetic over slices. Nothing here knows a tensor, a model or a file: latents may have any shape as
//! long as every slice of a call has the same length and the same order of elements.
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
//! A scheduler whose step is linear in `latents`, `noise_pred` and fresh noise is a table of coefficients: its file
//! computes them from its paper's formulas and [`LinearScheduler`] applies them; [`HistoryScheduler`] does so where a
//! step is linear in what earlier steps remembered, too. Others implement [`Scheduler`].
#![forbid(unsafe_code)]

mod beta;
mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm_multistep;
mod dpm_sde;
mod dpm_singlestep;
mod dpm_solver;
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

pub use config::{SchedulerConfig, value_from_text};
pub use error::SchedulerError;
pub use history::{Combination, Evaluation, HistoryScheduler, HistoryStep, PlanStep};
pub use limit::Limit;
pub use linear::{LinearScheduler, LinearStep};
pub use lookup::{
    BuildScheduler, Preset, SchedulerEntry, SchedulerOption, create, default_for_class, find, register,
    schedulers,
};
pub use noise_schedule::{BetaSchedule, NoiseSchedule};
pub use prediction::PredictionType;
pub use timesteps::{TimestepSpacing, fractional_timesteps, whole_timesteps};

/// Where schedulers get their randomness.
pub trait NoiseSource {
    /// Fills `out` with independent draws from the standard normal distribution.
    ///
    /// One call is one draw of a whole tensor: a generator may produce other numbers for two calls of half the
    /// length (PyTorch's does).
    fn fill_standard_normal(&mut self, out: &mut [f32]);
}

/// The reverse process, cut into a fixed number of steps.
///
/// Built ready to use from a [`SchedulerConfig`] and a number of inference steps, for one run. `step_index` counts
/// evaluations of the model from 0 (most noise) upwards; a run may start later: image to image starts at the step
/// whose noise level [`Scheduler::add_noise`] reached. A step that does not follow the one before starts a new run.
pub trait Scheduler: Send {
    /// Times the model is asked about, one per evaluation, on the training clock (`0.0` is the least noisy of the
    /// training steps). Fractional where levels fall between two training steps; always exact in `f32`.
    ///
    /// Their number is that of the inference steps for most schedulers. Those of second order
    /// ([`Scheduler::order`]) have nearly twice as many, and PNDM has more for its start.
    fn timesteps(&self) -> &[f64];

    /// Evaluations of the model per inference step: 1, or 2 for methods that look at a level between (Heun).
    ///
    /// Image to image with k of n inference steps left starts at `step_index` (n - k) · `order`.
    fn order(&self) -> usize {
        1
    }

    /// Standard deviation of the latents at the start: a run starts from this times standard normal noise.
    fn init_noise_sigma(&self) -> f64;

    /// Scales `latents` in place to what the model was trained to see at `step_index`.
    ///
    /// # Errors
    /// If there is no such step.
    fn scale_model_input(&self, latents: &mut [f32], step_index: usize) -> Result<(), SchedulerError>;

    /// Moves `latents` in place from the noise level of `step_index` to that of the next step.
    ///
    /// `noise_pred` is the model's answer, whatever the prediction type, guidance applied. Draws
    /// [`Scheduler::noise_draws`] times `latents.len()` normals from `noise`. sdq's own schedulers take all the memory that
    /// they need in the first step of a run.
    ///
    /// # Errors
    /// If there is no such step, the lengths differ, or what was [restored](Scheduler::restore) has another length;
    /// `latents` is then unchanged.
    fn step(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &mut [f32],
        noise: &mut dyn NoiseSource,
    ) -> Result<(), SchedulerError>;

    /// How many times [`Scheduler::step`] draws noise for all latents at `step_index`.
    fn noise_draws(&self, step_index: usize) -> usize;

    /// The forward process: writes to `out` what `original` (x_0) looks like at the noise level of `step_index`
    /// with the standard normal `noise`, in the scaling that [`Scheduler::step`] takes.
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

    /// Writes to `out` the clean latents (x_0) that the model's answer `noise_pred` means, given the `latents` that
    /// [`Scheduler::step`] would take at `step_index`: what a preview of the run shows.
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

    /// What is remembered from the steps taken so far, each vector as long as the latents. Empty for most.
    fn history(&self) -> Vec<Vec<f32>> {
        Vec::new()
    }

    /// Continues a run that was stopped before `step_index` with the [`Scheduler::history`] of that moment, by a
    /// scheduler built from the same config and step count: what follows is the same bit for bit.
    ///
    /// # Errors
    /// If `step_index` is past the end, or no run can have such a history there. That the vectors are as long as the
    /// latents is checked by the next step.
    fn restore(&mut self, step_index: usize, history: Vec<Vec<f32>>) -> Result<(), SchedulerError> {
        check_history(step_index, self.timesteps().len(), &history, 0..=0)
    }
}

/// Checks what a scheduler is given to continue from: that the run has `step_index`, and that `history` is
/// `expected` vectors of one length.
///
/// # Errors
/// [`SchedulerError::StepIndex`] or [`SchedulerError::History`] if not.
pub fn check_history(
    step_index: usize,
    steps: usize,
    history: &[Vec<f32>],
    expected: std::ops::RangeInclusive<usize>,
) -> Result<(), SchedulerError> {
    // A run that is stopped after its last step is complete, and may be continued with nothing.
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
