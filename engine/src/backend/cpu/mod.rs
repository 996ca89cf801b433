//! The CPU backend: runs a planned graph op by op, with every kernel spread over one thread pool.

mod arena;
mod bind;
mod cost;
mod embedding;
pub mod kernels;
pub mod limits;
pub mod pool;
pub mod simd;
mod step;
mod sync;
mod workers;

use std::{
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use sdq_formats::WeightSpec;

use super::{
    Backend, Cost, Executable, Footprint, Limits, WeightSource,
    prepare::{self, GraphWeights as _, Preparation},
    row_layout::RowLayout,
};
use crate::{
    Error,
    graph::{Graph, Port, PreparedGraph, PreparedNode, TensorId, plan::ALIGNMENT},
};
use arena::Arena;
use bind::BoundWeights;
use cost::Rates;
use kernels::{KeyLayout, ScratchUse};
use pool::Pool;
use simd::Isa;
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

    /// As [`CpuBackend::new`], but kernels use the given instruction set.
    ///
    /// # Errors
    /// As [`CpuBackend::new`].
    pub fn with_isa(threads: Option<NonZeroUsize>, isa: Isa) -> Result<CpuBackend, Error> {
        Ok(CpuBackend { pool: Arc::new(Pool::with_isa(threads, isa)?), rates: Arc::default() })
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
        Ok(Box::new(CpuExecutable::new(self.pool.clone(), prepare(graph, weights)?)?))
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        let prepared = prepare(graph, weights)?;
        let Prepared { graph, plan, weights, layouts } = &prepared;
        let elements = plan.elements().next_multiple_of(ALIGNMENT).saturating_mul(size_of::<f32>());
        let layouts = layouts.values().map(RowLayout::heap_bytes).sum::<usize>();
        let lists = layouts + graph.nodes.len();
        let tables = graph.heap_bytes() + plan.heap_bytes() + weights.heap_bytes() + lists;
        let steps = graph.nodes.iter().map(|node| prepared.step(&self.pool, node).scratch());
        let scratch = steps.fold(ScratchUse::default(), ScratchUse::max);
        Ok(Footprint { executable: (elements + tables) as u64, scratch: scratch.bytes(self.pool.threads()) })
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        let prepared = prepare(graph, weights)?;
        let rates = match self.rates.get() {
            Some(rates) => rates,
            None => {
                let measured = Rates::measure(&self.pool)?;
                self.rates.get_or_init(|| measured)
            }
        };
        Ok(rates.cost(&self.pool, &prepared))
    }

    fn row_step(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<usize, Error> {
        let prepared = prepare(graph, weights)?;
        let mut steps = prepared.graph.nodes.iter().map(|node| prepared.step(&self.pool, node));
        Ok(if steps.any(|step| step.is_winograd()) { kernels::WINOGRAD_ROWS } else { 1 })
    }

    fn rounds_to_halves(&self) -> bool {
        false
    }

    fn limits(&self) -> Result<Limits, Error> {
        Ok(limits::measure(&self.pool))
    }

    fn memory_left(&self) -> Option<u64> {
        None
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        None
    }
}

type Prepared<'w> = prepare::Prepared<BoundWeights<'w>>;

const PREPARATION: Preparation = Preparation {
    alignment: ALIGNMENT,
    key_elements: Some(|keys, head_dim| KeyLayout::new(keys, head_dim).elements()),
};

fn prepare<'w>(graph: Graph, source: &WeightSource<'w>) -> Result<Prepared<'w>, Error> {
    Prepared::new(graph, source, &PREPARATION, BoundWeights::new)
}

impl Prepared<'_> {
    fn step<'a>(&'a self, pool: &'a Pool, node: &'a PreparedNode) -> Step<'a> {
        Step { pool, graph: &self.graph, weights: &self.weights, layouts: &self.layouts, node }
    }
}

struct CpuExecutable<'w> {
    pool: Arc<Pool>,
    prepared: Prepared<'w>,
    arena: Arena,
    /// For each node, whether the outputs need it beside the kept tensors.
    needed_beside_kept: Vec<bool>,
}

