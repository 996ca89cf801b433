//! How long a run will take, and the parts of a run by themselves, to be measured.

use std::time::Duration;

use super::{
    Job, MemoryPlan, Pipeline, Request, Settings,
    denoiser::Batching,
    stages::{Stager, Stages},
};
use crate::{
    Error, PromptReading, TextEncoder,
    backend::{Cost, Executable},
    graph::Graph,
    models::{
        text_encoder::{self, TextShape},
        unet::{self, UNetGraphs, UNetShape},
        vae,
    },
};

/// The time of a run, before it runs, in seconds. Opening the model and writing files are not in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimePlan {
    /// Prompts to text states.
    pub text_encoder: f64,
    /// The picture to start from to latents.
    pub vae_encoder: f64,
    /// What the U-Net does once for all steps: biases of the timesteps, keys and values of the prompts.
    pub unet_once: f64,
    /// One step of the pictures that are drawn together, all branches of guidance, nothing taken from earlier steps.
    pub step: f64,
    /// All steps of all pictures, likewise: with a cache, a run takes less.
    pub steps: f64,
    /// All pictures from latents to pixels.
    pub vae_decoder: f64,
}

impl TimePlan {
    /// From the prompt to the last picture.
    pub fn total(&self) -> f64 {
        self.text_encoder + self.vae_encoder + self.unet_once + self.steps + self.vae_decoder
    }
}

/// A part of a run that can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One prompt through every text encoder.
    TextEncoder,
    /// One step of one picture, with all branches of the request's guidance as one batch.
    UNet,
    /// One picture's latents to pixels, all at once.
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

