//! Estimates the time of a graph: the work of each op times the measured rate of its kind on this machine.
//!
//! The rates are measured with two small graphs that run through the same code as a model's, so they include
//! every optimisation. The kind of an op matters more than its shape: products of one kind keep their rate
//! within some 20 % once they are large enough for all threads.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    CpuExecutable, PREPARATION, Prepared,
    bind::{Blank, BoundWeights, Product},
    pool::Pool,
};
use crate::{
    Error,
    backend::{Cost, Executable},
    graph::{
        Activation, Graph, GraphBuilder, Op, Operation as _, PreparedGraph, PreparedNode, PreparedOp, RowOp,
        Window,
    },
    pages::Pages,
};

/// Sizes of the measured graphs: pixels of a side, channels as in the widest level of SD1.5's U-Net, and the
/// hidden channels of its feed-forward. Each product takes some milliseconds.
const SIDE: usize = 24;
const CHANNELS: usize = 320;
const HIDDEN: usize = 2560;
/// Heads of the two attentions: their difference gives the time of a score, apart from its multiply-adds.
const HEADS: [usize; 2] = [8, 2];
/// Each graph runs once to warm up and then this many times; the shortest time of each op counts.
const RUNS: usize = 6;
/// f32 values in a block of memory that is written for the first time.
const TOUCHED: usize = 2 << 20;
/// Sums of a strip, and norms with given statistics, read the picture once where a norm reads it twice.
const HALF_NORM: f64 = 0.5;

/// The kind of work that a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// See [`Operation::name`](crate::graph::Operation::name).
    op: &'static str,
    /// Whether the op multiplies integers.
    integer: bool,
    /// Whether the op is a convolution that needs fewer multiplications than it counts.
    winograd: bool,
}

impl Kind {
    /// The kind of an op in floats.
    fn float(op: &'static str) -> Kind {
        Kind { op, integer: false, winograd: false }
    }
}

/// Measured times of each kind of work on a pool.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    /// Seconds for each multiply-add of products, and for each element of other ops, with all threads.
    seconds: HashMap<Kind, f64>,
    /// Seconds of attentions for each multiply-add and for each score.
    attention: HashMap<Kind, [f64; 2]>,
    /// Seconds that any op takes, however small.
    op: f64,
    /// Seconds for each f32 that is written for the first time.
    touch: f64,
}

impl Rates {
    /// Measures the rates of `pool`.
    pub(super) fn measure(pool: &Arc<Pool>) -> Result<Rates, Error> {
        let blank = Blank::new(HIDDEN.max(9 * CHANNELS) * CHANNELS);
        let mut rates =
            Rates { seconds: HashMap::new(), attention: HashMap::new(), op: 0.0, touch: touch()? };
        let (_, tiny) = least_times(pool, tiny(), true, &blank)?;
        rates.op = tiny.iter().map(Duration::as_secs_f64).sum::<f64>() / tiny.len() as f64;
        for (graph, integers) in [(block(), true), (products(), false)] {
            let (prepared, times) = least_times(pool, graph, integers, &blank)?;
            rates.learn(pool, &prepared, &times);
        }
        Ok(rates)
    }

    fn learn(&mut self, pool: &Pool, prepared: &Prepared<'_>, times: &[Duration]) {
        let mut sums: HashMap<Kind, [f64; 2]> = HashMap::new();
        let mut attentions: HashMap<Kind, Vec<([f64; 2], f64)>> = HashMap::new();
        for (node, time) in prepared.graph.nodes.iter().zip(times) {
            let seconds = (time.as_secs_f64() - self.op).max(0.0);
            let kind = kind(pool, prepared, node);
            if let Some(work) = attention_work(&prepared.graph, node) {
                attentions.entry(kind).or_default().push((work, seconds));
                continue;
            }
            let sum = sums.entry(kind).or_default();
            sum[0] += seconds;
            sum[1] += work(&prepared.graph, node) as f64;
        }
        self.seconds.extend(sums.into_iter().map(|(kind, [seconds, work])| (kind, seconds / work)));
        for (kind, measured) in attentions {
            let [([products, narrow], a), ([_, wide], b)] = measured[..] else { continue };
            let score = ((a - b) / (narrow - wide)).clamp(0.0, a / narrow);
            self.attention.insert(kind, [(a - score * narrow) / products, score]);
        }
    }

