//! The trait that every scheduler implements.

use crate::error::SchedulerError;

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
/// Built for one run from a [`SchedulerConfig`](crate::SchedulerConfig) and a number of inference steps. `step_index` counts
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
            "vectors of the length of the latents".to_owned(),
        ),
        None => Ok(()),
    }
}
