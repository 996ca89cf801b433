//! The roles of networks that run in each step.
//!
//! The parts of such a network depend on inputs that change at different rates, so it consists of three
//! graphs. Outputs of the first two are inputs of the third, under the same names.

use super::StoredNetwork;
use crate::graph::Graph;

/// Name of a denoiser's output `[batch, height, width, out_channels]`.
pub const NOISE_PRED: &str = "noise_pred";
/// Name of the tensor that a step graph keeps for later steps on request, `[batch, height, width, channels]`:
/// the output of its inner layers.
pub const DEEP_STATES: &str = "deep_states";
/// Name of a schedule graph's input `[rows, added_width]`: pooled prompts and embedded numbers, for networks
/// that read them.
pub const ADDED_CONDITION: &str = "added_condition";
/// Name of a prompt graph's input `[batch, tokens, text_width]`.
pub const TEXT_STATES: &str = "text_states";

/// Sizes of one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Latents that are evaluated together; the batch includes all branches of guidance.
    pub batch: usize,
    /// Height of the latents, in latent pixels.
    pub height: usize,
    /// Width of the latents, in latent pixels.
    pub width: usize,
    /// Tokens of the text states.
    pub tokens: usize,
    /// Timesteps that the schedule graph evaluates together.
    pub timesteps: usize,
}

/// A network that runs in each step, as graphs.
#[derive(Clone, Debug)]
pub struct StepGraphs {
    /// Runs once per schedule: the rows of each input and output are the timesteps, each with
    /// [`schedule_rows`](StepNetwork::schedule_rows) rows.
    pub schedule: Graph,
    /// Runs once per prompt: [`TEXT_STATES`] → values that the step graph reads.
    pub prompt: Graph,
    /// Runs in each step.
    pub step: Graph,
}

/// A network that runs in each step.
///
/// This role alone is that of a companion: the outputs of its step graph are added to the denoiser's inputs
/// of the same names.
pub trait StepNetwork: StoredNetwork {
    /// Name of the network in messages and tables.
    fn label(&self) -> &'static str;

    /// Channels of its [`LATENTS`](super::LATENTS).
    fn in_channels(&self) -> usize;

    /// Whether its [`LATENTS`](super::LATENTS) are scaled from 0..=1 to -1..=1.
    fn center_input_sample(&self) -> bool;

    /// Channels of the text states that it reads.
    fn text_width(&self) -> usize;

    /// Channels of its [`ADDED_CONDITION`]; `None` if it reads none.
    fn added_width(&self) -> Option<usize>;

    /// Whether the guidance scale is an input, as in distilled networks.
    fn reads_guidance_scale(&self) -> bool;

    /// Its graphs. With `deep_skip` the step graph keeps [`DEEP_STATES`], the output of the layers below that
    /// skip connection, counted from 0.
    fn graphs(&self, shape: &StepShape, deep_skip: Option<usize>) -> StepGraphs;

    /// The inputs of the schedule graph except [`ADDED_CONDITION`], by name. `timesteps` are training
    /// timesteps; each has `rows` rows.
    fn schedule_inputs(
        &self,
        timesteps: &[f64],
        rows: usize,
        guidance_scale: Option<f32>,
    ) -> Vec<(&'static str, Vec<f32>)>;

    /// Rows of the schedule graph for each timestep: one for each element of the batch if the added condition
    /// differs between them.
    fn schedule_rows(&self, batch: usize) -> usize {
        if self.added_width().is_some() { batch } else { 1 }
    }
}

/// Latents and a timestep → predicted noise: its step graph has the output [`NOISE_PRED`].
pub trait DenoiserNetwork: StepNetwork {
    /// Channels of its [`NOISE_PRED`].
    fn out_channels(&self) -> usize;

    /// Height and width of the latents that it was trained on, if the config contains them.
    fn sample_size(&self) -> Option<(usize, usize)>;

    /// The number of skip connections below which there is at least one layer.
    fn deep_skips(&self) -> usize;

    /// The embedding of a number of the added condition; empty for networks that read none.
    fn embed_number(&self, number: f32) -> Vec<f32>;
}
