//! A backend for tests: the CPU's, with a hook for each call that a test observes or changes.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sdq_engine::{
    Error,
    backend::{Backend, Cost, Executable, Footprint, Limits, WeightSource, cpu::CpuBackend},
    graph::{Graph, PreparedGraph, PreparedNode},
};
use sdq_formats::WeightSpec;

/// The test's side of calls to the backend. Everything else is the CPU's.
pub trait Hooks: Debug + Send + Sync + 'static {
    /// Called before a graph of `component` is compiled.
    ///
    /// # Errors
    /// The error that compiling returns.
    fn compile(&self, _component: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Called before a run of the graph that was compiled as number `index`, counted from 0.
    ///
    /// # Errors
    /// The error that the run returns.
    fn run(&self, _index: usize) -> Result<(), Error> {
        Ok(())
    }

    /// The cost of a graph, given the CPU's.
    fn cost(&self, cost: Cost) -> Cost {
        cost
    }

    /// As [`Backend::memory_left`].
    fn memory_left(&self) -> Option<u64> {
        None
    }
}

/// A backend that calls `hooks`.
#[derive(Debug)]
pub struct Hooked<H> {
    cpu: CpuBackend,
    description: &'static str,
    hooks: Arc<H>,
    compiled: Mutex<usize>,
}

impl<H: Hooks> Hooked<H> {
    /// Wraps `cpu`, with another description.
    pub fn new(cpu: CpuBackend, description: &'static str, hooks: Arc<H>) -> Hooked<H> {
        Hooked { cpu, description, hooks, compiled: Mutex::new(0) }
    }
}

impl<H: Hooks> Backend for Hooked<H> {
    fn description(&self) -> String {
        self.description.to_owned()
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        self.hooks.compile(weights.name())?;
        let inner = self.cpu.compile(graph, weights)?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let index = *compiled;
        *compiled += 1;
        Ok(Box::new(HookedExecutable { inner, index, hooks: self.hooks.clone() }))
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        self.cpu.footprint(graph, weights)
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        Ok(self.hooks.cost(self.cpu.cost(graph, weights)?))
    }

    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error> {
        self.cpu.row_step(graph, weights)
    }

    fn rounds_to_halves(&self) -> bool {
        self.cpu.rounds_to_halves()
    }

    fn limits(&self) -> Result<Limits, Error> {
        self.cpu.limits()
    }

    fn memory_left(&self) -> Option<u64> {
        self.hooks.memory_left()
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        None
    }
}

struct HookedExecutable<'w, H> {
    inner: Box<dyn Executable + 'w>,
    index: usize,
    hooks: Arc<H>,
}

impl<H: Hooks> Executable for HookedExecutable<'_, H> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.inner.set_input(name, values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        self.inner.input_mut(name)
    }

    fn run(&mut self) -> Result<(), Error> {
        self.hooks.run(self.index)?;
        self.inner.run()
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        self.hooks.run(self.index)?;
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
