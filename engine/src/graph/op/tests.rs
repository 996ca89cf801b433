use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::super::{Graph, GraphBuilder};
use super::*;

/// The graph that `build` writes over one picture `[2, 6, 5, 8]`, and the shape of the tensor that it
/// returns.
fn built(build: impl FnOnce(&mut GraphBuilder, TensorId) -> TensorId) -> (Graph, Vec<usize>) {
    let mut graph = GraphBuilder::new();
    let picture = graph.input("picture", &[2, 6, 5, 8]);
    let output = build(&mut graph, picture);
    graph.output("output", output);
    let shape = graph.shape(output).to_vec();
    (graph.finish(), shape)
}

fn halved() -> Window {
    Window { kernel: 3, stride: 2, padding: Padding::same(1) }
}

/// Shape of the output and multiply-adds of each op, both computed by hand.
#[test]
fn ops_have_the_shape_and_cost_of_their_definition() {
    type Build = fn(&mut GraphBuilder, TensorId) -> TensorId;
    let cases: [(&str, Build, &[usize], u64); 13] = [
        ("linear", |g, x| g.linear("w", x, 3, true), &[2, 6, 5, 3], 2 * 6 * 5 * 3 * 8),
        ("convolution", |g, x| g.conv2d("w", x, 3, Window::SAME_3X3, None), &[2, 6, 5, 3], 180 * 8 * 9),
        ("convolution", |g, x| g.conv2d("w", x, 3, halved(), None), &[2, 3, 3, 3], 54 * 8 * 9),
        ("convolution", |g, x| g.conv2d("w", x, 4, Window::POINT, None), &[2, 6, 5, 4], 240 * 8),
        ("group norm", |g, x| g.group_norm("n", x, 4, 1e-5, true), &[2, 6, 5, 8], 0),
        ("layer norm", |g, x| g.layer_norm("n", x, 1e-5), &[2, 6, 5, 8], 0),
        ("gate", |g, x| g.geglu(x), &[2, 6, 5, 4], 0),
        ("attention", |g, x| g.attention(x, x, x, 4, false), &[2, 6, 5, 8], 480 * 2 * 30),
        ("activation", |g, x| g.activation(Activation::Tanh3, x), &[2, 6, 5, 8], 0),
        ("affine", |g, x| g.affine(2.0, 1.0, x), &[2, 6, 5, 8], 0),
        ("add", |g, x| g.add(x, x), &[2, 6, 5, 8], 0),
        ("concat", |g, x| g.concat(x, x), &[2, 6, 5, 16], 0),
        ("upsample", |g, x| g.upsample_nearest(x, (7, 10)), &[2, 7, 10, 8], 0),
    ];
    for (name, build, shape, multiply_adds) in cases {
        let (graph, found) = built(build);
        let node = graph.nodes.last().unwrap();
        assert_eq!((found.as_slice(), node.op.name()), (shape, name));
        assert_eq!(graph.multiply_adds(node), multiply_adds, "{name}");
    }
}

#[test]
fn attention_to_words_costs_what_the_words_are() {
    let (graph, shape) = built(|graph, x| {
        let words = graph.input("words", &[2, 77, 8]);
        graph.attention(x, words, words, 2, false)
    });
    assert_eq!(shape, [2, 6, 5, 8]);
    assert_eq!(graph.multiply_adds(&graph.nodes[0]), (2 * 6 * 5 * 8) * 2 * 77);
}

#[test]
fn words_have_the_width_of_their_table() {
    let mut graph = GraphBuilder::new();
    let ids = graph.input("ids", &[3, 77]);
    let states = graph.embedding(("tokens", 1000), ("positions", 77), 12, (ids, None));
    assert_eq!(graph.shape(states), [3, 77, 12]);
    graph.output("states", states);
    let graph = graph.finish();
    let shapes: Vec<&[usize]> = graph.weights.iter().map(|weight| weight.shape.as_slice()).collect();
    assert_eq!(shapes, [&[1000, 12][..], &[77, 12]]);
    assert_eq!((graph.nodes[0].op.name(), graph.multiply_adds(&graph.nodes[0])), ("embedding", 0));
}

