//! Gives products with integer weights their quantized left operand.

use std::collections::{HashMap, HashSet};

use super::{Graph, Node, Op, PreparedGraph, PreparedNode, PreparedOp, TensorId, WeightId, op::tokens};

/// The sizes of a backend's layouts of integers.
pub struct IntegerLayouts<R, K> {
    /// Size of a row in f32, given the channels of each of the tensors that it was concatenated from.
    pub row_elements: R,
    /// Size of a head's keys and values in f32, given their number and the channels of a head; `None` where
    /// attention is in floats.
    pub key_elements: Option<K>,
}

/// Inserts a [`PreparedOp::Quantize`] before the first product with integer weights that reads a tensor; all
/// such products read its output. Other readers of the tensor still read floats. Attention whose queries come
/// from a product with integer weights becomes integer attention too, unless it is causal: causal attention
/// has few keys. `is_quantized` decides which weights are integers.
pub fn quantize_inputs(
    graph: Graph,
    is_quantized: impl Fn(WeightId) -> bool,
    layouts: &IntegerLayouts<impl Fn(&[usize]) -> usize, impl Fn(usize, usize) -> usize>,
) -> PreparedGraph {
    let Graph { mut tensors, nodes, inputs, outputs, kept, weights } = graph;
    let mut quantized: HashMap<TensorId, TensorId> = HashMap::new();
    let mut with_quantized = Vec::with_capacity(nodes.len());
    let mut integer_products = HashSet::new();
    for mut node in nodes {
        if let Op::Linear { weight, .. } | Op::Conv2d { weight, .. } = node.op
            && is_quantized(weight)
        {
            integer_products.insert(node.output);
            let x = node.inputs[0];
            node.inputs[0] = *quantized.entry(x).or_insert_with(|| {
                let mut shape = tensors[x.0].clone();
                let channels = shape.last_mut().expect("the builder gives products channels to read");
                let joined = match weights[weight.0].inputs.as_slice() {
                    [] => vec![*channels],
                    inputs => inputs.to_vec(),
                };
                *channels = (layouts.row_elements)(&joined);
                tensors.push(shape);
                let output = TensorId(tensors.len() - 1);
                let op = PreparedOp::Quantize { inputs: joined };
                with_quantized.push(Node { op, inputs: vec![x], output });
                output
            });
        }
        // A branch that is added to such a product.
        if let Op::Linear { residual: true, .. } = node.op
            && integer_products.contains(&node.inputs[1])
        {
            integer_products.insert(node.output);
        }
        if let Some(key_elements) = &layouts.key_elements
            && let Op::Attention { heads, causal: false } = node.op
            && let [q, k, v] = node.inputs[..]
            && integer_products.contains(&q)
        {
            let shape = &tensors[k.0];
            let (keys, channels) = (tokens(shape), shape[shape.len() - 1] / heads);
            tensors.push(vec![shape[0], heads, key_elements(keys, channels)]);
            let rounded = TensorId(tensors.len() - 1);
            let op = PreparedOp::QuantizeKeys { heads };
            with_quantized.push(Node { op, inputs: vec![k, v], output: rounded });
            let op = PreparedOp::QuantizedAttention { heads, keys };
            with_quantized.push(Node { op, inputs: vec![q, rounded], output: node.output });
            continue;
        }
        let Node { op, inputs, output } = node;
        with_quantized.push(Node { op: PreparedOp::Model(op), inputs, output });
    }
    round_where_made(Graph { tensors, nodes: with_quantized, inputs, outputs, kept, weights })
}

/// Fuses a [`PreparedOp::Quantize`] with the op that computes the rows, where no other node reads them: they
/// are rounded before they leave the cache. Pixels are rounded before they are upsampled.
fn round_where_made(mut graph: PreparedGraph) -> PreparedGraph {
    let mut readers = vec![0; graph.tensors.len()];
    let read = graph.nodes.iter().flat_map(|node| &node.inputs);
    for tensor in read.chain(graph.outputs.iter().chain(&graph.kept).map(|port| &port.tensor)) {
        readers[tensor.0] += 1;
    }
    let mut made_by = HashMap::new();
    let mut joined = HashSet::new();
    for index in 0..graph.nodes.len() {
        let PreparedNode { op: PreparedOp::Quantize { inputs }, inputs: from, output } = &graph.nodes[index]
        else {
            made_by.insert(graph.nodes[index].output, index);
            continue;
        };
        let (x, output, inputs) = (from[0], *output, inputs.clone());
        let Some(&maker) = made_by.get(&x).filter(|_| readers[x.0] == 1) else { continue };
        match graph.nodes[maker].op.clone() {
            PreparedOp::Model(Op::Rows(op)) => {
                graph.nodes[maker].op = PreparedOp::ThenQuantize { op, inputs };
                graph.nodes[maker].output = output;
                joined.insert(index);
            }
            PreparedOp::Model(Op::UpsampleNearest { height, width }) => {
                let from = graph.nodes[maker].inputs[0];
                let mut shape = graph.tensors[from.0].clone();
                shape[3] = graph.shape(output)[3];
                graph.tensors.push(shape);
                let small = TensorId(graph.tensors.len() - 1);
                let op = PreparedOp::Quantize { inputs: inputs.clone() };
                graph.nodes[maker] = Node { op, inputs: vec![from], output: small };
                let op = PreparedOp::UpsampleQuantized { height, width, inputs };
                graph.nodes[index] = Node { op, inputs: vec![small], output };
            }
            _ => {}
        }
    }
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        !joined.contains(&(index - 1))
    });
    graph
}

