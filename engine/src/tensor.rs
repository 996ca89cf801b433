//! Tensors: values with a shape, in the engine's interface.

use crate::Error;

/// f32 values in row-major order. Pictures and latents are `[batch, channels, height, width]`, as in diffusers
/// and in the order in which noise is drawn; inside the graphs channels come last.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    /// A tensor of `values` with `shape`.
    ///
    /// # Errors
    /// When the number of values does not match the shape.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Tensor, Error> {
        let places = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        if places == Some(values.len()) {
            return Ok(Tensor { shape, values });
        }
        Err(Error::Request {
            field: "tensor",
            found: format!("{} values", values.len()),
            expected: format!("as many as the shape {shape:?} has"),
        })
    }

    /// Size of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All values, last axis fastest.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, last axis fastest.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// All values, to change in place.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Stacks tensors `[1, ..]` of one shape to `[n, ..]`.
    pub(crate) fn stack(tensors: &[Tensor]) -> Result<Tensor, Error> {
        let inner = tensors.first().map_or(&[][..], |tensor| &tensor.shape[1..]);
        let values = tensors.iter().flat_map(|tensor| &tensor.values).copied().collect();
        Tensor::new([&[tensors.len()], inner].concat(), values)
    }

    /// The four axes of a picture or of latents.
    ///
    /// # Errors
    /// When there are more or fewer than four, or another number of channels than `channels`.
    pub fn picture_shape(&self, field: &'static str, channels: usize) -> Result<[usize; 4], Error> {
        match *self.shape {
            [batch, c, height, width] if c == channels && !self.values.is_empty() => {
                Ok([batch, c, height, width])
            }
            _ => Err(Error::Request {
                field,
                found: format!("{:?}", self.shape),
                expected: format!("[batch, {channels}, height, width]"),
            }),
        }
    }
}

/// `[batch, channels, pixels]` → `[batch, pixels, channels]`.
pub(crate) fn channels_last(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut swapped = vec![0.0; values.len()];
    swap_inner_axes(values, channels, pixels, &mut swapped);
    swapped
}

/// `[batch, pixels, channels]` → `[batch, channels, pixels]`.
pub(crate) fn channels_first(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut swapped = vec![0.0; values.len()];
    write_channels_first(values, channels, pixels, &mut swapped);
    swapped
}

/// `[batch, pixels, channels]` → `[batch, channels, pixels]` in `out`, which must have the same length.
pub(crate) fn write_channels_first(values: &[f32], channels: usize, pixels: usize, out: &mut [f32]) {
    swap_inner_axes(values, pixels, channels, out);
}

fn swap_inner_axes(values: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    let matrices = values.chunks_exact(rows * columns).zip(out.chunks_exact_mut(rows * columns));
    for (matrix, out) in matrices {
        for (column, out) in out.chunks_exact_mut(rows).enumerate() {
            for (row, value) in out.iter_mut().enumerate() {
                *value = matrix[row * columns + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn channels_move_and_come_back() {
        let first: Vec<f32> = (0..2 * 3 * 4).map(|v| v as f32).collect();
        let last = channels_last(&first, 3, 4);
        assert_eq!(last[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        assert_eq!(last[12..15], [12.0, 16.0, 20.0]);
        assert_eq!(channels_first(&last, 3, 4), first);
    }

    #[test]
    fn a_shape_must_fit_its_values() {
        assert!(Tensor::new(vec![2, 3], vec![0.0; 5]).is_err());
        assert!(Tensor::new(vec![usize::MAX, 2], vec![0.0; 5]).is_err());
        let tensor = Tensor::new(vec![2, 3], vec![0.0; 6]).unwrap();
        assert!(tensor.picture_shape("latents", 3).is_err());
    }

    proptest! {
        /// Compares with explicit indices: the value at `[b, c, p]` is at `[b, p, c]`.
        #[test]
        fn channels_last_are_where_their_indices_say(
            (batch, channels, pixels) in (0..3_usize, 1..5_usize, 1..7_usize),
        ) {
            let first: Vec<f32> = (0..batch * channels * pixels).map(|v| v as f32).collect();
            let last = channels_last(&first, channels, pixels);
            for (index, value) in first.iter().enumerate() {
                let (b, c, p) = (index / (channels * pixels), index / pixels % channels, index % pixels);
                prop_assert_eq!(last[(b * pixels + p) * channels + c], *value);
            }
            prop_assert_eq!(channels_first(&last, channels, pixels), first);
        }
    }

    #[test]
    fn a_shape_that_is_not_filled_is_named() {
        for (shape, values, expected) in [
            (vec![2, 3], 5, "tensor is 5 values, expected as many as the shape [2, 3] has"),
            (vec![2, 3], 7, "tensor is 7 values, expected as many as the shape [2, 3] has"),
            (vec![0, 3], 1, "tensor is 1 values, expected as many as the shape [0, 3] has"),
            (vec![], 0, "tensor is 0 values, expected as many as the shape [] has"),
        ] {
            let error = Tensor::new(shape, vec![0.0; values]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        for (shape, values) in [(vec![], 1), (vec![0, 3], 0), (vec![1, 1, 6], 6)] {
            let tensor = Tensor::new(shape.clone(), vec![0.5; values]).unwrap();
            assert_eq!((tensor.shape(), tensor.values().len()), (shape.as_slice(), values));
        }
    }

    #[test]
    fn tensors_are_stacked_in_their_order() {
        let tensor = |values: &[f32]| Tensor::new(vec![1, 1, values.len()], values.to_vec()).unwrap();
        let stacked = Tensor::stack(&[tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0])]).unwrap();
        assert_eq!((stacked.shape(), stacked.values()), (&[2, 1, 2][..], &[1.0, 2.0, 3.0, 4.0][..]));
        assert!(Tensor::stack(&[tensor(&[1.0]), tensor(&[2.0, 3.0])]).is_err(), "of one shape");
        let none = Tensor::stack(&[]).unwrap();
        assert_eq!((none.shape(), none.values()), (&[0][..], &[][..]));
    }

    #[test]
    fn a_picture_has_four_axes_and_its_channels() {
        let picture = Tensor::new(vec![2, 4, 3, 5], vec![0.0; 120]).unwrap();
        assert_eq!(picture.picture_shape("latents", 4).unwrap(), [2, 4, 3, 5]);
        for (shape, count) in
            [(vec![2, 4, 3, 5], 120), (vec![3, 4, 5], 60), (vec![1, 3, 4, 5, 1], 60), (vec![0, 3, 1, 1], 0)]
        {
            let tensor = Tensor::new(shape.clone(), vec![0.0; count]).unwrap();
            let error = tensor.picture_shape("latents", 3).unwrap_err().to_string();
            assert_eq!(error, format!("latents is {shape:?}, expected [batch, 3, height, width]"));
        }
    }
}
