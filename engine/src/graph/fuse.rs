//! Folding sums into the products that feed them.

use super::{Graph, Op, TensorId};

/// Turns `add(product(x), y)` into `product(x) with residual y` where nobody else reads the product, so the sum
/// costs no pass over memory of its own. Models then write plain sums and the decision stands here alone.
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
            // The later product takes the sum: the other operand exists by the time it runs.
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
    use super::super::{GraphBuilder, Op};

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
        // A product takes one residual only; the second sum stays.
        let graph = graph.finish();
        assert_eq!(graph.nodes.iter().filter(|node| node.op == Op::Add).count(), 1);
    }
}
