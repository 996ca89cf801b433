//! Cuts a graph over pictures into pieces, and a piece's picture into strips of rows.
//!
//! At a tensor on which everything after it depends exclusively, a graph can stop and continue later. The
//! part between two such *cuts* is a *piece*. If all its ops are local, a piece can run strip by strip: each
//! strip gets as many additional rows above and below as the convolutions reach, and only its own rows are
//! kept. Rows outside the picture do not exist, so convolutions pad with zeros there as usual.
//!
//! Group norms are not local, but they need only two numbers for each group from the rest of the picture. So
//! a piece with `n` norms processes the picture `n + 1` times: first for the statistics of the first norm,
//! then, with these, for those of the second, and so on. Sums continue from strip to strip in the order of
//! the whole picture, so the result is bit-identical.
//!
//! A backend may compute some rows of a convolution together, and round them together. Then strips begin and
//! end between such steps of rows, and their additional rows are whole steps, so that the same rows stay
//! together.

use std::{collections::HashMap, ops::Range};

use super::{Graph, Node, Op, PAIR_VALUES, Padding, Port, RowOp, TensorId, WeightId, op::Locality};

/// Name of a piece's input, `[1, height, width, channels]`.
pub const INPUT: &str = "input";
/// Name of a piece's output, a picture or `[1, groups, 6]` [`GroupSums`](super::GroupSums).
pub const OUTPUT: &str = "output";

/// Name of a strip's input `[1, groups, 6]` for the [`GroupSums`](super::GroupSums) of the strips above it.
pub const SUMS: &str = "sums";

/// The input of a strip that holds the `[1, groups, 6]` [`Statistics`](super::Statistics) of the piece's group norm
/// number `norm`.
pub fn statistics_input(norm: usize) -> String {
    format!("statistics.{norm}")
}

/// The tensors at which the graph can be cut, in order: the input first, the output last.
///
/// # Panics
/// If the graph does not have exactly one input and one output.
pub fn cuts(graph: &Graph) -> Vec<TensorId> {
    let ([input], [output]) = (graph.inputs.as_slice(), graph.outputs.as_slice()) else {
        panic!("a graph with one input and one output")
    };
    let mut last_use = vec![0; graph.tensors.len()];
    for (step, node) in graph.nodes.iter().enumerate() {
        for tensor in &node.inputs {
            last_use[tensor.0] = step;
        }
    }
    last_use[output.tensor.0] = graph.nodes.len();
    let mut cuts = vec![input.tensor];
    // The last op so far that reads any tensor computed before the current one.
    let mut latest = last_use[input.tensor.0];
    for (step, node) in graph.nodes.iter().enumerate() {
        if latest <= step {
            cuts.push(node.output);
        }
        latest = latest.max(last_use[node.output.0]);
    }
    cuts
}

/// The result that a strip of a piece is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The piece's output.
    Output,
    /// The sums over the input of the piece's group norm with this number.
    Sums(usize),
}

/// The part of a graph between two cuts.
#[derive(Clone, Debug)]
pub struct Piece<'g> {
    graph: &'g Graph,
    from: TensorId,
    to: TensorId,
    /// Strips begin at multiples of this many rows, in every convolution.
    row_step: usize,
    /// Indices of the nodes that are group norms.
    norms: Vec<usize>,
}

