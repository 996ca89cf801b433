//! Schedulers with a history: tables of coefficients for the next latents and the remembered values of each
//! step, and the only loop that applies them.

use crate::error::SchedulerError;
use crate::limit::{Limit, Originals};
use crate::noise_schedule::{check_length, mix, scale};
use crate::prediction::PredictionType;
use crate::scheduler::{NoiseSource, Scheduler, check_history};

/// A weighted sum of the values that are available in a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Combination {
    /// Weight of the predicted clean latents (x_0), limited.
    pub original: f64,
    /// Weight of the current latents.
    pub latents: f64,
    /// Weight of the model's output.
    pub output: f64,
    /// Weight of fresh noise.
    pub noise: f64,
    /// Weights of the remembered values, in their order; missing weights are 0.
    pub remembered: Vec<f64>,
}

impl Combination {
    /// The remembered value at `place` alone.
    pub fn remembered(place: usize) -> Self {
        let mut remembered = vec![0.0; place + 1];
        remembered[place] = 1.0;
        Combination { remembered, ..Combination::default() }
    }

    /// Adds `weight` to that of the remembered value at `place`.
    pub fn add_remembered(&mut self, place: usize, weight: f64) {
        if self.remembered.len() <= place {
            self.remembered.resize(place + 1, 0.0);
        }
        self.remembered[place] += weight;
    }

    /// Adds `weight` times `other`.
    pub fn add(&mut self, weight: f64, other: &Combination) {
        self.original += weight * other.original;
        self.latents += weight * other.latents;
        self.output += weight * other.output;
        self.noise += weight * other.noise;
        for (place, share) in other.remembered.iter().enumerate() {
            self.add_remembered(place, weight * share);
        }
    }
}

/// One step of a scheduler with a history.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryStep {
    /// The next latents.
    pub next: Combination,
    /// The values that are remembered for later steps.
    pub remember: Vec<Combination>,
}

/// An evaluation of the model, and how its output is interpreted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// The timestep, in training timesteps, exact in `f32`.
    pub timestep: f64,
    /// How latents at this evaluation consist of clean ones and noise: signal · x_0 + noise level · ε.
    pub signal_and_noise: (f64, f64),
    /// The same for latents that [`Scheduler::add_noise`] returns for this step; almost always equal.
    pub noised: (f64, f64),
    /// The factor of the model's input.
    pub input_scale: f64,
    /// Whether the step draws noise.
    pub draws_noise: bool,
}

impl Evaluation {
    /// Shares of latents and output in the predicted clean latents.
    fn original(&self, prediction_type: PredictionType) -> (f64, f64) {
        let (signal, noise_level) = self.signal_and_noise;
        prediction_type.original_sample(signal, noise_level)
    }

    /// For latents x_0 + σ · ε, where the model was trained on latents of unit variance.
    pub(crate) fn at_sigma(timestep: f64, sigma: f64) -> Self {
        Evaluation {
            timestep,
            signal_and_noise: (1.0, sigma),
            noised: (1.0, sigma),
            input_scale: 1.0 / sigma.hypot(1.0),
            draws_noise: false,
        }
    }

    /// For latents α · x_0 + σ_t · ε with α² + σ_t² = 1 and `sigma` = σ_t / α.
    pub(crate) fn variance_preserving(timestep: f64, sigma: f64) -> Self {
        let signal_and_noise = alpha_sigma(sigma);
        Evaluation {
            timestep,
            signal_and_noise,
            noised: signal_and_noise,
            input_scale: 1.0,
            draws_noise: false,
        }
    }
}

/// (α, σ_t) of variance-preserving latents whose noise is `sigma` times their signal.
pub(crate) fn alpha_sigma(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / sigma.hypot(1.0);
    (alpha, sigma * alpha)
}

/// The step at `step_index` with the given number of remembered vectors; `None` if no run remembers this
/// number there.
pub type PlanStep = Box<dyn Fn(usize, usize) -> Option<HistoryStep> + Send>;

/// A scheduler whose steps are linear in the latents, the (limited) prediction, fresh noise and the values
/// that earlier steps remembered.
///
/// Each value is computed in `f64` and rounded to `f32` once per step; remembered values are `f32`.
pub struct HistoryScheduler {
    timesteps: Vec<f64>,
    evaluations: Vec<Evaluation>,
    prediction_type: PredictionType,
    originals: Originals,
    init_noise_sigma: f64,
    order: usize,
    plan: PlanStep,
    /// The steps of this run, from its first one; empty before it begins.
    run: Vec<HistoryStep>,
    first_index: usize,
    /// The next step.
    next_index: usize,
    /// The number of vectors of `history` that are in use.
    remembered: usize,
    /// The maximum number of vectors that the run remembers, and buffers for their replacements.
    history: Vec<Vec<f32>>,
    new_history: Vec<Vec<f32>>,
    next_latents: Vec<f32>,
    fresh_noise: Vec<f32>,
}

impl HistoryScheduler {
    /// A scheduler for a model that predicts `prediction_type`, with the given `evaluations` and the steps of
    /// `plan`.
    pub fn new(
        evaluations: Vec<Evaluation>,
        prediction_type: PredictionType,
        limit: Limit,
        init_noise_sigma: f64,
        plan: PlanStep,
    ) -> Self {
        HistoryScheduler {
            timesteps: evaluations.iter().map(|evaluation| evaluation.timestep).collect(),
            evaluations,
            prediction_type,
            originals: Originals::new(limit),
            init_noise_sigma,
            order: 1,
            plan,
            run: Vec::new(),
            first_index: 0,
            next_index: 0,
            remembered: 0,
            history: Vec::new(),
            new_history: Vec::new(),
            next_latents: Vec::new(),
            fresh_noise: Vec::new(),
        }
    }

