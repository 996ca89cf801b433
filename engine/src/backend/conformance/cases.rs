//! The cases: every op, with shapes that are no multiple of a tile.

use sdq_formats::{WeightRole, WeightSpec, WeightType};

use super::{Agreement, Case};
use crate::graph::{
    Activation, Graph, GraphBuilder, GroupSums, Node, Op, PAIR_VALUES, Padding, Port, RowOp, Statistics,
    TensorId, WeightId, Window,
};

/// The kind of kernels that a case tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Products with weights of this type.
    Product(WeightType),
    /// Products with weights of this type whose left operand the same graph has rounded to bytes.
    Rounded(WeightType),
    /// Attention.
    Attention,
    /// Group and layer norms.
    Norm,
    /// Ops that treat every element alike or move elements.
    Elements,
    /// Embedding tables.
    Embedding,
}

impl Kind {
    /// Whether a backend may round floats to half precision in cases of this kind.
    pub(super) fn may_be_halves(self) -> bool {
        matches!(self, Kind::Attention | Kind::Product(WeightType::F16))
    }

    /// The name that `sdq doctor` shows.
    pub fn name(self) -> String {
        match self {
            Kind::Product(weight_type) => format!("products, {}", weight_type.name()),
            Kind::Rounded(weight_type) => format!("rounding and products, {}", weight_type.name()),
            Kind::Attention => "attention".to_owned(),
            Kind::Norm => "norms".to_owned(),
            Kind::Elements => "element by element".to_owned(),
            Kind::Embedding => "embedding".to_owned(),
        }
    }
}

/// Rounding of sums in single precision, in any order.
const SUMS: Agreement = Agreement::Within(3e-6);
/// Rounding of activations to bytes, where values that differ in their last bits round to different bytes.
const BYTES: Agreement = Agreement::Within(3e-3);
/// Queries, keys and values that the CPU rounds to integers.
const INTEGER_ATTENTION: Agreement = Agreement::Within(2e-2);

/// The type in which a case stores the weight `spec`.
pub(super) fn type_of(case: &Case, spec: &WeightSpec) -> WeightType {
    let wanted = match case.kind {
        Kind::Product(weight_type) | Kind::Rounded(weight_type) => weight_type,
        // Names of tables differ only in their last word.
        Kind::Embedding if spec.name.ends_with("q8") => WeightType::Q8,
        Kind::Embedding if spec.name.ends_with("f16") => WeightType::F16,
        _ => WeightType::F32,
    };
    if spec.role != WeightRole::Vector && wanted.stores(spec.role) { wanted } else { WeightType::F32 }
}

/// `length` values spread evenly over `-1..1`, always the same for the same seed (SplitMix64).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

