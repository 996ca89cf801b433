//! Prepares a graph for a backend, in the same way for every backend.
//!
//! Low-rank branches are added beside their products, products with integer weights get rows of bytes as
//! input, and every tensor gets a place in memory. Compiling, footprint, cost and row step of a backend all
//! start from the result, so they agree.

use std::collections::HashMap;

use sdq_formats::WeightSpec;

use super::{
    WeightSource,
    row_layout::{RowLayout, row_layouts},
};
use crate::{
    Error,
    graph::{
        Graph, IntegerLayouts, PreparedGraph, TensorId, WeightId, add_branches, plan::Plan, quantize_inputs,
    },
};

/// How a backend needs graphs to be prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preparation {
    /// Alignment of every tensor, in f32.
    pub(super) alignment: usize,
    /// The number of f32 of the keys and values of a head as integers, given the number of keys and the
    /// channels of a head; `None` for a backend whose attention is in floats.
    pub(super) key_elements: Option<fn(usize, usize) -> usize>,
}

/// The weights of a graph, in the form that a backend reads.
pub(super) trait GraphWeights {
    /// Whether the weight is a matrix of integers.
    fn is_quantized(&self, id: WeightId) -> bool;
}

/// A graph as a backend executes it.
pub(super) struct Prepared<W> {
    pub(super) graph: PreparedGraph,
    pub(super) plan: Plan,
    /// The layout of every tensor that is rows of bytes.
    pub(super) layouts: HashMap<TensorId, RowLayout>,
    pub(super) weights: W,
}

impl<W: GraphWeights> Prepared<W> {
    /// Prepares `graph`; `bind` looks up the weights of a list in a source.
    ///
    /// # Errors
    /// Those of `bind`.
    pub(super) fn new<'w>(
        graph: Graph,
        source: &WeightSource<'w>,
        preparation: &Preparation,
        bind: impl FnOnce(&[WeightSpec], &WeightSource<'w>) -> Result<W, Error>,
    ) -> Result<Prepared<W>, Error> {
        let graph = add_branches(graph, |spec| source.branches(spec));
        let weights = bind(&graph.weights, source)?;
        Ok(Prepared::with_weights(graph, weights, preparation))
    }

    /// Prepares `graph`, which already has its branches, with weights that have been looked up.
    pub(super) fn with_weights(graph: Graph, weights: W, preparation: &Preparation) -> Prepared<W> {
        let layouts = IntegerLayouts {
            row_elements: |inputs: &[usize]| RowLayout::new(inputs).row_elements(),
            key_elements: preparation.key_elements,
        };
        let graph = quantize_inputs(graph, |weight| weights.is_quantized(weight), &layouts);
        let plan = Plan::aligned(&graph, preparation.alignment);
        Prepared { layouts: row_layouts(&graph), plan, graph, weights }
    }
}
