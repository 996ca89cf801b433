//! The arrangement of the columns of a quantized matrix.
//!
//! The columns of one tap of a convolution, or of a whole matrix, are the channels that it reads. They are
//! divided into runs where concatenated inputs meet, and each run is padded to a multiple of [`COLUMN_STEP`],
//! so that a kernel never processes two inputs, or two taps, in one step:
//!
//! ```text
//! tap 0: [channels of input 0, padding][channels of input 1, padding] tap 1: …
//! ```

use crate::weight::{WeightRole, WeightSpec};

/// Columns that a kernel processes at once; runs are padded to a multiple of it.
pub const COLUMN_STEP: usize = 8;

/// Columns of a run that share a multiplier in [`crate::WeightType::Q4`]. The last group of a run may be smaller.
pub const GROUP: usize = 32;

/// The columns of a quantized matrix `[n, taps * channels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    taps: usize,
    inputs: Vec<usize>,
}

/// The channels of one input under one tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the tap in the kernel, row by row.
    pub tap: usize,
    /// Index of the joined input.
    pub input: usize,
    /// The first channel, counted over all inputs.
    pub first_channel: usize,
    /// Number of channels.
    pub channels: usize,
    /// The first column, padding included.
    pub start: usize,
    /// The first group of [`GROUP`] columns.
    pub first_group: usize,
}

impl Columns {
    /// The columns of a matrix or convolution. `None` for other roles, for shapes that do not fit the role,
    /// and where there is only one entry in the inputs or they do not add up to the channels.
    pub fn of(spec: &WeightSpec) -> Option<Columns> {
        let (channels, taps) = match (spec.role, spec.shape.as_slice()) {
            (WeightRole::Matrix, &[_, channels]) => (channels, 1),
            (WeightRole::Conv, &[_, channels, height, width]) => (channels, height.checked_mul(width)?),
            _ => return None,
        };
        if spec.inputs.is_empty() {
            return Columns::new(taps, &[channels]);
        }
        let sum = spec.inputs.iter().try_fold(0_usize, |sum, &input| sum.checked_add(input))?;
        (spec.inputs.len() > 1 && sum == channels).then(|| Columns::new(taps, &spec.inputs))?
    }

    /// The columns of `taps` times the channels of each input. `None` if a number is zero or the number of
    /// padded columns overflows.
    pub fn new(taps: usize, inputs: &[usize]) -> Option<Columns> {
        if taps == 0 || inputs.is_empty() || inputs.contains(&0) {
            return None;
        }
        let padded = inputs
            .iter()
            .try_fold(0_usize, |sum, input| sum.checked_add(input.checked_next_multiple_of(COLUMN_STEP)?))?;
        padded.checked_mul(taps)?;
        Some(Columns { taps, inputs: inputs.to_vec() })
    }

    /// Number of taps.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Channels of each input.
    pub fn inputs(&self) -> &[usize] {
        &self.inputs
    }

    /// Channels of all inputs.
    pub fn channels(&self) -> usize {
        self.inputs.iter().sum()
    }

    /// Number of columns of one tap, padding included.
    pub fn width(&self) -> usize {
        self.inputs.iter().map(|input| input.next_multiple_of(COLUMN_STEP)).sum()
    }

    /// Number of all columns, padding included.
    pub fn padded(&self) -> usize {
        self.taps * self.width()
    }

    /// Number of all groups of [`GROUP`] columns.
    pub fn groups(&self) -> usize {
        self.taps * self.inputs.iter().map(|input| input.div_ceil(GROUP)).sum::<usize>()
    }

    /// The runs, in the order of their columns.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let (mut start, mut first_group) = (0, 0);
        (0..self.taps).flat_map(move |tap| {
            let mut first_channel = 0;
            let runs = self.inputs.iter().enumerate().map(|(input, &channels)| {
                let run = Run { tap, input, first_channel, channels, start, first_group };
                first_channel += channels;
                start += channels.next_multiple_of(COLUMN_STEP);
                first_group += channels.div_ceil(GROUP);
                run
            });
            runs.collect::<Vec<_>>()
        })
    }

    /// The row-major index in a checkpoint of output feature `n`'s element for `channel` under `tap`.
    pub fn row_major(&self, n: usize, tap: usize, channel: usize) -> usize {
        (n * self.channels() + channel) * self.taps + tap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_taps_and_inputs() {
        let columns = Columns::new(2, &[40, 3]).unwrap();
        assert_eq!(
            (columns.channels(), columns.width(), columns.padded(), columns.groups()),
            (43, 48, 96, 6)
        );
        let run = |tap, input, first_channel, channels, start, first_group| Run {
            tap,
            input,
            first_channel,
            channels,
            start,
            first_group,
        };
        assert_eq!(
            columns.runs().collect::<Vec<_>>(),
            [
                run(0, 0, 0, 40, 0, 0),
                run(0, 1, 40, 3, 40, 2),
                run(1, 0, 0, 40, 48, 3),
                run(1, 1, 40, 3, 88, 5)
            ]
        );
        assert_eq!(columns.row_major(2, 1, 42), (2 * 43 + 42) * 2 + 1);
    }

    #[test]
    fn uncountable_columns_are_refused() {
        assert_eq!(Columns::new(0, &[8]), None);
        assert_eq!(Columns::new(1, &[]), None);
        assert_eq!(Columns::new(1, &[usize::MAX]), None);
        assert_eq!(Columns::new(usize::MAX, &[8]), None);
    }
}
