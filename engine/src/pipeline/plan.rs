//! The memory of a run, and how the run is cut to fit.
//!
//! [`Pipeline::generate`](super::Pipeline::generate) makes this plan first and follows it. It counts
//! anonymous memory, which the system cannot drop when memory is short; weights are read from the mapped file
//! and are not counted.

use super::{
    Pipeline, Request, RunPlan, Settings,
    compiled::GraphKey,
    denoiser::Batching,
    paste::Paste,
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
    /// The graphs of the run.
    pub run: RunPlan,
    /// Maximum bytes that the process may hold; `None` if neither the caller nor the system sets a limit.
    pub limit: Option<u64>,
    /// The phases in order; each includes the memory that earlier ones leave for it.
    pub phases: Vec<Phase>,
    /// The pictures and branches that the U-Net evaluates at once.
    pub batching: Batching,
    /// How the pictures are decoded.
    pub decoding: Decoding,
    /// Bytes of weights in mapped files. They are not part of any other number: the system drops them and
    /// reads them again as needed.
    pub mapped: u64,
    /// Whether the run does not fit on the device in any way, and uses the processor instead.
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
    /// Maximum anonymous bytes that the process holds during the phase.
    pub bytes: u64,
}

/// How a picture is decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// Rows of a strip and number of strips, for each stage that is cut; empty if the decoder runs at once.
    pub strips: Vec<(usize, usize)>,
    /// Parts that run one after the other.
    pub stages: usize,
    /// Work, relative to that of decoding at once.
    pub work: f64,
}

impl MemoryPlan {
    /// Maximum bytes that the process holds at any time.
    pub fn peak(&self) -> u64 {
        self.phases.iter().map(|phase| phase.bytes).max().unwrap_or(0)
    }

    /// Bytes of the run beside those that the process held when the model was opened, including all of its
    /// compiled graphs if there is memory to keep them.
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

/// Maximum number of pictures that are drawn together. A larger batch saves no time: the products are large
/// enough.
const MAX_BATCH: usize = 4;

/// The possible batchings for `count` pictures and `branches` branches of guidance, the fastest first. With
/// `split`, branches have to be evaluated one after the other.
fn batchings(count: usize, branches: usize, split: bool) -> impl Iterator<Item = Batching> {
    let together = (1..=count.min(MAX_BATCH)).rev();
    let least = (branches > 1 && !split).then_some(Batching { pictures: 1, split_guidance: true });
    together.map(move |pictures| Batching { pictures, split_guidance: split }).chain(least)
}

impl Pipeline {
    /// The memory that [`generate`](Pipeline::generate) needs for `request`, and how the run will be cut to
    /// fit.
    ///
    /// # Errors
    /// As `generate` before it draws: when the request is not valid, or no division fits
    /// ([`Error::DoesNotFit`]).
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

    /// All graphs of a planned run, in the order in which they are compiled: the component, and how often the
    /// graph is compiled and run. The decoder is included where it is not cut.
    pub fn planned_graphs(&self, plan: &MemoryPlan) -> Vec<(&'static str, usize, usize)> {
        let graph = |(graph, runs): (PlannedGraph, usize)| (graph.key.component, graph.compiles, runs);
        self.graphs_of(plan).into_iter().map(graph).collect()
    }

    /// The keys of all graphs that a planned run compiles whole.
    pub(super) fn graph_keys(&self, plan: &MemoryPlan) -> Vec<GraphKey> {
        self.graphs_of(plan).into_iter().map(|(graph, _)| graph.key).collect()
    }

    /// All graphs of a planned run, and how often each runs.
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

    /// This model on the fallback of its backend, for a run that does not fit on the device; `None` if there
    /// is no fallback.
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
        // Pictures in bytes, and the given latents.
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

    /// The caller's limit, or the memory that the process holds plus the memory that the system has
    /// available; on a device with memory of its own, the available device memory.
    pub(super) fn memory_limit(&self, max_memory: Option<u64>) -> Option<u64> {
        let left = self.backend.memory_left();
        // Memory that the process has allocated since it opened the model is not on the device.
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

/// Bytes of a picture in progress, in units of its latents: the latents themselves, the estimate of the clean
/// latents, the part that is kept or read beside them, and the state and temporary tensors of its scheduler.
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
        // For each executable that is still held, its bytes and the number of further graphs for which it is
        // held.
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

    /// Bytes that every phase from the prompt to the finished latents holds.
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

    /// The smallest number of bytes with which this request can run.
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

    /// Latents during a step, finished latents, and the state of schedulers.
    fn latents(&self, batching: Batching) -> u64 {
        let one = self.latents_of_one();
        let pictures = batching.pictures as u64;
        // The model's input, and the predictions of each branch and with guidance.
        let step = pictures * (2 + self.run.prompts as u64);
        // The model's input at the last full evaluation, and the difference that guidance added then.
        let caches = if self.run.cache_schedule.caches() { 2 * pictures } else { 0 };
        (step + caches + pictures * DRAWING_LATENTS + self.run.pictures as u64) * one
    }

    /// Memory that is held while a picture is decoded, without the decoder's: all latents and pictures.
    fn beside_decoder(&self) -> u64 {
        let (width, height) = self.settings.picture_size();
        let count = self.run.pictures;
        let pictures = (3 * width * height * count) as u64;
        self.beside_phases()
            + pictures
            + Paste::bytes(self.settings)
            + (count as u64 + 1) * self.latents_of_one()
    }

    /// The start picture and the mask, which both the caller and the settings hold, and their masked area.
    fn given(&self) -> u64 {
        let Settings { width, height, masked_area, .. } = *self.settings;
        let Request { init_image, mask, .. } = &self.settings.request;
        let channels = if init_image.is_some() { 3 } else { 0 } + usize::from(mask.is_some());
        let bytes = |(width, height): (usize, usize)| (channels * width * height) as u64;
        let of_area = masked_area.map_or(0, |_| bytes((width, height)));
        2 * bytes(self.settings.picture_size()) + of_area
    }

    fn latents_of_one(&self) -> u64 {
        let (height, width) = self.run.size;
        floats([self.pipeline.model.autoencoder.latent_channels(), height, width])
    }

    /// The error, with a size that would fit.
    fn does_not_fit(&self, limit: u64) -> Result<Error, Error> {
        let needed = self.least()?;
        let Settings { width, height, .. } = *self.settings;
        // Sizes of the same aspect ratio, in units of 1/64 so that rounding preserves it.
        let (mut fits, mut too_large) = (0, 64);
        while too_large - fits > 1 {
            let middle = (fits + too_large) / 2;
            match self.scaled(middle).is_some_and(|settings| self.fits(&settings, limit)) {
                true => fits = middle,
                false => too_large = middle,
            }
        }
        let advice = match self.scaled(fits) {
            Some(smaller) if fits > 0 => format!("a picture of {}x{} fits", smaller.width, smaller.height),
            _ => "no size fits".to_owned(),
        };
        Ok(Error::DoesNotFit { size: format!("{width}x{height}"), limit, needed, advice })
    }

    fn fits(&self, settings: &Settings, limit: u64) -> bool {
        Planner::new(self.pipeline, settings)
            .and_then(|planner| planner.within(Some(limit)))
            .is_ok_and(|plan| plan.is_some())
    }

    /// The request at `share` 64ths of its size.
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
    /// Bytes of working memory that the backend holds so far.
    scratch: u64,
    /// Bytes of all executables so far.
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
