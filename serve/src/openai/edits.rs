//! `images/edits`: a form with pictures.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::Response,
};
use futures_util::stream;
use sdq::{
    Picture,
    picture::{self, PictureFormat, PictureProblem},
};
use serde_json::{Map, Value};

use super::request::ImageRequest;
use crate::{
    a1111::decoded,
    app::App,
    body,
    call::blocking,
    draw::{DrawRequest, Source},
    limits::SMALL_BODY,
    models::Listed,
    problem::Problem,
};

/// Most fields of a form.
const MAX_FIELDS: usize = 64;
/// Sides of a picture are multiples of it.
const SIDE_STEP: usize = 8;

/// A form: its texts, and its pictures.
#[derive(Default)]
struct Form {
    texts: Map<String, Value>,
    image: Option<Bytes>,
    mask: Option<Bytes>,
}

pub(super) async fn edits(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers.clone();
    let limit = 2 * app.limits.upload_bytes + SMALL_BODY;
    let read = body::read(&app, body, limit).await?;
    let form = form(&headers, read.bytes.clone()).await?;
    let asked: ImageRequest = serde_json::from_value(Value::Object(form.texts))
        .map_err(|error| Problem::malformed(format!("the form is not valid: {error}")))?;
    let (request, answer) = asked.to_draw()?;
    let model = asked.model(&app)?;
    let image = form.image.ok_or_else(|| Problem::invalid("image", "the picture is missing"))?;
    let (own, mask, strength) = (app.clone(), form.mask, asked.strength);
    let (model, request) = blocking(move || {
        let listed = own.models.get(model.as_deref())?;
        let request = with_pictures(&own, &listed, request, &image, mask.as_deref(), strength)?;
        Ok((listed.id, request))
    })
    .await?;
    drop(read);
    super::draw(app, Some(model), request, answer, &headers, "image_edit").await
}

/// Reads the fields of a form. Of several pictures the first one is used.
async fn form(headers: &HeaderMap, bytes: Bytes) -> Result<Form, Problem> {
    let malformed = || Problem::malformed("the body is not a form with files (multipart/form-data)");
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let boundary = kind.and_then(|kind| multer::parse_boundary(kind).ok()).ok_or_else(malformed)?;
    let body = stream::once(async { Ok::<_, Infallible>(bytes) });
    let mut fields = multer::Multipart::new(body, boundary);
    let mut form = Form::default();
    for _ in 0..MAX_FIELDS {
        let Some(field) = fields.next_field().await.map_err(|_| malformed())? else { return Ok(form) };
        let name = field.name().unwrap_or_default().trim_end_matches("[]").to_owned();
        let bytes = field.bytes().await.map_err(|_| malformed())?;
        match name.as_str() {
            "image" if form.image.is_none() => form.image = Some(bytes),
            "mask" if form.mask.is_none() => form.mask = Some(bytes),
            "image" | "mask" => {}
            _ => {
                let text = String::from_utf8(bytes.to_vec());
                let text = text.map_err(|_| Problem::invalid(name.clone(), "the value is not UTF-8"))?;
                form.texts.insert(name.clone(), value(&name, text));
            }
        }
    }
    Err(Problem::malformed(format!("the form has more than {MAX_FIELDS} fields")))
}

/// A field of a form in the type that it has in JSON.
fn value(name: &str, text: String) -> Value {
    let is_text = !matches!(
        name,
        "n" | "stream" | "partial_images" | "seed" | "steps" | "guidance_scale" | "cfg_scale" | "strength"
    );
    match is_text {
        true => Value::String(text),
        false => serde_json::from_str(text.trim()).unwrap_or(Value::String(text)),
    }
}

/// `request` with the pictures of a form, which are stored.
fn with_pictures(
    app: &App,
    listed: &Listed,
    mut request: DrawRequest,
    image: &[u8],
    mask: Option<&[u8]>,
    strength: Option<f64>,
) -> Result<DrawRequest, Problem> {
    let described = app.models.describe(listed).ok();
    let is_editing = described.as_ref().is_some_and(|found| !found.accepts.mask);
    request.start_picture = Some(Source::Picture(app.store.upload(image, "image", app)?));
    request.strength = strength.filter(|_| !is_editing);
    if request.width.is_none() {
        let start = decoded(app, image, "image", |path, limit| {
            picture::read_within(path, limit).map(|seen| seen.picture)
        })?;
        let area = described.map_or(512 * 512, |found| found.defaults.width * found.defaults.height);
        let (width, height) = size_of(&start, area);
        (request.width, request.height) = (Some(width), Some(height));
    }
    if let Some(mask) = mask {
        let mask = hole(app, mask)?;
        let bytes = picture::to_bytes(&mask, PictureFormat::Png, &[]);
        let bytes = bytes.map_err(|error| Problem::invalid("mask", app.shown(&error.to_string())))?;
        request.mask = Some(Source::Picture(app.store.upload(&bytes, "mask", app)?));
    }
    Ok(request)
}

/// The size in the proportions of `picture` with about `area` pixels; its own if that is smaller.
fn size_of(picture: &Picture, area: usize) -> (usize, usize) {
    let own = (picture.width * picture.height).max(1) as f64;
    let factor = (area as f64 / own).sqrt().min(1.0);
    let side = |own: usize| ((own as f64 * factor / SIDE_STEP as f64).round() as usize).max(1) * SIDE_STEP;
    (side(picture.width), side(picture.height))
}

/// The mask of a form: what is transparent is drawn. A mask without transparency is one in black and white.
fn hole(app: &App, bytes: &[u8]) -> Result<Picture, Problem> {
    decoded(app, bytes, "mask", |path, limit| match picture::read_transparency(path, limit) {
        Err(error) if matches!(error.problem, PictureProblem::Opaque) => picture::read_mask(path, limit),
        read => read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_come_to_the_models_area() {
        let picture =
            |width: usize, height: usize| Picture { width, height, rgb: vec![0; width * height * 3] };
        assert_eq!(size_of(&picture(300, 200), 64 * 64), (80, 56));
        assert_eq!(size_of(&picture(64, 64), 64 * 64), (64, 64));
        assert_eq!(size_of(&picture(20, 30), 64 * 64), (24, 32));
        assert_eq!(size_of(&picture(1, 1), 64 * 64), (8, 8));
    }
}
