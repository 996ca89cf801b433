//! Predicts the time of a run, and runs its parts separately to be measured.

use std::time::Duration;

use super::{
    MemoryPlan, Pipeline, Request, RunPlan, caching::CacheSchedule, compiled::GraphKey, denoiser::Batching,
    run_plan::PlannedGraph, stages::Stager,
};
use crate::{
    Error,
    backend::{Cost, Executable},
    graph::{Graph, Operation as _},
    models::clip::transformer,
};

/// The predicted time of a run, in seconds. Opening the model and writing files are not included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimePlan {
    /// Encoding of prompts to text states.
    pub text_encoder: f64,
    /// Encoding of the start picture to latents.
    pub vae_encoder: f64,
    /// Work of the U-Net that is done once for all steps: biases of the timesteps, keys and values of the
    /// prompts.
    pub unet_once: f64,
    /// One step of the pictures that are drawn together, with all branches of guidance, without caching.
    pub step: f64,
    /// All steps of all pictures, without caching: with a cache, a run takes less.
    pub steps: f64,
    /// Decoding of all pictures to pixels.
    pub vae_decoder: f64,
}

impl TimePlan {
    /// The sum, from the prompt to the last picture.
    pub fn total(&self) -> f64 {
        self.text_encoder + self.vae_encoder + self.unet_once + self.steps + self.vae_decoder
    }
}

/// A part of a run that can be measured separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One prompt through every text encoder.
    TextEncoder,
    /// One step of one picture, with all branches of the request's guidance as one batch.
    UNet,
    /// Decoding of one picture's latents to pixels, in one graph.
    VaeDecoder,
}

impl Part {
    /// All parts, in the order in which they run.
    pub const ALL: [Part; 3] = [Part::TextEncoder, Part::UNet, Part::VaeDecoder];
}

/// A part that is ready to run on meaningless values.
pub struct PartRun<'w> {
    executables: Vec<Box<dyn Executable + 'w>>,
    cost: Cost,
}

/// The time of one kind of op in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpTime {
    /// See [`Operation::name`](crate::graph::Operation::name).
    pub op: &'static str,
    /// Number of ops.
    pub count: usize,
    /// Their integer multiply-adds; 0 for ops that do not multiply matrices.
    pub integer: u64,
    /// Their floating-point multiply-adds.
    pub float: u64,
    /// Minimum number of bytes that they read and write, without weights.
    pub bytes: u64,
    /// Their total time.
    pub time: Duration,
}

impl PartRun<'_> {
    /// Multiply-adds of a run and its predicted time.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Runs once.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self) -> Result<(), Error> {
        self.executables.iter_mut().try_for_each(|executable| executable.run())
    }

    /// Runs once and returns the time of each kind of op, the longest first.
    ///
    /// # Errors
    /// When the device fails.
    pub fn profile(&mut self) -> Result<Vec<OpTime>, Error> {
        let mut kinds: Vec<OpTime> = Vec::new();
        for executable in &mut self.executables {
            executable.run_timed(&mut |graph, node, time| {
                let op = node.op.name();
                let index = kinds.iter().position(|kind| kind.op == op).unwrap_or_else(|| {
                    kinds.push(OpTime { op, count: 0, integer: 0, float: 0, bytes: 0, time: Duration::ZERO });
                    kinds.len() - 1
                });
                let kind = &mut kinds[index];
                kind.count += 1;
                match graph.is_integer(node) {
                    true => kind.integer += graph.multiply_adds(node),
                    false => kind.float += graph.multiply_adds(node),
                }
                let tensors = node.inputs.iter().chain([&node.output]);
                let elements: usize = tensors.map(|&tensor| graph.elements(tensor)).sum();
                kind.bytes += (elements * size_of::<f32>()) as u64;
                kind.time += time;
            })?;
        }
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.time));
        Ok(kinds)
    }
}

impl Pipeline {
    /// Predicts how long [`generate`](Pipeline::generate) takes with `plan`. The first call measures the
    /// machine, which takes some tenths of a second.
    ///
    /// # Errors
    /// When the device fails.
    pub fn predict_time(&self, plan: &MemoryPlan) -> Result<TimePlan, Error> {
        if plan.on_fallback
            && let Some(other) = self.on_fallback()
        {
            return other.predict_time(&MemoryPlan { on_fallback: false, ..plan.clone() });
        }
        let run = &plan.run;
        let decoder = run.decoder(self);
        let stager = Stager::new(&decoder.graph, self.network(decoder.key.component)?, 0)?;
        let mut time = TimePlan {
            text_encoder: self.seconds(run.text(self))?,
            vae_encoder: self.seconds(run.encoder(self))?,
            unet_once: 0.0,
            step: 0.0,
            steps: 0.0,
            vae_decoder: run.pictures as f64 * stager.seconds(&plan.stages)?,
        };
        for (batching, times) in run.batches(plan.batching) {
            let mut step = 0.0;
            for network in run.denoiser(self, batching).into_networks() {
                let cost = self.cost(&network.step.key, network.step.graph)?;
                step += network.step.runs as f64 * cost.seconds;
                time.unet_once += self.seconds([network.schedule, network.prompt])? + cost.first;
            }
            time.step = time.step.max(step);
            time.steps += times as f64 * run.evaluations as f64 * step;
        }
        Ok(time)
    }

    /// Predicted seconds of these graphs, compiled and run as often as planned.
    fn seconds(&self, graphs: impl IntoIterator<Item = PlannedGraph>) -> Result<f64, Error> {
        let each = graphs.into_iter().map(|PlannedGraph { key, graph, compiles, runs, .. }| {
            let cost = self.cost(&key, graph)?;
            Ok(compiles as f64 * (cost.first + runs as f64 * cost.seconds))
        });
        each.sum()
    }

    /// `part` of a picture with the settings of `request`, ready to run.
    ///
    /// # Errors
    /// When the request is not valid or memory runs out.
    pub fn part(&self, part: Part, request: &Request) -> Result<PartRun<'_>, Error> {
        let plan = self.run_plan(request)?;
        let graphs = match part {
            Part::TextEncoder => RunPlan { prompts: 1, chunks: 1, ..plan }.text(self),
            Part::UNet => {
                let plan = RunPlan { cache_schedule: CacheSchedule::NONE, ..plan };
                plan.denoiser(self, Batching::ONE).into_networks().map(|network| network.step).collect()
            }
            Part::VaeDecoder => vec![plan.decoder(self)],
        };
        let mut run = PartRun { executables: Vec::new(), cost: Cost::default() };
        for PlannedGraph { key, graph, .. } in graphs {
            let cost = self.cost(&key, graph.clone())?;
            run.cost.integer += cost.integer;
            run.cost.float += cost.float;
            run.cost.seconds += cost.seconds;
            run.cost.first += cost.first;
            let ports = graph.inputs.clone();
            let mut executable = self.network(key.component)?.compile(graph)?;
            for port in ports {
                // Tokens must be whole numbers; for all other inputs any values will do.
                let modulus = if port.name == transformer::TOKEN_IDS { 256 } else { 2003 };
                let values = (0..).map(|index: usize| (index * 7919) % modulus);
                for (input, value) in executable.input_mut(&port.name).iter_mut().zip(values) {
                    *input = if modulus == 256 { value as f32 } else { value as f32 / 1001.0 - 1.0 };
                }
            }
            run.executables.push(executable);
        }
        Ok(run)
    }

    fn cost(&self, key: &GraphKey, graph: Graph) -> Result<Cost, Error> {
        self.network(key.component)?.cost(graph)
    }
}
