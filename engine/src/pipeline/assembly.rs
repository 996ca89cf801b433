//! Opens pipelines from files, and changes them: other weights, low-rank branches, words and another
//! autoencoder.

use std::{collections::HashSet, path::Path, sync::Arc};

use sdq_formats::{
    WeightSpec,
    sdq::{Component, SdqFile},
};

use super::{Pipeline, PipelineOptions, compare};
use crate::{
    Error, Model, Network,
    adapters::textual_inversion::WordVectors,
    backend::{Backend, cpu::CpuBackend},
    memory,
};

impl Pipeline {
    /// Opens an `.sdq` file. Takes milliseconds for any size: weights are mapped, not read.
    ///
    /// # Errors
    /// When the file is damaged, not a model, or not supported.
    pub fn open(path: &Path, options: &PipelineOptions) -> Result<Pipeline, Error> {
        Pipeline::new(SdqFile::open(path)?, options)
    }

    /// Opens a model that is already in memory, see [`SdqFile::from_static`].
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn from_static(bytes: &'static [u8], options: &PipelineOptions) -> Result<Pipeline, Error> {
        Pipeline::new(SdqFile::from_static(bytes)?, options)
    }

    fn new(file: SdqFile, options: &PipelineOptions) -> Result<Pipeline, Error> {
        let config = |component: &str| file.component(component).map(|component| component.config());
        let model = Model::new(config, |name| file.text(name))?;
        Pipeline::arranged(model, Arc::new(file), options)
    }

    /// The networks of `model` with their weights from `file`.
    pub(crate) fn arranged(
        model: Model,
        file: Arc<SdqFile>,
        options: &PipelineOptions,
    ) -> Result<Pipeline, Error> {
        let backend = match &options.backend {
            Some(backend) => backend.clone(),
            None => Arc::new(CpuBackend::new(options.threads)?),
        };
        let network = |(name, weights): (&'static str, Vec<WeightSpec>)| {
            Network::open(file.clone(), name, &weights, backend.clone())
        };
        let networks = model.weights().into_iter().map(network).collect::<Result<_, _>>()?;
        Ok(Pipeline {
            file,
            backend,
            model: Arc::new(model),
            networks,
            words: Arc::default(),
            latent_colors: Arc::default(),
            max_memory: options.max_memory,
            held: memory::held(),
        })
    }

    /// This model on another backend.
    pub(crate) fn on_backend(&self, backend: Arc<dyn Backend>) -> Pipeline {
        self.clone().with_networks(|network| network.on(backend.clone())).with_backend(backend)
    }

    fn with_backend(self, backend: Arc<dyn Backend>) -> Pipeline {
        Pipeline { backend, ..self }
    }

    fn with_networks(self, change: impl Fn(Network) -> Network) -> Pipeline {
        Pipeline { networks: self.networks.into_iter().map(change).collect(), ..self }
    }

    /// This model with another memory limit, see [`PipelineOptions::max_memory`].
    pub fn with_max_memory(&self, max_memory: Option<u64>) -> Pipeline {
        Pipeline { max_memory, ..self.clone() }
    }

    /// This model with `weights`, named `component.weight`, read from `other`'s file. It draws the same
    /// pictures as a model whose file stores exactly these weights in the same way as `other`'s. Weights that
    /// `other` overlays from elsewhere are read from its own file.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the models have other weights.
    pub fn with_overlay(&self, other: &Pipeline, weights: HashSet<String>) -> Result<Pipeline, Error> {
        compare::check_weights(self, other)?;
        let weights = Arc::new(weights);
        for network in &self.networks {
            component(&other.file, network.component())?;
        }
        Ok(self.clone().with_networks(|network| network.with_overlay(other.file.clone(), weights.clone())))
    }

    /// This model with the low-rank branches of `file` beside its products, see [`crate::adapters::lora::write`].
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a branch does not fit its product.
    pub fn with_branches(&self, file: SdqFile) -> Result<Pipeline, Error> {
        let file = Arc::new(file);
        let adapted = self.clone().with_networks(|network| network.with_branches(file.clone()));
        for (component, specs) in adapted.weights() {
            let source = adapted.network(component)?.weights();
            for spec in &specs {
                if let Some(branch) = source.branches(spec).iter().find(|branch| !branch.fits(spec)) {
                    return Err(Error::Mismatch {
                        what: format!("the shape of `{component}.{}`", spec.name),
                        expected: format!("{:?}", spec.shape),
                        found: format!("a product of {:?} and {:?}", branch.down.shape, branch.up.shape),
                    });
                }
            }
        }
        Ok(adapted)
    }

    /// This model with one more word, represented by `vectors`: each text encoder reads those of its own
    /// size.
    ///
    /// # Errors
    /// [`Error::Word`] when there are none for an encoder.
    pub fn with_word(&self, word: &str, vectors: &[WordVectors]) -> Result<Pipeline, Error> {
        let words = Arc::new(self.words.with(word, vectors, &self.model.text_encoders)?);
        Ok(Pipeline { words, ..self.clone() })
    }

    /// This model with the autoencoder in `file` instead of its own.
    ///
    /// # Errors
    /// When there is none, or it does not fit the model.
    pub fn with_vae(&self, file: SdqFile) -> Result<Pipeline, Error> {
        let config = |name: &str| match name {
            "vae" => file.component(name).map(|component| component.config()),
            _ => self.file.component(name).map(|component| component.config()),
        };
        let model = Model::new(config, |name| self.file.text(name))?;
        let autoencoder = &model.autoencoder;
        let own = Network::open(
            Arc::new(file),
            autoencoder.component(),
            &autoencoder.weights(),
            self.backend.clone(),
        )?;
        let replaced = self.clone().with_networks(|network| match network.component() {
            component if component == own.component() => own.clone(),
            _ => network,
        });
        Ok(Pipeline { model: Arc::new(model), latent_colors: Arc::default(), ..replaced })
    }
}

fn component<'f>(file: &'f SdqFile, name: &'static str) -> Result<Component<'f>, Error> {
    file.component(name).ok_or(Error::MissingComponent { component: name })
}
