//! Compiled graphs that outlive a run, so that the next one of the same size compiles nothing.

use super::run_plan::PlannedGraph;
use crate::{Error, Network, backend::Executable};

/// Compiled graphs of a pipeline, kept from run to run or dropped after use.
#[derive(Default)]
pub struct Compiled<'w> {
    keeps: bool,
    /// Whether there is memory for the graphs of the present run.
    fits: bool,
    graphs: Vec<(GraphKey, Box<dyn Executable + 'w>)>,
}

/// Tells the graphs of a pipeline apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GraphKey {
    pub(super) component: &'static str,
    /// Which of the component's graphs.
    pub(super) part: usize,
    /// Everything that its shapes depend on.
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
    /// Drops graphs as soon as a run is done with them: least memory.
    pub fn dropped() -> Compiled<'w> {
        Compiled::default()
    }

    /// Keeps the graphs of a run for the next one, where memory allows it.
    pub fn kept() -> Compiled<'w> {
        Compiled { keeps: true, fits: true, graphs: Vec::new() }
    }

    /// Graphs that are kept now.
    pub fn count(&self) -> usize {
        self.graphs.len()
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Prepares for a run: drops the graphs that it does not use, and keeps none where its memory does not allow for them.
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

    /// Takes back a graph that is not needed any more, to keep or to drop it.
    pub(super) fn give_back(&mut self, graph: (GraphKey, Box<dyn Executable + 'w>)) {
        if self.keeps && self.fits {
            self.graphs.push(graph);
        }
    }
}