impl<'g> Piece<'g> {
    /// The part of `graph` between `from` and `to`, two of its [`cuts`], for a backend that computes
    /// `row_step` rows together (see [`Backend::row_step`](crate::backend::Backend::row_step)).
    pub fn new(graph: &'g Graph, from: TensorId, to: TensorId, row_step: usize) -> Piece<'g> {
        let mut piece = Piece { graph, from, to, row_step, norms: Vec::new() };
        let nodes = piece.nodes_before(to);
        piece.norms = nodes
            .into_iter()
            .filter(|&node| matches!(graph.nodes[node].op, Op::Rows(RowOp::GroupNorm { .. })))
            .collect();
        piece
    }

    /// Height, width and channels of the input.
    pub fn input_size(&self) -> [usize; 3] {
        self.size(self.from)
    }

    /// Height, width and channels of the output.
    pub fn output_size(&self) -> [usize; 3] {
        self.size(self.to)
    }

    /// Number of group norms.
    pub fn norms(&self) -> usize {
        self.norms.len()
    }

    /// The number of values that the piece's group norm `norm` normalises.
    pub fn norm_elements(&self, norm: usize) -> usize {
        self.graph.elements(self.tensor(Target::Sums(norm)))
    }

    /// The graph of the piece for all rows at once.
    pub fn whole(&self) -> Graph {
        let mut part = Part::new(self, self.input_size()[0], false);
        for node in self.nodes_before(self.to) {
            part.push(&self.graph.nodes[node], None);
        }
        part.finish(self.to)
    }

    /// The graph of the piece up to `target` for a strip of `height` rows of the input. Sums cover only the
    /// values computed from the rows `inner` of the input.
    ///
    /// # Panics
    /// If the piece [cannot be cut](Piece::reach).
    pub fn strip(&self, target: Target, height: usize, inner: Range<usize>) -> Graph {
        let mut part = Part::new(self, height, true);
        let end = self.tensor(target);
        for node in self.nodes_before(end) {
            let norm = self.norms.iter().position(|&norm| norm == node);
            part.push(&self.graph.nodes[node], norm);
        }
        if let Target::Sums(norm) = target {
            let Op::Rows(RowOp::GroupNorm { groups, .. }) = self.graph.nodes[self.norms[norm]].op else {
                unreachable!("only group norms were listed")
            };
            return part.finish_with_sums(end, groups, inner);
        }
        part.finish(end)
    }

    /// The number of additional input rows, above and below, that the rows of `target` need beside those at
    /// their own position, in whole steps. `None` if an op in between needs the whole picture, or scales the
    /// height by a factor that is not whole.
    pub fn reach(&self, target: Target) -> Option<usize> {
        let end = self.tensor(target);
        let mut reaches = HashMap::from([(end, 0_usize)]);
        for node in self.nodes_before(end).into_iter().rev() {
            let node = &self.graph.nodes[node];
            let reach = reaches[&node.output];
            let [in_height, out_height] = [node.inputs[0], node.output].map(|tensor| self.size(tensor)[0]);
            let reach = match node.op.locality() {
                Locality::Window(window) => {
                    let side = window.kernel / 2;
                    let same = window.kernel % 2 == 1 && window.padding == Padding::same(side);
                    (same && window.stride == 1).then_some(reach.next_multiple_of(self.row_step) + side)?
                }
                Locality::Resized => {
                    out_height.is_multiple_of(in_height).then(|| reach.div_ceil(out_height / in_height))?
                }
                Locality::SameRows => reach,
                Locality::WholePicture => return None,
            };
            for &input in &node.inputs {
                let known = reaches.entry(input).or_insert(0);
                *known = reach.max(*known);
            }
        }
        reaches.get(&self.from).map(|reach| reach.next_multiple_of(self.row_step))
    }

    fn tensor(&self, target: Target) -> TensorId {
        match target {
            Target::Output => self.to,
            Target::Sums(norm) => self.graph.nodes[self.norms[norm]].inputs[0],
        }
    }

    fn size(&self, tensor: TensorId) -> [usize; 3] {
        match *self.graph.shape(tensor) {
            [1, height, width, channels] => [height, width, channels],
            ref shape => panic!("one picture, not {shape:?}"),
        }
    }

    /// The nodes between the piece's input and `tensor`, in order.
    fn nodes_before(&self, tensor: TensorId) -> Vec<usize> {
        let mut needed = vec![tensor];
        let mut nodes = Vec::new();
        for (index, node) in self.graph.nodes.iter().enumerate().rev() {
            if node.output != self.from && needed.contains(&node.output) {
                nodes.push(index);
                needed.extend(&node.inputs);
            }
        }
        nodes.reverse();
        nodes
    }
}

/// A piece's graph under construction.
struct Part<'a> {
    piece: &'a Piece<'a>,
    graph: Graph,
    height: usize,
    given: bool,
    tensors: HashMap<TensorId, TensorId>,
    weights: HashMap<WeightId, WeightId>,
}