/// Work is multiply-adds, and for ops that move memory the larger of inputs and output.
#[test]
fn work_counts_products_and_passes() {
    let pass = |elements: usize| (elements * super::super::ELEMENT_WORK) as u64;
    let (graph, _) = built(|graph, x| graph.geglu(x));
    assert_eq!(graph.work(), pass(480));
    let (graph, _) = built(|graph, x| graph.upsample_nearest(x, (12, 10)));
    assert_eq!(graph.work(), pass(4 * 480));
    let (graph, _) = built(|graph, x| {
        let product = graph.linear("w", x, 3, false);
        graph.activation(Activation::Silu, product)
    });
    assert_eq!(graph.work(), 180 * 8 + pass(180));
}

#[test]
fn shapes_that_do_not_go_together_are_bugs_of_a_model() {
    type Build = fn(&mut GraphBuilder, TensorId) -> TensorId;
    let cases: [(&str, Build); 10] = [
        ("3 groups of 8 channels", |g, x| g.group_norm("n", x, 3, 1e-5, false)),
        ("value and gate have one width", |g, x| {
            let odd = g.linear("w", x, 3, false);
            g.geglu(odd)
        }),
        ("3 heads in", |g, x| g.attention(x, x, x, 3, false)),
        ("keys and values have one shape", |g, x| {
            let (k, v) = (g.input("k", &[2, 4, 8]), g.input("v", &[2, 5, 8]));
            g.attention(x, k, v, 2, false)
        }),
        ("queries and keys have one width", |g, x| {
            let k = g.input("k", &[2, 4, 16]);
            g.attention(x, k, k, 2, false)
        }),
        ("a sum has one shape", |g, x| {
            let other = g.input("other", &[2, 5, 6, 8]);
            g.add(x, other)
        }),
        ("only channels may differ", |g, x| {
            let other = g.input("other", &[2, 6, 4, 8]);
            g.concat(x, other)
        }),
        ("one bias per channel", |g, x| {
            let bias = g.input("bias", &[2, 4]);
            g.conv2d("w", x, 3, Window::SAME_3X3, Some(bias))
        }),
        ("a picture has four axes", |g, _| {
            let words = g.input("words", &[2, 77, 8]);
            g.upsample_nearest(words, (8, 8))
        }),
        ("token ids have two axes", |g, x| g.embedding(("t", 9), ("p", 9), 4, (x, None))),
    ];
    for (reason, build) in cases {
        let panic = catch_unwind(AssertUnwindSafe(|| built(build))).map(drop).unwrap_err();
        let message = panic.downcast_ref::<String>().map_or_else(
            || panic.downcast_ref::<&str>().copied().unwrap_or_default().to_owned(),
            Clone::clone,
        );
        assert!(message.contains(reason), "{message}, expected {reason}");
    }
}

proptest! {
    /// Compares with the positions of the window's corner, counted one by one.
    #[test]
    fn a_window_has_as_many_places_as_lie_inside(
        (kernel, stride) in (1..6_usize, 1..5_usize),
        (height, width) in (6..30_usize, 6..30_usize),
        (top, left, bottom, right) in (0..4_usize, 0..4_usize, 0..4_usize, 0..4_usize),
    ) {
        let window = Window { kernel, stride, padding: Padding { top, left, bottom, right } };
        let count = |size: usize| (0..).step_by(stride).take_while(|start| start + kernel <= size).count();
        let expected = (count(top + height + bottom), count(left + width + right));
        prop_assert_eq!(window.output_size(height, width), expected);
    }
}

#[test]
fn the_usual_windows_keep_a_pictures_size() {
    for size in [(1, 1), (1, 7), (64, 96)] {
        assert_eq!(Window::POINT.output_size(size.0, size.1), size);
        assert_eq!(Window::SAME_3X3.output_size(size.0, size.1), size);
    }
    // The padding with which diffusers' VAE halves a picture: zeros only below and to the right.
    let padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
    assert_eq!(Window { kernel: 3, stride: 2, padding }.output_size(64, 96), (32, 48));
}
