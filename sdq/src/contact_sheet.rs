//! A contact sheet: several pictures in one, to choose from.

use crate::Picture;

/// Width of the white lines between pictures, in pixels.
const GAP: usize = 4;

/// Maximum number of pixels of a sheet. Pictures are reduced where it would have more.
const MAX_PIXELS: usize = 1 << 26;

/// One picture with all `pictures`, row by row, in a grid that is as wide as it is high or one wider. Pictures of different
/// sizes are at the upper left of equal cells. `None` if there are no pictures.
pub fn contact_sheet(pictures: &[Picture]) -> Option<Picture> {
    let columns = (1..).find(|columns| columns * columns >= pictures.len())?;
    let rows = pictures.len().div_ceil(columns);
    let cell = |side: fn(&Picture) -> usize| pictures.iter().map(side).max();
    let (width, height) = (cell(|picture| picture.width)?, cell(|picture| picture.height)?);
    let sides = |by: usize| {
        let side = |count: usize, side: usize| count * side.div_ceil(by) + (count - 1) * GAP;
        (side(columns, width), side(rows, height))
    };
    let fits = |by: &usize| {
        let (width, height) = sides(*by);
        width.saturating_mul(height) <= MAX_PIXELS
    };
    let by = (1..=width.max(height)).find(fits)?;
    let (sheet_width, sheet_height) = sides(by);
    let mut rgb = vec![255; sheet_width * sheet_height * 3];
    for (index, picture) in pictures.iter().enumerate() {
        let small = reduced(picture, by);
        let left = index % columns * (width.div_ceil(by) + GAP);
        let top = index / columns * (height.div_ceil(by) + GAP);
        for (y, row) in small.rgb.chunks_exact(3 * small.width).enumerate() {
            let start = ((top + y) * sheet_width + left) * 3;
            rgb[start..start + row.len()].copy_from_slice(row);
        }
    }
    Some(Picture { width: sheet_width, height: sheet_height, rgb })
}

/// `picture` with each square of `by` pixels as their mean. Squares at the right and lower edges may be cut.
fn reduced(picture: &Picture, by: usize) -> Picture {
    let (width, height) = (picture.width.div_ceil(by), picture.height.div_ceil(by));
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in (0..picture.height).step_by(by) {
        for x in (0..picture.width).step_by(by) {
            let (right, bottom) = ((x + by).min(picture.width), (y + by).min(picture.height));
            let count = (right - x) * (bottom - y);
            for channel in 0..3 {
                let pixel =
                    |(x, y): (usize, usize)| usize::from(picture.rgb[(y * picture.width + x) * 3 + channel]);
                let sum: usize = (y..bottom).flat_map(|y| (x..right).map(move |x| (x, y))).map(pixel).sum();
                rgb.push((sum / count) as u8);
            }
        }
    }
    Picture { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, value: u8) -> Picture {
        Picture { width, height, rgb: vec![value; width * height * 3] }
    }

    #[test]
    fn pictures_are_in_a_grid_with_white_between() {
        let sheet = contact_sheet(&[1, 2, 3].map(|value| picture(8, 6, value))).unwrap();
        assert_eq!((sheet.width, sheet.height), (8 + GAP + 8, 6 + GAP + 6));
        let at = |x: usize, y: usize| sheet.rgb[(y * sheet.width + x) * 3];
        assert_eq!([at(0, 0), at(7, 5), at(12, 0), at(19, 5), at(0, 10), at(7, 15)], [1, 1, 2, 2, 3, 3]);
        assert_eq!([at(8, 0), at(0, 6), at(12, 10), at(19, 15)], [255; 4]);
        assert_eq!(contact_sheet(&[picture(5, 5, 7)]).unwrap(), picture(5, 5, 7));
        assert_eq!(contact_sheet(&[]), None);
        // A smaller picture leaves white in its cell.
        let sheet = contact_sheet(&[picture(8, 6, 1), picture(4, 3, 2)]).unwrap();
        assert_eq!((sheet.width, sheet.height), (20, 6));
        assert_eq!(sheet.rgb[3 * (3 * sheet.width + 12)..][..3], [255; 3]);
    }

    #[test]
    fn large_sheets_are_reduced() {
        let large = Picture { width: 3, height: 1, rgb: vec![10, 0, 0, 20, 0, 0, 7, 7, 7] };
        assert_eq!(reduced(&large, 2), Picture { width: 2, height: 1, rgb: vec![15, 0, 0, 7, 7, 7] });
        let sheet = contact_sheet(&vec![picture(2048, 2048, 9); 20]).unwrap();
        assert!(sheet.width * sheet.height <= MAX_PIXELS, "{}x{}", sheet.width, sheet.height);
        assert_eq!((sheet.width, sheet.height), (5 * 1024 + 4 * GAP, 4 * 1024 + 3 * GAP));
    }
}
