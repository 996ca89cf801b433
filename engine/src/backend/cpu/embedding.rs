//! Sums of rows of two tables.

use half::f16;

/// A table `[rows, width]` as it is stored in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) width: usize,
    pub(super) rows: usize,
    pub(super) values: TableValues<'a>,
}

/// Number format of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub(super) enum TableValues<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// Integers, with a scale for each row.
    Q8 {
        values: &'a [i8],
        scales: &'a [f32],
    },
}

impl Table<'_> {
    fn add_row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.width..(row + 1) * self.width;
        match self.values {
            TableValues::F32(values) => out.iter_mut().zip(&values[range]).for_each(|(o, v)| *o += v),
            TableValues::F16(values) => {
                out.iter_mut().zip(&values[range]).for_each(|(o, v)| *o += v.to_f32())
            }
            TableValues::Q8 { values, scales } => {
                let scale = scales[row];
                out.iter_mut().zip(&values[range]).for_each(|(o, v)| *o += scale * f32::from(*v))
            }
        }
    }
}

/// `out[i] = tokens[ids[i]] + positions[i mod length]`, with rows of `words` for ids past the rows of
/// `tokens`. The tokenizer has checked that every id has a row.
pub(super) fn lookup(
    ids: &[f32],
    (tokens, words): (Table, &[f32]),
    positions: Table,
    length: usize,
    out: &mut [f32],
) {
    out.fill(0.0);
    let words =
        Table { width: tokens.width, rows: words.len() / tokens.width, values: TableValues::F32(words) };
    for (index, (id, row)) in ids.iter().zip(out.chunks_exact_mut(tokens.width)).enumerate() {
        match (*id as usize).checked_sub(tokens.rows) {
            None => tokens.add_row(*id as usize, row),
            Some(word) => words.add_row(word, row),
        }
        positions.add_row(index % length, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_of_a_batch_starts_at_position_zero() {
        let tokens = Table { width: 2, rows: 3, values: TableValues::F32(&[0.0, 0.0, 1.0, 2.0, 3.0, 4.0]) };
        let halves = [10.0, 20.0, 30.0, 40.0].map(f16::from_f32);
        let positions = Table { width: 2, rows: 2, values: TableValues::F16(&halves) };
        let mut out = [f32::NAN; 8];
        lookup(&[1.0, 2.0, 0.0, 1.0], (tokens, &[]), positions, 2, &mut out);
        assert_eq!(out, [11.0, 22.0, 33.0, 44.0, 10.0, 20.0, 31.0, 42.0]);
        lookup(&[4.0, 2.0, 3.0, 1.0], (tokens, &[5.0, 6.0, 7.0, 8.0]), positions, 2, &mut out);
        assert_eq!(out, [17.0, 28.0, 33.0, 44.0, 15.0, 26.0, 31.0, 42.0]);
    }

    #[test]
    fn integer_rows_have_scales_of_their_own() {
        let values = TableValues::Q8 { values: &[1, -2, 127, 0], scales: &[0.5, 2.0] };
        let zero = Table { width: 2, rows: 1, values: TableValues::F32(&[0.0, 0.0]) };
        let mut out = [f32::NAN; 4];
        lookup(&[1.0, 0.0], (Table { width: 2, rows: 2, values }, &[]), zero, 1, &mut out);
        assert_eq!(out, [254.0, 0.0, 0.5, -1.0]);
    }
}
