//! One output feature's weights for one input, gathered from a row of a checkpoint and scaled so that squares
//! neither overflow nor underflow.

use sdq_formats::layout::columns::{COLUMN_STEP, Columns};

/// Sums use this many lanes, always in the same order.
pub(super) const LANES: usize = 8;

/// Weights below this are negligible beside any bias or rounding, and their scale would lose precision: a
/// feature with no larger one is stored as zeros. 2^-100.
const NOTHING: f32 = f32::from_bits((127 - 100) << 23);

/// The quality of a feature's integers and scale.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    /// The factor of the integers.
    pub(super) scale: f32,
    /// Sum of squared differences from the source.
    pub(super) squared_error: f64,
    /// Sum of squares of the source.
    pub(super) squared: f64,
}

/// A feature's weights for one input: runs in the order of their columns, each padded with zeros to a
/// multiple of [`COLUMN_STEP`], times a power of two that brings the largest magnitude between 1 and 4. All
/// zero if there is no weight above the threshold.
#[derive(Debug, Default)]
pub(super) struct Feature {
    pub(super) values: Vec<f32>,
    /// Largest magnitude in `values`.
    pub(super) largest: f32,
    /// The factor that turns `values` into the weights: a power of two.
    unit: f32,
    squared: f64,
}

impl Feature {
    /// Reads the weights for `input` from `row`, which has all of a feature's weights in the order of a
    /// checkpoint.
    pub(super) fn gather(&mut self, columns: &Columns, input: usize, row: &[f32]) {
        let width = columns.inputs()[input].next_multiple_of(COLUMN_STEP);
        self.values.clear();
        self.values.resize(columns.taps() * width, 0.0);
        for run in columns.runs().filter(|run| run.input == input) {
            let start = columns.row_major(0, run.tap, run.first_channel);
            let source = row[start..].iter().step_by(columns.taps());
            let values = &mut self.values[run.tap * width..][..run.channels];
            values.iter_mut().zip(source).for_each(|(value, &weight)| *value = weight);
        }
        self.normalise();
    }

    /// Reads a row of a table.
    pub(super) fn take(&mut self, row: &[f32]) {
        self.values.clear();
        self.values.extend_from_slice(row);
        self.values.resize(row.len().next_multiple_of(COLUMN_STEP), 0.0);
        self.normalise();
    }

    fn normalise(&mut self) {
        let mut largest = [0.0_f32; LANES];
        for values in self.values.chunks_exact(LANES) {
            for (largest, value) in largest.iter_mut().zip(values) {
                *largest = largest.max(value.abs());
            }
        }
        let largest = largest.into_iter().fold(0.0, f32::max);
        if largest < NOTHING {
            self.squared = self.values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
            self.values.fill(0.0);
            (self.largest, self.unit) = (0.0, 1.0);
            return;
        }
        // The biased exponent; it is limited so that its inverse is a normal number.
        let exponent = (largest.to_bits() >> 23).min(253);
        self.unit = f32::from_bits(exponent << 23);
        let inverse = f32::from_bits((254 - exponent) << 23);
        let mut squared = [0.0_f32; LANES];
        for values in self.values.chunks_exact_mut(LANES) {
            for (squared, value) in squared.iter_mut().zip(values) {
                *value *= inverse;
                *squared += *value * *value;
            }
        }
        self.largest = largest * inverse;
        self.squared = squared.into_iter().map(f64::from).sum();
    }

    /// The fit at `scale`, which like `squared_error` refers to `values` as they are stored here. `most` is
    /// the largest magnitude that is multiplied by the scale: the product stays finite. At a scale of zero
    /// everything is lost.
    pub(super) fn fit(&self, scale: f32, squared_error: f32, most: f32) -> Fit {
        if scale == 0.0 {
            return Fit { scale, squared_error: self.squared, squared: self.squared };
        }
        // The quotient may have been rounded up, and then its product would overflow.
        let limit = (f32::MAX / most).next_down();
        let unit = f64::from(self.unit) * f64::from(self.unit);
        Fit {
            scale: (scale * self.unit).clamp(-limit, limit),
            squared_error: f64::from(squared_error) * unit,
            squared: self.squared * unit,
        }
    }
}

/// 1.5 * 2^23: floats near it are whole numbers, and their lowest bits count them.
const WHOLE: f32 = 12_582_912.0;

/// Rounds to the nearest integer, ties to even; for magnitudes below 2^22.
pub(super) fn round(value: f32) -> f32 {
    (value + WHOLE) - WHOLE
}

/// The byte of a whole number from -128 to 127, without the checks of a cast.
pub(super) fn byte(whole: f32) -> u8 {
    (whole + WHOLE).to_bits() as u8
}

/// The weight of errors in each column of an input.
#[derive(Debug, Default)]
pub(super) struct Importance {
    /// In the order of [`Feature::values`].
    pub(super) columns: Vec<f32>,
    /// For two neighbouring columns, the second one's share of the sum of both: the part of an excess that is
    /// taken from the first with the least error.
    pub(super) shares: Vec<f32>,
}

impl Importance {
    /// Equal weights for all columns.
    pub(super) fn even(columns: usize) -> Importance {
        Importance { columns: vec![1.0; columns], shares: vec![0.5; columns / 2] }
    }

