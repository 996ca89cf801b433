//! The complete flow: prompt → token ids → text states → denoising loop → latents → pixels.
//!
//! [`Pipeline::generate`] reads like the algorithm; each stage has a file of its own in this folder.

mod activations;
mod assembly;
mod autoencoder;
mod caching;
mod checkpoint;
mod compare;
mod compiled;
mod denoiser;
mod drawing;
mod guidance;
mod likeness;
mod masked_area;
mod masked_content;
mod paste;
mod picture_run;
mod plan;
mod preview;
mod probe;
mod request;
#[cfg(test)]
mod role_tests;
mod run_plan;
mod settings;
mod stages;
mod start;
mod step_network;
mod text;
mod time;

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use sdq_formats::{
    WeightSpec,
    sdq::{Manifest, SdqFile},
};

pub use activations::ActivationMoments;
pub use autoencoder::Moments;
pub use caching::Caching;
pub use checkpoint::{Checkpoint, SavedRun};
pub use compare::{Comparison, compare};
pub use compiled::Compiled;
pub use denoiser::Batching;
pub use masked_area::Area;
pub use masked_content::MaskedContent;
pub use picture_run::map_picture;
pub use plan::{Decoding, MemoryPlan, Phase};
pub use preview::Preview;
pub use probe::Probe;
pub use request::{Request, Variation, as_typed};
pub use run_plan::{EncodedPicture, RunPlan};
pub use settings::{Accepts, Defaults, Job, MAX_SIDE, SIZE_STEP, STEPS, Settings};
pub use text::{Conditioning, EncodedPrompts};
pub use time::{OpTime, Part, PartRun, TimePlan};

use crate::{
    Error, Model, Network, Picture, Tensor,
    backend::{Backend, Limits},
    families::Family,
    words::ExtraWords,
};
use checkpoint::Progress;
use denoiser::Denoiser;
use drawing::Drawing;
use paste::Paste;
use preview::LatentColors;
use start::Start;

/// Options for running a model, independent of the request.
#[derive(Clone, Debug, Default)]
pub struct PipelineOptions {
    /// Worker threads, by default one per core. The picture does not depend on it.
    pub threads: Option<NonZeroUsize>,
    /// Maximum memory of the process in bytes, mapped files not counted; runs are cut to fit. By default the
    /// memory that the system has available.
    pub max_memory: Option<u64>,
    /// The backend that runs the model, by default the processor with `threads` threads.
    pub backend: Option<Arc<dyn Backend>>,
}

