//! The same arithmetic element by element, and its difference from the convolution that it approximates.

use super::super::super::reference::{self, Ending, check_everywhere, noise, padded_conv};
use super::super::tests::{Owned, quantized, rounded};
use super::*;

/// `Bᵀ`, `2G`, `Aᵀ`
const PATCH_MATRIX: [[i32; 4]; 4] = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]];
const FILTER_MATRIX: [[i32; 3]; 4] = [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]];
const OUT_MATRIX: [[i32; 4]; 2] = [[1, 1, 1, 0], [0, 1, -1, -1]];

/// The points of a convolution's filters after rounding to bytes, `[n, point, channel]`, and these bytes.
fn filter_points(weight: &Owned, n: usize, inputs: &[usize]) -> (Vec<f64>, Vec<i8>) {
    let channels: usize = inputs.iter().sum();
    // Whole numbers: the scales are applied at the end.
    let mut plain = weight.clone();
    plain.scales.fill(1.0);
    let taps = plain.decoded();
    let (mut points, mut bytes) = (vec![0.0; n * POINTS * channels], vec![0; n * POINTS * channels]);
    for feature in 0..n {
        for point in 0..POINTS {
            let (row, column) = (point / 4, point % 4);
            let value = |channel: usize| -> i32 {
                let product = |tap: usize| {
                    let weight = taps[(feature * TAPS + tap) * channels + channel] as i32;
                    FILTER_MATRIX[row][tap / 3] * weight * FILTER_MATRIX[column][tap % 3]
                };
                (0..TAPS).map(product).sum()
            };
            let mut first = 0;
            for (input, &length) in inputs.iter().enumerate() {
                let values: Vec<i32> = (first..first + length).map(value).collect();
                let sums = values.chunks(2).map(|pair| pair.iter().sum::<i32>().abs());
                let most = values.iter().map(|value| value.abs()).chain(sums).max().unwrap().max(1);
                let reciprocal = ((127 << 13) / most).min(i32::from(i16::MAX));
                let panels = n.div_ceil(PANEL);
                let scale = f64::from(weight.scales[input * panels * PANEL + feature]);
                for (i, value) in values.iter().enumerate() {
                    let rounded = (f64::from(value * reciprocal) / f64::from(1 << 13) + 0.5).floor();
                    let at = (feature * POINTS + point) * channels + first + i;
                    bytes[at] = rounded as i8;
                    points[at] = scale * rounded * f64::from(1 << 13) / f64::from(4 * reciprocal);
                }
                first += length;
            }
        }
    }
    (points, bytes)
}

/// The points of the patch whose output pixels begin at `(y, x)`, `[point, channel]`, each run of at most 128
/// channels of an input rounded to bytes; and these bytes with their factors.
fn patch_points(
    x: &[f32],
    shape: &ConvShape,
    inputs: &[usize],
    (image, y, x_pixel): (usize, usize, usize),
) -> (Vec<f64>, Vec<u8>, Vec<[f32; 2]>) {
    let channels = shape.in_channels;
    let pixel = |row: usize, column: usize, channel: usize| {
        let (y, x_pixel) =
            ((y + row).wrapping_sub(shape.pad_top), (x_pixel + column).wrapping_sub(shape.pad_left));
        if y >= shape.in_height || x_pixel >= shape.in_width {
            return 0.0;
        }
        x[((image * shape.in_height + y) * shape.in_width + x_pixel) * channels + channel]
    };
    let (mut points, mut bytes, mut factors) = (Vec::new(), Vec::new(), Vec::new());
    for point in 0..POINTS {
        let combine = |matrix: [i32; 4], at: &dyn Fn(usize) -> f32| -> f32 {
            // Two of the four terms are zero.
            let mut terms = (0..4).filter(|&i| matrix[i] != 0).map(|i| matrix[i] as f32 * at(i));
            terms.next().unwrap() + terms.next().unwrap()
        };
        let value = |channel: usize| {
            let column = |column: usize| combine(PATCH_MATRIX[point / 4], &|row| pixel(row, column, channel));
            combine(PATCH_MATRIX[point % 4], &column)
        };
        let mut first = 0;
        for &length in inputs {
            let values: Vec<f32> = (first..first + length).map(value).collect();
            for block in values.chunks(128) {
                let (block_bytes, [scale, offset]) = reference::quantize_block(block);
                let back = |&q: &u8| f64::from(scale) * f64::from(q) + f64::from(offset);
                points.extend(block_bytes.iter().map(back));
                bytes.extend(block_bytes);
                factors.push([scale, offset]);
            }
            first += length;
        }
    }
    (points, bytes, factors)
}

