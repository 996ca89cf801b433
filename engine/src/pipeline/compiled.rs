//! Compiled graphs that are kept after a run, so that the next run of the same size compiles nothing.

use super::run_plan::PlannedGraph;
use crate::{Error, Network, backend::Executable};

/// Compiled graphs of a pipeline, kept from run to run or dropped after use.
#[derive(Default)]
pub struct Compiled<'w> {
    keeps: bool,
    /// Whether there is memory to keep the graphs of the current run.
    fits: bool,
    graphs: Vec<(GraphKey, Box<dyn Executable + 'w>)>,
}

/// Identifies a graph of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GraphKey {
    pub(super) component: &'static str,
    /// The index of the graph within the component.
    pub(super) part: usize,
    /// All sizes on which its shapes depend.
    pub(super) sizes: Vec<usize>,
}

impl std::fmt::Debug for Compiled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.graphs.iter().map(|(key, _)| key);
        f.debug_struct("Compiled")
            .field("keeps", &self.keeps)
            .field("graphs", &keys.collect::<Vec<_>>())
            .finish()
    }
}

impl<'w> Compiled<'w> {
    /// Drops graphs as soon as a run no longer needs them: minimal memory.
    pub fn dropped() -> Compiled<'w> {
        Compiled::default()
    }

    /// Keeps the graphs of a run for the next one, where memory allows it.
    pub fn kept() -> Compiled<'w> {
        Compiled { keeps: true, fits: true, graphs: Vec::new() }
    }

    /// The number of graphs that are kept.
    pub fn count(&self) -> usize {
        self.graphs.len()
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Prepares for a run: drops graphs that it does not use, and keeps none where memory is insufficient.
    pub(super) fn prepare(&mut self, fits: bool, is_used: impl Fn(&GraphKey) -> bool) {
        self.fits = fits;
        self.graphs.retain(|(key, _)| fits && is_used(key));
    }

    /// The planned graph, compiled now or earlier.
    pub(super) fn take(
        &mut self,
        network: &'w Network,
        PlannedGraph { key, graph, .. }: PlannedGraph,
    ) -> Result<(GraphKey, Box<dyn Executable + 'w>), Error> {
        match self.graphs.iter().position(|(other, _)| *other == key) {
            Some(index) => Ok(self.graphs.swap_remove(index)),
            None => Ok((key, network.compile(graph)?)),
        }
    }

    /// Takes back a graph that is no longer needed, and keeps or drops it.
    pub(super) fn give_back(&mut self, graph: (GraphKey, Box<dyn Executable + 'w>)) {
        if self.keeps && self.fits {
            self.graphs.push(graph);
        }
    }
}
