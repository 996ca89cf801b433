//! Giving products of integer weights the left operand that they read.

use std::collections::{HashMap, HashSet};

use super::{Graph, Node, Op, TensorId, WeightId};

/// How a backend lays out what it rounds to integers.
pub struct IntegerLayouts<R, K> {
    /// f32 that a row takes, given the channels of each of the tensors that it was joined from.
    pub row_elements: R,
    /// f32 that a head's keys and values take, given their number and the channels of a head.
    pub key_elements: K,
}

/// Puts an [`Op::Quantize`] before the first product that multiplies a tensor with integers, and hands its output to
/// all that do. Whoever else reads the tensor keeps reading floats. Attention whose queries come from a product with
/// integers is done in integers too, unless it is causal: there the keys are few. `is_quantized` says which weights are
/// integers.
pub fn quantize_inputs(
    graph: Graph,
    is_quantized: impl Fn(WeightId) -> bool,
    layouts: &IntegerLayouts<impl Fn(&[usize]) -> usize, impl Fn(usize, usize) -> usize>,
) -> Graph {
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
                let op = Op::Quantize { inputs: joined };
                with_quantized.push(Node { op, inputs: vec![x], output });
                output
            });
        }
        if let Op::Attention { heads, causal: false } = node.op
            && let [q, k, v] = node.inputs[..]
            && integer_products.contains(&q)
        {
            let shape = &tensors[k.0];
            let (keys, channels) =
                (shape[1..shape.len() - 1].iter().product(), shape[shape.len() - 1] / heads);
            tensors.push(vec![shape[0], heads, (layouts.key_elements)(keys, channels)]);
            let output = TensorId(tensors.len() - 1);
            with_quantized.push(Node { op: Op::QuantizeKeys { heads }, inputs: vec![k, v], output });
            node = Node {
                op: Op::QuantizedAttention { heads, keys },
                inputs: vec![q, output],
                output: node.output,
            };
        }
        with_quantized.push(node);
    }
    Graph { tensors, nodes: with_quantized, inputs, outputs, kept, weights }
}

#[cfg(test)]
mod tests {
    use super::super::GraphBuilder;
    use super::*;

    /// With integers for all weights but those named `float`.
    fn quantize(graph: Graph) -> Graph {
        let layouts = IntegerLayouts {
            row_elements: |inputs: &[usize]| 10 * inputs.len(),
            key_elements: |keys, channels| 100 * keys + channels,
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
        let ops: Vec<&Op> = graph.nodes.iter().map(|node| &node.op).skip(3).collect();
        let [keys, a, b, c] = ops[..] else { panic!("{ops:?}") };
        assert_eq!(keys, &Op::QuantizeKeys { heads: 4 });
        assert_eq!(a, &Op::QuantizedAttention { heads: 4, keys: 5 });
        assert_eq!(b, &Op::Attention { heads: 4, causal: false });
        assert_eq!(c, &Op::Attention { heads: 4, causal: true });
        assert_eq!(graph.nodes[3].inputs, [text, text]);
        assert_eq!(graph.shape(graph.nodes[3].output), [2, 4, 502]);
        assert_eq!(graph.nodes[4].inputs, [integer, graph.nodes[3].output]);
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
        assert_eq!(quantize.op, Op::Quantize { inputs: vec![4, 3] });
        assert_eq!(quantize.inputs, [concat.output]);
        assert_eq!(graph.shape(quantize.output), [1, 2, 20]);
        assert_eq!(q.inputs, [quantize.output]);
        // The residual is still read as floats.
        assert_eq!(k.inputs, [quantize.output, concat.output]);
        assert_eq!(float.inputs, [concat.output]);
    }
}