/// The convolution of `x`, `[pixels, channels]` after rounding to bytes.
fn convolution(x: &[f32], shape: &ConvShape, inputs: &[usize], weight: &Owned, n: usize) -> Vec<f64> {
    let channels = shape.in_channels;
    let (filters, _) = filter_points(weight, n, inputs);
    let mut out = vec![0.0; shape.batch * shape.out_height * shape.out_width * n];
    for image in 0..shape.batch {
        for y in (0..shape.out_height).step_by(2) {
            for x_pixel in (0..shape.out_width).step_by(2) {
                let (patch, ..) = patch_points(x, shape, inputs, (image, y, x_pixel));
                for feature in 0..n {
                    let sums: Vec<f64> = (0..POINTS)
                        .map(|point| {
                            let filter = &filters[(feature * POINTS + point) * channels..][..channels];
                            let patch = &patch[point * channels..][..channels];
                            filter.iter().zip(patch).map(|(a, b)| a * b).sum()
                        })
                        .collect();
                    for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        if y + i >= shape.out_height || x_pixel + j >= shape.out_width {
                            continue;
                        }
                        let term = |point: usize| {
                            f64::from(OUT_MATRIX[i][point / 4] * OUT_MATRIX[j][point % 4]) * sums[point]
                        };
                        let pixel = (image * shape.out_height + y + i) * shape.out_width + x_pixel + j;
                        out[pixel * n + feature] = (0..POINTS).map(term).sum();
                    }
                }
            }
        }
    }
    out
}

fn run(pool: &Pool, x: &[f32], shape: &ConvShape, weight: &Owned, epilogue: &Epilogue, out: &mut [f32]) {
    let matrix = weight.matrix();
    assert!(can(&matrix), "the kernel reads the weight");
    let x = quantized(x, &matrix.layout, pool);
    conv2d_winograd_u8s8(pool, matrix.layout.split(&x), shape, &matrix, epilogue, out);
}

/// Odd sizes, one and several inputs, full and partial blocks and slabs, features that end within a panel,
/// padding on all sides, on two sides and wider than the kernel.
fn shapes() -> Vec<(ConvShape, &'static [usize], usize)> {
    let corner = ConvShape { pad_top: 0, pad_left: 0, ..padded_conv(1, (4, 6), 32, 3, 1) };
    let wide = ConvShape {
        out_height: 9,
        out_width: 8,
        pad_top: 4,
        pad_left: 3,
        ..padded_conv(1, (3, 2), 16, 3, 1)
    };
    vec![
        (padded_conv(2, (5, 7), 16, 3, 1), &[16], 17),
        (padded_conv(1, (1, 1), 48, 3, 1), &[48], 1),
        (padded_conv(1, (2, 9), 208, 3, 1), &[208], 33),
        (padded_conv(3, (4, 4), 192, 3, 1), &[144, 48], 32),
        (padded_conv(1, (3, 5), 1296, 3, 1), &[640, 656], 15),
        (padded_conv(2, (30, 9), 64, 3, 1), &[64], 48),
        (corner, &[32], 16),
        (wide, &[16], 20),
    ]
}

#[test]
fn agrees_with_its_arithmetic() {
    for q4 in [false, true] {
        for (shape, inputs, n) in shapes() {
            let weight = Owned::new(q4, &[n, shape.in_channels, 3, 3], inputs, false);
            let x = noise(91, shape.batch * shape.in_height * shape.in_width * shape.in_channels);
            let bytes = rounded(&x, &weight.matrix().layout);
            let expected = convolution(&bytes, &shape, inputs, &weight, n);
            // Sixteen points are summed, and weights reach 2.5.
            let tolerance = 40.0 * reference::product_tolerance(TAPS * shape.in_channels);
            check_everywhere(&format!("q4 {q4} {shape:?} to {n}"), &expected, tolerance, |pool, out| {
                run(pool, &x, &shape, &weight, &Epilogue::default(), out);
            });
        }
    }
}

