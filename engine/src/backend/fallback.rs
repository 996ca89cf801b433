//! A device that may fail, with the CPU as its fallback: the run continues when the device fails.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sdq_formats::WeightSpec;

use super::{Backend, Cost, DeviceError, DeviceProblem, Executable, Footprint, Limits, Notice, WeightSource};
use crate::{
    Error,
    graph::{Graph, PreparedGraph, PreparedNode},
};

/// Runs graphs on one backend until it fails, and on another from then on.
///
/// A graph that the first cannot compile, for example for lack of memory, is compiled for the second. A graph
/// that fails while it runs is compiled for the second, given the same inputs, and run again: earlier results
/// are kept.
#[derive(Clone)]
pub struct WithFallback {
    first: Arc<dyn Backend>,
    second: Arc<dyn Backend>,
    /// Whether the first backend is no longer used.
    given_up: Arc<AtomicBool>,
    /// Whether a notice has said that a run does not fit.
    told: Arc<AtomicBool>,
    notice: Arc<Notice>,
}

impl fmt::Debug for WithFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithFallback").field("first", &self.first).field("second", &self.second).finish()
    }
}

impl WithFallback {
    /// Uses `first`, with `second` as its fallback; `notice` is called whenever the second takes over.
    pub fn new(first: Arc<dyn Backend>, second: Arc<dyn Backend>, notice: Arc<Notice>) -> WithFallback {
        WithFallback { first, second, given_up: Arc::default(), told: Arc::default(), notice }
    }

    fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn current(&self) -> &dyn Backend {
        if self.has_given_up() { &*self.second } else { &*self.first }
    }

    /// Whether the second backend may succeed after the first failed with `error`.
    fn falls_back(&self, error: &Error) -> bool {
        let Error::Device(DeviceError { problem, .. }) = error else { return false };
        match problem {
            DeviceProblem::OutOfMemory | DeviceProblem::Unsupported => {
                (self.notice)(&format!("{error}; this part runs on the CPU"));
            }
            DeviceProblem::Unavailable | DeviceProblem::Failed => {
                // Graphs that were compiled before fail one after the other; one notice is enough.
                if !self.given_up.swap(true, Ordering::Relaxed) {
                    (self.notice)(&format!("{error}; the run continues on the CPU"));
                }
            }
        }
        true
    }
}

impl Backend for WithFallback {
    fn description(&self) -> String {
        self.current().description()
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        if self.has_given_up() {
            return self.second.compile(graph, weights);
        }
        match self.first.compile(graph.clone(), weights) {
            Ok(running) => {
                let (backend, weights) = (self.clone(), weights.clone());
                Ok(Box::new(Guarded { running, spare: Some((graph, weights)), backend }))
            }
            Err(error) if self.falls_back(&error) => self.second.compile(graph, weights),
            Err(error) => Err(error),
        }
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        match self.current().footprint(graph.clone(), weights) {
            // `compile` will use the second backend and report it.
            Err(Error::Device(DeviceError { problem: DeviceProblem::Unsupported, .. })) => {
                self.second.footprint(graph, weights)
            }
            found => found,
        }
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        self.current().cost(graph, weights)
    }

    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error> {
        // The second may have to continue with strips that were cut for the first.
        Ok(self.first.row_step(graph.clone(), weights)?.max(self.second.row_step(graph, weights)?))
    }

    fn limits(&self) -> Result<Limits, Error> {
        self.current().limits()
    }

    fn memory_left(&self) -> Option<u64> {
        self.current().memory_left()
    }

    fn rounds_to_halves(&self) -> bool {
        self.current().rounds_to_halves()
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        if self.has_given_up() {
            return None;
        }
        // Both the planning of a run and the run itself call this; one notice is enough.
        if !self.told.swap(true, Ordering::Relaxed) {
            let device = self.first.description();
            (self.notice)(&format!("the run does not fit on {device}; the CPU draws it"));
        }
        Some(self.second.clone())
    }
}

/// A graph of the first backend, until that backend fails.
struct Guarded<'w> {
    running: Box<dyn Executable + 'w>,
    /// Its graph and weights, kept until the second backend takes over.
    spare: Option<(Graph, WeightSource<'w>)>,
    backend: WithFallback,
}