/// Events of [`Pipeline::generate`], reported as they happen.
#[derive(Debug)]
#[expect(
    missing_docs,
    reason = "`image` counts pictures of the request from 0 everywhere; the rest is said below"
)]
pub enum Event<'a> {
    /// The prompt has been encoded.
    Encoded,
    /// Step `step` of `steps` (from 0) is done; `latents` are `[1, channels, h, w]`.
    Step { image: usize, step: usize, steps: usize, latents: &'a Tensor, preview: &'a Preview<'a> },
    /// The state of the run can be saved. Follows the steps of pictures that are drawn together, and comes
    /// once more when all latents are finished.
    Saveable(&'a Checkpoint<'a>),
    /// All steps are done; decoding follows. `latents` are `[1, channels, h, w]`, still multiplied by the
    /// scaling factor.
    Denoised { image: usize, latents: &'a Tensor },
    /// The picture is finished.
    Decoded { image: usize, picture: &'a Picture },
}

/// The results of a run.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The pictures, in the order of their seeds.
    pub pictures: Vec<Picture>,
    /// Their latents `[count, channels, h, w]`, still multiplied by the VAE's scaling factor.
    pub latents: Tensor,
}

/// A run that has not begun: its settings, and how it is cut to fit memory.
#[derive(Clone, Debug)]
pub struct PreparedRun {
    settings: Settings,
    memory: MemoryPlan,
}

impl PreparedRun {
    /// The memory plan of the run.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// The request with everything that follows from it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// A model that has been opened. A clone shares everything with its original.
#[derive(Clone, Debug)]
pub struct Pipeline {
    file: Arc<SdqFile>,
    backend: Arc<dyn Backend>,
    model: Arc<Model>,
    /// The networks of the model, in the order of its components.
    networks: Vec<Network>,
    /// Words beside the vocabulary.
    words: Arc<ExtraWords>,
    /// For previews, computed on first use.
    latent_colors: Arc<OnceLock<LatentColors>>,
    max_memory: Option<u64>,
    /// Memory of the process when the model was opened, in bytes.
    held: u64,
}

impl Pipeline {
    /// The manifest of the model's file.
    pub fn manifest(&self) -> &Manifest {
        self.file.manifest()
    }

    /// Identifies a model by its weights, configs and texts.
    pub fn fingerprint(&self) -> String {
        // All networks have the same overlays and branches; a few may have a file of their own.
        let added = self.networks.iter().take(1).flat_map(Network::added_files);
        let own = self.networks.iter().map(Network::file).filter(|file| !Arc::ptr_eq(file, &self.file));
        let files = std::iter::once(&self.file).chain(added).chain(own);
        let files = files.map(|file| format!("{:08x}", file.fingerprint()));
        files.chain(self.words.fingerprint()).collect::<Vec<_>>().join("+")
    }

    /// The published models whose networks have the same structure, whatever their size is.
    pub fn family(&self) -> Family {
        self.model.family
    }

    /// Device, instruction set and threads in use.
    pub fn backend_description(&self) -> String {
        self.backend.description()
    }

    /// The limits of the device in use. Takes some tenths of a second.
    ///
    /// # Errors
    /// When the device fails.
    pub fn limits(&self) -> Result<Limits, Error> {
        self.backend.limits()
    }

    /// Draws the pictures of `request` and reports every stage to `observer`, which stops the run by
    /// returning [`ControlFlow::Break`].
    ///
    /// # Errors
    /// When the request is not valid for this model ([`Error::Request`], [`Error::Scheduler`]), memory runs
    /// out, or the observer stopped the run ([`Error::Cancelled`]).
    pub fn generate(
        &self,
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let run = self.prepare(request, self.max_memory)?;
        self.generate_prepared(&run, &mut Compiled::dropped(), observer)
    }

    /// Plans a run of `request` in at most `max_memory` bytes.
    ///
    /// # Errors
    /// As [`generate`](Pipeline::generate) before it draws.
    pub fn prepare(&self, request: &Request, max_memory: Option<u64>) -> Result<PreparedRun, Error> {
        let settings = self.settings(request)?;
        let memory = self.plan_settings(&settings, max_memory)?;
        Ok(PreparedRun { settings, memory })
    }

    /// As [`generate`](Pipeline::generate), but uses graphs that earlier runs compiled and keeps its own for
    /// later runs. `run` must have been prepared by this pipeline.
    ///
    /// # Errors
    /// As `generate`.
    pub fn generate_prepared<'w>(
        &'w self,
        run: &PreparedRun,
        compiled: &mut Compiled<'w>,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        self.run(&run.settings, Progress::default(), &run.memory, compiled, observer)
    }

    /// Finishes a saved run: the pictures are the same as without the interruption.
    ///
    /// # Errors
    /// [`Error::SavedRun`] when it is not a run of this model; otherwise as [`Pipeline::generate`].
    pub fn resume(
        &self,
        saved: &SavedRun,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let (settings, progress) = saved.restore(self)?;
        let plan = self.plan_settings(&settings, self.max_memory)?;
        self.run(&settings, progress, &plan, &mut Compiled::dropped(), observer)
    }

    /// As [`resume`](Pipeline::resume), but uses graphs that earlier runs compiled and keeps its own for later
    /// runs. `run` must have been prepared by this pipeline for the request of `saved`.
    ///
    /// # Errors
    /// As `resume`.
    pub fn resume_prepared<'w>(
        &'w self,
        saved: &SavedRun,
        run: &PreparedRun,
        compiled: &mut Compiled<'w>,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let (_, progress) = saved.restore(self)?;
        self.run(&run.settings, progress, &run.memory, compiled, observer)
    }

    fn run<'w>(
        &'w self,
        settings: &Settings,
        progress: Progress,
        plan: &MemoryPlan,
        compiled: &mut Compiled<'w>,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        if plan.on_fallback
            && let Some(other) = self.on_fallback()
        {
            let plan = MemoryPlan { on_fallback: false, ..plan.clone() };
            return other.run(settings, progress, &plan, &mut Compiled::dropped(), observer);
        }
        if compiled.keeps() {
            let keys = self.graph_keys(plan);
            compiled.prepare(plan.may_keep_compiled(), |key| keys.contains(key));
        }
        self.run_planned(settings, progress, plan, compiled, observer)
    }

    fn run_planned<'w>(
        &'w self,
        settings: &Settings,
        progress: Progress,
        plan: &MemoryPlan,
        compiled: &mut Compiled<'w>,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let mut observer = Teller { observer, step: 0, steps: plan.run.evaluations };

        let conditioning = self.condition_with(settings, compiled)?;
        observer.tell(Event::Encoded)?;
        let finished = self.denoise(settings, &conditioning, plan, progress, compiled, &mut observer)?;

        let mut decoder = self.decoder_in_stages(plan.run.size, plan.stages.clone(), compiled)?;
        let paste = Paste::new(settings);
        let mut pictures = Vec::new();
        for (image, latents) in finished.iter().enumerate() {
            let mut picture = decoder.decode(latents.values())?;
            paste.iter().try_for_each(|paste| paste.apply(&mut picture))?;
            observer.tell(Event::Decoded { image, picture: &picture })?;
            pictures.push(picture);
        }
        decoder.finish(compiled);
        Ok(Generated { pictures, latents: Tensor::stack(&finished)? })
    }

    /// Draws all pictures of a run, as many together as memory allows: noise → latents `[1, channels, h, w]`.
    fn denoise<'w>(
        &'w self,
        settings: &Settings,
        conditioning: &Conditioning,
        plan: &MemoryPlan,
        Progress { mut finished, mut begun }: Progress,
        compiled: &mut Compiled<'w>,
        observer: &mut Teller<'_>,
    ) -> Result<Vec<Tensor>, Error> {
        let size = settings.latent_size(self.scale_factor());
        let some_to_begin = finished.len() + begun.len() < settings.request.count;
        let start = if some_to_begin { self.start(settings, &plan.run, compiled)? } else { Start::default() };
        let timesteps = settings.new_scheduler()?.timesteps().to_vec();
        let checkpoint = |finished: &[Tensor], begun: [&[Drawing]; 2], observer: &mut Teller<'_>| {
            observer.tell(Event::Saveable(&Checkpoint::new(self, settings, finished, begun)))
        };
        let mut denoiser: Option<Denoiser<'_>> = None;
        while finished.len() < settings.request.count {
            let together = plan.batching.pictures;
            if begun.is_empty() {
                for image in (finished.len()..settings.request.count).take(together) {
                    begun.push(Drawing::new(settings, &start, image, self.latents_shape(size))?);
                }
            }
            let later = begun.split_off(together.min(begun.len()));
            let mut batch = std::mem::replace(&mut begun, later);
            let batching = Batching { pictures: batch.len(), ..plan.batching };
            let denoiser = match &mut denoiser {
                Some(denoiser) if denoiser.batching() == batching => denoiser,
                other => {
                    // The old denoiser is dropped before the new one is created, so that their memory does
                    // not add up.
                    other.take().into_iter().for_each(|old| old.finish(compiled));
                    let denoiser = plan.run.denoiser(self, batching);
                    let guidance = settings.guidance;
                    let new = Denoiser::new(self, conditioning, guidance, &timesteps, denoiser, compiled)?;
                    other.insert(new)
                }
            };
            denoiser.take_up(&batch)?;
            let predict = |latents: &[f32], step: usize, noise_pred: &mut [f32]| {
                denoiser.predict(latents, step, noise_pred)
            };
            denoise(&mut batch, timesteps.len(), predict, |batch, step| {
                for drawing in batch {
                    observer.tell_step(self, drawing, step - settings.first_step)?;
                }
                checkpoint(&finished, [batch, &begun], observer)
            })?;
            for drawing in batch {
                observer.tell(Event::Denoised { image: drawing.image, latents: &drawing.latents })?;
                finished.push(drawing.latents);
            }
        }
        denoiser.into_iter().for_each(|denoiser| denoiser.finish(compiled));
        // Before decoding, which takes time and memory of its own.
        checkpoint(&finished, [&[], &[]], observer)?;
        Ok(finished)
    }

    /// The factor by which latents are multiplied before noise is added.
    pub fn scaling_factor(&self) -> f32 {
        self.model.autoencoder.scaling_factor()
    }

    /// The weights of each component, in the order in which a run reads them.
    pub fn weights(&self) -> Vec<(&'static str, Vec<WeightSpec>)> {
        self.model.weights()
    }

    /// Shape of one picture's latents of `height x width`.
    fn latents_shape(&self, (height, width): (usize, usize)) -> [usize; 4] {
        [1, self.model.autoencoder.latent_channels(), height, width]
    }

    /// Bytes of weights that are read in place from their mapped files.
    fn mapped_bytes(&self) -> u64 {
        self.networks.iter().map(Network::mapped_bytes).sum()
    }

    /// The network with the weights of `component`.
    fn network(&self, component: &'static str) -> Result<&Network, Error> {
        let network = self.networks.iter().find(|network| network.component() == component);
        network.ok_or(Error::MissingComponent { component })
    }

    /// Pixels per latent pixel along each axis.
    fn scale_factor(&self) -> usize {
        self.model.autoencoder.scale_factor()
    }
}

