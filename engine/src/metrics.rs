//! Measures of the difference between two results.

use crate::Picture;

/// Side and standard deviation of [`ssim`]'s window, in pixels.
const SSIM_WINDOW: usize = 11;
const SSIM_SIGMA: f64 = 1.5;
/// `(K L)²` of the two constants that keep [`ssim`]'s quotients finite: K1 = 0.01, K2 = 0.03, L = 255.
const SSIM_LUMINANCE: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const SSIM_CONTRAST: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// `‖found - expected‖ / ‖expected‖`, Euclidean. NaN anywhere gives NaN, which is below no tolerance.
///
/// # Panics
/// When the lengths differ.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "other number of values");
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let norm = square(&mut expected.iter().map(|v| f64::from(*v)));
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

/// Mean squared difference of two 8-bit pictures, in units of 255.
///
/// # Panics
/// When the lengths differ.
pub fn mean_squared_error(found: &[u8], expected: &[u8]) -> f64 {
    assert_eq!(found.len(), expected.len(), "other number of values");
    let squares = found.iter().zip(expected).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
    squares / found.len() as f64
}

/// Peak signal-to-noise ratio of two 8-bit pictures in decibels: `10 lg (255² / mean squared difference)`; infinite
/// where they are equal.
///
/// # Panics
/// When the lengths differ.
pub fn psnr(found: &[u8], expected: &[u8]) -> f64 {
    10.0 * (255.0 * 255.0 / mean_squared_error(found, expected)).log10()
}

/// Mean structural similarity of the luma of two pictures of one size; the maximum, 1, means equality. Wang
/// et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13 and 14, with their window: Gaussian, 11x11, sigma 1.5,
/// only at positions inside the picture. A picture narrower than the window gets one of its own width.
///
/// # Panics
/// When the sizes differ, or the pixels do not fill them.
pub fn ssim(found: &Picture, expected: &Picture) -> f64 {
    let size = (found.width, found.height);
    assert_eq!(size, (expected.width, expected.height), "other size");
    let [a, b] = [found, expected].map(luma);
    assert_eq!([a.len(), b.len()], [size.0 * size.1; 2], "pixels that do not fill the picture");
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let mean = |values: &[f64]| local_means(values, size);
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let (square_a, square_b, cross) =
        (mean(&product(&a, &a)), mean(&product(&b, &b)), mean(&product(&a, &b)));
    let similarity = |at: usize| {
        let (a, b) = (mean_a[at], mean_b[at]);
        let variances = square_a[at] - a * a + square_b[at] - b * b;
        let covariance = cross[at] - a * b;
        (2.0 * a * b + SSIM_LUMINANCE) * (2.0 * covariance + SSIM_CONTRAST)
            / ((a * a + b * b + SSIM_LUMINANCE) * (variances + SSIM_CONTRAST))
    };
    (0..mean_a.len()).map(similarity).sum::<f64>() / mean_a.len() as f64
}

/// Luma by ITU-R BT.601, 0 to 255, not rounded.
fn luma(picture: &Picture) -> Vec<f64> {
    let weigh =
        |rgb: &[u8]| 0.299 * f64::from(rgb[0]) + 0.587 * f64::from(rgb[1]) + 0.114 * f64::from(rgb[2]);
    picture.rgb.chunks_exact(3).map(weigh).collect()
}

/// Weighted means of `values [height, width]` at every position of the window: along rows, then along
/// columns.
fn local_means(values: &[f64], (width, height): (usize, usize)) -> Vec<f64> {
    let (across, down) = (gaussian(width), gaussian(height));
    let columns = width + 1 - across.len();
    let weigh =
        |window: &[f64]| window.iter().zip(&across).map(|(value, weight)| value * weight).sum::<f64>();
    let rows: Vec<f64> =
        values.chunks_exact(width).flat_map(|row| row.windows(across.len()).map(weigh)).collect();
    let at = |row: usize, column: usize| {
        down.iter().enumerate().map(|(i, weight)| weight * rows[(row + i) * columns + column]).sum::<f64>()
    };
    (0..=height - down.len())
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| at(row, column))
        .collect()
}

