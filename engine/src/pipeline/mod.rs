//! THE FLOW: prompt → token ids → text states → denoising loop → latents → pixels.
//!
//! [`Pipeline::generate`] reads as the algorithm; each stage has its file beside this one.

mod activations;
mod autoencoder;
mod compare;
mod denoiser;
mod probe;
mod request;
mod text;

use std::{collections::HashSet, num::NonZeroUsize, ops::ControlFlow, path::Path, sync::Arc};

use sdq_formats::sdq::{Component, Manifest, SdqFile};
use sdq_schedulers::{NoiseSource, Scheduler};

pub use activations::ActivationMoments;
pub use autoencoder::Moments;
pub use compare::{Comparison, compare};
pub use probe::Probe;
pub use request::{Defaults, Request, Settings};

use crate::{
    Error, Model, Picture, Tensor,
    backend::{Backend, WeightSource, cpu::CpuBackend},
    rng::TorchCpuGenerator,
};
use denoiser::Denoiser;

/// How to run a model, beside what to draw.
#[derive(Clone, Copy, Debug, Default)]
pub struct PipelineOptions {
    /// Worker threads, by default one per core. The picture does not depend on it.
    pub threads: Option<NonZeroUsize>,
}

/// What happens during [`Pipeline::generate`], told as it happens.
#[derive(Debug)]
#[expect(
    missing_docs,
    reason = "`image` counts pictures of the request from 0 everywhere; the rest is said below"
)]
pub enum Event<'a> {
    /// The prompt has been read.
    Encoded,
    /// Step `step` of `steps` (from 0) is done; `latents` are `[1, channels, h, w]`.
    Step { image: usize, step: usize, steps: usize, latents: &'a Tensor },
    /// All steps are done; decoding follows. `latents` are `[1, channels, h, w]`, scaling factor still applied.
    Denoised { image: usize, latents: &'a Tensor },
    /// The picture drawn from `seed` is there.
    Decoded { image: usize, seed: u64, picture: &'a Picture },
}

/// What a run leaves.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The pictures, in the order of their seeds.
    pub pictures: Vec<Picture>,
    /// Their latents `[count, channels, h, w]`, before the VAE's scaling factor is undone.
    pub latents: Tensor,
}

/// A model, opened and ready to draw. A clone shares everything with its original.
#[derive(Clone, Debug)]
pub struct Pipeline {
    file: Arc<SdqFile>,
    backend: Arc<dyn Backend>,
    model: Arc<Model>,
    /// Files that some weights are read from instead, by `component.weight`; the last one that has a weight counts.
    overlays: Vec<(Arc<SdqFile>, Arc<HashSet<String>>)>,
}

impl Pipeline {
    /// Opens an `.sdq` file. Costs milliseconds whatever its size: weights are mapped, not read.
    ///
    /// # Errors
    /// When the file is damaged, not a model, or one that sdq cannot run.
    pub fn open(path: &Path, options: &PipelineOptions) -> Result<Pipeline, Error> {
        Pipeline::new(SdqFile::open(path)?, options)
    }

    /// Opens a model that is already in memory, as [`SdqFile::from_static`] takes it.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn from_static(bytes: &'static [u8], options: &PipelineOptions) -> Result<Pipeline, Error> {
        Pipeline::new(SdqFile::from_static(bytes)?, options)
    }

    fn new(file: SdqFile, options: &PipelineOptions) -> Result<Pipeline, Error> {
        let config = |component: &str| file.component(component).map(|component| component.config());
        let model = Model::new(config, |name| file.text(name))?;
        for (name, weights) in model.weights() {
            component(&file, name)?.check(&weights)?;
        }
        let backend = Arc::new(CpuBackend::new(options.threads)?);
        Ok(Pipeline { file: Arc::new(file), backend, model: Arc::new(model), overlays: Vec::new() })
    }

    /// What the file says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.file.manifest()
    }

    /// Device, instruction set and threads in use.
    pub fn backend_description(&self) -> String {
        self.backend.description()
    }

    /// Draws what `request` asks for and tells `observer` of every stage; the observer stops the run by returning
    /// [`ControlFlow::Break`].
    ///
    /// # Errors
    /// When the request cannot be met ([`Error::Request`], [`Error::Scheduler`]), memory runs out, or the observer
    /// stopped the run ([`Error::Cancelled`]).
    pub fn generate(
        &self,
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let settings = self.settings(request)?;
        let mut observer = Teller { observer, step: 0, steps: settings.steps };

        let text_states = self.encode_prompts(&settings.prompts())?;
        observer.tell(Event::Encoded)?;

        let size = settings.latent_size(&self.model.vae);
        let timesteps = settings.new_scheduler()?.timesteps().to_vec();
        let mut denoiser = Denoiser::new(self, &text_states, &timesteps, size)?;
        let shape = denoiser.latents_shape();
        let mut predict =
            |latents: &[f32], step: usize| denoiser.predict(latents, step, settings.guidance_scale);
        let mut finished = Vec::new();
        for (image, seed) in settings.seeds().enumerate() {
            let latents = denoise(&settings, seed, shape, &mut predict, |step, latents| {
                observer.step = step + 1;
                observer.tell(Event::Step { image, step, steps: timesteps.len(), latents })
            })?;
            observer.tell(Event::Denoised { image, latents: &latents })?;
            finished.push(latents);
        }
        drop(denoiser);

        let mut decoder = self.decoder(size)?;
        let mut pictures = Vec::new();
        for (image, (seed, latents)) in settings.seeds().zip(&finished).enumerate() {
            let picture = decoder.decode(latents.values())?;
            observer.tell(Event::Decoded { image, seed, picture: &picture })?;
            pictures.push(picture);
        }
        Ok(Generated { pictures, latents: Tensor::stack(&finished)? })
    }

    /// This model with `weights`, by their `component.weight` names, from `other`'s file: what a file would draw that
    /// stores just these as the other does. Weights that `other` has from elsewhere are read from its own file.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the models have other weights.
    pub fn with_overlay(&self, other: &Pipeline, weights: HashSet<String>) -> Result<Pipeline, Error> {
        compare::check_weights(self, other)?;
        let mut overlaid = self.clone();
        overlaid.overlays.push((other.file.clone(), Arc::new(weights)));
        Ok(overlaid)
    }

    fn component(&self, name: &'static str) -> Result<WeightSource<'_>, Error> {
        let mut source = WeightSource::new(component(&self.file, name)?);
        for (file, weights) in &self.overlays {
            source.overlay(component(file, name)?, weights);
        }
        Ok(source)
    }
}

