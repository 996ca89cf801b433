//! Pictures of `img2img`: sizes and masks as the web UI takes them.

use std::path::Path;

use sdq::{
    Picture,
    picture::{self, PictureFormat},
};

use super::request::WebUiRequest;
use crate::{
    app::App,
    draw::{DrawRequest, from_base64},
    problem::Problem,
};

/// Darker pixels of a mask are kept.
const HALF: u8 = 128;

/// How a picture of other proportions comes to the size of the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resize {
    Stretch,
    Crop,
    Fill,
}

impl Resize {
    fn of(mode: Option<f64>) -> Resize {
        match mode.unwrap_or(0.0) as i64 {
            1 => Resize::Crop,
            2 => Resize::Fill,
            // 3 stretches latents.
            _ => Resize::Stretch,
        }
    }

    /// `picture` in `size`.
    fn apply(
        self,
        picture: &Picture,
        (width, height): (usize, usize),
    ) -> Result<Picture, picture::PictureProblem> {
        match self {
            Resize::Stretch => picture.stretch(width, height),
            Resize::Crop => picture.fill(width, height),
            Resize::Fill => picture.fit(width, height),
        }
    }
}

/// The ids of pictures in the store.
pub(super) struct StoredPictures {
    pub(super) start: String,
    pub(super) mask: Option<String>,
    /// Pixels around the masked part, if only that is drawn.
    pub(super) only_masked: Option<u16>,
}

/// Stores the start picture and the mask: in the size of the request, or in their own where only a part is drawn.
pub(super) fn store(
    app: &App,
    asked: &mut WebUiRequest,
    request: &DrawRequest,
) -> Result<StoredPictures, Problem> {
    let data = asked.init_images.first();
    let data = data.ok_or_else(|| Problem::invalid("init_images", "img2img needs a start picture"))?;
    let bytes = from_base64(data, "init_images")?;
    let mut mask = asked.mask.as_deref().map(|data| mask(app, asked, data)).transpose()?;
    let mut only_masked = asked.only_masked();
    if only_masked.is_some() && mask.as_ref().is_some_and(|mask| mask.rgb.iter().all(|&value| value < HALF)) {
        // As in the web UI.
        asked.notes.push("the mask is blank, so the whole picture is drawn over".to_owned());
        (mask, only_masked) = (None, None);
    }
    let resize = Resize::of(asked.resize_mode);
    let size = request.width.zip(request.height).filter(|_| only_masked.is_none());
    let resized = |picture: &Picture, field: &str| {
        let size = size.unwrap_or((picture.width, picture.height));
        let resized = resize.apply(picture, size);
        let bytes = resized.and_then(|picture| picture::to_bytes(&picture, PictureFormat::Png, &[]));
        bytes.map_err(|problem| Problem::invalid(field, app.shown(&problem.to_string())))
    };
    // The library crops; other ways are done here.
    let start = match (resize, size) {
        (Resize::Stretch | Resize::Fill, Some(_)) => {
            let bytes = decoded(app, &bytes, "init_images", |path, limit| {
                picture::read_within(path, limit).map(|seen| seen.picture)
            })?;
            app.store.upload(&resized(&bytes, "init_images")?, "init_images", app)?
        }
        _ => app.store.upload(&bytes, "init_images", app)?,
    };
    let mask = mask.map(|mask| app.store.upload(&resized(&mask, "mask")?, "mask", app)).transpose()?;
    Ok(StoredPictures { start, mask, only_masked })
}

/// The mask of a request in greys: what is drawn is white.
fn mask(app: &App, asked: &WebUiRequest, data: &str) -> Result<Picture, Problem> {
    let bytes = from_base64(data, "mask")?;
    let mut mask = decoded(app, &bytes, "mask", |path, limit| picture::read_mask(path, limit))?;
    if asked.inpainting_mask_invert.is_some_and(|invert| invert != 0.0) {
        mask.rgb.iter_mut().for_each(|value| *value = 255 - *value);
    }
    Ok(mask)
}

/// The pixels of a file with `bytes`.
pub(crate) fn decoded(
    app: &App,
    bytes: &[u8],
    field: &str,
    read: impl FnOnce(&Path, u64) -> Result<Picture, picture::PictureError>,
) -> Result<Picture, Problem> {
    if bytes.len() > app.limits.upload_bytes {
        return Err(Problem::too_large(format!("{field}: the picture has more bytes than the server reads")));
    }
    let limit = app.limits.picture_bytes();
    let read = app.store.with_temporary(bytes, |path| read(path, limit))?;
    read.map_err(|error| Problem::invalid(field, app.shown(&error.problem.to_string())))
}
