//! How a picture was made.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use sdq::{Error, picture, recipe::Found, recipe::Recipe};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    body,
    call::blocking,
    draw::{DrawRequest, Format, Source},
    extract::Path,
    problem::{ErrorBody, Problem},
    store::is_id,
};

/// The recipe in a picture.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecipeAnswer {
    request: DrawRequest,
    /// The program that wrote it.
    program: Option<String>,
    model: RecipeModel,
    /// What is not used of it, and why the picture may differ.
    notes: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct RecipeModel {
    /// The id of this server's model, if it has it.
    id: Option<String>,
    name: String,
    fingerprint: Option<String>,
    known: bool,
}

/// The recipe in an uploaded picture.
#[utoipa::path(
    post, path = "/api/v1/recipe",
    request_body(content(
        (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp")
    )),
    responses(
        (status = 200, body = RecipeAnswer), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
    )
)]
pub(super) async fn recipe(State(app): State<Arc<App>>, body: Body) -> Result<Json<RecipeAnswer>, Problem> {
    let body = body::read(&app, body, app.limits.upload_bytes).await?;
    blocking(move || {
        let no_picture = || Problem::invalid("body", "the file is not a PNG, JPEG or WebP picture");
        Format::of_bytes(&body.bytes).ok_or_else(no_picture)?;
        let found = app.store.with_temporary(&body.bytes, found_in)?;
        Ok(Json(answer(&app, found.map_err(|error| app.problem(&error))?)))
    })
    .await
}

/// The recipe of a picture of the gallery.
#[utoipa::path(
    get, path = "/api/v1/pictures/{id}/recipe", params(("id" = String, Path)),
    responses((status = 200, body = RecipeAnswer), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody))
)]
pub(super) async fn recipe_of_picture(
    State(app): State<Arc<App>>,
    Path(id): Path,
) -> Result<Json<RecipeAnswer>, Problem> {
    blocking(move || {
        let (path, _) = app.store.any_picture(&id).ok_or_else(super::pictures::no_picture)?;
        let found = found_in(&path).map_err(|error| app.problem(&error))?;
        Ok(Json(answer(&app, found)))
    })
    .await
}

fn found_in(path: &std::path::Path) -> Result<Found, Error> {
    Ok(Found::from_texts(&picture::read_texts(path)?)?)
}

fn answer(app: &App, found: Found) -> RecipeAnswer {
    let Found { recipe, has_seed, program, unused } = found;
    let mut notes: Vec<String> = unused.iter().map(|part| format!("not used: {part}")).collect();
    if program != "sdq" {
        notes.push(format!(
            "{program} drew the picture, with noise of its own: another one will be similar at best"
        ));
    }
    let id = recipe.fingerprint.as_deref().and_then(|fingerprint| model_of(app, fingerprint));
    let mut request = request(app, &recipe, &mut notes);
    request.seed = request.seed.filter(|_| has_seed);
    RecipeAnswer {
        request,
        program: Some(program.to_owned()),
        model: RecipeModel {
            known: id.is_some(),
            id,
            name: recipe.model.clone(),
            fingerprint: recipe.fingerprint,
        },
        notes,
    }
}

/// The model with the fingerprint of a recipe, without its add-ons.
fn model_of(app: &App, fingerprint: &str) -> Option<String> {
    let base = fingerprint.split('+').next()?;
    let mut listed = app.models.list().into_iter();
    listed
        .find(|listed| app.models.describe(listed).is_ok_and(|found| found.fingerprint == base))
        .map(|listed| listed.id)
}

/// The request of a recipe: LoRAs are tags of its prompt, and pictures are those of the store.
fn request(app: &App, recipe: &Recipe, notes: &mut Vec<String>) -> DrawRequest {
    let json = serde_json::to_value(&recipe.request).unwrap_or_default();
    let mut request: DrawRequest = serde_json::from_value(json).unwrap_or_default();
    for lora in &recipe.loras {
        request.prompt.push(' ');
        request.prompt.push_str(&lora.tag());
    }
    let mut source = |name: &Option<String>| {
        let name = name.as_ref()?;
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let is_here = is_id(stem) && app.store.source(stem).is_some();
        if !is_here {
            notes.push(format!("it started from `{name}`, which is not here"));
        }
        is_here.then(|| Source::Picture(stem.to_owned()))
    };
    request.start_picture = source(&recipe.init_image);
    request.mask = source(&recipe.mask);
    if request.start_picture.is_none() {
        (request.strength, request.mask) = (None, None);
    }
    if request.mask.is_none() {
        (request.mask_blur, request.paste) = (None, None);
        (request.only_masked, request.masked_content) = (None, None);
    }
    request
}
