//! Pictures with an alpha channel, as people see them.

use super::PictureProblem;

/// Red, green and blue behind transparent pixels of a picture: white, as paper and web pages are.
const BACKDROP: u32 = 255;

/// Lightest value that counts as black, and darkest that counts as white, in a mask with transparent pixels.
const BLACK: u8 = 32;
const WHITE: u8 = 223;

/// RGBA pixels as RGB before [`BACKDROP`], and whether any of them is transparent.
pub(super) fn over_backdrop(rgba: &[u8]) -> (Vec<u8>, bool) {
    let is_transparent = rgba.chunks_exact(4).any(|pixel| pixel[3] < 255);
    let mixed = |value: u8, alpha: u8| {
        let alpha = u32::from(alpha);
        ((u32::from(value) * alpha + BACKDROP * (255 - alpha) + 127) / 255) as u8
    };
    let pixels = rgba.chunks_exact(4);
    (
        pixels.flat_map(|pixel| [0, 1, 2].map(|channel| mixed(pixel[channel], pixel[3]))).collect(),
        is_transparent,
    )
}

/// RGBA pixels as the grays of a mask, `[r, g, b]` of one value each: white is drawn, black and what is transparent is kept.
///
/// # Errors
/// [`PictureProblem::ClearMask`] when all pixels are transparent. [`PictureProblem::TwoMasks`] when there are transparent
/// pixels, and the others are not in white, or in black and white: a picture with a hole, or black on nothing, may mean
/// either.
pub(super) fn mask(rgba: &[u8]) -> Result<Vec<u8>, PictureProblem> {
    let visible = || rgba.chunks_exact(4).filter(|pixel| pixel[3] > 0);
    if visible().next().is_none() {
        return Err(PictureProblem::ClearMask);
    }
    if rgba.chunks_exact(4).any(|pixel| pixel[3] < 255) {
        let in_black_and_white =
            visible().all(|pixel| pixel[..3].iter().all(|value| *value <= BLACK) || is_white(pixel));
        if !in_black_and_white || !visible().any(is_white) {
            return Err(PictureProblem::TwoMasks);
        }
    }
    let gray = |pixel: &[u8]| {
        let luma = super::luma(&pixel[..3]);
        ((u32::from(luma) * u32::from(pixel[3]) + 127) / 255) as u8
    };
    Ok(rgba.chunks_exact(4).flat_map(|pixel| [gray(pixel); 3]).collect())
}

fn is_white(pixel: &[u8]) -> bool {
    pixel[..3].iter().all(|value| *value >= WHITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_transparent_is_white() {
        let rgba = [10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 255, 51];
        assert_eq!(over_backdrop(&rgba), (vec![10, 20, 30, 255, 255, 255, 204, 224, 255], true));
        assert_eq!(over_backdrop(&rgba[..4]), (vec![10, 20, 30], false));
    }

    #[test]
    fn a_mask_is_what_is_seen_as_white() {
        const OPAQUE_WHITE: [u8; 4] = [255, 255, 255, 255];
        for (pixels, expected) in [
            // Without transparency any colour goes.
            (vec![[255, 0, 0, 255], [0; 4].map(|_| 255)], Some(vec![76, 255])),
            // White on nothing, whatever colour nothing has.
            (vec![OPAQUE_WHITE, [255, 255, 255, 0], [0; 4]], Some(vec![255, 0, 0])),
            // A soft edge.
            (vec![OPAQUE_WHITE, [255, 255, 255, 100]], Some(vec![255, 100])),
            // White on black, with a part cut off.
            (vec![OPAQUE_WHITE, [0, 0, 0, 255], [0; 4]], Some(vec![255, 0, 0])),
            // A picture with a hole, black on nothing, and nothing at all.
            (vec![[200, 30, 40, 255], [0; 4]], None),
            (vec![[0, 0, 0, 255], [0; 4]], None),
            (vec![[0; 4]], None),
        ] {
            let is_clear = pixels.iter().all(|pixel| pixel[3] == 0);
            let found = mask(&pixels.concat());
            assert!(is_clear == matches!(found, Err(PictureProblem::ClearMask)), "{pixels:?}");
            let found = found.ok();
            let found = found.map(|rgb| rgb.iter().step_by(3).copied().collect::<Vec<_>>());
            assert_eq!(found, expected, "{pixels:?}");
        }
    }
}