    /// The cost of one run of `prepared`.
    pub(super) fn cost(&self, pool: &Pool, prepared: &Prepared<'_>) -> Cost {
        let mut cost = Cost { first: prepared.plan.elements() as f64 * self.touch, ..Cost::default() };
        for node in &prepared.graph.nodes {
            let kind = kind(pool, prepared, node);
            let products = prepared.graph.multiply_adds(node);
            match kind.integer {
                true => cost.integer += products,
                false => cost.float += products,
            }
            cost.seconds += self.op + self.node(pool, &prepared.graph, node, kind);
        }
        cost
    }

    fn node(&self, pool: &Pool, graph: &PreparedGraph, node: &PreparedNode, kind: Kind) -> f64 {
        let work = work(graph, node);
        let threads = match graph.multiply_adds(node) {
            0 => pool.threads_for_elements(work),
            _ => pool.threads_for_products(work),
        };
        let seconds = match (attention_work(graph, node), &node.op) {
            (Some([products, scores]), _) => {
                let [product, score] = self.attention.get(&kind).copied().unwrap_or_default();
                products * product + scores * score
            }
            (None, PreparedOp::Model(Op::GroupSums { .. })) => {
                work as f64 * HALF_NORM * self.rate(Kind::float(GROUP_NORM))
            }
            (
                None,
                PreparedOp::Model(Op::Rows(RowOp::GroupNorm { given: true, .. }))
                | PreparedOp::ThenQuantize { op: RowOp::GroupNorm { given: true, .. }, .. },
            ) => work as f64 * HALF_NORM * self.rate(kind),
            _ => work as f64 * self.rate(kind),
        };
        seconds * pool.threads() as f64 / threads as f64
    }

    /// The rate of `kind`; for a kind that was not measured, the rate of a sum, which does little but move
    /// memory.
    fn rate(&self, kind: Kind) -> f64 {
        let sum = Kind::float(Op::Add.name());
        self.seconds.get(&kind).or_else(|| self.seconds.get(&sum)).copied().unwrap_or(0.0)
    }
}

/// [`Operation::name`](crate::graph::Operation::name) of a group norm.
const GROUP_NORM: &str = "group norm";

fn kind(pool: &Pool, prepared: &Prepared<'_>, node: &PreparedNode) -> Kind {
    let integer = match node.op {
        PreparedOp::Model(Op::Linear { weight, .. } | Op::Conv2d { weight, .. }) => {
            matches!(prepared.weights.product(weight), Product::Integer(_))
        }
        PreparedOp::QuantizedAttention { .. } => true,
        _ => false,
    };
    Kind { op: node.op.name(), integer, winograd: prepared.step(pool, node).is_winograd() }
}

/// Multiply-adds, or elements of an op that has none.
fn work(graph: &PreparedGraph, node: &PreparedNode) -> usize {
    match graph.multiply_adds(node) {
        0 => graph.elements_passed(node),
        products => products as usize,
    }
}

/// Multiply-adds and scores of an attention.
fn attention_work(graph: &PreparedGraph, node: &PreparedNode) -> Option<[f64; 2]> {
    let (heads, causal) = match node.op {
        PreparedOp::Model(Op::Attention { heads, causal }) => (heads, causal),
        PreparedOp::QuantizedAttention { heads, .. } => (heads, false),
        _ => return None,
    };
    let products = graph.multiply_adds(node) as f64;
    let channels = graph.shape(node.output).last().copied().unwrap_or(heads);
    let scores = products / (2 * channels / heads) as f64;
    let share = if causal { 0.5 } else { 1.0 };
    Some([products * share, scores * share])
}

/// The shortest time of each node, and the graph that ran.
fn least_times<'w>(
    pool: &Arc<Pool>,
    graph: Graph,
    integers: bool,
    blank: &'w Blank,
) -> Result<(Prepared<'w>, Vec<Duration>), Error> {
    let prepare = |graph: Graph| {
        let weights = BoundWeights::blank(&graph.weights, integers, blank);
        Prepared::with_weights(graph, weights, &PREPARATION)
    };
    let mut executable = CpuExecutable::new(pool.clone(), prepare(graph.clone()))?;
    for port in &graph.inputs {
        let values = executable.input_mut(&port.name);
        let noise = (0..values.len()).map(|index| ((index * 7919) % 2003) as f32 / 1001.0 - 1.0);
        values.iter_mut().zip(noise).for_each(|(value, noise)| *value = noise);
    }
    executable.run()?;
    let mut least: Vec<Duration> = Vec::new();
    for _ in 0..RUNS {
        let mut times = Vec::new();
        executable.run_timed(&mut |_, _, time| times.push(time))?;
        least = match least.is_empty() {
            true => times,
            false => least.iter().zip(&times).map(|(a, b)| *a.min(b)).collect(),
        };
    }
    Ok((prepare(graph), least))
}

