//! After inpainting: the start picture's own pixels where the mask keeps them, with a soft edge.
//!
//! The VAE changes every pixel a little, and latents are kept or drawn in blocks, so a decoded picture differs from the start
//! picture everywhere.

use super::{
    Settings,
    masked_area::{Area, cannot_scale},
};
use crate::{Error, Mask, Picture};

/// Width of the soft edge where the request does not say, in pixels.
pub(super) const MASK_BLUR: u8 = 4;

/// The pixels that a mask keeps.
pub(super) struct Paste<'r> {
    original: &'r Picture,
    /// How much of each pixel is drawn, `[height, width]`, from 0 to `most`.
    drawn: Vec<u8>,
    most: u8,
    /// The part that was drawn, if that is not the whole picture.
    area: Option<Area>,
}

impl Paste<'_> {
    /// `None` where a run keeps nothing.
    pub(super) fn new(settings: &Settings) -> Option<Paste<'_>> {
        let (mask, original) = settings.request.mask.as_ref().zip(settings.request.init_image.as_ref())?;
        let area = settings.masked_area;
        let most = settings.mask_blur.map(|blur| blur.saturating_add(1));
        let (drawn, most) = match (most, area) {
            (Some(most), _) => (depths(mask, most), most),
            // The whole area is drawn, and what is around it kept.
            (None, Some(_)) => (vec![1; mask.values.len()], 1),
            (None, None) => return None,
        };
        Some(Paste { original, drawn, most, area })
    }

    /// Bytes that it holds, and those of an area while it is put back.
    pub(super) fn bytes(settings: &Settings) -> u64 {
        let (width, height) = settings.picture_size();
        let area = settings.masked_area.map_or(0, |area| 3 * area.width * area.height);
        match settings.mask_blur {
            None if area == 0 => 0,
            _ => (width * height + area) as u64,
        }
    }

    /// Puts the pixels into `picture`, which is as large as the mask; one of an area becomes as large. Kept pixels become
    /// exactly the original's.
    pub(super) fn apply(&self, picture: &mut Picture) -> Result<(), Error> {
        let Some(area) = self.area else {
            self.mix(&mut picture.rgb, 0);
            return Ok(());
        };
        let mut own = picture.fill(area.width, area.height).map_err(|problem| cannot_scale(&problem))?;
        picture.clone_from(self.original);
        for (y, row) in own.rgb.chunks_exact_mut(3 * area.width).enumerate() {
            let first = (area.top + y) * picture.width + area.left;
            self.mix(row, first);
            picture.rgb[3 * first..][..row.len()].copy_from_slice(row);
        }
        Ok(())
    }

    /// Mixes the original into the pixels from the one at index `first` on.
    fn mix(&self, rgb: &mut [u8], first: usize) {
        let most = u32::from(self.most);
        let pixels = rgb.chunks_exact_mut(3).zip(self.original.rgb[3 * first..].chunks_exact(3));
        for ((pixel, original), &drawn) in pixels.zip(&self.drawn[first..]) {
            let drawn = u32::from(drawn);
            for (value, &original) in pixel.iter_mut().zip(original) {
                let mixed = u32::from(*value) * drawn + u32::from(original) * (most - drawn);
                *value = ((mixed + most / 2) / most) as u8;
            }
        }
    }
}

