//! Integer products compared with plain arithmetic on the values that the bytes and integers represent.

use half::f16;
use sdq_formats::layout::{
    self, PANEL, WeightData,
    columns::{Columns, GROUP},
    quantized::{multiplier_position, q4_position, q8_position},
};
use sdq_formats::{WeightRole, WeightSpec};

use super::super::reference::{self, Ending, check_everywhere, noise, padded_conv};
use super::super::{ConvShape, Epilogue};
use super::*;
use crate::backend::row_layout::RowLayout;

/// A weight of integers, owned.
#[derive(Clone)]
pub(super) struct Owned {
    spec: WeightSpec,
    columns: Columns,
    values: Vec<u8>,
    multipliers: Option<Vec<u8>>,
    pub(super) scales: Vec<f32>,
}

/// Integers that use the whole range; sums of neighbours reach 128 and -128.
fn q8_integer(seed: f32, column: usize) -> i8 {
    let pairs =
        [[127, 1], [-127, -1], [64, 64], [-100, -28], [127, -127], [0, 128 - 50], [-64, -64], [3, -7]];
    let pair = pairs[((seed + 1.0) * 4.0) as usize % 8];
    pair[column % 2] as i8
}

impl Owned {
    /// `q8` or `q4` weights of `shape` that read `inputs`, with scales of one if `plain`.
    pub(super) fn new(q4: bool, shape: &[usize], inputs: &[usize], plain: bool) -> Owned {
        let role = if shape.len() == 2 { WeightRole::Matrix } else { WeightRole::Conv };
        let inputs = if inputs.len() > 1 { inputs.to_vec() } else { Vec::new() };
        let spec = WeightSpec { inputs, ..WeightSpec::new("w", role, shape) };
        let columns = Columns::of(&spec).unwrap();
        let (n, panels) = (shape[0], shape[0].div_ceil(PANEL));
        let per_panel = columns.padded() * PANEL / if q4 { 2 } else { 1 };
        let mut values = vec![if q4 { 0x88 } else { 0_u8 }; panels * per_panel];
        let mut multipliers = vec![0_u8; panels * columns.groups() * PANEL / 2];
        let seeds = noise(71, n * columns.padded());
        for feature in 0..n {
            let (panel, lane) = (feature / PANEL, feature % PANEL);
            for run in columns.runs() {
                for channel in 0..run.channels {
                    let column = run.start + channel;
                    let seed = seeds[feature * columns.padded() + column / 2];
                    if q4 {
                        let (byte, shift) = q4_position(column, lane);
                        let half = ((seeds[feature * columns.padded() + column] + 1.0) * 7.999) as u8;
                        let byte = &mut values[panel * per_panel + byte];
                        *byte = *byte & !(15 << shift) | half << shift;
                    } else {
                        values[panel * per_panel + q8_position(column, lane)] =
                            q8_integer(seed, column) as u8;
                    }
                }
                for group in 0..run.channels.div_ceil(GROUP) {
                    let (byte, shift) = multiplier_position(run.first_group + group, lane);
                    let multiplier = 1 + ((feature + 3 * group + run.tap) % 8) as u8;
                    multipliers[panel * columns.groups() * PANEL / 2 + byte] |= multiplier << shift;
                }
            }
        }
        let scale = |noise: &f32| if plain { 1.0 } else { 0.01 * (1.5 + noise) };
        let scales = noise(72, columns.inputs().len() * panels * PANEL).iter().map(scale).collect();
        Owned { spec, columns, values, multipliers: q4.then_some(multipliers), scales }
    }

    pub(super) fn matrix(&self) -> QuantizedMatrix<'_> {
        let integers = match &self.multipliers {
            Some(multipliers) => Integers::Q4 { values: &self.values, multipliers },
            None => Integers::Q8(bytemuck::cast_slice(&self.values)),
        };
        QuantizedMatrix::new(self.spec.shape[0], self.columns.clone(), integers, &self.scales)
    }

    /// `[n, tap, channel]`, the values that the integers represent.
    pub(super) fn decoded(&self) -> Vec<f32> {
        let data = match &self.multipliers {
            Some(multipliers) => WeightData::Q4 { values: &self.values, multipliers, scales: &self.scales },
            None => WeightData::Q8 { values: bytemuck::cast_slice(&self.values), scales: &self.scales },
        };
        let row_major = layout::decode(&self.spec, &data);
        let (taps, channels) = (self.columns.taps(), self.columns.channels());
        let element = |n, tap, channel| row_major[self.columns.row_major(n, tap, channel)];
        (0..self.spec.shape[0])
            .flat_map(|n| (0..taps * channels).map(move |k| (n, k / channels, k % channels)))
            .map(|(n, tap, channel)| element(n, tap, channel))
            .collect()
    }
}

