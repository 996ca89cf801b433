//! The CPU backend: runs a planned graph op after op, every kernel spread over one thread pool.

mod arena;
mod bind;
mod cost;
mod embedding;
pub mod kernels;
pub mod limits;
pub mod pool;
pub mod simd;
mod step;

use std::{
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use sdq_formats::WeightSpec;

use super::{Backend, Cost, Executable, Footprint, WeightSource};
use crate::{
    Error,
    graph::{
        Graph, IntegerLayouts, Node, Op, Port, TensorId,
        plan::{ALIGNMENT, Plan},
        quantize_inputs,
    },
};
use arena::Arena;
use bind::BoundWeights;
use cost::Rates;
use kernels::{KeyLayout, RowLayout, ScratchUse};
use pool::Pool;
use step::Step;

/// The processor this program runs on.
#[derive(Clone, Debug)]
pub struct CpuBackend {
    pool: Arc<Pool>,
    rates: Arc<OnceLock<Rates>>,
}

impl CpuBackend {
    /// Starts `threads` workers, by default one per core. Results do not depend on their number.
    ///
    /// # Errors
    /// When the system refuses the threads.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<CpuBackend, Error> {
        Ok(CpuBackend { pool: Arc::new(Pool::new(threads)?), rates: Arc::default() })
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        format!("cpu, {}, {} threads", self.pool.isa().name(), self.pool.threads())
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        Ok(Box::new(CpuExecutable::new(self.pool.clone(), Prepared::new(graph, weights)?)?))
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        let Prepared { graph, plan, weights } = Prepared::new(graph, weights)?;
        let elements = plan.elements().next_multiple_of(ALIGNMENT).saturating_mul(size_of::<f32>());
        let tables = graph.heap_bytes() + plan.heap_bytes() + weights.heap_bytes();
        let steps = graph
            .nodes
            .iter()
            .map(|node| Step { pool: &self.pool, graph: &graph, weights: &weights, node }.scratch());
        let scratch = steps.fold(ScratchUse::default(), ScratchUse::max);
        Ok(Footprint { executable: (elements + tables) as u64, scratch: scratch.bytes(self.pool.threads()) })
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        let prepared = Prepared::new(graph, weights)?;
        let rates = match self.rates.get() {
            Some(rates) => rates,
            None => {
                let measured = Rates::measure(&self.pool)?;
                self.rates.get_or_init(|| measured)
            }
        };
        Ok(rates.cost(&self.pool, &prepared))
    }
}

/// A graph as this backend runs it.
struct Prepared<'w> {
    graph: Graph,
    plan: Plan,
    weights: BoundWeights<'w>,
}

impl<'w> Prepared<'w> {
    fn new(graph: Graph, weights: &WeightSource<'w>) -> Result<Prepared<'w>, Error> {
        let weights = BoundWeights::new(&graph.weights, weights)?;
        Ok(Prepared::with_weights(graph, weights))
    }

    fn with_weights(graph: Graph, weights: BoundWeights<'w>) -> Prepared<'w> {
        let layouts = IntegerLayouts {
            row_elements: |inputs: &[usize]| RowLayout::new(inputs).row_elements(),
            key_elements: |keys, head_dim| KeyLayout::new(keys, head_dim).elements(),
        };
        let graph = quantize_inputs(graph, |weight| weights.is_quantized(weight), &layouts);
        Prepared { plan: Plan::new(&graph), graph, weights }
    }
}

struct CpuExecutable<'w> {
    pool: Arc<Pool>,
    graph: Graph,
    plan: Plan,
    weights: BoundWeights<'w>,
    arena: Arena,
}

impl<'w> CpuExecutable<'w> {
    fn new(pool: Arc<Pool>, prepared: Prepared<'w>) -> Result<CpuExecutable<'w>, Error> {
        let Prepared { graph, plan, weights } = prepared;
        let arena = Arena::new(plan.elements())?;
        Ok(CpuExecutable { pool, graph, plan, weights, arena })
    }

    /// Has `run` do each node in turn: it is given the node's inputs and where its output goes.
    fn run_nodes(&mut self, mut run: impl FnMut(&Step<'_>, &[&[f32]], &mut [f32])) {
        for node in &self.graph.nodes {
            let inputs = node.inputs.iter().map(|tensor| self.plan.range(tensor.0));
            let (out, inputs) = self.arena.split(self.plan.range(node.output.0), inputs);
            let step = Step { pool: &self.pool, graph: &self.graph, weights: &self.weights, node };
            run(&step, &inputs, out);
        }
    }
}

impl Executable for CpuExecutable<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.input_mut(name).copy_from_slice(values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        let tensor = find(&self.graph.inputs, name);
        self.arena.values_mut(self.plan.range(tensor.0))
    }

    fn run(&mut self) {
        self.run_nodes(|step, inputs, out| step.run(inputs, out));
    }

    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) {
        self.run_nodes(|step, inputs, out| {
            if let Op::Linear { weight, .. } | Op::Conv2d { weight, .. } = step.node.op
                && !step.weights.is_quantized(weight)
            {
                watch(step.graph.weight(weight), inputs[0]);
            }
            step.run(inputs, out);
        });
    }

    fn run_timed(&mut self, report: &mut dyn FnMut(&Graph, &Node, Duration)) {
        self.run_nodes(|step, inputs, out| {
            let start = Instant::now();
            step.run(inputs, out);
            report(step.graph, step.node, start.elapsed());
        });
    }

    fn output(&self, name: &str) -> &[f32] {
        self.arena.values(self.plan.range(find(&self.graph.outputs, name).0))
    }

    fn output_names(&self) -> Vec<String> {
        self.graph.outputs.iter().map(|port| port.name.clone()).collect()
    }
}

fn find(ports: &[Port], name: &str) -> TensorId {
    let port = ports.iter().find(|port| port.name == name);
    port.unwrap_or_else(|| panic!("the graph has no input or output `{name}`")).tensor
}
