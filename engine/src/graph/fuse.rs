//! Folding of sums into the products that compute one of their operands.

use super::{Graph, Op, TensorId};

/// Turns `add(product(x), y)` into `product(x) with residual y` where no other node reads the product, so
/// that the sum needs no pass over memory of its own. Models write plain sums, and this function alone
/// decides which are folded.
pub(super) fn fold_adds(mut graph: Graph) -> Graph {
    let mut readers = vec![0_usize; graph.tensors.len()];
    let ports = graph.outputs.iter().chain(&graph.kept).map(|port| &port.tensor);
    for tensor in graph.nodes.iter().flat_map(|node| &node.inputs).chain(ports) {
        readers[tensor.0] += 1;
    }
    let mut producer = vec![None; graph.tensors.len()];
    let mut folded = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        if graph.nodes[index].op == Op::Add {
            let [a, b] = graph.nodes[index].inputs[..] else { unreachable!("a sum has two inputs") };
            // The later product takes the sum: the other operand has been computed by the time it runs.
            let candidates = [(a, b), (b, a)].into_iter().filter_map(|(product, residual)| {
                let at: usize = producer[product.0]?;
                let ready = producer[residual.0].is_none_or(|other: usize| other < at);
                (readers[product.0] == 1 && ready && takes_residual(&graph.nodes[at].op))
                    .then_some((at, residual))
            });
            if let Some((at, residual)) = candidates.max_by_key(|&(at, _)| at) {
                fold(&mut graph, at, residual, index);
                producer[graph.nodes[at].output.0] = Some(at);
                folded[index] = true;
                continue;
            }
        }
        producer[graph.nodes[index].output.0] = Some(index);
    }
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        !folded[index - 1]
    });
    graph
}

fn takes_residual(op: &Op) -> bool {
    matches!(op, Op::Linear { residual: false, .. } | Op::Conv2d { residual: false, .. })
}