fn component<'f>(file: &'f SdqFile, name: &'static str) -> Result<Component<'f>, Error> {
    file.component(name).ok_or(Error::MissingComponent { component: name })
}

/// The denoising loop: the latents `shape`, `[1, channels, h, w]`, that `seed` becomes. `predict` is given the scaled
/// latents and the step, and returns the predicted noise, guided.
fn denoise(
    settings: &Settings,
    seed: u64,
    shape: [usize; 4],
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, Error>,
    mut on_step: impl FnMut(usize, &Tensor) -> Result<(), Error>,
) -> Result<Tensor, Error> {
    let mut scheduler = settings.new_scheduler()?;
    let mut generator = TorchCpuGenerator::new(seed);
    let mut latents = initial_latents(&*scheduler, &mut generator, shape)?;
    for step in 0..scheduler.timesteps().len() {
        let mut model_input = latents.values().to_vec();
        scheduler.scale_model_input(&mut model_input, step)?;
        let noise_pred = predict(&model_input, step)?;
        scheduler.step(&noise_pred, step, latents.values_mut(), &mut generator)?;
        on_step(step, &latents)?;
    }
    Ok(latents)
}

/// Standard normal noise times the scheduler's first sigma.
fn initial_latents(
    scheduler: &dyn Scheduler,
    generator: &mut TorchCpuGenerator,
    shape: [usize; 4],
) -> Result<Tensor, Error> {
    let mut values = vec![0.0; shape.iter().product()];
    generator.fill_standard_normal(&mut values);
    let sigma = scheduler.init_noise_sigma() as f32;
    values.iter_mut().for_each(|value| *value *= sigma);
    Tensor::new(shape.to_vec(), values)
}

/// Hands events on, and turns the observer's wish to stop into an error.
struct Teller<'o> {
    observer: &'o mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    step: usize,
    steps: usize,
}

impl Teller<'_> {
    fn tell(&mut self, event: Event<'_>) -> Result<(), Error> {
        match (self.observer)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled { step: self.step, steps: self.steps }),
        }
    }
}
