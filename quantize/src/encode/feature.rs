//! One output feature's weights for one input, gathered from a row of a checkpoint and brought to a size at which
//! squares neither overflow nor vanish.

use sdq_formats::layout::columns::{COLUMN_STEP, Columns};

/// Sums run in this many lanes, in an order that is always the same.
pub(super) const LANES: usize = 8;

/// Weights below this are nothing beside any bias or rounding, and their scale would lose digits: a feature with no
/// larger one is stored as zeros. 2^-100.
const NOTHING: f32 = f32::from_bits((127 - 100) << 23);

/// How well integers and a scale stand for a feature.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    /// What the integers are multiplied by.
    pub(super) scale: f32,
    /// Sum of squared differences from the source.
    pub(super) squared_error: f64,
    /// Sum of squares of the source.
    pub(super) squared: f64,
}

/// A feature's weights for one input: runs in the order of their columns, each padded with zeros to a multiple of
/// [`COLUMN_STEP`], times a power of two that brings the largest magnitude between 1 and 4. All zero where there is
/// none.
#[derive(Debug, Default)]
pub(super) struct Feature {
    pub(super) values: Vec<f32>,
    /// Largest magnitude in `values`.
    pub(super) largest: f32,
    /// What `values` times it are the weights: a power of two.
    unit: f32,
    squared: f64,
}

impl Feature {
    /// Takes what `row`, all of a feature's weights in the order of a checkpoint, has for `input`.
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

    /// Takes a row of a table.
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
        // The exponent as it stands in the bits; one less than the largest has an inverse that is a normal number.
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

    /// The fit at `scale`, which with `squared_error` belongs to `values` as they are here. `most` is the largest
    /// magnitude that the scale is multiplied by: the product stays finite. At a scale of zero all is lost.
    pub(super) fn fit(&self, scale: f32, squared_error: f32, most: f32) -> Fit {
        if scale == 0.0 {
            return Fit { scale, squared_error: self.squared, squared: self.squared };
        }
        let limit = f32::MAX / most;
        let unit = f64::from(self.unit) * f64::from(self.unit);
        Fit {
            scale: (scale * self.unit).clamp(-limit, limit),
            squared_error: f64::from(squared_error) * unit,
            squared: self.squared * unit,
        }
    }
}

/// 1.5 * 2^23: floats around it are whole numbers, and their lowest bits count up with them.
const WHOLE: f32 = 12_582_912.0;

/// Rounds to the nearest integer, ties to even; for magnitudes below 2^22.
pub(super) fn round(value: f32) -> f32 {
    (value + WHOLE) - WHOLE
}

/// The byte of a whole number from -128 to 127, without the checks of a cast.
pub(super) fn byte(whole: f32) -> u8 {
    (whole + WHOLE).to_bits() as u8
}

/// How much an error matters in each of an input's columns.
#[derive(Debug, Default)]
pub(super) struct Importance {
    /// In the order of [`Feature::values`].
    pub(super) columns: Vec<f32>,
    /// For two neighbouring columns the second one's share of both: the part of what one of them must give up that is
    /// cheapest taken from the first.
    pub(super) shares: Vec<f32>,
}

impl Importance {
    /// The same everywhere.
    pub(super) fn even(columns: usize) -> Importance {
        Importance { columns: vec![1.0; columns], shares: vec![0.5; columns / 2] }
    }

    /// That of every input's columns; `channels` are those of all inputs, even where `None`.
    ///
    /// # Panics
    /// When `channels` are there and not as many as the columns have.
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
            // Padding is zero and stays zero: whatever its importance, it adds no error.
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
