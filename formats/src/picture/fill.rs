//! Scaling a picture until it covers a size.

use image::{
    GenericImageView as _, ImageBuffer, Rgb,
    imageops::{FilterType, crop_imm, resize},
};

use super::{MAX_BYTES, Picture, PictureProblem};

/// How far a picture may be longer than the size that it is to cover before its ends are cut off unscaled. Far enough from
/// what remains in the end that the filter, three lobes wide, does not see the cut in any picture of usual shape.
const MAX_SURPLUS: u64 = 4;

/// Bytes of a pixel between scaling in one direction and the other: four f32.
const BETWEEN_BYTES: u64 = 16;

/// A place and a size, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Picture {
    /// The picture scaled, by Lanczos' filter of three lobes, until it covers `width x height`, and cut to it about its
    /// middle.
    ///
    /// # Errors
    /// [`PictureProblem::TooLarge`] where scaling takes more than [`MAX_BYTES`], and [`PictureProblem::Size`] when `rgb` does
    /// not fit the sides or a side is zero.
    pub fn fill(&self, width: usize, height: usize) -> Result<Picture, PictureProblem> {
        self.fill_within(width, height, MAX_BYTES)
    }

    /// [`Picture::fill`] in at most `max_bytes` of memory beside that of the picture.
    ///
    /// # Errors
    /// As [`Picture::fill`].
    pub fn fill_within(
        &self,
        width: usize,
        height: usize,
        max_bytes: u64,
    ) -> Result<Picture, PictureProblem> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let (source, own, target) = self.to_scale(width, height)?;
        let kept = kept(own, target);
        let scaled = covering((kept.width, kept.height), target);
        check_bytes(own, kept, scaled, max_bytes)?;
        let source = source.view(kept.left, kept.top, kept.width, kept.height);
        let scaled = resize(&*source, scaled.0, scaled.1, FilterType::Lanczos3);
        let (left, top) = ((scaled.width() - target.0) / 2, (scaled.height() - target.1) / 2);
        let filled = crop_imm(&scaled, left, top, target.0, target.1).to_image();
        Ok(Picture { width, height, rgb: filled.into_raw() })
    }

    /// The whole picture scaled to `width x height`, whatever its proportions are.
    ///
    /// # Errors
    /// As [`Picture::fill`].
    pub fn stretch(&self, width: usize, height: usize) -> Result<Picture, PictureProblem> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let (source, own, target) = self.to_scale(width, height)?;
        check_bytes(own, Area { left: 0, top: 0, width: own.0, height: own.1 }, target, MAX_BYTES)?;
        let scaled = resize(&source, target.0, target.1, FilterType::Lanczos3);
        Ok(Picture { width, height, rgb: scaled.into_raw() })
    }

    /// The whole picture scaled until it fits into `width x height`, in the middle; its outermost pixels are repeated up to
    /// the edges.
    ///
    /// # Errors
    /// As [`Picture::fill`].
    pub fn fit(&self, width: usize, height: usize) -> Result<Picture, PictureProblem> {
        // Checks all sides.
        self.to_scale(width, height)?;
        let own = (self.width as f64, self.height as f64);
        let ratio = (width as f64 / own.0).min(height as f64 / own.1);
        let side = |own: f64, most: usize| ((own * ratio).round() as usize).clamp(1, most);
        let inner = self.stretch(side(own.0, width), side(own.1, height))?;
        let (left, top) = ((width - inner.width) / 2, (height - inner.height) / 2);
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let row = y.saturating_sub(top).min(inner.height - 1) * inner.width;
            for x in 0..width {
                let start = 3 * (row + x.saturating_sub(left).min(inner.width - 1));
                rgb.extend_from_slice(&inner.rgb[start..start + 3]);
            }
        }
        Ok(Picture { width, height, rgb })
    }

    /// The pixels to be scaled, their size, and the size to be reached.
    #[expect(clippy::type_complexity, reason = "a view of the pixels and two sizes")]
    fn to_scale(
        &self,
        width: usize,
        height: usize,
    ) -> Result<(ImageBuffer<Rgb<u8>, &[u8]>, (u32, u32), (u32, u32)), PictureProblem> {
        let wrong_size =
            || PictureProblem::Size { width: self.width, height: self.height, found: self.rgb.len() };
        let side = |pixels: usize| u32::try_from(pixels).ok().filter(|&side| side > 0).ok_or_else(wrong_size);
        let own = (side(self.width)?, side(self.height)?);
        let target = (side(width)?, side(height)?);
        let source = ImageBuffer::from_raw(own.0, own.1, &*self.rgb).ok_or_else(wrong_size)?;
        Ok((source, own, target))
    }
}

/// Refuses to scale where it takes more than `max_bytes`.
fn check_bytes(
    own: (u32, u32),
    kept: Area,
    scaled: (u32, u32),
    max_bytes: u64,
) -> Result<(), PictureProblem> {
    let needed = scaling_bytes(kept, scaled);
    if needed > max_bytes {
        return Err(PictureProblem::TooLarge { width: own.0, height: own.1, needed, limit: max_bytes });
    }
    Ok(())
}

/// The part of a picture of size `own` that is scaled to cover `target`: its middle, at most [`MAX_SURPLUS`] times as long
/// as the part that is seen in the end.
fn kept(own: (u32, u32), target: (u32, u32)) -> Area {
    // Sides whose proportion is the target's, as long as the other side allows, and not less than a pixel.
    let longest = |own: u32, other: u32, target: u32, other_target: u32| {
        let seen = (u64::from(other) * u64::from(target)).div_ceil(u64::from(other_target));
        u64::from(own).min((MAX_SURPLUS * seen).max(1)) as u32
    };
    let width = longest(own.0, own.1, target.0, target.1);
    let height = longest(own.1, own.0, target.1, target.0);
    Area { left: (own.0 - width) / 2, top: (own.1 - height) / 2, width, height }
}

