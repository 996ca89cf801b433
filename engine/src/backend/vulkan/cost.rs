//! Estimates the time of graphs from the measured times of a few small ones.

use std::time::Instant;

use super::{
    PREPARATION, Prepared, context::Context, executable::VulkanExecutable, lower::Bounds, weights::Placement,
};
use crate::{
    Error,
    backend::{Cost, Executable as _, prepare::GraphWeights as _},
    graph::{Graph, GraphBuilder, Op, PreparedOp, TensorId, Window},
};

/// The rates of a device per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Multiply-adds of bytes and integers, of floats, and of attention.
    integer: f64,
    float: f64,
    attention: f64,
    /// Elements of ops that mostly move memory.
    elements: f64,
    /// Seconds of a node that does nothing.
    node: f64,
}

/// Runs of each graph; the fastest counts.
const RUNS: usize = 2;

impl Rates {
    /// Measures small graphs with blank weights.
    pub(super) fn measure(context: &Context, bounds: &Bounds) -> Result<Rates, Error> {
        let size = [1, 16, 16, 128];
        let nodes = 8;
        let chain = |append: &dyn Fn(&mut GraphBuilder, TensorId, usize) -> TensorId| {
            let mut graph = GraphBuilder::new();
            let mut x = graph.input("x", &size);
            for index in 0..nodes {
                x = append(&mut graph, x, index);
            }
            graph.output("y", x);
            graph.finish()
        };
        let convolve = |graph: &mut GraphBuilder, x, index: usize| {
            graph.conv2d(&format!("conv{index}"), x, size[3], Window::SAME_3X3, None)
        };
        let time = |graph: &Graph, integers: bool| seconds(context, bounds, graph.clone(), integers);
        let empty = {
            let mut graph = GraphBuilder::new();
            let mut x = graph.input("x", &[1, 1, 1, 16]);
            for _ in 0..nodes {
                x = graph.affine(1.0, 0.0, x);
            }
            graph.output("y", x);
            graph.finish()
        };
        let node = time(&empty, false)? / nodes as f64;
        let (products, attended) =
            (chain(&convolve), chain(&|graph, x, _| graph.attention(x, x, x, 2, false)));
        let moved = chain(&|graph, x, _| graph.affine(0.5, 0.5, x));
        let work =
            |graph: &Graph| graph.nodes.iter().map(|node| graph.multiply_adds(node)).sum::<u64>() as f64;
        let net = |seconds: f64| (seconds - node * nodes as f64).max(seconds / 10.0);
        let elements = (nodes * size.iter().product::<usize>()) as f64;
        Ok(Rates {
            integer: work(&products) / net(time(&products, true)?),
            float: work(&products) / net(time(&products, false)?),
            attention: work(&attended) / net(time(&attended, false)?),
            elements: elements / net(time(&moved, false)?),
            node,
        })
    }

    /// The cost of a run of `prepared`.
    pub(super) fn cost(&self, prepared: &Prepared<'_>) -> Cost {
        let mut cost = Cost::default();
        for node in &prepared.graph.nodes {
            let products = prepared.graph.multiply_adds(node);
            let rate = match (node.op.product_weight(), &node.op) {
                (Some(weight), _) if prepared.weights.is_quantized(weight) => {
                    cost.integer += products;
                    self.integer
                }
                (_, PreparedOp::Model(Op::Attention { .. })) => {
                    cost.float += products;
                    self.attention
                }
                _ => {
                    cost.float += products;
                    self.float
                }
            };
            cost.seconds += self.node;
            cost.seconds += match products {
                0 => prepared.graph.elements_passed(node) as f64 / self.elements,
                products => products as f64 / rate,
            };
        }
        cost
    }
}

/// The seconds of one run of `graph`.
fn seconds(context: &Context, bounds: &Bounds, graph: Graph, integers: bool) -> Result<f64, Error> {
    let largest = graph.weights.iter().map(|spec| spec.shape.iter().product::<usize>()).max();
    // Panels are padded to their full width.
    let zeros = vec![0.0; 2 * largest.unwrap_or(0)];
    let blank = Placement::blank(&graph.weights, integers, &zeros);
    let prepared = Prepared::with_weights(graph, blank, &PREPARATION);
    let mut executable = VulkanExecutable::new(context, prepared, bounds)?;
    // The first run may compile, and writes memory for the first time.
    executable.run()?;
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        executable.run()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}