#[test]
fn every_instruction_set_finds_the_same_bytes() {
    struct TransformAll<'a>(&'a Picture<'a>, &'a mut [SlabRow], &'a mut [SlabFactors], usize);
    impl SimdOp for TransformAll<'_> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd>(self, isa: S) {
            let mut transformed = vec![[0.0; LANES]; patches::TRANSFORMED];
            let across = self.0.shape.out_width.div_ceil(2);
            for patch in 0..self.3 {
                let at = (2 * (patch / across), 2 * (patch % across));
                let rows = (&mut self.1[patch..], &mut self.2[patch..], self.3);
                self.0.transform(isa, (0, at), &mut transformed, rows);
            }
        }
    }
    for (q4, (shape, inputs, n)) in
        [false, true].into_iter().flat_map(|q4| shapes().into_iter().map(move |s| (q4, s)))
    {
        let channels = shape.in_channels;
        let weight = Owned::new(q4, &[n, channels, 3, 3], inputs, false);
        let matrix = weight.matrix();
        let (_, expected) = filter_points(&weight, n, inputs);
        let x = noise(92, shape.batch * shape.in_height * shape.in_width * channels);
        let x_bytes = rounded(&x, &matrix.layout);
        let across = shape.out_width.div_ceil(2);
        let patches = shape.out_height.div_ceil(2) * across;
        reference::on_every_pool(|isa, pool| {
            let mut lines = vec![[0.0; LANES]; n.div_ceil(PANEL) * FilterLines::new(&matrix).panel()];
            let filters = Filters::transform(pool, &matrix, 0..n.div_ceil(PANEL), &mut lines);
            for (i, &expected) in expected.iter().enumerate() {
                let (feature, point, channel) = (i / channels / POINTS, i / channels % POINTS, i % channels);
                let quads = filters.at(feature / PANEL, point).quads;
                let found = quads[channel / 4][feature % PANEL * 4 + channel % 4];
                assert_eq!(found, expected, "{isa:?}: feature {feature}, point {point}, channel {channel}");
                if channel % 2 == 1 {
                    let neighbour = quads[channel / 4][feature % PANEL * 4 + channel % 4 - 1];
                    assert!((i32::from(found) + i32::from(neighbour)).abs() <= 128, "{isa:?}: a pair");
                }
            }

            let x = quantized(&x, &matrix.layout, pool);
            let (values, factors) = matrix.layout.split(&x);
            let picture = Picture { values, factors, layout: &matrix.layout, shape: &shape };
            let slab_count = slabs(&matrix.layout).count();
            let mut rows = vec![[0; size_of::<SlabRow>()]; POINTS * slab_count * patches];
            let mut row_factors: Vec<SlabFactors> = vec![Default::default(); rows.len()];
            isa.dispatch(TransformAll(&picture, &mut rows, &mut row_factors, patches));
            for patch in 0..patches {
                let at = (0, 2 * (patch / across), 2 * (patch % across));
                let (_, bytes, factors) = patch_points(&x_bytes, &shape, inputs, at);
                let (mut bytes, mut factors) = (bytes.as_slice(), factors.as_slice());
                for point in 0..POINTS {
                    for (index, slab) in slabs(&matrix.layout).enumerate() {
                        let row = (point * slab_count + index) * patches + patch;
                        let columns: usize = slab.iter().map(|block| block.columns.len()).sum();
                        let blocks = slab.len().div_ceil(BLOCK_PAIR);
                        assert_eq!(
                            rows[row][..columns],
                            bytes[..columns],
                            "{isa:?}: patch {patch}, point {point}"
                        );
                        assert_eq!(row_factors[row][..blocks], factors[..blocks], "{isa:?}: patch {patch}");
                        (bytes, factors) = (&bytes[columns..], &factors[blocks..]);
                    }
                }
            }
        });
    }
}

