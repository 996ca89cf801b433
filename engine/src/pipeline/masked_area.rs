//! Drawing only the masked part of a picture: it is cut out with some of its surroundings, drawn in the size of the request,
//! and put back in its own size. So a small part of a large picture gets the detail of a whole one.

use super::Settings;
use crate::{Error, Mask, Picture};

/// A part of a picture, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Columns to its left.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// At least 1.
    pub width: usize,
    /// At least 1.
    pub height: usize,
}

impl Area {
    /// The smallest area with all pixels that `mask` redraws and `padding` pixels around them, widened to the proportions of
    /// `width x height` as far as the picture goes; `None` where no pixel is redrawn.
    pub(super) fn around(mask: &Mask, padding: usize, (width, height): (usize, usize)) -> Option<Area> {
        let drawn = |&index: &usize| mask.is_drawn(index);
        let first = (0..mask.values.len()).find(drawn)?;
        let last = (0..mask.values.len()).rfind(drawn)?;
        let rows = first / mask.width..=last / mask.width;
        let in_rows = (rows.start() * mask.width..(rows.end() + 1) * mask.width).filter(drawn);
        let (left, right) = in_rows.fold((mask.width, 0), |(left, right), index| {
            let column = index % mask.width;
            (left.min(column), right.max(column))
        });
        let padded = |first: usize, last: usize, side: usize| {
            (first.saturating_sub(padding), last.saturating_add(1).saturating_add(padding).min(side))
        };
        let (x, y) = (padded(left, right, mask.width), padded(*rows.start(), *rows.end(), mask.height));
        let own = (x.1 - x.0, y.1 - y.0);
        let (x, y) = match own.0 * height > own.1 * width {
            true => (x, widened(y, own.0 * height / width, mask.height)),
            false => (widened(x, own.1 * width / height, mask.width), y),
        };
        Some(Area { left: x.0, top: y.0, width: x.1 - x.0, height: y.1 - y.0 })
    }

    /// This part of `picture` in `width x height`. Where its proportions are others, its outermost pixels are repeated.
    fn picture(self, picture: &Picture, (width, height): (usize, usize)) -> Result<Picture, Error> {
        let rows = self.top..self.top + self.height;
        let rows = rows.flat_map(|y| &picture.rgb[3 * (y * picture.width + self.left)..][..3 * self.width]);
        let own = Picture { width: self.width, height: self.height, rgb: rows.copied().collect() };
        own.fit(width, height).map_err(|problem| cannot_scale(&problem))
    }

    /// The same part of `mask`.
    fn mask(self, mask: &Mask, size: (usize, usize)) -> Result<Mask, Error> {
        let rgb = mask.values.iter().flat_map(|&value| [value; 3]).collect();
        let greys = self.picture(&Picture { width: mask.width, height: mask.height, rgb }, size)?;
        Ok(Mask { width: greys.width, height: greys.height, values: greys.luma() })
    }
}

/// `from..to` with a length of `wanted` about its middle, inside `0..limit`; never shorter than it is.
fn widened((from, to): (usize, usize), wanted: usize, limit: usize) -> (usize, usize) {
    let wanted = wanted.clamp(to - from, limit);
    let more = wanted - (to - from);
    let from = from.saturating_sub(more / 2).min(limit - wanted);
    (from, from + wanted)
}

/// The error for an area that takes too much memory.
pub(super) fn cannot_scale(problem: &impl std::fmt::Display) -> Error {
    Error::Request {
        field: "only-masked",
        found: format!("an area that cannot be scaled ({problem})"),
        expected: "a smaller picture".to_owned(),
    }
}

impl Settings {
    /// The start picture and the mask in the size in which they are drawn, where that is not their own: those of the masked
    /// area.
    pub(super) fn masked_start(&self) -> Result<Option<(Picture, Mask)>, Error> {
        let size = (self.width, self.height);
        match (self.masked_area, &self.request.init_image, &self.request.mask) {
            (Some(area), Some(image), Some(mask)) => {
                Ok(Some((area.picture(image, size)?, area.mask(mask, size)?)))
            }
            _ => Ok(None),
        }
    }

