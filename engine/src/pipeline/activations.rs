//! Statistics of the inputs of a model's products during drawing: the mean square of every input channel.
//!
//! A converter that knows which channels are large can round their weights more carefully.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sdq_formats::WeightSpec;

use super::{Event, Pipeline, Request};
use crate::{
    Error,
    backend::{Backend, Cost, Executable, Footprint, Limits, WeightSource},
    graph::{Graph, PreparedGraph, PreparedNode},
};

/// Mean squares of the input of every product, by component and name of its weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActivationMoments {
    means: BTreeMap<(String, String), Vec<f32>>,
}

impl ActivationMoments {
    /// For each input channel of the weight `name` in `component`: the mean of x² over all rows, pixels,
    /// steps and pictures. `None` if the product never ran, such as those of the VAE's encoder.
    pub fn get(&self, component: &str, name: &str) -> Option<&[f32]> {
        self.means.get(&(component.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    /// All entries: component, name of the weight, means.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &[f32])> {
        self.means
            .iter()
            .map(|((component, name), means)| (component.as_str(), name.as_str(), means.as_slice()))
    }
}

impl Pipeline {
    /// Draws all of `requests` and collects statistics of the inputs of every graph's products. `observer`
    /// receives the index of the request, from 0, with each event.
    ///
    /// With step caching, only full evaluations count. Intended for files in f32 or f16: a product with
    /// quantized weights reads quantized values, and is left out. The result does not depend on the number of
    /// threads.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn activation_moments(
        &self,
        requests: &[Request],
        observer: &mut dyn FnMut(usize, Event<'_>) -> ControlFlow<()>,
    ) -> Result<ActivationMoments, Error> {
        let sums = Arc::new(Mutex::new(Sums::default()));
        let backend = Watching { inner: self.backend.clone(), sums: sums.clone() };
        let watched = self.on_backend(Arc::new(backend));
        for (index, request) in requests.iter().enumerate() {
            watched.generate(request, &mut |event| observer(index, event))?;
        }
        let sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sums.means())
    }
}

/// Sums of squares, by component and weight.
#[derive(Debug, Default)]
struct Sums(BTreeMap<(String, String), ChannelSums>);

#[derive(Debug)]
struct ChannelSums {
    squares: Vec<f64>,
    rows: usize,
}

impl Sums {
    /// Adds `x [.., channels]`, the input of the product with `weight`.
    fn add(&mut self, component: &str, weight: &WeightSpec, x: &[f32]) {
        // The input channels are the second axis of matrices and convolutions.
        let channels = weight.shape[1];
        let key = (component.to_owned(), weight.name.clone());
        let entry =
            self.0.entry(key).or_insert_with(|| ChannelSums { squares: vec![0.0; channels], rows: 0 });
        for row in x.chunks_exact(channels) {
            for (sum, value) in entry.squares.iter_mut().zip(row) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
        entry.rows += x.len() / channels;
    }

    fn means(&self) -> ActivationMoments {
        let mean = |sums: &ChannelSums| {
            sums.squares.iter().map(|square| (square / sums.rows.max(1) as f64) as f32).collect()
        };
        ActivationMoments { means: self.0.iter().map(|(key, sums)| (key.clone(), mean(sums))).collect() }
    }
}

/// A backend whose graphs are watched in every run.
#[derive(Debug)]
struct Watching {
    inner: Arc<dyn Backend>,
    sums: Arc<Mutex<Sums>>,
}

impl Backend for Watching {
    fn description(&self) -> String {
        self.inner.description()
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        let inner = self.inner.compile(graph, weights)?;
        Ok(Box::new(Watched { inner, component: weights.name().to_owned(), sums: self.sums.clone() }))
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        self.inner.footprint(graph, weights)
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        self.inner.cost(graph, weights)
    }

    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error> {
        self.inner.row_step(graph, weights)
    }

    fn limits(&self) -> Result<Limits, Error> {
        self.inner.limits()
    }

    fn memory_left(&self) -> Option<u64> {
        self.inner.memory_left()
    }

    fn rounds_to_halves(&self) -> bool {
        self.inner.rounds_to_halves()
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        let inner = self.inner.fallback()?;
        Some(Arc::new(Watching { inner, sums: self.sums.clone() }))
    }
}

struct Watched<'w> {
    inner: Box<dyn Executable + 'w>,
    component: String,
    sums: Arc<Mutex<Sums>>,
}

impl Executable for Watched<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.inner.set_input(name, values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        self.inner.input_mut(name)
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.run_watched(&mut |weight, x| sums.add(&self.component, weight, x))
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        self.inner.run_beside_kept()
    }

    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error> {
        self.inner.run_watched(watch)
    }

    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error> {
        self.inner.run_timed(report)
    }

    fn output(&self, name: &str) -> &[f32] {
        self.inner.output(name)
    }

    fn output_names(&self) -> Vec<String> {
        self.inner.output_names()
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::{WeightRole, WeightType};

    use super::*;
    use crate::{
        backend::{conformance::Conformance, cpu::CpuBackend, double::Double},
        graph::GraphBuilder,
    };

    /// A watched backend gives the same answers as the backend inside it, and its fallback is watched too.
    #[test]
    fn a_watched_backend_answers_as_the_one_inside() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 3]);
        let y = graph.linear("proj", x, 4, false);
        graph.output("y", y);
        let table = Conformance::of_graph(graph.finish(), WeightType::F32).unwrap();
        let (graph, weights) = table.graph(&table.cases()[0]);
        let inner = Double {
            executable_bytes: 11,
            row_step: 7,
            rounds_to_halves: true,
            memory_left: Some(5),
            fallback: Some(Arc::new(CpuBackend::new(None).unwrap())),
            ..Double::default()
        };
        let sums = Arc::new(Mutex::new(Sums::default()));
        let watching = Watching { inner: Arc::new(inner.clone()), sums: sums.clone() };
        let answers = |backend: &dyn Backend| {
            let (graph, weights) = (|| graph.clone(), &weights);
            (
                backend.description(),
                backend.footprint(graph(), weights).unwrap(),
                backend.cost(graph(), weights).unwrap(),
                backend.row_step(graph(), weights).unwrap(),
                backend.limits().unwrap(),
                (backend.memory_left(), backend.rounds_to_halves()),
            )
        };
        assert_eq!(answers(&watching), answers(&inner));

        let fallback = watching.fallback().expect("the backend inside has one");
        let mut executable = fallback.compile(graph.clone(), &weights).unwrap();
        executable.set_input("x", &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        executable.run().unwrap();
        let means = sums.lock().unwrap().means();
        assert_eq!(means.get("case", "proj.weight"), Some(&[1.0, 4.0, 9.0][..]));
    }

    #[test]
    fn means_are_per_channel_over_all_runs() {
        let weight = WeightSpec::new("w", WeightRole::Conv, &[5, 2, 3, 3]);
        let mut sums = Sums::default();
        sums.add("unet", &weight, &[1.0, 2.0, 3.0, -4.0]);
        sums.add("unet", &weight, &[0.0, 2.0]);
        let moments = sums.means();
        assert_eq!(moments.get("unet", "w"), Some(&[10.0 / 3.0, 8.0][..]));
        assert_eq!(moments.get("vae", "w"), None);
        assert_eq!(moments.iter().count(), 1);
    }
}