/// For each pixel the steps to the nearest one that is kept, straight or diagonal, and at most `most`; 0 for those kept.
/// Rosenfeld & Pfaltz 1966, "Sequential Operations in Digital Picture Processing": one pass from each corner.
fn depths(mask: &Mask, most: u8) -> Vec<u8> {
    let (width, height) = (mask.width, mask.height);
    let mut depths: Vec<u8> =
        (0..width * height).map(|index| if mask.is_drawn(index) { most } else { 0 }).collect();
    let mut visit = |x: usize, y: usize, neighbours: &[(usize, usize)]| {
        // Coordinates are one too large, so that none is below zero; there is nothing to keep outside of the picture.
        let inside = neighbours.iter().map(|&(dx, dy)| (x + dx, y + dy));
        let inside = inside.filter(|&(x, y)| (1..=width).contains(&x) && (1..=height).contains(&y));
        let nearest = inside.map(|(x, y)| depths[(y - 1) * width + x - 1]).min().unwrap_or(most);
        let own = &mut depths[y * width + x];
        *own = nearest.saturating_add(1).min(*own);
    };
    for y in 0..height {
        (0..width).for_each(|x| visit(x, y, &[(0, 0), (1, 0), (2, 0), (0, 1)]));
    }
    for y in (0..height).rev() {
        (0..width).rev().for_each(|x| visit(x, y, &[(2, 2), (1, 2), (0, 2), (2, 1)]));
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let values = rows.iter().flat_map(|row| row.bytes().map(|byte| if byte == b'#' { 255 } else { 0 }));
        Mask { width: rows[0].len(), height: rows.len(), values: values.collect() }
    }

    /// The definition: over all kept pixels, the larger of the two differences of coordinates.
    fn plain_depths(mask: &Mask, most: u8) -> Vec<u8> {
        let place = |index: usize| (index % mask.width, index / mask.width);
        let kept: Vec<_> = (0..mask.values.len()).filter(|&index| !mask.is_drawn(index)).map(place).collect();
        let depth = |index: usize| {
            let (x, y) = place(index);
            let steps = kept.iter().map(|&(kx, ky)| x.abs_diff(kx).max(y.abs_diff(ky)));
            steps.min().map_or(most, |steps| u8::try_from(steps).unwrap_or(most).min(most))
        };
        (0..mask.values.len()).map(depth).collect()
    }

    #[test]
    fn depths_are_steps_to_the_nearest_kept_pixel() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for (width, height) in [(1, 1), (1, 9), (9, 1), (7, 5), (24, 17)] {
            for share in [0, 1, 3, 40] {
                let values =
                    (0..width * height).map(|_| if random() % 40 < share { 0 } else { 255 }).collect();
                let mask = Mask { width, height, values };
                for most in [1, 3, 255] {
                    assert_eq!(
                        depths(&mask, most),
                        plain_depths(&mask, most),
                        "{width}x{height} {share} {most}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_edge_is_soft_inside_the_mask_and_the_rest_is_the_originals() {
        let mask = mask(&["........", ".######.", ".######.", ".######.", "........"]);
        let flat = |value: u8| Picture { width: 8, height: 5, rgb: vec![value; 3 * 40] };
        let original = flat(100);
        for (blur, row) in [
            (0, [100, 200, 200, 200, 200, 200, 200, 100]),
            (1, [100, 150, 200, 200, 200, 200, 150, 100]),
            (2, [100, 133, 167, 167, 167, 167, 133, 100]),
        ] {
            let most = blur + 1;
            let paste = Paste { original: &original, drawn: depths(&mask, most), most, area: None };
            let mut picture = flat(200);
            paste.apply(&mut picture).unwrap();
            let row_of =
                |y: usize| picture.rgb[3 * 8 * y..][..24].iter().step_by(3).copied().collect::<Vec<_>>();
            assert_eq!(row_of(2), row, "{blur}");
            assert_eq!(row_of(0), [100; 8]);
        }
    }

    #[test]
    fn an_area_is_put_back_in_its_own_size() {
        let mask = mask(&["........", ".######.", ".######.", ".######.", "........"]);
        let flat = |width, height, value| Picture { width, height, rgb: vec![value; 3 * width * height] };
        let original = flat(8, 5, 100);
        let area = Some(Area { left: 1, top: 1, width: 7, height: 3 });
        for (drawn, row) in [
            (depths(&mask, 1), [100, 200, 200, 200, 200, 200, 200, 100]),
            (vec![1; 40], [100, 200, 200, 200, 200, 200, 200, 200]),
        ] {
            let paste = Paste { original: &original, drawn, most: 1, area };
            let mut picture = flat(28, 16, 200);
            paste.apply(&mut picture).unwrap();
            assert_eq!((picture.width, picture.height), (8, 5));
            for y in 0..5 {
                let found: Vec<u8> = picture.rgb[24 * y..][..24].iter().step_by(3).copied().collect();
                assert_eq!(found, if (1..4).contains(&y) { row } else { [100; 8] });
            }
        }
    }
}
