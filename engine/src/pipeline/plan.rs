//! How much memory a run takes, and how it is cut to fit.
//!
//! What is planned here is what [`Pipeline::generate`](super::Pipeline::generate) does: it asks for the plan first and
//! follows it. Counted is anonymous memory, which the system cannot drop when it runs short; weights are read from the
//! mapped file and are not.

use super::{
    Pipeline, Request, RunPlan, Settings,
    compiled::GraphKey,
    denoiser::Batching,
    run_plan::PlannedGraph,
    stages::{Stager, Stages},
};
use crate::{
    Error,
    backend::Footprint,
    graph::{Graph, Port},
    memory,
};

/// The memory of a run, before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// What the run consists of.
    pub run: RunPlan,
    /// Most bytes that the process may hold; `None` if neither the caller nor the system sets a bound.
    pub limit: Option<u64>,
    /// The phases in order; each holds what it needs from those before it.
    pub phases: Vec<Phase>,
    /// What the U-Net evaluates at once.
    pub batching: Batching,
    /// How the pictures are decoded.
    pub decoding: Decoding,
    /// Bytes of weights in mapped files. Not counted anywhere: the system drops and reads them again as it needs.
    pub mapped: u64,
    /// Whether the run does not fit on the device however it is cut, and goes to the processor instead.
    pub on_fallback: bool,
    pub(super) stages: Stages,
    /// Bytes of all compiled graphs of the run together.
    pub(super) executables: u64,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// `open`, `text encoder`, `VAE encoder` where there is a picture to start from, `U-Net` or `VAE decoder`.
    pub name: &'static str,
    /// Most anonymous bytes that the process holds meanwhile.
    pub bytes: u64,
}

/// How a picture is decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// Rows of a strip and strips, for each stage that is cut; empty if the decoder runs at once.
    pub strips: Vec<(usize, usize)>,
    /// Parts that run one after the other.
    pub stages: usize,
    /// Work in proportion to that of decoding at once.
    pub work: f64,
}

impl MemoryPlan {
    /// Most bytes that the process holds at any time.
    pub fn peak(&self) -> u64 {
        self.phases.iter().map(|phase| phase.bytes).max().unwrap_or(0)
    }

    /// Bytes that the run takes beside those that the process held when the model was opened, all of its compiled graphs kept
    /// if there is memory for that.
    pub fn taken(&self) -> u64 {
        let open = self.phases.first().map_or(0, |phase| phase.bytes);
        self.peak().saturating_sub(open) + if self.may_keep_compiled() { self.executables } else { 0 }
    }

    /// Bytes of all compiled graphs of the run together.
    pub fn executables(&self) -> u64 {
        self.executables
    }

    /// Whether the run may keep its compiled graphs for the next one.
    pub(super) fn may_keep_compiled(&self) -> bool {
        self.limit.is_none_or(|limit| self.peak().saturating_add(self.executables) <= limit)
    }
}

/// Most pictures that are drawn together. More save nothing: the products are long enough.
const MAX_BATCH: usize = 4;

/// What the U-Net can evaluate at once for `count` pictures and that many branches of guidance, the fastest first. `split` are
/// branches that have to be evaluated one after the other.
fn batchings(count: usize, branches: usize, split: bool) -> impl Iterator<Item = Batching> {
    let together = (1..=count.min(MAX_BATCH)).rev();
    let least = (branches > 1 && !split).then_some(Batching { pictures: 1, split_guidance: true });
    together.map(move |pictures| Batching { pictures, split_guidance: split }).chain(least)
}

impl Pipeline {
    /// How much memory [`generate`](Pipeline::generate) takes for `request`, and how it will be cut to fit.
    ///
    /// # Errors
    /// As `generate` before it draws: when the request cannot be met, or no cut fits ([`Error::DoesNotFit`]).
    pub fn plan(&self, request: &Request) -> Result<MemoryPlan, Error> {
        self.plan_settings(&self.settings(request)?, self.max_memory)
    }

    pub(super) fn plan_settings(
        &self,
        settings: &Settings,
        max_memory: Option<u64>,
    ) -> Result<MemoryPlan, Error> {
        let planner = Planner::new(self, settings)?;
        let limit = self.memory_limit(max_memory);
        match planner.within(limit)? {
            Some(plan) => Ok(plan),
            None => match self.on_fallback() {
                Some(other) => {
                    Ok(MemoryPlan { on_fallback: true, ..other.plan_settings(settings, max_memory)? })
                }
                None => Err(planner.does_not_fit(limit.unwrap_or(u64::MAX))?),
            },
        }
    }

