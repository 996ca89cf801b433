//! Values with a shape, as they cross the engine's border.

use crate::Error;

/// f32 values in row-major order. Pictures and latents are `[batch, channels, height, width]`, as in diffusers
/// and in the order in which noise is drawn; inside the graphs channels come last.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    /// `values` under `shape`.
    ///
    /// # Errors
    /// When there are more or fewer values than the shape has places.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Tensor, Error> {
        let places = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        if places == Some(values.len()) {
            return Ok(Tensor { shape, values });
        }
        Err(Error::Request {
            field: "tensor",
            found: format!("{} values", values.len()),
            expected: format!("a filling of {shape:?}"),
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

    /// Tensors `[1, ..]` of one shape as `[n, ..]`.
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

/// `[batch, pixels, channels]` → `[batch, channels, pixels]` in `out`, which is as long.
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
}