/// Every kind of op of a model with integer weights, arranged as in a block of a U-Net.
fn block() -> Graph {
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", &[2, SIDE, SIDE, CHANNELS]);
    let normed = graph.group_norm("norm", x, 32, 1e-5, true);
    let hidden = graph.conv2d("conv", normed, CHANNELS, Window::SAME_3X3, None);
    let normed = graph.layer_norm("layer_norm", hidden, 1e-5);
    let [wide, narrow] = HEADS.map(|heads| graph.attention(hidden, normed, normed, heads, false));
    let normed = graph.layer_norm("feed_norm", hidden, 1e-5);
    let feed = graph.linear("feed", normed, HIDDEN, true);
    let gated = graph.geglu(feed);
    let forward = graph.linear("forward", gated, CHANNELS, true);
    let active = graph.activation(Activation::Silu, forward);
    let sum = graph.add(wide, narrow);
    let both = graph.concat(sum, active);
    let scaled = graph.affine(0.5, 0.5, both);
    let large = graph.upsample_nearest(active, (2 * SIDE, 2 * SIDE));
    let larger = graph.conv2d("larger", large, 32, Window::SAME_3X3, None);
    let shortcut = graph.conv2d("shortcut", normed, CHANNELS, Window::POINT, None);
    for (name, tensor) in [("scaled", scaled), ("larger", larger), ("shortcut", shortcut)] {
        graph.output(name, tensor);
    }
    graph.finish()
}

/// The ops that differ where weights are floats.
fn products() -> Graph {
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", &[2, SIDE, SIDE, CHANNELS]);
    let hidden = graph.conv2d("conv", x, CHANNELS, Window::SAME_3X3, None);
    let normed = graph.group_norm("norm", hidden, 32, 1e-5, true);
    let feed = graph.linear("feed", normed, HIDDEN, true);
    let gated = graph.geglu(feed);
    let large = graph.upsample_nearest(hidden, (2 * SIDE, 2 * SIDE));
    for (name, tensor) in [("gated", gated), ("large", large)] {
        graph.output(name, tensor);
    }
    for heads in HEADS {
        let attended = graph.attention(hidden, x, x, heads, false);
        graph.output(&format!("attended.{heads}"), attended);
    }
    graph.finish()
}

/// Ops that do almost nothing.
fn tiny() -> Graph {
    let mut graph = GraphBuilder::new();
    let mut x = graph.input("x", &[1, 16]);
    for _ in 0..32 {
        x = graph.add(x, x);
    }
    graph.output("sum", x);
    graph.finish()
}

/// Seconds for each f32 of memory that is written for the first time.
fn touch() -> Result<f64, Error> {
    let start = Instant::now();
    let mut pages = Pages::zeros(TOUCHED)?;
    pages.fill(1.0);
    let first = start.elapsed();
    pages.fill(2.0);
    let again = start.elapsed() - first;
    Ok(first.saturating_sub(again).as_secs_f64() / TOUCHED as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_of_a_model_has_a_rate_and_more_work_takes_longer() {
        let pool = Arc::new(Pool::new(None).unwrap());
        let rates = Rates::measure(&pool).unwrap();
        let blank = Blank::new(1 << 20);
        let mut costs = [1, 2].map(|batch| {
            let mut graph = GraphBuilder::new();
            let x = graph.input("x", &[batch, 64, 64, 64]);
            let normed = graph.group_norm("norm", x, 32, 1e-5, true);
            let y = graph.conv2d("conv", normed, 64, Window::SAME_3X3, None);
            graph.output("y", y);
            let graph = graph.finish();
            let weights = BoundWeights::blank(&graph.weights, true, &blank);
            rates.cost(&pool, &Prepared::with_weights(graph, weights, &PREPARATION))
        });
        assert_eq!(costs[0].integer, 64 * 64 * 64 * 64 * 9);
        assert_eq!(costs[0].float, 0);
        // A batch of two takes twice as long, except for the fixed time of each op.
        costs[0].seconds *= 2.0;
        assert!((costs[1].seconds / costs[0].seconds - 1.0).abs() < 0.1, "{costs:?}");
        for (kind, seconds) in &rates.seconds {
            assert!((1e-13..1e-6).contains(seconds), "{kind:?}: {seconds}");
        }
    }
}