/// The denoising loop of pictures that are drawn together, all at the same step, to the last of `steps`.
/// `predict` receives their scaled latents one after the other and the step, and writes the predicted noise
/// with guidance.
fn denoise(
    batch: &mut [Drawing],
    steps: usize,
    mut predict: impl FnMut(&[f32], usize, &mut [f32]) -> Result<(), Error>,
    mut on_step: impl FnMut(&[Drawing], usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(Drawing { step: first_step, latents, .. }) = batch.first() else { return Ok(()) };
    let (first_step, each) = (*first_step, latents.values().len());
    let mut model_input = vec![0.0; batch.len() * each];
    let mut noise_pred = vec![0.0; batch.len() * each];
    for step in first_step..steps {
        for (drawing, model_input) in batch.iter_mut().zip(model_input.chunks_exact_mut(each)) {
            drawing.write_model_input(model_input)?;
        }
        predict(&model_input, step, &mut noise_pred)?;
        for (drawing, noise_pred) in batch.iter_mut().zip(noise_pred.chunks_exact(each)) {
            drawing.advance(noise_pred)?;
        }
        on_step(batch, step)?;
    }
    Ok(())
}

/// Passes events to the observer, and turns its request to stop into an error.
struct Teller<'o> {
    observer: &'o mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    step: usize,
    steps: usize,
}

impl Teller<'_> {
    /// Reports that `drawing` has finished `step`, counted from the run's first one.
    fn tell_step(&mut self, pipeline: &Pipeline, drawing: &Drawing, step: usize) -> Result<(), Error> {
        let Drawing { image, latents, predicted_original, .. } = drawing;
        self.step = step + 1;
        let (image, steps) = (*image, self.steps);
        let preview = &Preview { pipeline, predicted_original };
        self.tell(Event::Step { image, step, steps, latents, preview })
    }

    fn tell(&mut self, event: Event<'_>) -> Result<(), Error> {
        match (self.observer)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled { step: self.step, steps: self.steps }),
        }
    }
}
