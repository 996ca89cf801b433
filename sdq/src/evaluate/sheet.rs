//! The contact sheet: the pictures of both models, side by side.

use std::path::Path;

use sdq_engine::Picture;
use sdq_formats::picture::{self, PictureError};

/// Maximum number of prompts on a sheet; nobody looks at longer ones.
const MAX_ROWS: usize = 32;
/// Amplification of the difference in the third column. A difference of one unit of 255 is invisible; eight
/// are visible.
const AMPLIFIED: u8 = 8;
/// Reference, other, difference.
const COLUMNS: usize = 3;

/// Rows of pictures of one size.
#[derive(Debug)]
pub(super) struct Sheet {
    picture: Picture,
    rows: usize,
}

impl Default for Sheet {
    /// A sheet without rows.
    fn default() -> Sheet {
        Sheet { picture: Picture { width: 0, height: 0, rgb: Vec::new() }, rows: 0 }
    }
}

impl Sheet {
    /// Adds a row: the reference's picture, the other's, and their difference, amplified. After [`MAX_ROWS`] rows
    /// nothing is added.
    pub(super) fn add(&mut self, reference: &Picture, other: &Picture) {
        if self.rows == MAX_ROWS {
            return;
        }
        self.rows += 1;
        self.picture.width = COLUMNS * reference.width;
        self.picture.height += reference.height;
        let line = 3 * reference.width;
        for (expected, found) in reference.rgb.chunks_exact(line).zip(other.rgb.chunks_exact(line)) {
            let difference =
                expected.iter().zip(found).map(|(a, b)| a.abs_diff(*b).saturating_mul(AMPLIFIED));
            self.picture.rgb.extend_from_slice(expected);
            self.picture.rgb.extend_from_slice(found);
            self.picture.rgb.extend(difference);
        }
    }

    /// Writes the rows as one picture.
    pub(super) fn write(&self, path: &Path) -> Result<(), PictureError> {
        picture::write(path, &self.picture, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_reference_other_and_difference() {
        let picture = |rgb: [u8; 6]| Picture { width: 1, height: 2, rgb: rgb.to_vec() };
        let mut sheet = Sheet::default();
        sheet.add(&picture([10, 20, 30, 0, 0, 0]), &picture([11, 18, 30, 0, 255, 0]));
        assert_eq!((sheet.picture.width, sheet.picture.height), (3, 2));
        assert_eq!(sheet.picture.rgb[..9], [10, 20, 30, 11, 18, 30, 8, 16, 0]);
        assert_eq!(sheet.picture.rgb[9..], [0, 0, 0, 0, 255, 0, 0, 255, 0]);
        for _ in 0..100 {
            sheet.add(&picture([0; 6]), &picture([0; 6]));
        }
        assert_eq!(sheet.picture.height, 2 * MAX_ROWS);
    }
}