    /// Sets the number of evaluations of the model per inference step.
    #[must_use]
    pub fn with_order(mut self, order: usize) -> Self {
        self.order = order;
        self
    }

    fn at(&self, step_index: usize) -> Result<Evaluation, SchedulerError> {
        let steps = self.evaluations.len();
        self.evaluations
            .get(step_index)
            .copied()
            .ok_or(SchedulerError::StepIndex { found: step_index, steps })
    }

    /// Begins a run at `step_index` with this history.
    fn begin(&mut self, step_index: usize, history: Vec<Vec<f32>>) {
        (self.first_index, self.next_index) = (step_index, step_index);
        (self.remembered, self.history) = (history.len(), history);
        self.run.clear();
        let mut remembered = self.remembered;
        for index in step_index..self.evaluations.len() {
            let Some(step) = (self.plan)(index, remembered) else { break };
            remembered = step.remember.len();
            self.run.push(step);
        }
    }

    fn history_error(&self, step_index: usize) -> SchedulerError {
        SchedulerError::History {
            step_index,
            found: format!("{} vectors", self.remembered),
            expected: "that of the steps before it".to_owned(),
        }
    }

    /// Allocates memory for latents of this length.
    fn make_room(&mut self, latents: usize) {
        let most = self.run.iter().map(|step| step.remember.len()).max().unwrap_or(0).max(self.remembered);
        for vectors in [&mut self.history, &mut self.new_history] {
            vectors.resize_with(most, Vec::new);
            vectors.iter_mut().for_each(|vector| vector.resize(latents, 0.0));
        }
        self.next_latents.resize(latents, 0.0);
        self.fresh_noise.resize(latents, 0.0);
    }
}

/// The values that are available in a step, each as long as the latents.
struct Terms<'a> {
    original: &'a [f64],
    latents: &'a [f32],
    output: &'a [f32],
    noise: &'a [f32],
    history: &'a [Vec<f32>],
}

impl Terms<'_> {
    fn combine(&self, sum: &Combination, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let remembered = sum.remembered.iter().zip(self.history);
            let remembered: f64 = remembered.map(|(weight, values)| weight * f64::from(values[i])).sum();
            *out = (sum.original * self.original[i]
                + sum.latents * f64::from(self.latents[i])
                + sum.output * f64::from(self.output[i])
                + sum.noise * f64::from(self.noise[i])
                + remembered) as f32;
        }
    }
}

impl Scheduler for HistoryScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn order(&self) -> usize {
        self.order
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
        let at = self.at(step_index)?;
        check_length("noise_pred", noise_pred.len(), latents.len())?;
        if step_index != self.next_index || self.run.is_empty() {
            self.begin(step_index, Vec::new());
        }
        for remembered in &self.history[..self.remembered] {
            check_length("the scheduler's history", remembered.len(), latents.len())?;
        }
        if step_index - self.first_index >= self.run.len() {
            return Err(self.history_error(step_index));
        }
        self.make_room(latents.len());
        match at.draws_noise {
            true => noise.fill_standard_normal(&mut self.fresh_noise),
            false => self.fresh_noise.fill(0.0),
        }
        let step = &self.run[step_index - self.first_index];
        let terms = Terms {
            original: self.originals.predict(at.original(self.prediction_type), noise_pred, latents),
            latents,
            output: noise_pred,
            noise: &self.fresh_noise,
            history: &self.history,
        };
        for (sum, vector) in step.remember.iter().zip(&mut self.new_history) {
            terms.combine(sum, vector);
        }
        terms.combine(&step.next, &mut self.next_latents);
        latents.copy_from_slice(&self.next_latents);
        self.remembered = step.remember.len();
        std::mem::swap(&mut self.history, &mut self.new_history);
        self.next_index = step_index + 1;
        Ok(())
    }

    fn noise_draws(&self, step_index: usize) -> usize {
        self.evaluations.get(step_index).map_or(0, |at| usize::from(at.draws_noise))
    }

    fn add_noise(
        &self,
        original: &[f32],
        noise: &[f32],
        step_index: usize,
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        mix(self.at(step_index)?.noised, original, noise, out)
    }

    fn predict_original(
        &mut self,
        noise_pred: &[f32],
        step_index: usize,
        latents: &[f32],
        out: &mut [f32],
    ) -> Result<(), SchedulerError> {
        let shares = self.at(step_index)?.original(self.prediction_type);
        self.originals.write(shares, noise_pred, latents, out)
    }

    fn history(&self) -> Vec<Vec<f32>> {
        self.history[..self.remembered].to_vec()
    }

    fn restore(&mut self, step_index: usize, history: Vec<Vec<f32>>) -> Result<(), SchedulerError> {
        check_history(step_index, self.timesteps.len(), &history, history.len()..=history.len())?;
        self.begin(step_index, history);
        match step_index < self.timesteps.len() && self.run.is_empty() {
            true => Err(self.history_error(step_index)),
            false => Ok(()),
        }
    }
}