fn fold(graph: &mut Graph, product: usize, sum_operand: TensorId, sum: usize) {
    let output = graph.nodes[sum].output;
    let node = &mut graph.nodes[product];
    if let Op::Linear { residual, .. } | Op::Conv2d { residual, .. } = &mut node.op {
        *residual = true;
    }
    node.inputs.push(sum_operand);
    node.output = output;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Activation, GraphBuilder, Node, Port, WeightId};
    use super::*;

    #[test]
    fn a_residual_sum_becomes_part_of_the_product() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 4]);
        let product = graph.linear("proj", x, 4, true);
        let sum = graph.add(product, x);
        graph.output("y", sum);
        let graph = graph.finish();
        assert_eq!(graph.nodes.len(), 1);
        assert!(matches!(graph.nodes[0].op, Op::Linear { residual: true, .. }));
        assert_eq!(graph.nodes[0].inputs, vec![x, x]);
        assert_eq!(graph.nodes[0].output, sum);
    }

    #[test]
    fn a_product_that_others_read_keeps_its_sum() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 4]);
        let product = graph.linear("proj", x, 4, true);
        let sum = graph.add(product, x);
        graph.output("sum", sum);
        graph.output("product", product);
        assert_eq!(graph.finish().nodes.len(), 2);
    }

    #[test]
    fn of_two_products_the_later_one_takes_the_sum() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 4]);
        let shortcut = graph.linear("shortcut", x, 8, true);
        let hidden = graph.linear("hidden", x, 4, true);
        let main = graph.linear("main", hidden, 8, true);
        let sum = graph.add(shortcut, main);
        graph.output("y", sum);
        let graph = graph.finish();
        assert_eq!(graph.nodes.len(), 3);
        assert_eq!(graph.nodes[2].inputs, vec![hidden, shortcut]);
    }

    #[test]
    fn a_second_sum_finds_the_first_one_folded() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 4]);
        let product = graph.linear("proj", x, 4, true);
        let once = graph.add(product, x);
        let twice = graph.add(once, x);
        graph.output("y", twice);
        // A product takes only one residual, so the second sum stays.
        let graph = graph.finish();
        assert_eq!(graph.nodes.iter().filter(|node| node.op == Op::Add).count(), 1);
    }

    /// The values of ops on one number each, in arithmetic modulo 2^64: a product multiplies by an odd number
    /// that is unique to its weight.
    fn values(graph: &Graph) -> Vec<u64> {
        let weight = |id: &WeightId| 2 * id.0 as u64 + 3;
        let mut values: Vec<Option<u64>> = vec![None; graph.tensors.len()];
        for (index, port) in graph.inputs.iter().enumerate() {
            values[port.tensor.0] = Some(1000 + index as u64);
        }
        for node in &graph.nodes {
            let read = |index: usize| {
                values[node.inputs[index].0].expect("tensors are written before they are read")
            };
            let value = match &node.op {
                Op::Add => read(0).wrapping_add(read(1)),
                Op::Linear { weight: id, residual, .. } => {
                    let product = read(0).wrapping_mul(weight(id));
                    if *residual { product.wrapping_add(read(1)) } else { product }
                }
                Op::Activation(_) => read(0).rotate_left(7),
                other => panic!("{other:?}"),
            };
            assert_eq!(values[node.output.0].replace(value), None, "a tensor is written once");
        }
        let ports = graph.outputs.iter().chain(&graph.kept);
        ports.map(|port| values[port.tensor.0].expect("what is read is written")).collect()
    }

    /// A graph of sums, products and other ops, each of which reads any earlier tensors; not folded yet.
    fn graphs() -> impl Strategy<Value = Graph> {
        let node = (0..3_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>());
        let ports = proptest::collection::vec(any::<prop::sample::Index>(), 1..3);
        (proptest::collection::vec(node, 1..16), ports, any::<bool>()).prop_map(|(nodes, ports, keeps)| {
            let port = |tensor| Port { name: "port".to_owned(), tensor: TensorId(tensor) };
            let mut graph = Graph {
                tensors: vec![vec![1, 1, 1]; 2 + nodes.len()],
                nodes: Vec::new(),
                inputs: vec![port(0), port(1)],
                outputs: Vec::new(),
                kept: Vec::new(),
                weights: Vec::new(),
            };
            for (index, (kind, a, b)) in nodes.iter().enumerate() {
                let [a, b] = [a, b].map(|place| TensorId(place.index(2 + index)));
                let linear = Op::Linear { weight: WeightId(index), bias: None, residual: false };
                let (op, inputs) = match kind {
                    0 => (Op::Add, vec![a, b]),
                    1 => (linear, vec![a]),
                    _ => (Op::Activation(Activation::Silu), vec![a]),
                };
                graph.nodes.push(Node { op, inputs, output: TensorId(2 + index) });
            }
            graph.outputs = ports.iter().map(|place| port(place.index(2 + nodes.len()))).collect();
            if keeps {
                graph.kept.push(port(1 + nodes.len()));
            }
            graph
        })
    }

    proptest! {
        #[test]
        fn folding_changes_no_value(graph in graphs()) {
            let folded = fold_adds(graph.clone());
            prop_assert_eq!(values(&folded), values(&graph));
            // Each sum that was folded is the residual of a product.
            let count = |graph: &Graph, is: fn(&Op) -> bool| graph.nodes.iter().filter(|node| is(&node.op)).count();
            let residuals = count(&folded, |op| matches!(op, Op::Linear { residual: true, .. }));
            prop_assert_eq!(count(&folded, |op| *op == Op::Add) + residuals, count(&graph, |op| *op == Op::Add));
        }

        #[test]
        fn folding_again_folds_nothing(graph in graphs()) {
            let folded = fold_adds(graph);
            prop_assert_eq!(fold_adds(folded.clone()).nodes, folded.nodes);
        }
    }
}