/// What one kind of op took in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpTime {
    /// See [`Op::name`](crate::graph::Op::name).
    pub op: &'static str,
    /// How many of them ran.
    pub count: usize,
    /// Their multiply-adds of integers; 0 for ops that do not multiply matrices.
    pub integer: u64,
    /// Those of floats.
    pub float: u64,
    /// What they read and write at least, weights aside.
    pub bytes: u64,
    /// What they took together.
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

    /// Runs once; what each kind of op took, the longest first.
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
    /// How long [`generate`](Pipeline::generate) will take for `request` when it follows `plan`. The first call measures
    /// the machine, some tenths of a second.
    ///
    /// # Errors
    /// As [`plan`](Pipeline::plan).
    pub fn predict_time(&self, request: &Request, plan: &MemoryPlan) -> Result<TimePlan, Error> {
        if plan.on_fallback
            && let Some(other) = self.on_fallback()
        {
            return other.predict_time(request, &MemoryPlan { on_fallback: false, ..plan.clone() });
        }
        let settings = self.settings(request)?;
        let mut time = TimePlan {
            text_encoder: 0.0,
            vae_encoder: self.encoder_seconds(&settings)?,
            unet_once: 0.0,
            step: 0.0,
            steps: 0.0,
            vae_decoder: settings.count as f64
                * self.decoder_seconds(settings.latent_size(&self.model.vae), &plan.stages)?,
        };
        let chunks = self.chunks_of(&settings)?;
        for (component, graph) in self.text_graphs(settings.branches().len(), chunks, settings.reading) {
            time.text_encoder += self.cost(component, graph)?.once();
        }
        let together = plan.batching.pictures;
        // Those drawn together, full batches first, and how often.
        let batches = [(together, settings.count / together), (settings.count % together, 1)];
        for (pictures, times) in batches.into_iter().filter(|&(pictures, times)| pictures > 0 && times > 0) {
            let batching = Batching { pictures, ..plan.batching };
            let [once, step] = self.unet_seconds(&settings, batching)?;
            time.unet_once += once;
            time.step = time.step.max(step);
            time.steps += times as f64 * settings.evaluations as f64 * step;
        }
        Ok(time)
    }

    /// `part` for a picture as `request` asks for, ready to run.
    ///
    /// # Errors
    /// When the request cannot be met or memory runs out.
    pub fn part(&self, part: Part, request: &Request) -> Result<PartRun<'_>, Error> {
        let settings = self.settings(request)?;
        let (height, width) = settings.latent_size(&self.model.vae);
        let graphs = match part {
            Part::TextEncoder => self.text_graphs(1, 1, settings.reading),
            Part::UNet => {
                let graphs = self.unet_graphs(&settings, settings.branches().len())?;
                vec![("unet", graphs.denoise)]
            }
            Part::VaeDecoder => vec![("vae", vae::decoder(&self.model.vae, 1, height, width))],
        };
        let mut run = PartRun { executables: Vec::new(), cost: Cost::default() };
        for (component, graph) in graphs {
            let cost = self.cost(component, graph.clone())?;
            run.cost.integer += cost.integer;
            run.cost.float += cost.float;
            run.cost.seconds += cost.seconds;
            run.cost.first += cost.first;
            let ports = graph.inputs.clone();
            let mut executable = self.backend.compile(graph, &self.component(component)?)?;
            for port in ports {
                // Tokens are whole numbers; to everything else any value between is as good.
                let modulus = if port.name == text_encoder::TOKEN_IDS { 256 } else { 2003 };
                let values = (0..).map(|index: usize| (index * 7919) % modulus);
                for (input, value) in executable.input_mut(&port.name).iter_mut().zip(values) {
                    *input = if modulus == 256 { value as f32 } else { value as f32 / 1001.0 - 1.0 };
                }
            }
            run.executables.push(executable);
        }
        Ok(run)
    }

    /// Chunks in which the prompts of `settings` are read.
    pub(super) fn chunks_of(&self, settings: &Settings) -> Result<usize, Error> {
        let branches = settings.branches();
        let prompts: Vec<&str> = branches.iter().map(|branch| branch.prompt).collect();
        self.chunk_count(&prompts, settings.reading.syntax)
    }

    /// Graphs of all text encoders, by component, for prompts of so many chunks.
    pub(super) fn text_graphs(
        &self,
        prompts: usize,
        chunks: usize,
        reading: PromptReading,
    ) -> Vec<(&'static str, Graph)> {
        let of = |encoder| self.text_graphs_of(encoder, prompts, chunks, reading);
        let encoders = self.model.text_encoders.iter();
        encoders.flat_map(|encoder| of(encoder).into_iter().map(|graph| (encoder.component, graph))).collect()
    }

    /// The graphs of one of them: states, and the pooled prompt where there is one.
    pub(super) fn text_graphs_of(
        &self,
        encoder: &TextEncoder,
        prompts: usize,
        chunks: usize,
        reading: PromptReading,
    ) -> Vec<Graph> {
        let (tokens, layer) = (encoder.tokenizer.length(), self.model.index.layer());
        let shape = TextShape {
            skipped: layer.skipped(reading.clip_skip),
            batch: prompts * chunks,
            tokens,
            words: self.words.count(),
        };
        let states = text_encoder::graph(&encoder.config, layer, &shape);
        [Some(states), text_encoder::projection(&encoder.config, prompts)].into_iter().flatten().collect()
    }

    fn unet_graphs(&self, settings: &Settings, batch: usize) -> Result<UNetGraphs, Error> {
        let (height, width) = settings.latent_size(&self.model.vae);
        let tokens = self.chunks_of(settings)? * self.model.text_encoders[0].tokenizer.length();
        let steps = settings.first_step + settings.evaluations;
        Ok(unet::graphs(&self.model.unet, &UNetShape { batch, height, width, tokens, steps }, None))
    }

    fn cost(&self, component: &'static str, graph: Graph) -> Result<Cost, Error> {
        self.backend.cost(graph, &self.component(component)?)
    }

    /// Seconds once for all steps, and of a step.
    fn unet_seconds(&self, settings: &Settings, batching: Batching) -> Result<[f64; 2], Error> {
        let branches = settings.branches().len();
        let groups = if batching.split_guidance { branches } else { 1 };
        let graphs = self.unet_graphs(settings, batching.pictures * branches / groups)?;
        let [time, prompt, denoise] =
            [graphs.time, graphs.prompt, graphs.denoise].map(|graph| self.cost("unet", graph));
        let (time, prompt, denoise) = (time?, prompt?, denoise?);
        let turns = if self.model.unet.addition_embedding.is_some() { groups } else { 1 };
        let once = turns as f64 * time.seconds + groups as f64 * prompt.seconds;
        Ok([once + time.first + prompt.first + denoise.first, groups as f64 * denoise.seconds])
    }

    fn encoder_seconds(&self, settings: &Settings) -> Result<f64, Error> {
        let pictures = match settings.job {
            Job::TextToImage => return Ok(0.0),
            Job::ImageToImage { .. } | Job::Editing { .. } => 1.0,
            // With the picture without its drawn part, where the model reads it.
            Job::Inpainting { .. } if self.model.unet.in_channels > self.model.vae.latent_channels() => 2.0,
            Job::Inpainting { .. } => 1.0,
        };
        let graph = vae::encoder(&self.model.vae, 1, settings.height, settings.width);
        Ok(pictures * self.cost("vae", graph)?.once())
    }

    fn decoder_seconds(&self, (height, width): (usize, usize), stages: &Stages) -> Result<f64, Error> {
        let graph = vae::decoder(&self.model.vae, 1, height, width);
        let weights = self.component("vae")?;
        Stager::new(&graph, &*self.backend, &weights, 0)?.seconds(stages)
    }
}
