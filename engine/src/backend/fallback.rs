//! A device that may fail, with the processor behind it: whatever happens to the device, the run goes on.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sdq_formats::WeightSpec;

use super::{Backend, Cost, Executable, Footprint, Limits, Notice, WeightSource, vulkan::VulkanError};
use crate::{
    Error,
    graph::{Graph, PreparedGraph, PreparedNode},
};

/// Runs graphs on one backend as long as that can, and on another from then on.
///
/// A graph that cannot be compiled, for want of memory say, is compiled for the other. One that fails while it runs is
/// compiled for the other, given the same inputs, and run again: what was finished before is not touched.
#[derive(Clone)]
pub struct WithFallback {
    first: Arc<dyn Backend>,
    second: Arc<dyn Backend>,
    /// Whether the first is not to be used any more.
    given_up: Arc<AtomicBool>,
    /// Whether it has been said that a run does not fit.
    told: Arc<AtomicBool>,
    notice: Arc<Notice>,
}

impl fmt::Debug for WithFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithFallback").field("first", &self.first).field("second", &self.second).finish()
    }
}

impl WithFallback {
    /// `first`, with `second` behind it; `notice` is told whenever the second takes over.
    pub fn new(first: Arc<dyn Backend>, second: Arc<dyn Backend>, notice: Arc<Notice>) -> WithFallback {
        WithFallback { first, second, given_up: Arc::default(), told: Arc::default(), notice }
    }

    fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn current(&self) -> &dyn Backend {
        if self.has_given_up() { &*self.second } else { &*self.first }
    }

    /// Whether the other backend may do better, after the first failed with `error`.
    fn falls_back(&self, error: &Error) -> bool {
        match failure(error) {
            None => false,
            Some(Failure::Once) => {
                (self.notice)(&format!("{error}; this part runs on the CPU"));
                true
            }
            Some(Failure::Always) => {
                // Graphs that were compiled before fail one after the other; once is enough to say.
                if !self.given_up.swap(true, Ordering::Relaxed) {
                    (self.notice)(&format!("{error}; the run goes on on the CPU"));
                }
                true
            }
        }
    }
}

/// What a failure of a device says of what comes after.
enum Failure {
    /// Other graphs may do.
    Once,
    /// Nothing will.
    Always,
}

fn failure(error: &Error) -> Option<Failure> {
    match error {
        Error::Vulkan(VulkanError::OutOfMemory { .. } | VulkanError::TooLarge { .. }) => Some(Failure::Once),
        Error::Vulkan(_) => Some(Failure::Always),
        _ => None,
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
        self.current().footprint(graph, weights)
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        self.current().cost(graph, weights)
    }

    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error> {
        // The second may have to go on with the strips of the first.
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
        // Asked by whoever plans a run and again by the run: once is enough to say.
        if !self.told.swap(true, Ordering::Relaxed) {
            let device = self.first.description();
            (self.notice)(&format!("the run does not fit on {device}; it goes to the CPU"));
        }
        Some(self.second.clone())
    }
}

/// A graph of the first backend, until that fails.
struct Guarded<'w> {
    running: Box<dyn Executable + 'w>,
    /// What it is made of, as long as it is not the second's.
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
