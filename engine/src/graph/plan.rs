//! The places of tensors: offsets in one arena, assigned by lifetime.
//!
//! The peak is known before anything runs. Inputs keep their place for the whole run, so that a caller sets
//! only those that changed; so do tensors that are kept for the next run. Outputs keep theirs until they are
//! read. The place of any other tensor is reused as soon as its last reader has run.

use std::ops::Range;

use super::Graph;

/// Alignment of every tensor in the arena, in f32 elements: one cache line.
pub const ALIGNMENT: usize = 16;

/// Offsets of all tensors of a graph in one arena of f32 elements.
#[derive(Clone, Debug)]
pub struct Plan {
    ranges: Vec<Range<usize>>,
    elements: usize,
}

impl Plan {
    /// Plans `graph` for a CPU: every tensor begins at a multiple of [`ALIGNMENT`].
    pub fn new<O>(graph: &Graph<O>) -> Plan {
        Plan::aligned(graph, ALIGNMENT)
    }

    /// Plans `graph` with every tensor at a multiple of `alignment` elements.
    pub fn aligned<O>(graph: &Graph<O>, alignment: usize) -> Plan {
        let nodes = graph.nodes.len();
        let mut last_use = vec![0; graph.tensors.len()];
        for (step, node) in graph.nodes.iter().enumerate() {
            last_use[node.output.0] = step;
            for input in &node.inputs {
                last_use[input.0] = step;
            }
        }
        for port in graph.inputs.iter().chain(&graph.outputs).chain(&graph.kept) {
            last_use[port.tensor.0] = nodes;
        }
        let mut dies_after = vec![Vec::new(); nodes + 1];
        let mut arena = Arena { gaps: Vec::new(), end: 0, alignment };
        let mut ranges = vec![0..0; graph.tensors.len()];
        for port in graph.inputs.iter().chain(&graph.kept) {
            ranges[port.tensor.0] = arena.take(graph.elements(port.tensor));
        }
        for (step, node) in graph.nodes.iter().enumerate() {
            if !graph.kept.iter().any(|port| port.tensor == node.output) {
                ranges[node.output.0] = arena.take(graph.elements(node.output));
            }
            for tensor in node.inputs.iter().chain([&node.output]) {
                if last_use[tensor.0] == step && !dies_after[step].contains(&tensor.0) {
                    dies_after[step].push(tensor.0);
                }
            }
            for &tensor in &dies_after[step] {
                arena.give_back(ranges[tensor].clone());
            }
        }
        // `take` returns multiples of the alignment; the range of a tensor has its actual size.
        for (tensor, range) in ranges.iter_mut().enumerate() {
            range.end = range.start + graph.tensors[tensor].iter().product::<usize>().min(range.len());
        }
        Plan { ranges, elements: arena.end }
    }

    /// The range of tensor `index`. Two tensors that live at the same time never overlap.
    pub fn range(&self, index: usize) -> Range<usize> {
        self.ranges[index].clone()
    }

    /// Size of the plan itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(self.ranges.as_slice())
    }

    /// Size of the arena in f32 elements.
    pub fn elements(&self) -> usize {
        self.elements
    }
}

/// Free gaps below `end`, sorted by offset, never adjacent to each other.
struct Arena {
    gaps: Vec<Range<usize>>,
    end: usize,
    alignment: usize,
}

impl Arena {
    /// Takes the smallest gap that fits, or new space at the end.
    fn take(&mut self, elements: usize) -> Range<usize> {
        let size = elements.next_multiple_of(self.alignment);
        let fits = self.gaps.iter().enumerate().filter(|(_, gap)| gap.len() >= size);
        if let Some((index, _)) = fits.min_by_key(|(_, gap)| gap.len()) {
            let start = self.gaps[index].start;
            self.gaps[index].start += size;
            if self.gaps[index].is_empty() {
                self.gaps.remove(index);
            }
            return start..start + size;
        }
        // A gap at the end is extended instead of left unused.
        let start = match self.gaps.last() {
            Some(gap) if gap.end == self.end => self.gaps.pop().map_or(self.end, |gap| gap.start),
            _ => self.end,
        };
        self.end = start + size;
        start..self.end
    }

