//! A network of a model: its weights, and the backend that runs its graphs.
//!
//! A network is independent of pipelines. Any component of an `.sdq` file can be opened as one; its weights
//! are compared with the list that its config requires, and it runs any graph that reads these weights.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sdq_formats::{WeightSpec, sdq::SdqFile};

use crate::{
    Error,
    backend::{Backend, Cost, Executable, Footprint, WeightSource},
    graph::Graph,
};

/// A network that is ready to run. A clone shares everything with its original.
#[derive(Clone, Debug)]
pub struct Network {
    component: &'static str,
    file: Arc<SdqFile>,
    /// Other files of the same model from which some weights, named `component.weight`, are read instead; the
    /// last file with a weight counts.
    overlays: Vec<(Arc<SdqFile>, Arc<HashSet<String>>)>,
    /// Low-rank branches that run beside its products.
    branches: Option<Arc<SdqFile>>,
    /// Whether the checksums of its own weights were compared.
    verified: Arc<AtomicBool>,
    backend: Arc<dyn Backend>,
}

impl Network {
    /// The network in `component` of `file`, which must hold all of `weights` and no others.
    ///
    /// # Errors
    /// [`Error::MissingComponent`], or the first weight that is missing, of another shape, or surplus.
    pub fn open(
        file: Arc<SdqFile>,
        component: &'static str,
        weights: &[WeightSpec],
        backend: Arc<dyn Backend>,
    ) -> Result<Network, Error> {
        file.component(component).ok_or(Error::MissingComponent { component })?.check(weights)?;
        Ok(Network {
            component,
            file,
            overlays: Vec::new(),
            branches: None,
            verified: Arc::default(),
            backend,
        })
    }

    /// Name of the component with its weights.
    pub fn component(&self) -> &'static str {
        self.component
    }

    /// The file with its weights.
    pub(crate) fn file(&self) -> &Arc<SdqFile> {
        &self.file
    }

    /// The other files of its weights and branches.
    pub(crate) fn added_files(&self) -> impl Iterator<Item = &Arc<SdqFile>> {
        self.overlays.iter().map(|(file, _)| file).chain(&self.branches)
    }

    /// The same network, but `weights`, named `component.weight`, are read from `file`. Files without the
    /// component change nothing.
    pub(crate) fn with_overlay(mut self, file: Arc<SdqFile>, weights: Arc<HashSet<String>>) -> Network {
        self.overlays.push((file, weights));
        self
    }

    /// The same network with the branches in `file` beside its products.
    pub(crate) fn with_branches(self, file: Arc<SdqFile>) -> Network {
        Network { branches: Some(file), ..self }
    }

    /// The same network on another backend.
    pub(crate) fn on(self, backend: Arc<dyn Backend>) -> Network {
        Network { backend, ..self }
    }

    /// The backend that runs it.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The source of its weights.
    pub fn weights(&self) -> WeightSource<'_> {
        let own = self.file.component(self.component).expect("`open` found the component");
        let mut source = WeightSource::new(own);
        for (file, weights) in &self.overlays {
            if let Some(component) = file.component(self.component) {
                source.overlay(component, weights);
            }
        }
        if let Some(branches) = self.branches.as_ref().and_then(|file| file.component(self.component)) {
            source.add_branches(branches);
        }
        source
    }

    /// Compiles `graph` with the network's weights.
    ///
    /// # Errors
    /// As [`Backend::compile`], and at the first call when the file of the network's weights is damaged.
    pub fn compile(&self, graph: Graph) -> Result<Box<dyn Executable + '_>, Error> {
        self.verify()?;
        self.backend.compile(graph, &self.weights())
    }

    /// Compares the weights in the network's own file with their checksums, once. A run reads all of them in each step, so
    /// this takes far less time than a step.
    fn verify(&self) -> Result<(), Error> {
        if !self.file.is_built_in() && !self.verified.load(Ordering::Relaxed) {
            let component = self.file.component(self.component);
            let mut weights = component.iter().flat_map(|component| component.weights());
            weights.try_for_each(|weight| weight.verify())?;
            self.verified.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The memory of [`compile`](Network::compile) and of runs of the result.
    ///
    /// # Errors
    /// As [`Backend::footprint`].
    pub fn footprint(&self, graph: Graph) -> Result<Footprint, Error> {
        self.backend.footprint(graph, &self.weights())
    }

    /// The expected time of runs of `graph`.
    ///
    /// # Errors
    /// As [`Backend::cost`].
    pub fn cost(&self, graph: Graph) -> Result<Cost, Error> {
        self.backend.cost(graph, &self.weights())
    }

    /// The number of picture rows that must stay together for strips to be bit-identical, see
    /// [`Backend::row_step`].
    ///
    /// # Errors
    /// As [`Backend::row_step`].
    pub fn row_step(&self, graph: Graph) -> Result<usize, Error> {
        self.backend.row_step(graph, &self.weights())
    }

    /// Bytes of weights that are read in place from the mapped file.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        let weights =
            self.file.component(self.component).into_iter().flat_map(|component| component.weights());
        weights.map(|weight| weight.stored_bytes() as u64).sum()
    }
}