    /// All graphs of a run as planned, in the order in which they are compiled: the component, and how often the graph is
    /// compiled and run. The decoder is among them where it is not cut.
    pub fn planned_graphs(&self, plan: &MemoryPlan) -> Vec<(&'static str, usize, usize)> {
        let graph = |(graph, runs): (PlannedGraph, usize)| (graph.key.component, graph.compiles, runs);
        self.graphs_of(plan).into_iter().map(graph).collect()
    }

    /// The keys of all graphs that a run as planned compiles whole.
    pub(super) fn graph_keys(&self, plan: &MemoryPlan) -> Vec<GraphKey> {
        self.graphs_of(plan).into_iter().map(|(graph, _)| graph.key).collect()
    }

    /// All graphs of a run as planned, and how often each runs.
    fn graphs_of(&self, plan: &MemoryPlan) -> Vec<(PlannedGraph, usize)> {
        let run = &plan.run;
        let often = |graph: PlannedGraph| {
            let runs = graph.compiles * graph.runs;
            (graph, runs)
        };
        let mut graphs: Vec<_> = run.text(self).into_iter().chain(run.encoder(self)).map(often).collect();
        for (batching, times) in run.batches(plan.batching) {
            for network in run.denoiser(self, batching).into_networks() {
                let steps = times * run.evaluations * network.step.runs;
                graphs.extend([often(network.schedule), often(network.prompt), (network.step, steps)]);
            }
        }
        if plan.stages.is_whole() {
            graphs.push(often(run.decoder(self)));
        }
        graphs
    }

    /// This model on what may hold a run that its device does not; `None` where there is nothing else.
    pub(super) fn on_fallback(&self) -> Option<Pipeline> {
        Some(self.on_backend(self.backend.fallback()?))
    }

    /// The stages of the decoder alone, for `count` pictures from latents of `height x width`.
    pub(super) fn fitting_stages(&self, size: (usize, usize), count: usize) -> Result<Stages, Error> {
        let Some(limit) = self.memory_limit(self.max_memory) else {
            return self.decoder_stages(size, 0, |stager| stager.whole());
        };
        let (height, width) = size;
        let factor = self.scale_factor();
        let pixels = (height * factor).saturating_mul(width * factor) as u64;
        // Pictures in bytes, and latents as they were given.
        let pictures = (count as u64).saturating_mul(3).saturating_mul(pixels);
        let latents = floats([count + 1, self.model.autoencoder.latent_channels(), height, width]);
        let beside = self.held.saturating_add(pictures).saturating_add(latents);
        let room = limit.saturating_sub(beside);
        if let Some(stages) = self.decoder_stages(size, 0, |stager| stager.cheapest(room))? {
            return Ok(stages);
        }
        let least = self.decoder_stages(size, 0, |stager| stager.smallest())?;
        Err(Error::DoesNotFit {
            size: format!("{}x{}", width * factor, height * factor),
            limit,
            needed: beside.saturating_add(least.memory()),
            advice: "decode fewer or smaller pictures".to_owned(),
        })
    }

    /// What the caller set, or what the process holds and the system still has; on a device with memory of its own, what
    /// that has.
    pub(super) fn memory_limit(&self, max_memory: Option<u64>) -> Option<u64> {
        let left = self.backend.memory_left();
        // What the process has come to hold since it opened the model is not the device's.
        let device = left.map(|left| left.saturating_add(self.held));
        let system = || Some(memory::available()?.saturating_add(memory::held()));
        match max_memory {
            Some(limit) => Some(device.map_or(limit, |device| device.min(limit))),
            None => device.or_else(system),
        }
    }
}

/// Plans one run.
struct Planner<'p> {
    pipeline: &'p Pipeline,
    settings: &'p Settings,
    run: RunPlan,
    /// The phases before the denoiser's.
    before_denoiser: Phases,
}

/// Bytes that a picture holds while it is drawn, in latents: its own, those that the model aims at, what it keeps or reads
/// beside them, and what its scheduler remembers and uses on the way.
const DRAWING_LATENTS: u64 = 8;