/// The window along a side of `pixels`; its weights add up to 1.
fn gaussian(pixels: usize) -> Vec<f64> {
    let length = pixels.min(SSIM_WINDOW);
    let middle = (length as f64 - 1.0) / 2.0;
    let weight = |i: usize| (-(i as f64 - middle).powi(2) / (2.0 * SSIM_SIGMA * SSIM_SIGMA)).exp();
    let sum: f64 = (0..length).map(weight).sum();
    (0..length).map(|i| weight(i) / sum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gray(width: usize, height: usize, value: impl Fn(usize, usize) -> u8) -> Picture {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Picture { width, height, rgb: pixels.flat_map(|(x, y)| [value(x, y); 3]).collect() }
    }

    #[test]
    fn errors_of_known_size() {
        assert_eq!(relative_error(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
        assert!(relative_error(&[f32::NAN], &[1.0]).is_nan());
        assert_eq!(mean_squared_error(&[3, 0], &[0, 1]), 5.0);
        assert_eq!(psnr(&[0, 0], &[255, 255]), 0.0);
        assert_eq!(psnr(&[7], &[7]), f64::INFINITY);
        assert!((psnr(&[10, 10, 10], &[10, 11, 10]) - 52.9).abs() < 0.01);
    }

    #[test]
    fn equal_pictures_have_a_similarity_of_one() {
        let picture = gray(23, 17, |x, y| (x * 31 + y * 17) as u8);
        assert!((ssim(&picture, &picture) - 1.0).abs() < 1e-12);
    }

    /// Without contrast only the luminance term is left: `(2ab + C1) / (a² + b² + C1)`.
    #[test]
    fn flat_pictures_differ_by_their_luminance() {
        let (a, b) = (gray(16, 12, |_, _| 100), gray(16, 12, |_, _| 150));
        let expected = (2.0 * 100.0 * 150.0 + 6.5025) / (100.0 * 100.0 + 150.0 * 150.0 + 6.5025);
        assert!((ssim(&a, &b) - expected).abs() < 1e-9, "{}", ssim(&a, &b));
    }

    /// The formula over one window of 3x2, with its weights computed by hand.
    #[test]
    fn a_picture_smaller_than_the_window_is_one_window() {
        let (a, b) = ([10_u8, 200, 30, 40, 50, 90], [20_u8, 180, 30, 10, 60, 250]);
        let e = (-1.0_f64 / 4.5).exp();
        let across = [e / (1.0 + 2.0 * e), 1.0 / (1.0 + 2.0 * e), e / (1.0 + 2.0 * e)];
        let mean = |value: &dyn Fn(usize) -> f64| (0..6).map(|i| 0.5 * across[i % 3] * value(i)).sum::<f64>();
        let (x, y) = (|i: usize| f64::from(a[i]), |i: usize| f64::from(b[i]));
        let (mx, my) = (mean(&x), mean(&y));
        let vx = mean(&|i| (x(i) - mx).powi(2));
        let vy = mean(&|i| (y(i) - my).powi(2));
        let cov = mean(&|i| (x(i) - mx) * (y(i) - my));
        let expected = (2.0 * mx * my + 6.5025) * (2.0 * cov + 58.5225)
            / ((mx * mx + my * my + 6.5025) * (vx + vy + 58.5225));
        let found = ssim(&gray(3, 2, |x, y| a[y * 3 + x]), &gray(3, 2, |x, y| b[y * 3 + x]));
        assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn an_inverted_structure_is_negative() {
        let stripes =
            |phase: usize| gray(32, 32, move |x, _| if (x / 2 + phase).is_multiple_of(2) { 60 } else { 200 });
        assert!(ssim(&stripes(0), &stripes(1)) < -0.8);
    }

    proptest! {
        /// Compares with both sums in two dimensions.
        #[test]
        fn means_are_over_whole_windows((width, height) in (1..16_usize, 1..16_usize), seed in any::<u8>()) {
            let value = |x: usize, y: usize| ((x * 37 + y * 101 + usize::from(seed)) % 256) as f64;
            let values: Vec<f64> = (0..height).flat_map(|y| (0..width).map(move |x| value(x, y))).collect();
            let weights = |side: usize| {
                let length = side.min(11);
                let each = |i: usize| (-(2.0 * i as f64 - (length as f64 - 1.0)).powi(2) / 18.0).exp();
                let sum: f64 = (0..length).map(each).sum();
                (0..length).map(|i| each(i) / sum).collect::<Vec<f64>>()
            };
            let (across, down) = (weights(width), weights(height));
            let found = local_means(&values, (width, height));
            let (columns, rows) = (width + 1 - across.len(), height + 1 - down.len());
            prop_assert_eq!(found.len(), columns * rows);
            for (index, found) in found.iter().enumerate() {
                let (left, top) = (index % columns, index / columns);
                let mut expected = 0.0;
                for (i, weight_down) in down.iter().enumerate() {
                    for (j, weight_across) in across.iter().enumerate() {
                        expected += weight_down * weight_across * value(left + j, top + i);
                    }
                }
                prop_assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
            }
        }

        #[test]
        fn likeness_is_symmetric_and_at_most_one(a in proptest::collection::vec(any::<u8>(), 60), b in proptest::collection::vec(any::<u8>(), 60)) {
            let picture = |rgb: &[u8]| Picture { width: 5, height: 4, rgb: rgb.to_vec() };
            let [there, back] = [ssim(&picture(&a), &picture(&b)), ssim(&picture(&b), &picture(&a))];
            prop_assert!((there - back).abs() < 1e-12 && (-1.0..=1.0).contains(&there), "{} {}", there, back);
            prop_assert_eq!(psnr(&a, &b), psnr(&b, &a));
        }
    }

    /// Doubling every difference subtracts 20 lg 2 decibels; an error of one unit everywhere is 20 lg 255.
    #[test]
    fn decibels_count_differences() {
        let [one, two] = [1, 2].map(|difference| psnr(&[100; 12], &[100 + difference; 12]));
        assert!((one - 20.0 * 255.0_f64.log10()).abs() < 1e-9, "{one}");
        assert!((one - two - 20.0 * 2.0_f64.log10()).abs() < 1e-9, "{two}");
    }

    #[test]
    fn colours_weigh_as_the_eye_has_them() {
        let picture = Picture { width: 3, height: 1, rgb: vec![255, 0, 0, 0, 255, 0, 0, 0, 255] };
        let [red, green, blue] = luma(&picture)[..] else { panic!("three pixels") };
        assert!((red - 76.245).abs() < 1e-9 && (green - 149.685).abs() < 1e-9 && (blue - 29.07).abs() < 1e-9);
    }

    #[test]
    fn an_error_is_relative_to_what_is_expected() {
        assert_eq!(relative_error(&[2.0], &[1.0]), 1.0);
        assert_eq!(relative_error(&[1.0], &[2.0]), 0.5);
        assert_eq!(relative_error(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(relative_error(&[], &[]), 0.0);
        // Squares of f32 that would overflow in f32.
        assert_eq!(relative_error(&[3e30, 0.0], &[0.0, 3e30]), 2.0_f64.sqrt());
    }
}