/// The size in which a picture of size `own` covers `target`.
fn covering(own: (u32, u32), target: (u32, u32)) -> (u32, u32) {
    let ratio = (f64::from(target.0) / f64::from(own.0)).max(f64::from(target.1) / f64::from(own.1));
    let side = |own: u32, target: u32| ((f64::from(own) * ratio).round() as u32).max(target);
    (side(own.0, target.0), side(own.1, target.1))
}

/// Bytes that scaling takes: the pixels between the two directions and those at the end.
fn scaling_bytes(kept: Area, scaled: (u32, u32)) -> u64 {
    let between = u64::from(kept.width) * u64::from(scaled.1) * BETWEEN_BYTES;
    let filled = 3 * u64::from(scaled.0) * u64::from(scaled.1);
    between.saturating_add(filled)
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, RgbImage};

    use super::*;

    #[test]
    fn other_proportions_are_stretched_or_surrounded() {
        // Left half black, right half white.
        let rgb: Vec<u8> = (0..8).flat_map(|_| [[0; 12], [255; 12]].concat()).collect();
        let picture = Picture { width: 8, height: 8, rgb };
        let stretched = picture.stretch(32, 8).unwrap();
        assert_eq!((stretched.width, stretched.height, stretched.rgb.len()), (32, 8, 3 * 32 * 8));
        assert_eq!((stretched.rgb[0], stretched.rgb[3 * 31]), (0, 255));
        let fitted = picture.fit(24, 8).unwrap();
        assert_eq!(fitted.rgb.len(), 3 * 24 * 8);
        let row: Vec<u8> = fitted.rgb[..3 * 24].chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(row, [[0; 12], [255; 12]].concat());
        assert_eq!(picture.fit(8, 8).unwrap(), picture);
        assert!(picture.stretch(0, 8).is_err() && picture.fit(8, 0).is_err());
        assert!(Picture { width: 2, height: 2, rgb: vec![0; 3] }.stretch(4, 4).is_err());
    }

    fn noise(width: usize, height: usize) -> Picture {
        let mut state = 1_u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        Picture { width, height, rgb: (0..3 * width * height).map(|_| byte()).collect() }
    }

    #[test]
    fn pictures_of_usual_shape_are_scaled_as_a_whole() {
        for (own, target) in
            [((40, 30), (16, 16)), ((30, 40), (64, 24)), ((16, 60), (16, 16)), ((9, 9), (10, 9))]
        {
            let picture = noise(own.0, own.1);
            let whole = RgbImage::from_raw(own.0 as u32, own.1 as u32, picture.rgb.clone()).unwrap();
            let whole = DynamicImage::ImageRgb8(whole).resize_to_fill(
                target.0 as u32,
                target.1 as u32,
                FilterType::Lanczos3,
            );
            let filled = picture.fill_within(target.0, target.1, u64::MAX).unwrap();
            assert_eq!(filled.rgb, whole.into_rgb8().into_raw(), "{own:?} to {target:?}");
        }
    }

    #[test]
    fn what_is_far_from_the_middle_is_cut_before_it_is_scaled() {
        assert_eq!(kept((1, 32_768), (512, 512)), Area { left: 0, top: 16_382, width: 1, height: 4 });
        assert_eq!(kept((32_768, 2), (64, 128)), Area { left: 16_382, top: 0, width: 4, height: 2 });
        assert_eq!(kept((1, 1), (16_384, 1)), Area { left: 0, top: 0, width: 1, height: 1 });
        // A column a pixel wide, scaled whole, would have 512 x 16 million pixels.
        let mut column = Picture { width: 1, height: 32_768, rgb: vec![0; 3 * 32_768] };
        for row in 16_000..17_000 {
            column.rgb[3 * row..][..3].copy_from_slice(&[200, 100, 50]);
        }
        let filled = column.fill_within(512, 512, 64 << 20).unwrap();
        assert!(filled.rgb.chunks_exact(3).all(|pixel| pixel == [200, 100, 50]));
    }

    #[test]
    fn scaling_is_refused_before_it_takes_the_memory() {
        let picture = noise(1000, 10);
        let needed = match picture.fill_within(16_384, 16_384, 1 << 20) {
            Err(PictureProblem::TooLarge { width: 1000, height: 10, needed, limit: 1_048_576 }) => needed,
            other => panic!("{other:?}"),
        };
        assert!(needed > 3 * 16_384 * 16_384);
        let needed = match noise(64, 64).fill_within(32, 32, 0) {
            Err(PictureProblem::TooLarge { needed, .. }) => needed,
            other => panic!("{other:?}"),
        };
        assert_eq!(needed, 64 * 32 * 16 + 3 * 32 * 32);
        noise(64, 64).fill_within(32, 32, needed).unwrap();
    }

    #[test]
    fn sides_that_do_not_fit_are_an_error() {
        let wrong = Picture { width: 4, height: 4, rgb: vec![0; 47] };
        assert!(matches!(wrong.fill_within(2, 2, u64::MAX), Err(PictureProblem::Size { .. })));
        for (width, height) in [(0, 2), (2, 0), (usize::MAX, 2)] {
            assert!(noise(4, 4).fill_within(width, height, u64::MAX).is_err());
        }
    }
}