impl<'a> Part<'a> {
    fn new(piece: &'a Piece<'a>, height: usize, given: bool) -> Part<'a> {
        let graph = Graph {
            tensors: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            kept: Vec::new(),
            weights: Vec::new(),
        };
        let mut part = Part { piece, graph, height, given, tensors: HashMap::new(), weights: HashMap::new() };
        let tensor = part.picture(piece.from);
        part.graph.inputs.push(Port { name: INPUT.to_owned(), tensor });
        part
    }

    /// Appends a node of the original graph; `norm` is its number among the piece's group norms.
    fn push(&mut self, node: &Node, norm: Option<usize>) {
        let mut op = node.op.clone();
        for weight in op.weights_mut() {
            *weight = self.weight(*weight);
        }
        let mut inputs: Vec<TensorId> = node.inputs.iter().map(|input| self.tensors[input]).collect();
        let output = self.picture(node.output);
        match &mut op {
            Op::UpsampleNearest { height, .. } => *height = self.graph.shape(output)[1],
            Op::Rows(RowOp::GroupNorm { groups, given, .. }) if self.given => {
                let norm = norm.expect("strips number their norms");
                let tensor = self.tensor(vec![1, *groups, PAIR_VALUES]);
                self.graph.inputs.push(Port { name: statistics_input(norm), tensor });
                inputs.push(tensor);
                *given = true;
            }
            _ => {}
        }
        self.graph.nodes.push(Node { op, inputs, output });
    }

    fn finish(mut self, output: TensorId) -> Graph {
        let tensor = self.tensors[&output];
        self.graph.outputs.push(Port { name: OUTPUT.to_owned(), tensor });
        self.graph
    }

    fn finish_with_sums(mut self, of: TensorId, groups: usize, inner: Range<usize>) -> Graph {
        let scale = self.piece.size(of)[0] / self.piece.input_size()[0];
        let rows = inner.start * scale..inner.end * scale;
        let [sums, output] = [(); 2].map(|()| self.tensor(vec![1, groups, PAIR_VALUES]));
        self.graph.inputs.push(Port { name: SUMS.to_owned(), tensor: sums });
        let inputs = vec![self.tensors[&of], sums];
        self.graph.nodes.push(Node { op: Op::GroupSums { groups, rows }, inputs, output });
        self.graph.outputs.push(Port { name: OUTPUT.to_owned(), tensor: output });
        self.graph
    }

    /// A tensor of the original graph with the height that it has in the strip.
    fn picture(&mut self, tensor: TensorId) -> TensorId {
        let [height, width, channels] = self.piece.size(tensor);
        let height = height * self.height / self.piece.input_size()[0];
        let id = self.tensor(vec![1, height, width, channels]);
        self.tensors.insert(tensor, id);
        id
    }

    fn tensor(&mut self, shape: Vec<usize>) -> TensorId {
        self.graph.tensors.push(shape);
        TensorId(self.graph.tensors.len() - 1)
    }

    fn weight(&mut self, weight: WeightId) -> WeightId {
        let Part { piece, graph, weights, .. } = self;
        *weights.entry(weight).or_insert_with(|| {
            graph.weights.push(piece.graph.weight(weight).clone());
            WeightId(graph.weights.len() - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Activation, GraphBuilder, Window};
    use super::*;

    /// Norm, convolution around a shortcut, upsampling, convolution.
    fn decoder() -> (Graph, [TensorId; 4]) {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 6, 5, 4]);
        let normed = graph.group_norm("norm", x, 2, 1e-6, true);
        let hidden = graph.conv2d("conv", normed, 4, Window::SAME_3X3, None);
        let block = graph.add(hidden, x);
        let wide = graph.upsample_nearest(block, (12, 10));
        let y = graph.conv2d("out", wide, 3, Window::SAME_3X3, None);
        graph.output("y", y);
        (graph.finish(), [x, block, wide, y])
    }

    #[test]
    fn cuts_lie_where_nothing_goes_around() {
        let (graph, tensors) = decoder();
        assert_eq!(cuts(&graph), tensors);
    }

    #[test]
    fn reach_shrinks_with_upsampling() {
        let (graph, [x, block, wide, y]) = decoder();
        let reach = |from, to, row_step| Piece::new(&graph, from, to, row_step).reach(Target::Output);
        // One row of the finer picture is within one row of the coarser.
        assert_eq!([reach(wide, y, 1), reach(block, y, 1), reach(x, y, 1)], [Some(1), Some(1), Some(2)]);
        // Steps are whole at both ends of the next convolution.
        assert_eq!([reach(wide, y, 2), reach(block, y, 2), reach(x, y, 2)], [Some(2), Some(2), Some(4)]);
        assert_eq!(Piece::new(&graph, x, y, 2).reach(Target::Sums(0)), Some(0));
    }

    #[test]
    fn a_strip_has_its_own_heights_and_only_the_weights_it_reads() {
        let (graph, [_, block, _, y]) = decoder();
        let strip = Piece::new(&graph, block, y, 1).strip(Target::Output, 3, 1..2);
        assert_eq!(strip.tensors, [vec![1, 3, 5, 4], vec![1, 6, 10, 4], vec![1, 6, 10, 3]]);
        let names: Vec<&str> = strip.weights.iter().map(|weight| weight.name.as_str()).collect();
        assert_eq!(names, ["out.weight", "out.bias"]);
        assert!(matches!(strip.nodes[0].op, Op::UpsampleNearest { height: 6, width: 10 }));
    }

    #[test]
    fn sums_are_over_a_strips_own_rows_of_what_the_norm_reads() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 6, 5, 4]);
        let wide = graph.upsample_nearest(x, (12, 10));
        let y = graph.group_norm("norm", wide, 2, 1e-6, false);
        graph.output("y", y);
        let graph = graph.finish();
        let strip = Piece::new(&graph, x, y, 1).strip(Target::Sums(0), 4, 1..3);
        assert_eq!(strip.nodes[1].op, Op::GroupSums { groups: 2, rows: 2..6 });
        assert_eq!(strip.inputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), [INPUT, SUMS]);
    }

    #[test]
    fn what_looks_everywhere_cannot_be_cut() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 6, 5, 4]);
        let attended = graph.attention(x, x, x, 1, false);
        let halved = Window { stride: 2, ..Window::SAME_3X3 };
        let half = graph.conv2d("down", attended, 4, halved, None);
        let y = graph.activation(Activation::Silu, half);
        graph.output("y", y);
        let graph = graph.finish();
        let reach = |from, to| Piece::new(&graph, from, to, 1).reach(Target::Output);
        assert_eq!([reach(x, attended), reach(attended, half), reach(half, y)], [None, None, Some(0)]);
    }

    proptest! {
        /// Compares with the rows that are read, traced from each row of the output back to the input.
        #[test]
        fn reach_is_the_farthest_row_that_is_read(ops in proptest::collection::vec(0..5_usize, 1..7)) {
            let mut graph = GraphBuilder::new();
            let x = graph.input("x", &[1, 4, 3, 2]);
            let mut y = x;
            for (index, op) in ops.iter().enumerate() {
                let (height, width) = graph.size(y);
                let window = |kernel: usize| Window { kernel, stride: 1, padding: Padding::same(kernel / 2) };
                y = match op {
                    0 => graph.activation(Activation::Silu, y),
                    1 => graph.conv2d(&format!("c{index}"), y, 2, window(3), None),
                    2 => graph.conv2d(&format!("c{index}"), y, 2, window(5), None),
                    3 => graph.upsample_nearest(y, (2 * height, width)),
                    _ => graph.upsample_nearest(y, (3 * height, width)),
                };
            }
            graph.output("y", y);
            let graph = graph.finish();
            let scale = graph.shape(y)[1] / 4;
            let mut farthest = 0;
            for row in 0..4 {
                // Rows first..end of the output at this position, as signed numbers: zeros outside the
                // picture count too.
                let (mut first, mut end) = ((row * scale) as i64, ((row + 1) * scale) as i64);
                for op in ops.iter().rev() {
                    (first, end) = match op {
                        0 => (first, end),
                        1 => (first - 1, end + 1),
                        2 => (first - 2, end + 2),
                        3 => (first.div_euclid(2), (end - 1).div_euclid(2) + 1),
                        _ => (first.div_euclid(3), (end - 1).div_euclid(3) + 1),
                    };
                }
                farthest = farthest.max(row as i64 - first).max(end - row as i64 - 1);
            }
            prop_assert_eq!(Piece::new(&graph, x, y, 1).reach(Target::Output), Some(farthest as usize));
        }
    }

    #[test]
    fn windows_that_move_rows_cannot_be_cut() {
        let window = |kernel, top, bottom| Window {
            kernel,
            stride: 1,
            padding: Padding { top, left: 1, bottom, right: 1 },
        };
        for (window, reach) in [
            (window(3, 1, 1), Some(1)),
            (window(3, 2, 0), None),
            (window(3, 0, 0), None),
            (window(2, 1, 0), None),
            (Window { kernel: 5, stride: 1, padding: Padding::same(2) }, Some(2)),
            (Window { kernel: 5, stride: 1, padding: Padding::same(1) }, None),
            (Window::POINT, Some(0)),
        ] {
            let mut graph = GraphBuilder::new();
            let x = graph.input("x", &[1, 6, 5, 4]);
            let y = graph.conv2d("conv", x, 4, window, None);
            graph.output("y", y);
            let graph = graph.finish();
            assert_eq!(Piece::new(&graph, x, y, 1).reach(Target::Output), reach, "{window:?}");
        }
    }

    #[test]
    fn a_height_that_is_no_multiple_cannot_be_cut() {
        for (height, reach) in [(6, Some(0)), (12, Some(0)), (9, None), (3, None)] {
            let mut graph = GraphBuilder::new();
            let x = graph.input("x", &[1, 6, 5, 4]);
            let y = graph.upsample_nearest(x, (height, 5));
            graph.output("y", y);
            let graph = graph.finish();
            assert_eq!(Piece::new(&graph, x, y, 1).reach(Target::Output), reach, "{height}");
        }
    }

    #[test]
    fn a_strip_reads_the_statistics_of_its_norms() {
        let (graph, [x, block, ..]) = decoder();
        let piece = Piece::new(&graph, x, block, 1);
        assert_eq!((piece.norms(), piece.norm_elements(0)), (1, 6 * 5 * 4));
        assert_eq!((piece.input_size(), piece.output_size()), ([6, 5, 4], [6, 5, 4]));
        let names = |graph: &Graph| graph.inputs.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        let strip = piece.strip(Target::Output, 3, 1..2);
        assert_eq!(names(&strip), [INPUT.to_owned(), statistics_input(0)]);
        assert_eq!(strip.shape(strip.inputs[1].tensor), [1, 2, PAIR_VALUES]);
        // All rows at once need no statistics, and the nodes are those of the original graph.
        let whole = piece.whole();
        assert_eq!((names(&whole), whole.nodes.len()), (vec![INPUT.to_owned()], strip.nodes.len()));
        assert_eq!(whole.shape(whole.outputs[0].tensor), graph.shape(block));
        let given = |graph: &Graph| match &graph.nodes[0].op {
            Op::Rows(RowOp::GroupNorm { given, .. }) => *given,
            other => panic!("{other:?}"),
        };
        assert_eq!((given(&strip), given(&whole)), (true, false));
    }
}