/// `x` `[rows, channels]` after rounding to bytes.
pub(super) fn rounded(x: &[f32], layout: &RowLayout) -> Vec<f32> {
    let (values, factors) = reference::quantize_rows(x, layout);
    let mut values = values.into_iter();
    let mut factors = factors.into_iter();
    let mut rounded = Vec::new();
    for _ in 0..x.len() / layout.channels() {
        for (channels, padded) in layout.block_channels() {
            let [scale, offset] = factors.next().unwrap();
            let bytes: Vec<u8> = values.by_ref().take(padded).collect();
            rounded.extend(bytes[..channels.len()].iter().map(|&q| scale * f32::from(q) + offset));
        }
    }
    rounded
}

/// Bytes 0 to 255 with both ends of the range in every block, so that scales are one, offsets zero and all
/// results whole.
fn bytes(rows: usize, layout: &RowLayout) -> Vec<f32> {
    let mut x: Vec<f32> =
        noise(73, rows * layout.channels()).iter().map(|x| ((x + 1.0) * 127.99).floor()).collect();
    for row in x.chunks_exact_mut(layout.channels()) {
        // All bytes are large: the largest possible sums.
        row.iter_mut().skip(1).step_by(2).for_each(|x| *x = 255.0);
        for (channels, _) in layout.block_channels() {
            row[channels.start] = 0.0;
            row[channels.end - 1] = 255.0;
        }
    }
    x
}

pub(super) fn quantized(x: &[f32], layout: &RowLayout, pool: &crate::backend::cpu::pool::Pool) -> Vec<f32> {
    let mut rows = vec![0.0; x.len() / layout.channels() * layout.row_elements()];
    quantize_rows(pool, x, layout, &mut rows);
    rows
}

/// `[m, n]` and the channels of each input: sizes just below and above a panel, a register tile, a group, a
/// block and a slab.
const SHAPES: [(usize, usize, &[usize]); 13] = [
    (1, 1, &[2]),
    (1, 17, &[3]),
    (2, 15, &[8]),
    (3, 33, &[31]),
    (4, 16, &[33]),
    (5, 32, &[64]),
    (6, 31, &[65, 7]),
    (7, 48, &[32, 40]),
    (12, 47, &[129]),
    (13, 20, &[300]),
    (77, 96, &[768]),
    (193, 33, &[640, 321]),
    (3, 17, &[1500]),
];

#[test]
fn whole_numbers_come_out_exactly_on_every_instruction_set() {
    for q4 in [false, true] {
        // Below 500 channels every partial sum is below 2^24, so single precision holds it exactly.
        for (m, n, inputs) in SHAPES.into_iter().filter(|(_, _, inputs)| inputs.iter().sum::<usize>() < 500) {
            let channels = inputs.iter().sum();
            let weight = Owned::new(q4, &[n, channels], inputs, true);
            let layout = RowLayout::new(inputs);
            let x = bytes(m, &layout);
            let expected = reference::matmul(&x, &weight.decoded(), channels);
            check_everywhere(&format!("q4 {q4} {m}x{n}x{inputs:?}"), &expected, 0.0, |pool, out| {
                let x = quantized(&x, &layout, pool);
                matmul_u8s8(pool, &x, &weight.matrix(), m, &Epilogue::default(), out);
            });
        }
    }
}

