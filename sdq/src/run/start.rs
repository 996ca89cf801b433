//! The picture that a run starts from, and the mask: files → parts of the request.

use std::path::Path;

use sdq_engine::{
    Mask, Request,
    pipeline::{MAX_SIDE, SIZE_STEP},
};
use sdq_formats::picture;

use crate::Error;

/// Reads the start picture and the mask, fitted to the size that is to be drawn; the picture gives it where it is open.
///
/// # Errors
/// When a file is not a picture.
pub fn read_start(
    request: &mut Request,
    init_image: Option<&Path>,
    mask: Option<&Path>,
) -> Result<(), Error> {
    let Some(path) = init_image else { return Ok(()) };
    let image = picture::read(path)?;
    let side = |asked: Option<usize>, own: usize| match asked {
        Some(side) => side,
        None => (own / SIZE_STEP * SIZE_STEP).max(SIZE_STEP),
    };
    let (width, height) = (side(request.width, image.width), side(request.height, image.height));
    (request.width, request.height) = (Some(width), Some(height));
    // A size that cannot be drawn is refused with the request; nothing is scaled to it.
    if (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height) {
        request.init_image = Some(image.fill(width, height));
        request.mask = mask.map(|path| read_mask(path, width, height)).transpose()?;
    }
    Ok(())
}

fn read_mask(path: &Path, width: usize, height: usize) -> Result<Mask, Error> {
    let values = picture::read(path)?.fill(width, height).luma();
    Ok(Mask { width, height, values })
}
