//! Low-rank branches beside the products of a model.

use sdq_formats::WeightSpec;

use super::{Graph, Node, Op, Operands, TensorId, WeightId, Window};

/// A term that is added to a product: `up(down(x))`, or `up(mid(down(x)))` with a convolution in between.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// From the product's input to the rank, with the product's own window unless there is a `mid`.
    pub down: WeightSpec,
    /// From the rank to itself, with the product's own window.
    pub mid: Option<WeightSpec>,
    /// From the rank to the product's output.
    pub up: WeightSpec,
}

impl Branch {
    /// Whether the branch can run beside a product with the weight `spec`.
    pub fn fits(&self, spec: &WeightSpec) -> bool {
        let (&[outputs, inputs, ref window @ ..], Some(&rank)) =
            (spec.shape.as_slice(), self.down.shape.first())
        else {
            return false;
        };
        let none: &[usize] = &[];
        let (down_window, mid) = match &self.mid {
            None => (window, true),
            Some(mid) => (none, mid.shape == [&[rank, rank], window].concat()),
        };
        mid && self.down.shape == [&[rank, inputs], down_window].concat() && self.up.shape == [outputs, rank]
    }
}

/// Adds to every product the branches that `branches` returns for its weight. Hu et al. 2021,
/// arXiv:2106.09685, equation 3.
pub fn add_branches(graph: Graph, branches: impl Fn(&WeightSpec) -> Vec<Branch>) -> Graph {
    let Graph { tensors, nodes, inputs, outputs, kept, weights } = graph;
    let mut adder = Adder { tensors, nodes: Vec::with_capacity(nodes.len()), weights };
    for node in nodes {
        let (weight, window) = match &node.op {
            Op::Linear { weight, .. } => (*weight, Window::POINT),
            Op::Conv2d { weight, window, .. } => (*weight, *window),
            _ => {
                adder.nodes.push(node);
                continue;
            }
        };
        let branches = branches(&adder.weights[weight.0]);
        adder.add(node, window, branches);
    }
    let Adder { tensors, nodes, weights } = adder;
    Graph { tensors, nodes, inputs, outputs, kept, weights }
}

struct Adder {
    tensors: Vec<Vec<usize>>,
    nodes: Vec<Node>,
    weights: Vec<WeightSpec>,
}

impl Adder {
    /// Adds the product `node` and its branches; the last sum writes the tensor that the product wrote.
    fn add(&mut self, mut node: Node, window: Window, branches: Vec<Branch>) {
        let (x, output) = (node.inputs[0], node.output);
        let count = branches.len();
        let mut sum = if count == 0 { output } else { self.like(output) };
        node.output = sum;
        self.nodes.push(node);
        for (index, Branch { down, mid, up }) in branches.into_iter().enumerate() {
            let down_window = if mid.is_some() { Window::POINT } else { window };
            let mut rank = self.product(down, x, down_window);
            if let Some(mid) = mid {
                rank = self.product(mid, rank, window);
            }
            let next = if index + 1 == count { output } else { self.like(output) };
            let op = Op::Linear { weight: self.weight(up), bias: None, residual: true };
            self.nodes.push(Node { op, inputs: vec![rank, sum], output: next });
            sum = next;
        }
    }

    /// A product of `x` without a bias.
    fn product(&mut self, spec: WeightSpec, x: TensorId, window: Window) -> TensorId {
        let weight = self.weight(spec);
        let op = if window == Window::POINT {
            Op::Linear { weight, bias: None, residual: false }
        } else {
            Op::Conv2d { weight, bias: None, window, channel_bias: false, residual: false }
        };
        let operands = Operands { tensors: &self.tensors, inputs: &[x], weights: &self.weights };
        let shape = op.output_shape(operands);
        let output = self.tensor(shape);
        self.nodes.push(Node { op, inputs: vec![x], output });
        output
    }

    fn weight(&mut self, spec: WeightSpec) -> WeightId {
        self.weights.push(spec);
        WeightId(self.weights.len() - 1)
    }

    fn like(&mut self, tensor: TensorId) -> TensorId {
        self.tensor(self.tensors[tensor.0].clone())
    }