#[test]
fn product_agrees_with_reference() {
    for q4 in [false, true] {
        for (m, n, inputs) in SHAPES {
            let channels = inputs.iter().sum();
            let weight = Owned::new(q4, &[n, channels], inputs, false);
            let layout = RowLayout::new(inputs);
            let x = noise(74, m * channels);
            let expected = reference::matmul(&rounded(&x, &layout), &weight.decoded(), channels);
            // Weights reach 2.5 and are summed block by block: the contribution of an offset can cancel that
            // of a scale.
            let tolerance = 10.0 * reference::product_tolerance(channels);
            check_everywhere(&format!("q4 {q4} {m}x{n}x{inputs:?}"), &expected, tolerance, |pool, out| {
                let x = quantized(&x, &layout, pool);
                matmul_u8s8(pool, &x, &weight.matrix(), m, &Epilogue::default(), out);
            });
        }
    }
}

fn check_conv(q4: bool, shape: &ConvShape, inputs: &[usize], n: usize) {
    let channels = shape.in_channels;
    let weight = Owned::new(q4, &[n, channels, shape.kernel.0, shape.kernel.1], inputs, false);
    let layout = RowLayout::new(inputs);
    let x = noise(75, shape.batch * shape.in_height * shape.in_width * channels);
    let expected = reference::conv2d(&rounded(&x, &layout), shape, &weight.decoded(), n);
    let tolerance = 10.0 * reference::product_tolerance(weight.columns.padded());
    check_everywhere(&format!("q4 {q4} {shape:?} to {n}"), &expected, tolerance, |pool, out| {
        let x = quantized(&x, &layout, pool);
        conv2d_u8s8(pool, &x, shape, &weight.matrix(), &Epilogue::default(), out);
    });
}

#[test]
fn convolution_agrees_with_reference() {
    for q4 in [false, true] {
        check_conv(q4, &padded_conv(2, (5, 7), 3, 3, 1), &[3], 17);
        check_conv(q4, &padded_conv(2, (4, 4), 320, 3, 1), &[320], 15);
        check_conv(q4, &padded_conv(2, (9, 6), 56, 3, 2), &[36, 20], 33);
        check_conv(q4, &padded_conv(2, (7, 5), 97, 1, 1), &[64, 33], 16);
        check_conv(q4, &padded_conv(2, (1, 1), 9, 3, 1), &[9], 1);
        let corner = ConvShape {
            out_height: 4,
            out_width: 3,
            pad_top: 0,
            pad_left: 0,
            ..padded_conv(2, (8, 6), 20, 3, 2)
        };
        check_conv(q4, &corner, &[20], 18);
    }
}

#[test]
fn epilogue_follows_the_scales() {
    let (batch, rows, n, channels) = (3, 5, 33, 300);
    let m = batch * rows;
    let weight = Owned::new(false, &[n, channels], &[channels], false);
    let layout = RowLayout::new(&[channels]);
    let x = noise(76, m * channels);
    let ending =
        Ending { bias: noise(77, n), channel_bias: noise(78, batch * n), residual: noise(79, m * n) };
    let product = reference::matmul(&rounded(&x, &layout), &weight.decoded(), channels);
    let expected = reference::finish(&product, n, rows, &ending);
    check_everywhere("epilogue", &expected, 10.0 * reference::product_tolerance(channels), |pool, out| {
        let epilogue = Epilogue {
            bias: Some(&ending.bias),
            channel_bias: Some(&ending.channel_bias),
            residual: Some(&ending.residual),
        };
        matmul_u8s8(pool, &quantized(&x, &layout, pool), &weight.matrix(), rows, &epilogue, out);
    });
}

#[test]
fn what_is_not_finite_reaches_the_output() {
    let weight = Owned::new(true, &[17, 100], &[100], false);
    let layout = RowLayout::new(&[100]);
    reference::on_every_pool(|isa, pool| {
        for broken in [f32::NAN, f32::INFINITY, f16::NAN.to_f32()] {
            let mut x = noise(80, 300);
            x[170] = broken;
            let mut out = [0.0; 3 * 17];
            matmul_u8s8(
                pool,
                &quantized(&x, &layout, pool),
                &weight.matrix(),
                3,
                &Epilogue::default(),
                &mut out,
            );
            let finite: Vec<bool> =
                out.chunks_exact(17).map(|row| row.iter().all(|x| x.is_finite())).collect();
            assert_eq!(finite, [true, false, true], "{isa:?}");
        }
    });
}
