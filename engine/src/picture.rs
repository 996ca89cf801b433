//! Conversion between pictures and tensors.

pub use sdq_formats::picture::Picture;

use crate::{Error, tensor::Tensor};

/// A picture from the output of `stage`, `[height, width, 3]` in -1..=1. Values outside this range are
/// clamped.
///
/// # Errors
/// When a value is NaN or infinite: the result of a damaged model must not become a black picture.
pub(crate) fn from_pixels(
    stage: &str,
    pixels: &[f32],
    width: usize,
    height: usize,
) -> Result<Picture, Error> {
    if pixels.iter().any(|value| !value.is_finite()) {
        return Err(Error::NotFinite { stage: stage.to_owned() });
    }
    // Rounds half to even, as numpy does in diffusers' postprocessing.
    let to_byte = |value: &f32| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    Ok(Picture { width, height, rgb: pixels.iter().map(to_byte).collect() })
}

/// `picture` as an encoder's input: `[1, 3, height, width]` in -1..=1.
///
/// # Errors
/// When `rgb` does not hold `width * height * 3` values.
pub(crate) fn to_tensor(picture: &Picture) -> Result<Tensor, Error> {
    let values: Vec<f32> = picture.rgb.iter().map(|&byte| f32::from(byte) / 255.0 * 2.0 - 1.0).collect();
    let planes = match picture.width.checked_mul(picture.height) {
        Some(pixels) if pixels > 0 => crate::tensor::channels_first(&values, 3, pixels),
        _ => values,
    };
    Tensor::new(vec![1, 3, picture.height, picture.width], planes)
}

/// The part of a picture to redraw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `[height, width]`: pixels with 128 and more are redrawn, the others are kept.
    pub values: Vec<u8>,
}

impl Mask {
    /// The smallest value that is redrawn: one half, as diffusers' mask processor rounds.
    const DRAWN: u8 = 128;

    /// Whether pixel `index`, in row-major order, is redrawn.
    pub(crate) fn is_drawn(&self, index: usize) -> bool {
        self.values[index] >= Mask::DRAWN
    }

    /// Whether no pixel is redrawn.
    pub fn draws_nothing(&self) -> bool {
        self.values.iter().all(|value| *value < Mask::DRAWN)
    }

    /// The mask for latents of `height x width`, 1 where they are redrawn, `[height, width]`: the value of
    /// the nearest pixel up and to the left of each, as in PyTorch's `interpolate`. The mask's height and
    /// width are multiples of the latents'.
    pub(crate) fn of_latents(&self, (height, width): (usize, usize)) -> Vec<f32> {
        let (down, right) = (self.height / height, self.width / width);
        let pixel = |index: usize| (index / width * down) * self.width + index % width * right;
        (0..height * width).map(|index| f32::from(u8::from(self.is_drawn(pixel(index))))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_shrink_to_the_pixel_at_the_corner() {
        let values = vec![0, 255, 127, 0, 255, 255, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0];
        let mask = Mask { width: 4, height: 4, values };
        assert_eq!(mask.of_latents((2, 2)), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(mask.of_latents((4, 2))[2..4], [1.0, 0.0]);
    }

    #[test]
    fn pixels_are_clamped_and_rounded_half_to_even() {
        // 0.5 / 255 and 1.5 / 255 in the decoder's range.
        let half = |n: f32| (n + 0.5) / 255.0 * 2.0 - 1.0;
        let picture = from_pixels("a test", &[-2.0, 0.0, 2.0, half(0.0), half(2.0), 1.0], 2, 1).unwrap();
        assert_eq!(picture.rgb, [0, 128, 255, 0, 2, 255]);
    }

    #[test]
    fn a_value_that_is_not_a_number_is_noticed() {
        assert!(from_pixels("a test", &[0.0, f32::NAN, 0.0], 1, 1).is_err());
    }

    #[test]
    fn tensor_and_back() {
        let picture = Picture { width: 2, height: 2, rgb: (0..12).map(|v| v * 21).collect() };
        let tensor = to_tensor(&picture).unwrap();
        assert_eq!(tensor.shape(), [1, 3, 2, 2]);
        let pixels = crate::tensor::channels_last(tensor.values(), 3, 4);
        assert_eq!(from_pixels("a test", &pixels, 2, 2).unwrap(), picture);
        assert!(to_tensor(&Picture { width: 3, ..picture }).is_err());
    }

    #[test]
    fn every_byte_comes_back() {
        let rgb: Vec<u8> = (0..=255).chain(0..=1).collect();
        let picture = Picture { width: 86, height: 1, rgb };
        let tensor = to_tensor(&picture).unwrap();
        let pixels = crate::tensor::channels_last(tensor.values(), 3, 86);
        assert_eq!((pixels[0], pixels[255]), (-1.0, 1.0), "the ends are exact");
        assert_eq!(from_pixels("a test", &pixels, 86, 1).unwrap(), picture);
    }

    #[test]
    fn damage_is_noticed_anywhere_and_named_by_its_stage() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..6 {
                let mut pixels = [0.0; 6];
                pixels[place] = value;
                let error = from_pixels("the VAE decoder", &pixels, 2, 1).unwrap_err().to_string();
                assert!(error.starts_with("the VAE decoder produced values that are not finite"), "{error}");
            }
        }
        assert_eq!(from_pixels("a test", &[f32::MAX, f32::MIN, -0.0], 1, 1).unwrap().rgb, [255, 0, 128]);
    }

    #[test]
    fn pixels_that_do_not_fill_a_picture_are_refused() {
        let picture = |width, height, len| Picture { width, height, rgb: vec![0; len] };
        for wrong in [
            picture(2, 2, 11),
            picture(2, 2, 13),
            picture(0, 1, 3),
            picture(usize::MAX, 2, 6),
            picture(1, 1, 0),
        ] {
            assert!(to_tensor(&wrong).is_err(), "{}x{} of {}", wrong.width, wrong.height, wrong.rgb.len());
        }
    }

    #[test]
    fn half_and_more_of_a_mask_is_drawn() {
        let mask = Mask { width: 256, height: 1, values: (0..=255).collect() };
        for value in 0..256 {
            assert_eq!(mask.is_drawn(value), value >= 128, "{value}");
        }
        // At scale 1, the mask of the latents is the mask.
        let drawn: Vec<f32> = (0..256).map(|value| f32::from(u8::from(value >= 128))).collect();
        assert_eq!(mask.of_latents((1, 256)), drawn);
        assert_eq!(mask.of_latents((1, 2)), [0.0, 1.0]);
    }
}