    /// Width and height of the finished pictures: those of the start picture where only its masked area is drawn.
    pub fn picture_size(&self) -> (usize, usize) {
        match (self.masked_area, &self.request.init_image) {
            (Some(_), Some(image)) => (image.width, image.height),
            _ => (self.width, self.height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let values = rows.iter().flat_map(|row| row.bytes().map(|byte| if byte == b'#' { 255 } else { 0 }));
        Mask { width: rows[0].len(), height: rows.len(), values: values.collect() }
    }

    #[test]
    fn an_area_has_the_mask_its_padding_and_the_proportions() {
        let mask = mask(&[
            "............",
            "............",
            "...#........",
            "..###.......",
            "............",
            "............",
        ]);
        let area = |padding, size| {
            let Area { left, top, width, height } = Area::around(&mask, padding, size).unwrap();
            (left, top, width, height)
        };
        assert_eq!(area(0, (3, 2)), (2, 2, 3, 2));
        assert_eq!(area(1, (5, 4)), (1, 1, 5, 4));
        // Wider than the mask, higher than it, and moved to where the picture ends.
        assert_eq!(area(0, (8, 2)), (0, 2, 8, 2));
        assert_eq!(area(0, (3, 4)), (2, 1, 3, 4));
        assert_eq!(area(0, (4, 1)), (0, 2, 8, 2));
        assert_eq!(area(1, (1, 1)), (1, 1, 5, 5));
        // The picture is not as high as that.
        assert_eq!(area(0, (1, 4)), (2, 0, 3, 6));
        assert_eq!(area(usize::MAX, (1, 1)), (0, 0, 12, 6));
    }

    #[test]
    fn a_mask_that_redraws_nothing_has_no_area() {
        let empty = Mask { width: 3, height: 2, values: vec![127; 6] };
        assert_eq!(Area::around(&empty, 5, (8, 8)), None);
        let full = Mask { width: 3, height: 2, values: vec![128; 6] };
        assert_eq!(Area::around(&full, 5, (8, 8)), Some(Area { left: 0, top: 0, width: 3, height: 2 }));
    }

    #[test]
    fn every_area_contains_the_mask_and_lies_in_the_picture() {
        let mut state = 1_u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        for _ in 0..2000 {
            let (width, height) = (1 + random(20), 1 + random(20));
            let mut mask = Mask { width, height, values: vec![0; width * height] };
            let places: Vec<usize> = (0..1 + random(3)).map(|_| random(width * height)).collect();
            places.iter().for_each(|&place| mask.values[place] = 255);
            let (padding, size) = (random(5), (1 + random(9), 1 + random(9)));
            let area = Area::around(&mask, padding, size).unwrap();
            assert!(area.left + area.width <= width && area.top + area.height <= height, "{area:?} {mask:?}");
            for place in places {
                let (x, y) = (place % width, place / width);
                let inside = (area.left..area.left + area.width).contains(&x)
                    && (area.top..area.top + area.height).contains(&y);
                assert!(inside, "{area:?} {mask:?}");
            }
        }
    }

    #[test]
    fn picture_and_mask_are_cut_alike() {
        let mask = mask(&["....", "..##", "..##", "...."]);
        let rgb = mask.values.iter().flat_map(|&value| [value; 3]).collect();
        let picture = Picture { width: 4, height: 4, rgb };
        let area = Area { left: 1, top: 1, width: 3, height: 3 };
        let cut = area.mask(&mask, (3, 3)).unwrap();
        assert_eq!(cut.values, [0, 255, 255, 0, 255, 255, 0, 0, 0]);
        assert_eq!(area.picture(&picture, (3, 3)).unwrap().luma(), cut.values);
        // Higher than the area: the first and the last row are repeated.
        let high = area.mask(&mask, (3, 5)).unwrap();
        assert_eq!(high.values[..6], [0, 255, 255, 0, 255, 255]);
    }
}