    /// The weights for every input's columns; `channels` are those of all inputs, equal if `None`.
    ///
    /// # Panics
    /// When the number of `channels` is not that of the columns.
    pub(super) fn of_inputs(columns: &Columns, channels: Option<&[f32]>) -> Vec<Importance> {
        if let Some(channels) = channels {
            assert_eq!(channels.len(), columns.channels(), "one importance for each channel");
        }
        let mut inputs: Vec<Importance> = columns.inputs().iter().map(|_| Importance::default()).collect();
        for run in columns.runs() {
            let laid_out = &mut inputs[run.input].columns;
            match channels {
                Some(channels) => laid_out.extend(&channels[run.first_channel..][..run.channels]),
                None => laid_out.resize(laid_out.len() + run.channels, 1.0),
            }
            // Padding is zero and stays zero, so it adds no error with any weight.
            laid_out.resize(laid_out.len().next_multiple_of(COLUMN_STEP), 0.0);
        }
        for Importance { columns, shares } in &mut inputs {
            shares.extend(columns.chunks_exact(2).map(|pair| {
                let both = pair[0] + pair[1];
                if both > 0.0 { pair[1] / both } else { 0.5 }
            }));
        }
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight of two taps and inputs of 3 and 9 channels: runs of 8 and 16 columns under each tap.
    fn columns() -> Columns {
        Columns::new(2, &[3, 9]).expect("countable columns")
    }

    #[test]
    fn a_row_is_gathered_input_by_input_and_tap_by_tap() {
        // The element of channel c under tap t is 2c + t in the row. The unit is a power of two, so
        // multiplication by it is exact.
        let row: Vec<f32> = (0..24).map(|i| (i + 1) as f32).collect();
        let mut feature = Feature::default();
        for (input, channels, width) in [(0, 0..3, 8), (1, 3..12, 16)] {
            feature.gather(&columns(), input, &row);
            assert_eq!(feature.values.len(), 2 * width);
            for tap in 0..2 {
                let run = &feature.values[tap * width..][..width];
                let found: Vec<f32> = run.iter().map(|value| value * feature.unit).collect();
                let mut expected: Vec<f32> = channels.clone().map(|c| (2 * c + tap + 1) as f32).collect();
                expected.resize(width, 0.0);
                assert_eq!(found, expected, "input {input}, tap {tap}");
            }
        }
    }

    #[test]
    fn values_come_between_one_and_four_without_losing_a_bit() {
        let row = [0.3, -1.0, 0.0, 0.7, 0.11];
        for exponent in [-99, -60, -1, 0, 1, 50, 126, 127] {
            let scaled = row.map(|value: f32| (f64::from(value) * 2f64.powi(exponent)) as f32);
            let mut feature = Feature::default();
            feature.take(&scaled);
            assert!((1.0..4.0).contains(&feature.largest), "2^{exponent}: {}", feature.largest);
            assert_eq!(feature.values.len(), 8);
            let back: Vec<f32> = feature.values[..5].iter().map(|value| value * feature.unit).collect();
            assert_eq!(back, scaled, "2^{exponent}");
            let fit = feature.fit(1.0, 0.0, 1.0);
            let squared: f64 = scaled.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
            assert!((fit.squared - squared).abs() <= 1e-6 * squared, "2^{exponent}");
            assert_eq!(fit.scale, feature.unit);
        }
    }

    #[test]
    fn weights_below_two_to_the_minus_hundred_are_nothing() {
        let least = 2f32.powi(-100);
        let mut feature = Feature::default();
        feature.take(&[least; 3]);
        assert_eq!((feature.largest, feature.unit), (1.0, least));
        feature.take(&[least.next_down(), -1e-35]);
        assert_eq!((feature.largest, &feature.values[..]), (0.0, &[0.0; 8][..]));
        // All of it is lost, so the error equals the sum of squares.
        let fit = feature.fit(0.0, 0.0, 127.0);
        assert!(fit.scale == 0.0 && fit.squared > 0.0 && fit.squared_error == fit.squared, "{fit:?}");
    }

    #[test]
    fn the_largest_product_stays_finite() {
        let mut feature = Feature::default();
        feature.take(&[f32::MAX, -f32::MAX]);
        for most in [1.0, 56.0, 64.0, 127.0] {
            for scale in [feature.largest, -feature.largest, 4.0] {
                let scale = feature.fit(scale, 0.0, most).scale;
                assert!((scale * most).is_finite(), "{scale} {most}");
                assert!((scale * most).abs() > 0.99 * f32::MAX, "{scale} {most}");
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_even_neighbour_and_bytes_keep_the_sign() {
        for quarters in -1024_i16..=1024 {
            let value = f32::from(quarters) / 4.0;
            assert_eq!(round(value), value.round_ties_even(), "{value}");
        }
        for whole in i8::MIN..=i8::MAX {
            assert_eq!(byte(f32::from(whole)), whole as u8);
        }
        // Nibbles with their offset.
        assert!((0_u8..16).all(|half| byte(f32::from(half)) == half));
    }

    #[test]
    fn importance_lies_as_the_columns_do() {
        let channels: Vec<f32> = (0..12).map(|c| c as f32).collect();
        let inputs = Importance::of_inputs(&columns(), Some(&channels));
        let expected = |channels: std::ops::Range<u8>, width: usize| {
            let mut run: Vec<f32> = channels.map(f32::from).collect();
            run.resize(width, 0.0);
            run.repeat(2)
        };
        assert_eq!(inputs[0].columns, expected(0..3, 8));
        assert_eq!(inputs[1].columns, expected(3..12, 16));
        // Channels 0 and 1, then 2 and padding, then padding alone, which is shared evenly.
        assert_eq!(inputs[0].shares[..4], [1.0, 0.0, 0.5, 0.5]);
        assert_eq!(inputs[1].shares[..2], [4.0 / 7.0, 6.0 / 11.0]);

        let even = Importance::of_inputs(&columns(), None);
        assert_eq!(even[0].columns[..8], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(even[0].shares[..3], [0.5, 0.0, 0.5]);
    }

    #[test]
    #[should_panic(expected = "one importance for each channel")]
    fn importance_of_another_length_is_refused() {
        Importance::of_inputs(&columns(), Some(&[1.0; 11]));
    }
}