/// Measures the accuracy that is given up for speed: compared with the convolution of the same bytes and
/// weights tap by tap, for pictures of independent pixels and for smooth ones.
#[test]
fn is_near_the_convolution_it_stands_for() {
    let (n, channels) = (128, 256);
    let shape = padded_conv(1, (12, 12), channels, 3, 1);
    let weight = Owned::new(false, &[n, channels, 3, 3], &[channels], false);
    let rough = noise(93, 12 * 12 * channels);
    let smooth: Vec<f32> = (0..12 * 12 * channels)
        .map(|i| {
            let (pixel, channel) = (i / channels, i % channels);
            (0.2 * (pixel / 12) as f32 + 0.1 * (pixel % 12) as f32 + channel as f32).sin()
        })
        .collect();
    for (name, x, bound) in [("rough", rough, 0.016), ("smooth", smooth, 0.011)] {
        let expected = reference::conv2d(&rounded(&x, &weight.matrix().layout), &shape, &weight.decoded(), n);
        reference::on_every_pool(|isa, pool| {
            let mut out = vec![0.0; expected.len()];
            run(pool, &x, &shape, &weight, &Epilogue::default(), &mut out);
            let difference: f64 = out.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
            let error = (difference / expected.iter().map(|value| value * value).sum::<f64>()).sqrt();
            assert!((1e-4..bound).contains(&error), "{isa:?}, {name}: {error}");
        });
    }
}

#[test]
fn the_end_of_a_product_follows() {
    let (shape, n) = (padded_conv(2, (5, 6), 32, 3, 1), 33);
    let (pixels, rows) = (2 * 5 * 6, 5 * 6);
    let weight = Owned::new(false, &[n, 32, 3, 3], &[32], false);
    let x = noise(94, pixels * 32);
    let ending =
        Ending { bias: noise(95, n), channel_bias: noise(96, 2 * n), residual: noise(97, pixels * n) };
    let product = convolution(&rounded(&x, &weight.matrix().layout), &shape, &[32], &weight, n);
    let expected = reference::finish(&product, n, rows, &ending);
    check_everywhere("ending", &expected, 40.0 * reference::product_tolerance(TAPS * 32), |pool, out| {
        let epilogue = Epilogue {
            bias: Some(&ending.bias),
            channel_bias: Some(&ending.channel_bias),
            residual: Some(&ending.residual),
        };
        run(pool, &x, &shape, &weight, &epilogue, out);
    });
}

#[test]
fn what_is_not_finite_reaches_the_output() {
    let shape = padded_conv(1, (6, 6), 128, 3, 1);
    let weight = Owned::new(false, &[16, 128, 3, 3], &[128], false);
    reference::on_every_pool(|isa, pool| {
        let mut x = noise(98, 6 * 6 * 128);
        x[70] = f32::NAN;
        let mut out = vec![0.0; 6 * 6 * 16];
        run(pool, &x, &shape, &weight, &Epilogue::default(), &mut out);
        // Only the first patch reads the pixel.
        for (pixel, values) in out.chunks_exact(16).enumerate() {
            let finite = pixel / 6 >= 2 || pixel % 6 >= 2;
            assert!(values.iter().all(|value| value.is_finite() == finite), "{isa:?}: pixel {pixel}");
        }
    });
}

#[test]
fn many_features_are_done_in_passes() {
    let (shape, n, channels) = (padded_conv(1, (2, 3), 1296, 3, 1), 528, 1296);
    let weight = Owned::new(false, &[n, channels, 3, 3], &[channels], false);
    let x = noise(99, 2 * 3 * channels);
    let expected = convolution(&rounded(&x, &weight.matrix().layout), &shape, &[channels], &weight, n);
    check_everywhere(
        "passes",
        &expected,
        40.0 * reference::product_tolerance(TAPS * channels),
        |pool, out| {
            assert!(
                Division::new(pool, &shape, &weight.matrix()).panels < n.div_ceil(PANEL),
                "more than one pass"
            );
            run(pool, &x, &shape, &weight, &Epilogue::default(), out);
        },
    );
}