    fn give_back(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let at = self.gaps.partition_point(|gap| gap.start < range.start);
        self.gaps.insert(at, range);
        if at + 1 < self.gaps.len() && self.gaps[at].end == self.gaps[at + 1].start {
            self.gaps[at].end = self.gaps.remove(at + 1).end;
        }
        if at > 0 && self.gaps[at - 1].end == self.gaps[at].start {
            self.gaps[at - 1].end = self.gaps.remove(at).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Activation, GraphBuilder, Node, Op, Port, TensorId};
    use super::*;

    /// Checks every pair of tensors that are alive at the same step, according to the graph alone.
    fn assert_no_overlap(graph: &Graph, plan: &Plan) {
        let count = graph.tensors.len();
        let mut alive = vec![(usize::MAX, 0); count];
        for port in graph.inputs.iter().chain(&graph.kept) {
            alive[port.tensor.0] = (0, graph.nodes.len());
        }
        for (step, node) in graph.nodes.iter().enumerate() {
            if !graph.kept.iter().any(|port| port.tensor == node.output) {
                alive[node.output.0] = (step, step);
            }
        }
        for (step, node) in graph.nodes.iter().enumerate() {
            for input in &node.inputs {
                alive[input.0].1 = alive[input.0].1.max(step);
            }
        }
        for port in graph.outputs.iter().chain(&graph.kept) {
            alive[port.tensor.0].1 = graph.nodes.len();
        }
        for a in 0..count {
            for b in a + 1..count {
                let together = alive[a].0.max(alive[b].0) <= alive[a].1.min(alive[b].1);
                let (ra, rb) = (plan.range(a), plan.range(b));
                let overlap = ra.start.max(rb.start) < ra.end.min(rb.end);
                assert!(!(together && overlap), "tensors {a} {ra:?} and {b} {rb:?} live together");
            }
        }
    }

    #[test]
    fn a_chain_needs_two_places_and_its_input() {
        let mut graph = GraphBuilder::new();
        let mut x = graph.input("x", &[1, 64, 16]);
        for _ in 0..10 {
            x = graph.activation(Activation::Silu, x);
        }
        graph.output("y", x);
        let graph = graph.finish();
        let plan = Plan::new(&graph);
        assert_no_overlap(&graph, &plan);
        assert_eq!(plan.elements(), 3 * 64 * 16);
    }

    #[test]
    fn skips_stay_alive_until_they_are_joined() {
        let mut graph = GraphBuilder::new();
        let mut x = graph.input("x", &[1, 5, 7, 3]);
        let mut skips = Vec::new();
        for level in 0..4 {
            x = graph.linear(&format!("down{level}"), x, 3 + level, true);
            skips.push(x);
        }
        while let Some(skip) = skips.pop() {
            let joined = graph.concat(x, skip);
            x = graph.linear(&format!("up{}", skips.len()), joined, 5, true);
        }
        graph.output("y", x);
        let graph = graph.finish();
        let plan = Plan::new(&graph);
        assert_no_overlap(&graph, &plan);
        let everything: usize = graph.tensors.iter().map(|s| s.iter().product::<usize>()).sum();
        assert!(plan.elements() < everything, "places are reused");
    }

    /// A run that starts from a kept tensor still finds its values: no node before the one that writes it
    /// uses its place.
    #[test]
    fn what_is_kept_has_a_place_of_its_own() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 64, 16]);
        let mut shallow = graph.activation(Activation::Silu, x);
        shallow = graph.activation(Activation::Silu, shallow);
        let mut deep = shallow;
        for _ in 0..4 {
            deep = graph.activation(Activation::Silu, deep);
        }
        graph.keep("deep", deep);
        let y = graph.add(shallow, deep);
        graph.output("y", y);
        let graph = graph.finish();
        assert_no_overlap(&graph, &Plan::new(&graph));
        assert_eq!(graph.needed_beside_kept(), [true, true, false, false, false, false, true]);
    }

    #[test]
    fn an_input_that_is_also_an_output_has_one_place() {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", &[1, 3]);
        graph.output("y", x);
        let graph = graph.finish();
        assert_eq!(Plan::new(&graph).elements(), ALIGNMENT);
    }

    /// A graph whose nodes read any earlier tensors of any sizes, with outputs and kept tensors anywhere.
    fn graphs() -> impl Strategy<Value = Graph> {
        let place = any::<prop::sample::Index>;
        let node = (1..100_usize, place(), place());
        let ports = (proptest::collection::vec(place(), 1..4), proptest::option::of(place()));
        (proptest::collection::vec(node, 1..24), ports).prop_map(|(nodes, (outputs, kept))| {
            let port = |tensor| Port { name: "port".to_owned(), tensor: TensorId(tensor) };
            let mut tensors = vec![vec![1, 40], vec![3, 7]];
            tensors.extend(nodes.iter().map(|(elements, ..)| vec![*elements]));
            let read = |index: usize, place: &prop::sample::Index| TensorId(place.index(2 + index));
            let node =
                |(index, (_, a, b)): (usize, &(usize, prop::sample::Index, prop::sample::Index))| Node {
                    op: Op::Add,
                    inputs: vec![read(index, a), read(index, b)],
                    output: TensorId(2 + index),
                };
            Graph {
                nodes: nodes.iter().enumerate().map(node).collect(),
                inputs: vec![port(0), port(1)],
                outputs: outputs.iter().map(|place| port(place.index(tensors.len()))).collect(),
                kept: kept.iter().map(|place| port(2 + place.index(nodes.len()))).collect(),
                tensors,
                weights: Vec::new(),
            }
        })
    }

    proptest! {
        #[test]
        fn tensors_that_live_together_never_overlap(graph in graphs(), shift in 0..7_u32) {
            let alignment = 1 << shift;
            let plan = Plan::aligned(&graph, alignment);
            assert_no_overlap(&graph, &plan);
            let mut everything = 0;
            for tensor in 0..graph.tensors.len() {
                let (range, elements) = (plan.range(tensor), graph.elements(TensorId(tensor)));
                prop_assert_eq!(range.len(), elements);
                prop_assert!(range.start.is_multiple_of(alignment) && range.end <= plan.elements(), "{:?}", range);
                everything += elements.next_multiple_of(alignment);
            }
            // A node's inputs and output are alive at the same time, and no more space is used than if every
            // tensor had a place of its own.
            let together = |node: &Node| {
                let mut tensors: Vec<TensorId> = node.inputs.iter().copied().chain([node.output]).collect();
                tensors.sort();
                tensors.dedup();
                tensors.iter().map(|tensor| graph.elements(*tensor)).sum::<usize>()
            };
            let least = graph.nodes.iter().map(together).max().unwrap();
            prop_assert!((least..=everything).contains(&plan.elements()), "{} elements", plan.elements());
        }
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken_and_neighbours_become_one() {
        let one = |gap: std::ops::Range<usize>| std::iter::once(gap).collect::<Vec<_>>();
        let mut arena = Arena { gaps: Vec::new(), end: 0, alignment: 16 };
        let [a, b, c, d, e] = [64, 16, 32, 16, 16].map(|elements| arena.take(elements));
        assert_eq!([&a, &b, &c, &d, &e], [&(0..64), &(64..80), &(80..112), &(112..128), &(128..144)]);
        arena.give_back(a);
        arena.give_back(c);
        // 17 elements need two units of the alignment: the gap of 32 is a closer fit than that of 64.
        assert_eq!(arena.take(17), 80..112);
        arena.give_back(80..112);
        arena.give_back(b);
        assert_eq!(arena.gaps, one(0..112));
        assert_eq!((arena.take(96), arena.gaps.clone()), (0..96, one(96..112)));
        // A gap at the end is extended.
        arena.give_back(e);
        assert_eq!((arena.take(48), arena.end), (128..176, 176));
        arena.give_back(0..0);
        assert_eq!(arena.gaps, one(96..112));
    }
}