impl Guarded<'_> {
    fn attempt(
        &mut self,
        mut run: impl FnMut(&mut dyn Executable) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Err(error) = run(&mut *self.running) else { return Ok(()) };
        if self.spare.is_none() || !self.backend.falls_back(&error) {
            return Err(error);
        }
        let Some((graph, weights)) = self.spare.take() else { return Err(error) };
        let names: Vec<String> =
            graph.inputs.iter().chain(&graph.kept).map(|port| port.name.clone()).collect();
        let mut second = self.backend.second.compile(graph, &weights)?;
        for name in names {
            second.set_input(&name, self.running.input_mut(&name));
        }
        self.running = second;
        run(&mut *self.running)
    }
}

impl Executable for Guarded<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.running.set_input(name, values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        self.running.input_mut(name)
    }

    fn run(&mut self) -> Result<(), Error> {
        self.attempt(|running| running.run())
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        self.attempt(|running| running.run_beside_kept())
    }

    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error> {
        self.attempt(|running| running.run_watched(watch))
    }

    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error> {
        self.attempt(|running| running.run_timed(report))
    }

    fn output(&self, name: &str) -> &[f32] {
        self.running.output(name)
    }

    fn output_names(&self) -> Vec<String> {
        self.running.output_names()
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::WeightType;

    use super::*;
    use crate::{
        backend::{conformance::Conformance, cpu::CpuBackend, double::Double},
        graph::{GraphBuilder, Window},
    };

    /// A table with one graph: a convolution wide enough that the CPU rounds two rows together.
    fn wide_convolution() -> Conformance {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 4, 16, 128]);
        let y = graph.conv2d("conv", x, 128, Window::SAME_3X3, None);
        graph.output("y", y);
        Conformance::of_graph(graph.finish(), WeightType::Q8).unwrap()
    }

    fn ignore() -> Arc<Notice> {
        Arc::new(|_| {})
    }

    #[test]
    fn strips_suit_both_backends() {
        let table = wide_convolution();
        let (graph, weights) = table.graph(&table.cases()[0]);
        let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new(None).unwrap());
        assert_eq!(cpu.row_step(graph.clone(), &weights).unwrap(), 2);
        let narrow: Arc<dyn Backend> = Arc::new(Double::default());
        for [first, second] in [[&cpu, &narrow], [&narrow, &cpu]] {
            let both = WithFallback::new(first.clone(), second.clone(), ignore());
            assert_eq!(both.row_step(graph.clone(), &weights).unwrap(), 2);
        }
    }

    #[test]
    fn the_footprint_of_an_unsupported_graph_is_that_of_the_second() {
        let table = wide_convolution();
        let (graph, weights) = table.graph(&table.cases()[0]);
        let second: Arc<dyn Backend> = Arc::new(Double { executable_bytes: 123, ..Double::default() });
        let footprint = |problem| {
            let first = Double { problem: Some(problem), ..Double::default() };
            WithFallback::new(Arc::new(first), second.clone(), ignore()).footprint(graph.clone(), &weights)
        };
        assert_eq!(footprint(DeviceProblem::Unsupported).unwrap().executable, 123);
        for problem in [DeviceProblem::Unavailable, DeviceProblem::OutOfMemory, DeviceProblem::Failed] {
            let Err(Error::Device(error)) = footprint(problem) else { panic!("{problem:?} is an error") };
            assert_eq!(error.problem, problem);
        }
    }

    /// Queries go to the device until it fails, and to the other backend from then on.
    #[test]
    fn a_device_that_failed_is_not_asked_again() {
        let table = wide_convolution();
        let (graph, weights) = table.graph(&table.cases()[0]);
        let said = Arc::new(std::sync::Mutex::new(Vec::new()));
        let listener = said.clone();
        let first = Double {
            problem: Some(DeviceProblem::Failed),
            memory_left: Some(5),
            rounds_to_halves: true,
            ..Double::default()
        };
        let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new(None).unwrap());
        let notice = Arc::new(move |words: &str| listener.lock().unwrap().push(words.to_owned()));
        let backend = WithFallback::new(Arc::new(first), cpu.clone(), notice);
        let answers = || (backend.description(), backend.memory_left(), backend.rounds_to_halves());
        assert_eq!(answers(), ("double".to_owned(), Some(5), true));
        for _ in 0..2 {
            backend.compile(graph.clone(), &weights).unwrap();
            assert_eq!(answers(), (cpu.description(), None, false));
        }
        assert!(backend.fallback().is_none());
        assert_eq!(said.lock().unwrap().len(), 1, "one notice is enough");
    }
}
