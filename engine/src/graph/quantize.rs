//! Giving products of integer weights the left operand that they read.

use std::collections::HashMap;

use super::{Graph, Node, Op, TensorId, WeightId};

/// Puts an [`Op::Quantize`] before the first product that multiplies a tensor with integers, and hands its output to
/// all that do. `is_quantized` says which weights are integers; `row_elements` how many f32 a quantized row takes,
/// given the channels of each of its inputs. Whoever else reads the tensor keeps reading floats.
pub fn quantize_inputs(
    graph: Graph,
    is_quantized: impl Fn(WeightId) -> bool,
    row_elements: impl Fn(&[usize]) -> usize,
) -> Graph {
    let Graph { mut tensors, nodes, inputs, outputs, weights } = graph;
    let mut quantized: HashMap<TensorId, TensorId> = HashMap::new();
    let mut with_quantized = Vec::with_capacity(nodes.len());
    for mut node in nodes {
        if let Op::Linear { weight, .. } | Op::Conv2d { weight, .. } = node.op
            && is_quantized(weight)
        {
            let x = node.inputs[0];
            node.inputs[0] = *quantized.entry(x).or_insert_with(|| {
                let mut shape = tensors[x.0].clone();
                let channels = shape.last_mut().expect("the builder gives products channels to read");
                let joined = match weights[weight.0].inputs.as_slice() {
                    [] => vec![*channels],
                    inputs => inputs.to_vec(),
                };
                *channels = row_elements(&joined);
                tensors.push(shape);
                let output = TensorId(tensors.len() - 1);
                let op = Op::Quantize { inputs: joined };
                with_quantized.push(Node { op, inputs: vec![x], output });
                output
            });
        }
        with_quantized.push(node);
    }
    Graph { tensors, nodes: with_quantized, inputs, outputs, weights }
}

#[cfg(test)]
mod tests {
    use super::super::GraphBuilder;
    use super::*;

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
        let name = |id: WeightId| graph.weight(id).name.clone();
        let graph =
            quantize_inputs(graph.clone(), |id| name(id) != "float.weight", |inputs| 10 * inputs.len());

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