    fn tensor(&mut self, shape: Vec<usize>) -> TensorId {
        self.tensors.push(shape);
        TensorId(self.tensors.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::WeightRole;

    use super::super::GraphBuilder;
    use super::*;

    fn branch(inputs: usize, outputs: usize, rank: usize) -> Branch {
        let matrix = |name: &str, shape: &[usize]| WeightSpec::new(name, WeightRole::Matrix, shape);
        Branch { down: matrix("down", &[rank, inputs]), mid: None, up: matrix("up", &[outputs, rank]) }
    }

    #[test]
    fn a_product_without_branches_stays_as_it_is() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 4]);
        let y = graph.linear("proj", x, 6, true);
        graph.output("y", y);
        let graph = graph.finish();
        let same = add_branches(graph.clone(), |_| Vec::new());
        assert_eq!((same.nodes, same.tensors), (graph.nodes, graph.tensors));
    }

    #[test]
    fn readers_of_the_product_read_the_last_sum() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 2, 4]);
        let product = graph.linear("proj", x, 4, true);
        let y = graph.add(product, x);
        graph.output("y", y);
        let graph = add_branches(graph.finish(), |_| vec![branch(4, 4, 2), branch(4, 4, 3)]);
        assert_eq!(graph.nodes.len(), 5);
        let last = &graph.nodes[4];
        assert_eq!((last.output, last.inputs[1]), (y, graph.nodes[2].output));
        // The product still reads the residual that was folded into it.
        assert_eq!(graph.nodes[0].inputs, vec![x, x]);
        assert_eq!(graph.shape(graph.nodes[3].output), [1, 2, 3]);
    }

    #[test]
    fn a_convolution_shrinks_before_or_in_the_middle() {
        let window = Window { stride: 2, ..Window::SAME_3X3 };
        let build = |mid: bool| {
            let mut graph = GraphBuilder::new();
            let x = graph.input("x", &[1, 8, 8, 4]);
            let y = graph.conv2d("conv", x, 6, window, None);
            graph.output("y", y);
            let conv = |name: &str, shape: &[usize]| WeightSpec::new(name, WeightRole::Conv, shape);
            let point = branch(4, 6, 2);
            add_branches(graph.finish(), |_| {
                vec![match mid {
                    true => Branch { mid: Some(conv("mid", &[2, 2, 3, 3])), ..point.clone() },
                    false => Branch { down: conv("down", &[2, 4, 3, 3]), ..point.clone() },
                }]
            })
        };
        let shapes = |graph: &Graph| {
            graph.nodes.iter().map(|node| graph.shape(node.output).to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&build(false)), [vec![1, 4, 4, 6], vec![1, 4, 4, 2], vec![1, 4, 4, 6]]);
        assert_eq!(
            shapes(&build(true)),
            [vec![1, 4, 4, 6], vec![1, 8, 8, 2], vec![1, 4, 4, 2], vec![1, 4, 4, 6]]
        );
    }

    #[test]
    fn a_branch_fits_a_product_of_its_shapes_alone() {
        let spec = |shape: &[usize]| WeightSpec::new("w", WeightRole::Matrix, shape);
        let fits = |down: &[usize], mid: Option<&[usize]>, up: &[usize], product: &[usize]| {
            Branch { down: spec(down), mid: mid.map(spec), up: spec(up) }.fits(&spec(product))
        };
        let matrix = &[6, 4][..];
        assert!(fits(&[2, 4], None, &[6, 2], matrix));
        for (down, up) in [
            (&[2, 3][..], &[6, 2][..]),
            (&[2, 4], &[5, 2]),
            (&[2, 4], &[6, 3]),
            (&[4, 2], &[6, 2]),
            (&[2, 4, 1, 1], &[6, 2]),
            (&[2, 4], &[6, 2, 1, 1]),
            (&[], &[6, 2]),
        ] {
            assert!(!fits(down, None, up, matrix), "{down:?} {up:?}");
        }
        let conv = &[6, 4, 3, 3][..];
        assert!(fits(&[2, 4, 3, 3], None, &[6, 2], conv));
        assert!(!fits(&[2, 4], None, &[6, 2], conv), "somebody has to have the window");
        assert!(!fits(&[2, 4, 3, 1], None, &[6, 2], conv));
        assert!(fits(&[2, 4], Some(&[2, 2, 3, 3]), &[6, 2], conv));
        for (down, mid) in [
            (&[2, 4, 3, 3][..], &[2, 2, 3, 3][..]),
            (&[2, 4], &[2, 3, 3, 3]),
            (&[2, 4], &[2, 2, 3, 1]),
            (&[2, 4], &[2, 2]),
        ] {
            assert!(!fits(down, Some(mid), &[6, 2], conv), "{down:?} {mid:?}");
        }
        assert!(!fits(&[2], None, &[6, 2], &[6]), "a vector is no product");
    }
}