impl<'p> Planner<'p> {
    fn new(pipeline: &'p Pipeline, settings: &'p Settings) -> Result<Planner<'p>, Error> {
        let run = pipeline.run_plan_of(settings)?;
        let open = Phase { name: "open", bytes: pipeline.held };
        let before_denoiser = Phases { phases: vec![open], scratch: 0, executables: 0 };
        let mut planner = Planner { pipeline, settings, run, before_denoiser };
        let mut phases = planner.before_denoiser.clone();
        planner.add(&mut phases, "text encoder", planner.run.text(pipeline))?;
        if let Some(encoder) = planner.run.encoder(pipeline) {
            planner.add(&mut phases, "VAE encoder", [encoder])?;
        }
        planner.before_denoiser = phases;
        Ok(planner)
    }

    /// Adds the phase in which these graphs run one after the other.
    fn add(
        &self,
        before: &mut Phases,
        name: &'static str,
        graphs: impl IntoIterator<Item = PlannedGraph>,
    ) -> Result<(), Error> {
        let mut most = 0;
        // Bytes of the executables that are held, and for how many more graphs.
        let mut held: Vec<(u64, usize)> = Vec::new();
        for PlannedGraph { key, graph, beside, held_for, .. } in graphs {
            let Footprint { executable, scratch } = self.pipeline.network(key.component)?.footprint(graph)?;
            let bytes: u64 = held.iter().map(|(bytes, _)| bytes).sum();
            most = most.max(bytes + executable + beside);
            before.executables += executable;
            before.scratch = before.scratch.max(scratch);
            held.push((executable, held_for + 1));
            held.retain_mut(|(_, graphs)| {
                *graphs -= 1;
                *graphs > 0
            });
        }
        let bytes = self.beside_phases() + before.scratch + most;
        before.phases.push(Phase { name, bytes });
        Ok(())
    }

    /// Bytes that are held in every phase up to the finished latents, from the prompt on.
    fn beside_phases(&self) -> u64 {
        self.pipeline.held + self.given() + self.run.text_states_bytes(self.pipeline)
    }

    fn batchings(&self) -> impl Iterator<Item = Batching> {
        let split = self.run.cache_schedule.caching.splits_guidance();
        batchings(self.run.pictures, self.run.prompts, split)
    }

    /// The fastest plan within `limit`.
    fn within(&self, limit: Option<u64>) -> Result<Option<MemoryPlan>, Error> {
        for batching in self.batchings() {
            let before = self.before_decoder(batching)?;
            let Some(limit) = limit else {
                let stages = self.decoder_stages(before.scratch, |stager| stager.whole())?;
                return Ok(Some(self.plan(None, batching, before, stages)?));
            };
            if before.phases.iter().any(|phase| phase.bytes > limit) {
                continue;
            }
            let room = limit.saturating_sub(self.beside_decoder());
            if let Some(stages) = self.decoder_stages(before.scratch, |stager| stager.cheapest(room))? {
                return Ok(Some(self.plan(Some(limit), batching, before, stages)?));
            }
        }
        Ok(None)
    }

    /// Least bytes for this request.
    fn least(&self) -> Result<u64, Error> {
        let mut least = u64::MAX;
        for batching in self.batchings() {
            let before = self.before_decoder(batching)?;
            let stages = self.decoder_stages(before.scratch, |stager| stager.smallest())?;
            least = least.min(self.plan(None, batching, before, stages)?.peak());
        }
        Ok(least)
    }

    fn plan(
        &self,
        limit: Option<u64>,
        batching: Batching,
        before: Phases,
        stages: Stages,
    ) -> Result<MemoryPlan, Error> {
        let whole = self.decoder_stages(0, |stager| stager.whole())?;
        let decoding = Decoding {
            strips: stages.strips(),
            stages: stages.stages.len(),
            work: stages.work as f64 / whole.work as f64,
        };
        let decoder = if stages.is_whole() { stages.peak } else { 0 };
        let executables = before.executables + decoder;
        let mut phases = before.phases;
        phases.push(Phase { name: "VAE decoder", bytes: self.beside_decoder() + stages.memory() });
        let mapped = self.pipeline.mapped_bytes();
        Ok(MemoryPlan {
            run: self.run.clone(),
            limit,
            phases,
            batching,
            decoding,
            mapped,
            on_fallback: false,
            stages,
            executables,
        })
    }

    /// The phases up to the finished latents.
    fn before_decoder(&self, batching: Batching) -> Result<Phases, Error> {
        let mut phases = self.before_denoiser.clone();
        let denoiser = self.run.denoiser(self.pipeline, batching);
        let latents = self.latents(batching);
        let graphs = denoiser.into_graphs();
        let graphs = graphs.map(|graph| PlannedGraph { beside: graph.beside + latents, ..graph });
        self.add(&mut phases, self.pipeline.model.denoiser.label(), graphs)?;
        Ok(phases)
    }

    fn decoder_stages<T>(
        &self,
        scratch: u64,
        choose: impl FnOnce(&Stager<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.pipeline.decoder_stages(self.run.size, scratch, choose)
    }

    /// Latents on the way through a step, those finished, and what the scheduler remembers.
    fn latents(&self, batching: Batching) -> u64 {
        let one = self.latents_of_one();
        let pictures = batching.pictures as u64;
        // Model input, predictions of each branch and guided.
        let step = pictures * (2 + self.run.prompts as u64);
        // What the model read at the last full evaluation, and what guidance added then.
        let caches = if self.run.cache_schedule.caches() { 2 * pictures } else { 0 };
        (step + caches + pictures * DRAWING_LATENTS + self.run.pictures as u64) * one
    }

    /// What is held while a picture is decoded, the decoder aside: all latents and pictures among them.
    fn beside_decoder(&self) -> u64 {
        let Settings { width, height, .. } = *self.settings;
        let count = self.run.pictures;
        let pictures = (3 * width * height * count) as u64;
        self.beside_phases() + pictures + (count as u64 + 1) * self.latents_of_one()
    }

    /// The picture and the mask to start from, as the caller holds them and as the settings do.
    fn given(&self) -> u64 {
        let Request { init_image, mask, .. } = &self.settings.request;
        let channels = if init_image.is_some() { 3 } else { 0 } + usize::from(mask.is_some());
        2 * (channels * self.settings.width * self.settings.height) as u64
    }

    fn latents_of_one(&self) -> u64 {
        let (height, width) = self.run.size;
        floats([self.pipeline.model.autoencoder.latent_channels(), height, width])
    }

    /// The refusal, with what would do instead.
    fn does_not_fit(&self, limit: u64) -> Result<Error, Error> {
        let needed = self.least()?;
        let Settings { width, height, .. } = *self.settings;
        // Sizes of this shape, in eighths of a latent pixel's picture so that rounding keeps it.
        let (mut fits, mut too_large) = (0, 64);
        while too_large - fits > 1 {
            let middle = (fits + too_large) / 2;
            match self.scaled(middle).is_some_and(|settings| self.fits(&settings, limit)) {
                true => fits = middle,
                false => too_large = middle,
            }
        }
        let advice = match self.scaled(fits) {
            Some(smaller) if fits > 0 => format!("{}x{} would fit", smaller.width, smaller.height),
            _ => "no size would fit".to_owned(),
        };
        Ok(Error::DoesNotFit { size: format!("{width}x{height}"), limit, needed, advice })
    }

    fn fits(&self, settings: &Settings, limit: u64) -> bool {
        Planner::new(self.pipeline, settings)
            .and_then(|planner| planner.within(Some(limit)))
            .is_ok_and(|plan| plan.is_some())
    }

    /// The request in `share` 64ths of its size.
    fn scaled(&self, share: usize) -> Option<Settings> {
        let step = self.pipeline.size_step();
        let side = |pixels: usize| Some(pixels * share / 64 / step * step).filter(|&pixels| pixels > 0);
        let (width, height) = (side(self.settings.width)?, side(self.settings.height)?);
        Some(Settings { width, height, ..self.settings.clone() })
    }
}

/// Phases of a run.
#[derive(Clone)]
struct Phases {
    phases: Vec<Phase>,
    /// Bytes of working memory that the backend holds by then.
    scratch: u64,
    /// Bytes of all executables up to then.
    executables: u64,
}

/// Bytes of these tensors of a graph.
pub(super) fn port_bytes(graph: &Graph, ports: &[Port]) -> u64 {
    floats([ports.iter().map(|port| graph.elements(port.tensor)).sum()])
}

/// Bytes of f32 values in this shape.
pub(super) fn floats<const AXES: usize>(shape: [usize; AXES]) -> u64 {
    let elements = shape.iter().fold(1_u64, |elements, &axis| elements.saturating_mul(axis as u64));
    elements.saturating_mul(size_of::<f32>() as u64)
}