/// All cases.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Cases::default();
    cases.elements();
    cases.norms();
    cases.embeddings();
    cases.attention();
    for weight_type in WeightType::ALL {
        cases.products(weight_type);
    }
    for weight_type in [WeightType::Q8, WeightType::Q4] {
        cases.whole_products(weight_type);
        cases.rounded(weight_type);
    }
    cases.0
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    /// Adds the graph that `build` writes and whose outputs it names, with noise for inputs.
    fn add(&mut self, name: String, kind: Kind, agreement: Agreement, build: impl FnOnce(&mut GraphBuilder)) {
        let mut graph = GraphBuilder::new();
        build(&mut graph);
        self.add_graph(name, kind, agreement, graph.finish());
    }

    fn add_graph(&mut self, name: String, kind: Kind, agreement: Agreement, graph: Graph) {
        let values = |(index, port): (usize, &Port)| {
            let length = graph.elements(port.tensor);
            let mut values = noise(100 + index as u64, length);
            if agreement == Agreement::Exact {
                whole_rows(&mut values, &graph, port.tensor);
            }
            (port.name.clone(), values)
        };
        let inputs = graph.inputs.iter().enumerate().map(values).collect();
        let component = format!("case{}", self.0.len());
        self.0.push(Case { name, kind, agreement, graph, inputs, component });
    }

    fn elements(&mut self) {
        let kinds = [
            Activation::Silu,
            Activation::QuickGelu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::Tanh3,
        ];
        for kind in kinds {
            self.add(format!("{kind:?} of 3x37"), Kind::Elements, SUMS, |graph| {
                let x = graph.input("x", &[1, 3, 37]);
                let wide = graph.affine(9.0, -0.25, x);
                let y = graph.activation(kind, wide);
                graph.output("y", y);
            });
        }
        for (rows, channels) in [(1, 1), (5, 7), (700, 13)] {
            self.add(format!("gate, sum of {rows}x{channels}"), Kind::Elements, SUMS, |graph| {
                let x = graph.input("x", &[1, rows, 2 * channels]);
                let other = graph.input("other", &[1, rows, channels]);
                let gated = graph.geglu(x);
                // A product would fuse the sum; this op reads it alone.
                let y = graph.add(gated, other);
                graph.output("y", y);
            });
        }
        for (a, b) in [(1, 1), (3, 70), (64, 5)] {
            self.add(format!("join {a} and {b} channels"), Kind::Elements, SUMS, |graph| {
                let (a, b) = (graph.input("a", &[2, 3, 5, a]), graph.input("b", &[2, 3, 5, b]));
                let y = graph.concat(a, b);
                graph.output("y", y);
            });
        }
        for (from, to) in [((1, 1), (2, 3)), ((3, 5), (6, 10)), ((4, 7), (9, 13))] {
            self.add(format!("enlarge {from:?} to {to:?}"), Kind::Elements, SUMS, |graph| {
                let x = graph.input("x", &[2, from.0, from.1, 3]);
                let y = graph.upsample_nearest(x, to);
                graph.output("y", y);
            });
        }
    }

    fn norms(&mut self) {
        let shapes = [
            (1, 1, 1, 2, 1),
            (2, 5, 7, 32, 32),
            (1, 33, 9, 40, 8),
            (2, 4, 4, 320, 32),
            (1, 17, 3, 520, 2),
            (1, 70, 70, 12, 3),
        ];
        for (batch, height, width, channels, groups) in shapes {
            for silu in [false, true] {
                let name = format!("group norm of {batch}x{height}x{width}x{channels}, {groups} groups");
                self.add(name, Kind::Norm, SUMS, |graph| {
                    let x = graph.input("x", &[batch, height, width, channels]);
                    // A mean that is large compared with the deviation.
                    let far = graph.affine(0.5, 20.0, x);
                    let y = graph.group_norm("norm", far, groups, 1e-5, silu);
                    graph.output("y", y);
                });
            }
        }
        for (rows, channels) in [(1, 2), (7, 40), (33, 321)] {
            self.add(format!("layer norm of {rows}x{channels}"), Kind::Norm, SUMS, |graph| {
                let x = graph.input("x", &[1, rows, channels]);
                let far = graph.affine(2.0, -5.0, x);
                let y = graph.layer_norm("norm", far, 1e-5);
                graph.output("y", y);
            });
        }
        self.strip_norms();
    }

    /// Normalisation of strips of a picture: sums that continue earlier ones, and given statistics.
    fn strip_norms(&mut self) {
        let (height, width, channels, groups) = (9, 5, 24, 4);
        let spec = |name: &str| WeightSpec::new(name, WeightRole::Vector, &[channels]);
        let picture = vec![1, height, width, channels];
        let sums = vec![1, groups, PAIR_VALUES];
        let port = |name: &str, tensor| Port { name: name.to_owned(), tensor: TensorId(tensor) };
        let graph = Graph {
            tensors: vec![picture.clone(), sums.clone(), sums.clone(), sums, picture],
            nodes: vec![
                Node {
                    op: Op::GroupSums { groups, rows: 2..7 },
                    inputs: vec![TensorId(0), TensorId(1)],
                    output: TensorId(2),
                },
                Node {
                    op: Op::Rows(RowOp::GroupNorm {
                        weight: WeightId(0),
                        bias: WeightId(1),
                        groups,
                        eps: 1e-5,
                        silu: true,
                        given: true,
                    }),
                    inputs: vec![TensorId(0), TensorId(3)],
                    output: TensorId(4),
                },
            ],
            inputs: vec![port("x", 0), port("before", 1), port("given", 3)],
            outputs: vec![port("sums", 2), port("y", 4)],
            kept: Vec::new(),
            weights: vec![spec("norm.weight"), spec("norm.bias")],
        };
        self.add_graph("group norm of a strip".to_owned(), Kind::Norm, SUMS, graph);
        let case = self.0.last_mut().expect("added above");
        let of_group = |group: usize| GroupSums { sum: 1e3 + 0.1 * group as f64, square_sum: 1e4 };
        case.inputs[1].1 = (0..groups).flat_map(|group| of_group(group).to_values()).collect();
        let of_group = |group: usize| Statistics { mean: 0.1 * group as f64, variance: 0.3 };
        case.inputs[2].1 = (0..groups).flat_map(|group| of_group(group).to_values()).collect();
    }

    fn embeddings(&mut self) {
        for name in ["f32", "f16", "q8"] {
            let (vocabulary, width) = (11, 6);
            self.add(format!("embedding, {name}"), Kind::Embedding, SUMS, |graph| {
                let ids = graph.input("ids", &[2, 5]);
                let words = graph.input("words", &[2, width]);
                let tables = (format!("tokens.{name}"), format!("positions.{name}"));
                let (tokens, positions) = ((tables.0.as_str(), vocabulary), (tables.1.as_str(), 7));
                let y = graph.embedding(tokens, positions, width, (ids, Some(words)));
                graph.output("y", y);
            });
            let case = self.0.last_mut().expect("added above");
            // The last two ids lie past the vocabulary.
            case.inputs[0].1 = [0, 10, 3, 12, 11, 5, 11, 1, 12, 9].map(|id| id as f32).to_vec();
        }
    }

    fn attention(&mut self) {
        let shapes = [
            (1, 1, 1, 1, 1),
            (2, 3, 5, 7, 8),
            (1, 2, 33, 129, 17),
            (2, 2, 40, 77, 40),
            (1, 1, 31, 64, 80),
            (1, 1, 70, 33, 160),
            (1, 1, 19, 31, 512),
        ];
        for (batch, heads, queries, keys, head_dim) in shapes {
            let name = format!("attention of {batch}x{heads}x{queries}x{head_dim} to {keys}");
            self.add(name, Kind::Attention, SUMS, |graph| {
                let channels = heads * head_dim;
                let q = graph.input("q", &[batch, queries, channels]);
                let k = graph.input("k", &[batch, keys, channels]);
                let v = graph.input("v", &[batch, keys, channels]);
                let sharp = graph.affine(4.0, 0.0, q);
                let y = graph.attention(sharp, k, v, heads, false);
                graph.output("y", y);
            });
        }
        for (heads, tokens, head_dim) in [(1, 1, 3), (2, 77, 20), (3, 40, 64)] {
            let name = format!("causal attention of {heads}x{tokens}x{head_dim}");
            self.add(name, Kind::Attention, SUMS, |graph| {
                let x = graph.input("x", &[2, tokens, heads * head_dim]);
                let y = graph.attention(x, x, x, heads, true);
                graph.output("y", y);
            });
        }
    }

    fn products(&mut self, weight_type: WeightType) {
        let kind = Kind::Product(weight_type);
        let name = weight_type.name();
        // The last shape is large enough for the largest tiles.
        let shapes = [
            (1, 1, 1),
            (5, 7, 3),
            (33, 17, 40),
            (77, 130, 36),
            (130, 70, 200),
            (16, 320, 64),
            (4100, 130, 72),
        ];
        for (m, n, k) in shapes {
            self.add(format!("{name} product {m}x{n}x{k}"), kind, SUMS, |graph| {
                let x = graph.input("x", &[1, m, k]);
                let y = graph.linear("a", x, n, true);
                let plain = graph.linear("b", x, n, false);
                let sum = graph.add(y, plain);
                graph.output("sum", sum);
            });
        }
        for (a, b) in [(70, 3), (8, 64), (129, 40)] {
            self.add(format!("{name} product of {a} and {b} joined channels"), kind, SUMS, |graph| {
                let (a, b) = (graph.input("a", &[2, 3, 5, a]), graph.input("b", &[2, 3, 5, b]));
                let joined = graph.concat(a, b);
                let y = graph.conv2d("conv", joined, 19, Window::SAME_3X3, None);
                graph.output("y", y);
            });
        }
        let padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
        let windows = [
            (Window::POINT, "1x1"),
            (Window::SAME_3X3, "3x3"),
            (Window { kernel: 3, stride: 2, padding: Padding::same(1) }, "3x3 by 2"),
            (Window { kernel: 3, stride: 2, padding }, "3x3 by 2, padded below"),
        ];
        for (window, label) in windows {
            for (batch, height, width, channels, n) in [
                (1, 1, 1, 1, 1),
                (2, 5, 7, 9, 18),
                (3, 9, 4, 70, 33),
                (1, 17, 19, 64, 130),
                (2, 65, 67, 6, 131),
            ] {
                let too_small = window.kernel == 3 && height == 1 && window.padding.top == 0;
                let too_slow = height == 65 && window != Window::SAME_3X3;
                if too_small || too_slow {
                    continue;
                }
                let name =
                    format!("{name} convolution {label} of {batch}x{height}x{width}x{channels} to {n}");
                self.add(name, kind, SUMS, |graph| {
                    let x = graph.input("x", &[batch, height, width, channels]);
                    // With one image, one row for all images; otherwise a row for each image.
                    let time = graph.input("time", &[if batch == 3 { 1 } else { batch }, n]);
                    let y = graph.conv2d("conv", x, n, window, Some(time));
                    let shape = graph.shape(y).to_vec();
                    let residual = graph.input("residual", &shape);
                    let sum = graph.add(y, residual);
                    graph.output("y", sum);
                });
            }
        }
    }

    /// Bytes and integers whose sums are exact in floats: every backend has to compute the same bits.
    fn whole_products(&mut self, weight_type: WeightType) {
        let kind = Kind::Product(weight_type);
        let name = weight_type.name();
        for (m, n, k) in [(1, 1, 8), (37, 50, 64), (70, 35, 200), (129, 130, 130)] {
            self.add(
                format!("{name} product {m}x{n}x{k} of whole numbers"),
                kind,
                Agreement::Exact,
                |graph| {
                    let x = graph.input("x", &[1, m, k]);
                    let y = graph.linear("a", x, n, true);
                    graph.output("y", y);
                },
            );
        }
        let name = format!("{name} convolution of whole numbers");
        self.add(name, kind, Agreement::Exact, |graph| {
            let x = graph.input("x", &[2, 5, 6, 72]);
            let y = graph.conv2d("conv", x, 37, Window::SAME_3X3, None);
            graph.output("y", y);
        });
    }

    /// Ops that round their output to bytes: norms, gates, and upsampling of pixels.
    fn rounded(&mut self, weight_type: WeightType) {
        let kind = Kind::Rounded(weight_type);
        let name = weight_type.name();
        for (height, width, channels) in [(3, 5, 8), (9, 7, 72), (4, 6, 320)] {
            let label = format!("{name} residual block of {height}x{width}x{channels}");
            self.add(label, kind, BYTES, |graph| {
                let x = graph.input("x", &[2, height, width, channels]);
                let time = graph.input("time", &[2, channels]);
                let hidden = graph.group_norm("norm", x, 8, 1e-5, true);
                let hidden = graph.conv2d("conv1", hidden, channels, Window::SAME_3X3, Some(time));
                let large = graph.upsample_nearest(hidden, (2 * height, 2 * width));
                let y = graph.conv2d("conv2", large, 19, Window::SAME_3X3, None);
                graph.output("y", y);
            });
            let label = format!("{name} feed-forward of {height}x{width}x{channels}");
            self.add(label, kind, BYTES, |graph| {
                let x = graph.input("x", &[2, height * width, channels]);
                let hidden = graph.layer_norm("norm", x, 1e-5);
                let hidden = graph.linear("in", hidden, 8 * channels, true);
                let hidden = graph.geglu(hidden);
                let y = graph.linear("out", hidden, channels, true);
                let sum = graph.add(y, x);
                graph.output("y", sum);
            });
        }
        let label = format!("{name} attention");
        self.add(label, kind, INTEGER_ATTENTION, |graph| {
            let x = graph.input("x", &[2, 5, 7, 48]);
            let text = graph.input("text", &[2, 13, 48]);
            let q = graph.linear("q", x, 48, false);
            let k = graph.linear("k", text, 48, false);
            let v = graph.linear("v", text, 48, false);
            let attended = graph.attention(q, k, v, 3, false);
            let y = graph.linear("out", attended, 48, true);
            graph.output("y", y);
        });
    }
}

/// Turns noise into whole numbers from 0 to 255. Every block of 64 channels of a row contains both 0 and 255,
/// so its scale is one.
fn whole_rows(values: &mut [f32], graph: &Graph, tensor: TensorId) {
    let channels = graph.shape(tensor).last().copied().unwrap_or(1);
    for row in values.chunks_mut(channels) {
        for block in row.chunks_mut(64) {
            block.iter_mut().for_each(|value| *value = (127.5 + 127.5 * *value).floor());
            block[0] = 0.0;
            let last = block.len() - 1;
            block[last] = 255.0;
        }
    }
}