#[cfg(test)]
mod tests {
    use super::super::{GraphBuilder, RowOp, Window};
    use super::*;

    /// Prepares the graph with integers for all weights but those named `float`.
    fn quantize(graph: Graph) -> PreparedGraph {
        let layouts = IntegerLayouts {
            row_elements: |inputs: &[usize]| 10 * inputs.len(),
            key_elements: Some(|keys, channels| 100 * keys + channels),
        };
        let names = graph.weights.clone();
        quantize_inputs(graph, |id| !names[id.0].name.starts_with("float"), &layouts)
    }

    #[test]
    fn attention_is_in_integers_where_its_queries_come_from_integers_and_all_keys_are_seen() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[2, 3, 2, 8]);
        let text = graph.input("text", &[2, 5, 8]);
        let integer = graph.linear("q", x, 8, false);
        let float = graph.linear("float", x, 8, false);
        for (name, q, causal) in [("a", integer, false), ("b", float, false), ("c", integer, true)] {
            let k = if causal { q } else { text };
            let attended = graph.attention(q, k, k, 4, causal);
            graph.output(name, attended);
        }
        let graph = quantize(graph.finish());
        let ops: Vec<&PreparedOp> = graph.nodes.iter().map(|node| &node.op).skip(3).collect();
        let [keys, a, b, c] = ops[..] else { panic!("{ops:?}") };
        assert_eq!(keys, &PreparedOp::QuantizeKeys { heads: 4 });
        assert_eq!(a, &PreparedOp::QuantizedAttention { heads: 4, keys: 5 });
        assert_eq!(b, &PreparedOp::Model(Op::Attention { heads: 4, causal: false }));
        assert_eq!(c, &PreparedOp::Model(Op::Attention { heads: 4, causal: true }));
        assert_eq!(graph.nodes[3].inputs, [text, text]);
        assert_eq!(graph.shape(graph.nodes[3].output), [2, 4, 502]);
        assert_eq!(graph.nodes[4].inputs, [integer, graph.nodes[3].output]);
    }

    #[test]
    fn rows_are_rounded_where_they_are_made_if_nobody_else_reads_them() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[2, 3, 4, 8]);
        let normed = graph.group_norm("norm", x, 2, 1e-5, true);
        let small = graph.conv2d("conv", normed, 8, Window::SAME_3X3, None);
        let large = graph.upsample_nearest(small, (6, 8));
        let convolved = graph.conv2d("up", large, 8, Window::SAME_3X3, None);
        let kept = graph.layer_norm("kept", convolved, 1e-5);
        let hidden = graph.linear("hidden", kept, 16, false);
        let hidden = graph.geglu(hidden);
        let product = graph.linear("float", hidden, 8, false);
        let sum = graph.add(product, kept);
        graph.output("y", sum);
        let graph = quantize(graph.finish());
        let ops: Vec<&PreparedOp> = graph.nodes.iter().map(|node| &node.op).collect();
        let [norm, _, quantize, upsample, _, kept, quantize_kept, _, geglu, _] = ops[..] else {
            panic!("{ops:?}")
        };
        assert!(matches!(norm, PreparedOp::ThenQuantize { op, .. } if matches!(op, RowOp::GroupNorm { .. })));
        assert_eq!(quantize, &PreparedOp::Quantize { inputs: vec![8] });
        assert_eq!(upsample, &PreparedOp::UpsampleQuantized { height: 6, width: 8, inputs: vec![8] });
        assert!(matches!(kept, PreparedOp::Model(Op::Rows(RowOp::LayerNorm { .. }))));
        assert!(matches!(quantize_kept, PreparedOp::Quantize { .. }));
        assert!(matches!(geglu, PreparedOp::Model(Op::Rows(RowOp::Geglu))));
        for (index, shape) in [(0, [2, 3, 4, 10]), (2, [2, 3, 4, 10]), (3, [2, 6, 8, 10])] {
            assert_eq!(graph.shape(graph.nodes[index].output), shape);
            assert_eq!(graph.nodes[index + 1].inputs[0], graph.nodes[index].output);
        }
    }

    #[test]
    fn a_tensor_is_quantized_once_for_all_its_integer_products() {
        let mut graph = GraphBuilder::new();
        let a = graph.input("a", &[1, 2, 4]);
        let b = graph.input("b", &[1, 2, 3]);
        let x = graph.concat(a, b);
        let q = graph.linear("q", x, 7, false);
        let k = graph.linear("k", x, 7, false);
        let float = graph.linear("float", x, 7, false);
        let sum = graph.add(k, x);
        for (name, tensor) in [("q", q), ("sum", sum), ("float", float)] {
            graph.output(name, tensor);
        }
        let graph = graph.finish();
        let graph = quantize(graph);

        let [concat, quantize, q, k, float] = graph.nodes.as_slice() else { panic!("{:?}", graph.nodes) };
        assert_eq!(quantize.op, PreparedOp::Quantize { inputs: vec![4, 3] });
        assert_eq!(quantize.inputs, [concat.output]);
        assert_eq!(graph.shape(quantize.output), [1, 2, 20]);
        assert_eq!(q.inputs, [quantize.output]);
        // The residual is still read as floats.
        assert_eq!(k.inputs, [quantize.output, concat.output]);
        assert_eq!(float.inputs, [concat.output]);
    }
}
