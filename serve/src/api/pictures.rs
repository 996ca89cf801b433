//! The gallery.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use sdq::picture::{self, PictureFormat};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    call::blocking,
    extract::{Path, Query},
    problem::{ErrorBody, Problem},
    store::PictureInfo,
};

/// Most pictures of a list.
const MAX_LIST: usize = 200;
/// Longest side of a thumbnail in pixels.
const MAX_THUMBNAIL: usize = 1024;

/// A picture of the gallery.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Picture {
    pub(crate) id: String,
    pub(crate) url: String,
    width: usize,
    height: usize,
    seed: u64,
    created: String,
    /// The job that drew it.
    job: String,
    prompt: String,
    bytes: u64,
}

impl From<PictureInfo> for Picture {
    fn from(info: PictureInfo) -> Picture {
        let PictureInfo { id, width, height, seed, prompt, created, bytes } = info;
        // A job's id has two hyphens; a third one precedes the number of one of several pictures.
        let job = id.match_indices('-').nth(2).map_or(&*id, |(place, _)| &id[..place]).to_owned();
        Picture { url: url(&id), id, width, height, seed, created, job, prompt, bytes }
    }
}

/// Where the bytes of a picture are.
pub(crate) fn url(id: &str) -> String {
    format!("/api/v1/pictures/{id}")
}

pub(super) fn no_picture() -> Problem {
    Problem::not_found("there is no such picture")
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Pictures {
    pictures: Vec<Picture>,
    /// Whether there are older ones.
    more: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Most pictures; 50 if it is left out, at most 200.
    limit: Option<usize>,
    /// Only pictures that are older than this one.
    before: Option<String>,
}

/// The pictures of the gallery, the newest first.
#[utoipa::path(
    get, path = "/api/v1/pictures", params(ListQuery),
    responses((status = 200, body = Pictures), (status = 400, body = ErrorBody))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Pictures>, Problem> {
    blocking(move || {
        let limit = query.limit.unwrap_or(50).min(MAX_LIST);
        let (pictures, more) = app.store.pictures(limit, query.before.as_deref());
        Ok(Json(Pictures { pictures: pictures.into_iter().map(Picture::from).collect(), more }))
    })
    .await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PictureQuery {
    /// The longest side in pixels, up to 1024: the answer is a JPEG picture of that size without the recipe.
    thumbnail: Option<usize>,
}

/// The bytes of a picture.
#[utoipa::path(
    get, path = "/api/v1/pictures/{id}", params(("id" = String, Path), PictureQuery),
    responses(
        (status = 200, content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path,
    Query(query): Query<PictureQuery>,
) -> Result<Response, Problem> {
    blocking(move || {
        let (path, format) = app.store.any_picture(&id).ok_or_else(no_picture)?;
        let (media_type, bytes) = match query.thumbnail {
            None => (format.media_type(), std::fs::read(&path).map_err(|_| no_picture())?),
            Some(side) => ("image/jpeg", thumbnail(&app, path, side)?),
        };
        // The bytes of an id never change.
        let headers = [
            (header::CONTENT_TYPE, media_type),
            (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
        ];
        Ok((headers, bytes).into_response())
    })
    .await
}

fn thumbnail(app: &App, path: PathBuf, side: usize) -> Result<Vec<u8>, Problem> {
    if !(16..=MAX_THUMBNAIL).contains(&side) {
        return Err(Problem::invalid(
            "thumbnail",
            format!("the thumbnail has {side} pixels, expected 16 to {MAX_THUMBNAIL}"),
        ));
    }
    let invalid = |error: String| Problem::invalid("id", app.shown(&error));
    let read = picture::read_within(path, app.limits.picture_bytes());
    let large = read.map_err(|error| invalid(error.to_string()))?.picture;
    let longest = large.width.max(large.height);
    let scaled = |own: usize| if longest > side { (own * side / longest).max(1) } else { own };
    let small = large.fill(scaled(large.width), scaled(large.height));
    let small = small.and_then(|small| picture::to_bytes(&small, PictureFormat::Jpeg, &[]));
    small.map_err(|error| invalid(error.to_string()))
}

/// Removes a picture.
#[utoipa::path(
    delete, path = "/api/v1/pictures/{id}", params(("id" = String, Path)),
    responses((status = 204, description = "it is removed"), (status = 404, body = ErrorBody))
)]
pub(super) async fn remove(State(app): State<Arc<App>>, Path(id): Path) -> Result<StatusCode, Problem> {
    blocking(move || match app.store.remove_picture(&id) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_picture()),
    })
    .await
}