impl<'w> CpuExecutable<'w> {
    fn new(pool: Arc<Pool>, prepared: Prepared<'w>) -> Result<CpuExecutable<'w>, Error> {
        let arena = Arena::new(prepared.plan.elements())?;
        let needed_beside_kept = prepared.graph.needed_beside_kept();
        Ok(CpuExecutable { pool, prepared, arena, needed_beside_kept })
    }

    /// Calls `run` for each node in turn, with the node's inputs and the memory of its output.
    fn run_nodes(&mut self, run: impl FnMut(&Step<'_>, &[&[f32]], &mut [f32])) {
        self.run_some(|_| true, run);
    }

    fn run_some(
        &mut self,
        is_run: impl Fn(usize) -> bool,
        mut run: impl FnMut(&Step<'_>, &[&[f32]], &mut [f32]),
    ) {
        let Prepared { graph, plan, .. } = &self.prepared;
        for (_, node) in graph.nodes.iter().enumerate().filter(|&(index, _)| is_run(index)) {
            let inputs = node.inputs.iter().map(|tensor| plan.range(tensor.0));
            let (out, inputs) = self.arena.split(plan.range(node.output.0), inputs);
            run(&self.prepared.step(&self.pool, node), &inputs, out);
        }
    }
}

impl Executable for CpuExecutable<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.input_mut(name).copy_from_slice(values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        let Prepared { graph, plan, .. } = &self.prepared;
        let tensor = find(&graph.inputs, &graph.kept, name);
        self.arena.values_mut(plan.range(tensor.0))
    }

    fn run(&mut self) -> Result<(), Error> {
        self.run_nodes(|step, inputs, out| step.run(inputs, out));
        Ok(())
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        let needed = std::mem::take(&mut self.needed_beside_kept);
        self.run_some(|index| needed[index], |step, inputs, out| step.run(inputs, out));
        self.needed_beside_kept = needed;
        Ok(())
    }

    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error> {
        self.run_nodes(|step, inputs, out| {
            if let Some(weight) = step.node.op.product_weight()
                && !step.weights.is_quantized(weight)
            {
                watch(step.graph.weight(weight), inputs[0]);
            }
            step.run(inputs, out);
        });
        Ok(())
    }

    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error> {
        self.run_nodes(|step, inputs, out| {
            let start = Instant::now();
            step.run(inputs, out);
            report(step.graph, step.node, start.elapsed());
        });
        Ok(())
    }

    fn output(&self, name: &str) -> &[f32] {
        let Prepared { graph, plan, .. } = &self.prepared;
        self.arena.values(plan.range(find(&graph.outputs, &graph.kept, name).0))
    }

    fn output_names(&self) -> Vec<String> {
        self.prepared.graph.outputs.iter().map(|port| port.name.clone()).collect()
    }
}

fn find(ports: &[Port], kept: &[Port], name: &str) -> TensorId {
    let port = ports.iter().chain(kept).find(|port| port.name == name);
    port.unwrap_or_else(|| panic!("the graph has no input or output `{name}`")).tensor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        GraphBuilder, Window,
        strips::{INPUT, OUTPUT, Piece, Target, cuts},
    };
    use bind::Blank;

    /// Winograd convolutions in 2x2 pixels are the only ops that round rows together, and the models that
    /// tests convert are too narrow for them.
    #[test]
    fn strips_of_wide_convolutions_are_those_of_the_whole() {
        let mut graph = GraphBuilder::new();
        let x = graph.input(INPUT, &[1, 13, 17, 128]);
        let hidden = graph.conv2d("first", x, 128, Window::SAME_3X3, None);
        let hidden = graph.conv2d("second", hidden, 144, Window::SAME_3X3, None);
        let large = graph.upsample_nearest(hidden, (26, 34));
        let y = graph.conv2d("third", large, 128, Window::SAME_3X3, None);
        graph.output(OUTPUT, y);
        let graph = graph.finish();
        let all = cuts(&graph);
        let piece = Piece::new(&graph, all[0], all[all.len() - 1], kernels::WINOGRAD_ROWS);
        let blank = Blank::new(144 * 144 * 9);
        let pool = Arc::new(Pool::new(NonZeroUsize::new(2)).unwrap());
        let run = |graph: Graph, rows: &[f32]| {
            let weights = BoundWeights::blank(&graph.weights, true, &blank);
            let mut executable =
                CpuExecutable::new(pool.clone(), Prepared::with_weights(graph, weights, &PREPARATION))
                    .unwrap();
            let prepared = &executable.prepared;
            let convolutions = prepared.graph.nodes.iter().filter(|node| node.op.product_weight().is_some());
            assert!(convolutions.clone().all(|node| prepared.step(&pool, node).is_winograd()));
            executable.set_input(INPUT, rows);
            executable.run().unwrap();
            executable.output(OUTPUT).to_vec()
        };
        let line = 17 * 128;
        let x: Vec<f32> = (0..13 * line).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect();
        let expected = run(piece.whole(), &x);
        let reach = piece.reach(Target::Output).unwrap();
        for rows in [kernels::WINOGRAD_ROWS, 2 * kernels::WINOGRAD_ROWS] {
            for start in (0..13).step_by(rows) {
                let own = start..13.min(start + rows);
                let seen = own.start.saturating_sub(reach)..13.min(own.end + reach);
                let inner = own.start - seen.start..own.end - seen.start;
                let graph = piece.strip(Target::Output, seen.len(), inner.clone());
                let found = run(graph, &x[seen.start * line..seen.end * line]);
                let out_line = 4 * line;
                let found = &found[inner.start * out_line..inner.end * out_line];
                assert!(found == &expected[own.start * out_line..own.end * out_line], "rows {own:?}");
            }
        }
    }
}
